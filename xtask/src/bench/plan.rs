//! What is measured, and under which tracers.

/// The size class that is traced where one is.
pub(super) const TRACED_CLASS: u32 = 512;

/// What watches while a workload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracer {
    None,
    /// Programs that do nothing: what being attached costs, which no tracer can avoid.
    EmptyPrograms,
    Kleak {
        stacks: &'static str,
        /// With all programs attached, which otherwise stand by until the kernel has skipped some events: in
        /// which of a bench's rounds it has is chance.
        all: bool,
    },
    Memleak,
}

impl Tracer {
    const AUTO: Self = Self::Kleak { stacks: "auto", all: false };
    const NO_STANDBY: Self = Self::Kleak { stacks: "auto", all: true };
    const ALL: Self = Self::Kleak { stacks: "all", all: false };
    const OFF: Self = Self::Kleak { stacks: "off", all: false };

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "untraced",
            Self::EmptyPrograms => "empty programs",
            Self::Kleak { all: true, .. } => "kleak, all programs",
            Self::Kleak { stacks, .. } => match stacks.as_bytes() {
                b"auto" => "kleak --stacks auto",
                b"all" => "kleak --stacks all",
                _ => "kleak --stacks off",
            },
            Self::Memleak => "memleak",
        }
    }
}

/// Which objects a tracer is told to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Class(u32),
    /// Every size class of kmalloc; of memleak all that it can see.
    All,
}

/// What a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    NanosecondsPerPair,
    Seconds,
}

/// What runs, so often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// On one CPU, so that no migration falls into a measurement.
    Pairs { in_class: bool },
    /// Allocated on CPU 0, freed on CPU 1.
    Across,
    /// So many at once.
    Threads(u32),
    /// Round trips of a byte between two processes.
    PingPong { count: u32 },
    /// Processes that do nothing.
    Spawn { count: u32 },
    /// Walks over `/usr`.
    Find { times: u32 },
    /// A tarball is unpacked, and C files in it are compiled.
    Compile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) work: Work,
}

/// Workloads that are measured in one unit, under the same tracers.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) filter: Filter,
    pub(super) tracers: Vec<Tracer>,
    pub(super) workloads: Vec<Workload>,
}

/// Names that the check looks for.
pub(super) const IN_CLASS: &str = "a pair in the class";
pub(super) const OTHER_CLASS: &str = "a pair of another class";

/// Everything, or in the short form what shows nonsense soon.
pub(super) fn groups(quick: bool) -> Vec<Group> {
    let workload = |name, work| Workload { name, work };
    let micro = Group {
        name: "micro",
        unit: Unit::NanosecondsPerPair,
        filter: Filter::Class(TRACED_CLASS),
        tracers: vec![
            Tracer::None,
            Tracer::EmptyPrograms,
            Tracer::AUTO,
            Tracer::NO_STANDBY,
            Tracer::ALL,
            Tracer::OFF,
            Tracer::Memleak,
        ],
        workloads: vec![
            workload(IN_CLASS, Work::Pairs { in_class: true }),
            workload(OTHER_CLASS, Work::Pairs { in_class: false }),
            workload("alloc on one CPU, free on the other", Work::Across),
            workload("four threads at once", Work::Threads(4)),
        ],
    };
    let spawn = |count| workload("process creation", Work::Spawn { count });
    let macros = Group {
        name: "macro",
        unit: Unit::Seconds,
        filter: Filter::All,
        tracers: vec![
            Tracer::None,
            Tracer::EmptyPrograms,
            Tracer::AUTO,
            Tracer::NO_STANDBY,
            Tracer::Memleak,
        ],
        workloads: if quick {
            vec![spawn(200)]
        } else {
            vec![
                workload("unpack and compile", Work::Compile),
                workload("socket ping-pong", Work::PingPong { count: 80_000 }),
                workload("find", Work::Find { times: 2 }),
                spawn(600),
            ]
        },
    };
    vec![micro, macros]
}

/// Those whose names hold one of the words; all of them without any.
pub(super) fn only(groups: Vec<Group>, words: &[String]) -> Vec<Group> {
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let keep = |mut group: Group| {
        if !wanted(group.name) {
            group.workloads.retain(|workload| wanted(workload.name));
        }
        (!group.workloads.is_empty()).then_some(group)
    };
    groups.into_iter().filter_map(keep).collect()
}

/// Every one of them once, in another order each round: forwards from a place that moves on, then
/// backwards, so that none always follows the same other.
pub(super) fn order(round: u32, of: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..of).collect();
    order.rotate_left(round as usize % of.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_mode_once_and_orders_differ() {
        let orders: Vec<_> = (0..4).map(|round| order(round, 5)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
        }
        assert_eq!(orders[0], [0, 1, 2, 3, 4]);
        assert_eq!(orders[1], [0, 4, 3, 2, 1]);
        assert_eq!(orders[2], [2, 3, 4, 0, 1]);
        assert_eq!(order(3, 0), [0; 0]);
    }

    #[test]
    fn every_group_has_what_the_others_are_compared_with() {
        for group in groups(false).iter().chain(&groups(true)) {
            assert_eq!(group.tracers[0], Tracer::None);
            assert!(group.tracers.contains(&Tracer::Memleak));
        }
    }

    #[test]
    fn words_choose_workloads_or_whole_groups() {
        let names = |words: &[&str]| -> Vec<&str> {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            let groups = only(groups(false), &words);
            groups.iter().flat_map(|group| &group.workloads).map(|work| work.name).collect()
        };
        assert_eq!(names(&[]).len(), 8);
        assert_eq!(names(&["find", "in the class"]), [IN_CLASS, "find"]);
        assert_eq!(names(&["micro"]).len(), 4);
        assert!(names(&["nothing"]).is_empty());
    }
}
