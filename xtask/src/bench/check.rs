//! What no machine can be so noisy as to show: bounds between modes of one run, none of them on
//! absolute times.

use super::{
    plan::{IN_CLASS, OTHER_CLASS, Unit},
    report::{OfWorkload, Report},
};

const AUTO: &str = "kleak --stacks auto";
const ALL: &str = "kleak --stacks all";
const EMPTY: &str = "empty programs";
const MEMLEAK: &str = "memleak";

/// Share of the untraced time by which noise may move a comparison.
const SLACK: f64 = 0.75;
/// How often as slow a pair may be while it is traced, in any mode of kleak.
const PAIR_AT_MOST: f64 = 30.0;
/// How often as slow a whole program may be.
const PROGRAM_AT_MOST: f64 = 4.0;

/// Everything that is nonsense, in words; nothing if all is well.
pub(super) fn nonsense(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    for group in &report.groups {
        let at_most = match group.unit {
            Unit::NanosecondsPerPair => PAIR_AT_MOST,
            Unit::Seconds => PROGRAM_AT_MOST,
        };
        for of in &group.workloads {
            within(of, at_most, &mut found);
            dearer(of, AUTO, MEMLEAK, 1.0, &mut found);
            dearer(of, AUTO, ALL, 2.0, &mut found);
        }
    }
    if let Some(of) = report.workload(IN_CLASS) {
        dearer(of, EMPTY, AUTO, 1.0, &mut found);
        let all = of.row(ALL);
        if all.is_some_and(|all| all.added.median <= 0.0) {
            found.push(format!("{IN_CLASS}: {ALL} costs nothing, so it does nothing"));
        }
        let bystander = report.workload(OTHER_CLASS).and_then(|other| other.row(AUTO));
        if let (Some(all), Some(bystander)) = (all, bystander)
            && bystander.added.median > all.added.median + slack(of)
        {
            found.push(format!(
                "{OTHER_CLASS} pays {:.0} ns for {AUTO}, more than the {:.0} ns of one in the \
                 class for {ALL}",
                bystander.added.median, all.added.median
            ));
        }
    }
    found
}

fn within(of: &OfWorkload, at_most: f64, found: &mut Vec<String>) {
    for row in of.modes.iter().filter(|row| row.mode.starts_with("kleak")) {
        let ratio = row.slowdown_percent.median / 100.0 + 1.0;
        if ratio > at_most {
            let (name, mode) = (of.workload, row.mode);
            found.push(format!(
                "{name}: {ratio:.1} times as slow under {mode}, with {at_most} as the bound"
            ));
        }
    }
}

/// Whether one adds more than so many times what the other adds.
fn dearer(of: &OfWorkload, mode: &str, than: &str, times: f64, found: &mut Vec<String>) {
    let (Some(own), Some(other)) = (of.row(mode), of.row(than)) else { return };
    let bound = times * other.added.median.max(0.0) + slack(of);
    if own.added.median > bound {
        found.push(format!(
            "{}: {mode} adds {:.3}, {than} only {:.3} (bound {bound:.3})",
            of.workload, own.added.median, other.added.median
        ));
    }
}

fn slack(of: &OfWorkload) -> f64 {
    of.modes.first().map_or(0.0, |untraced| untraced.value.median * SLACK)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{plan::Tracer, report::tests::made_up},
        *,
    };

    const KLEAK_AUTO: Tracer = Tracer::Kleak { stacks: "auto", all: false };
    const KLEAK_ALL: Tracer = Tracer::Kleak { stacks: "all", all: false };

    fn of_pairs(empty: f64, auto: f64, all: f64, memleak: f64) -> Vec<String> {
        nonsense(&made_up(
            IN_CLASS,
            &[
                (Tracer::None, &[1000.0]),
                (Tracer::EmptyPrograms, &[empty]),
                (KLEAK_AUTO, &[auto]),
                (KLEAK_ALL, &[all]),
                (Tracer::Memleak, &[memleak]),
            ],
        ))
    }

    #[test]
    fn what_was_measured_is_no_nonsense() {
        assert_eq!(of_pairs(1200.0, 2200.0, 4300.0, 9000.0), [""; 0]);
        // Noise may put modes that are near each other in the wrong order.
        assert_eq!(of_pairs(1600.0, 1500.0, 1400.0, 1300.0), [""; 0]);
    }

    #[test]
    fn nonsense_is_named() {
        let named = |found: Vec<String>, word: &str| {
            assert!(found.iter().any(|line| line.contains(word)), "{found:?}");
        };
        named(of_pairs(1200.0, 9000.0, 2000.0, 20000.0), "all only");
        named(of_pairs(1200.0, 9000.0, 8000.0, 2000.0), "memleak only");
        named(of_pairs(1200.0, 31000.0, 31500.0, 90000.0), "31.0 times");
        named(of_pairs(5000.0, 2000.0, 4000.0, 9000.0), "empty programs adds");
        named(of_pairs(1000.0, 1000.0, 990.0, 9000.0), "costs nothing");
        let slow = made_up("find", &[(Tracer::None, &[1.0]), (KLEAK_AUTO, &[4.5])]);
        named(nonsense(&slow), "find: 4.5 times");
    }

    #[test]
    fn a_bystander_pays_less_than_what_is_traced() {
        let mut report = made_up(IN_CLASS, &[(Tracer::None, &[1000.0]), (KLEAK_ALL, &[4000.0])]);
        let other = made_up(OTHER_CLASS, &[(Tracer::None, &[1000.0]), (KLEAK_AUTO, &[6000.0])]);
        report.groups.extend(other.groups);
        assert!(nonsense(&report)[0].contains("pays 5000 ns"), "{:?}", nonsense(&report));
    }
}
