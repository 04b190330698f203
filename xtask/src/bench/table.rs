//! The result as a person reads it.

use super::Row;

pub(super) fn lines(rows: &[Row]) -> Vec<String> {
    let wide = rows.iter().map(|row| row.mode.len()).max().unwrap_or(0);
    let head = format!(
        "{:wide$}  {:>5}  {:>10}  {:>9}  {:>19}  {:>6}",
        "mode", "class", "ns a pair", "added ns", "added, min..max", "ratio"
    );
    let line = |row: &Row| {
        let added = &row.added_ns;
        format!(
            "{:wide$}  {:>5}  {:>10.1}  {:>+9.1}  {:>19}  {:>6.2}",
            row.mode,
            row.size_class,
            row.ns_per_pair.median,
            added.median,
            format!("{:+.1}..{:+.1}", added.min, added.max),
            row.ratio,
        )
    };
    std::iter::once(head).chain(rows.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Row, Spread},
        lines,
    };

    #[test]
    fn columns_line_up() {
        let row = |mode, samples: &[f64]| Row {
            mode,
            size_class: 512,
            ns_per_pair: Spread::of(samples),
            added_ns: Spread::of(&[0.0]),
            ratio: 1.0,
            samples_ns_per_pair: samples.to_vec(),
        };
        let lines = lines(&[row("untraced", &[497.04]), row("kleak, stacks all", &[1400.0])]);
        assert_eq!(
            lines[1],
            "untraced             512       497.0       +0.0           +0.0..+0.0    1.00"
        );
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{lines:#?}");
    }
}
