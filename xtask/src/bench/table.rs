//! The result as a person reads it.

use super::{
    plan::Unit,
    report::{Measured, Row},
};

pub(super) fn lines(group: &Measured) -> Vec<String> {
    let names = group.workloads.iter().flat_map(|of| &of.modes).map(|row| row.mode.len());
    let wide = names.max().unwrap_or(0).max(4) + 2;
    let mut lines = Vec::new();
    for of in &group.workloads {
        let (value, added) = match group.unit {
            Unit::NanosecondsPerPair => ("ns a pair", "added ns"),
            Unit::Seconds => ("seconds", "slowdown"),
        };
        lines.push(format!(
            "{:wide$}  {value:>10}  {added:>9}  {:>21}  {:>6}  {:>10}",
            "mode", "least to most", "ratio", "of memleak"
        ));
        lines.push(of.workload.to_owned());
        lines.extend(of.modes.iter().map(|row| line(row, group.unit, wide)));
    }
    // One head does for all of them.
    let head = lines.first().cloned();
    lines.retain(|line| Some(line) != head.as_ref());
    head.into_iter().chain(lines).collect()
}

fn line(row: &Row, unit: Unit, wide: usize) -> String {
    let name = format!("  {}", row.mode);
    let ratio = row.slowdown_percent.median / 100.0 + 1.0;
    let of_memleak = row.of_memleak.map_or_else(String::new, |share| format!("{share:.2}"));
    let (value, added, range) = match unit {
        Unit::NanosecondsPerPair => {
            let added = &row.added;
            (
                format!("{:.1}", row.value.median),
                format!("{:+.1}", added.median),
                format!("{:+.1}..{:+.1}", added.min, added.max),
            )
        }
        Unit::Seconds => {
            let percent = &row.slowdown_percent;
            (
                format!("{:.3}", row.value.median),
                format!("{:+.1} %", percent.median),
                format!("{:+.1}..{:+.1} %", percent.min, percent.max),
            )
        }
    };
    format!("{name:wide$}  {value:>10}  {added:>9}  {range:>21}  {ratio:>6.2}  {of_memleak:>10}")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            plan::{IN_CLASS, Tracer},
            report::tests::made_up,
        },
        lines,
    };

    #[test]
    fn columns_line_up() {
        let samples: [(_, &[f64]); 3] = [
            (Tracer::None, &[497.04]),
            (Tracer::Kleak { stacks: "auto", all: false }, &[1400.0]),
            (Tracer::Memleak, &[12400.0]),
        ];
        let micro = lines(&made_up(IN_CLASS, &samples).groups[0]);
        assert_eq!(micro[1], IN_CLASS);
        assert_eq!(
            micro[3],
            "  kleak --stacks auto      1400.0     +903.0         +903.0..+903.0    2.82        0.08"
        );
        let samples: [(_, &[f64]); 2] =
            [(Tracer::None, &[1.0]), (Tracer::Kleak { stacks: "auto", all: false }, &[1.25])];
        let slow = lines(&made_up("find", &samples).groups[0]);
        assert!(slow[3].contains("+25.0 %"), "{slow:#?}");
        for lines in [micro, slow] {
            let rows =
                lines.iter().filter(|line| line.starts_with("  ") || line.starts_with("mode"));
            assert!(rows.clone().all(|line| line.len() == lines[0].len()), "{lines:#?}");
        }
    }
}
