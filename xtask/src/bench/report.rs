//! What the samples say, mode by mode.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{
    plan::{Filter, Group, TRACED_CLASS, Tracer, Unit},
    stats::Spread,
};

/// The file that `--json` writes.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) schema: &'static str,
    pub(super) unix_time_s: u64,
    pub(super) kernel: String,
    pub(super) cpus: usize,
    /// Of Debian's package; unknown where it could not be measured.
    pub(super) memleak_version: Option<String>,
    pub(super) rounds: u32,
    pub(super) pairs: u64,
    pub(super) other_class: u32,
    pub(super) groups: Vec<Measured>,
}

/// A group of workloads.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) group: &'static str,
    #[serde(skip)]
    pub(super) unit: Unit,
    #[serde(rename = "unit")]
    pub(super) unit_name: &'static str,
    /// The size class that was traced; without one, every class.
    pub(super) traced_class: Option<u32>,
    pub(super) workloads: Vec<OfWorkload>,
}

#[derive(Debug, Serialize)]
pub(super) struct OfWorkload {
    pub(super) workload: &'static str,
    pub(super) modes: Vec<Row>,
}

/// What was measured of one workload under one tracer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) mode: &'static str,
    pub(super) value: Spread,
    /// Over the untraced runs just before and after.
    pub(super) added: Spread,
    pub(super) slowdown_percent: Spread,
    /// Added, in shares of what memleak adds to the same workload.
    pub(super) of_memleak: Option<f64>,
    pub(super) samples: Vec<Sample>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) value: f64,
    /// Half of what the untraced runs just before and after add up to.
    pub(super) base: f64,
}

impl OfWorkload {
    pub(super) fn row(&self, tracer: &str) -> Option<&Row> {
        self.modes.iter().find(|row| row.mode == tracer)
    }
}

impl Report {
    pub(super) fn workload(&self, name: &str) -> Option<&OfWorkload> {
        self.groups.iter().flat_map(|group| &group.workloads).find(|found| found.workload == name)
    }
}

/// Samples of one group: by tracer, of which the first is none, by workload, in the order in which they
/// were taken. A tracer without any was not measured.
pub(super) type Samples = Vec<Vec<Vec<Sample>>>;

pub(super) fn measured(group: &Group, samples: &Samples) -> Measured {
    let workloads = group.workloads.iter().enumerate().map(|(index, workload)| OfWorkload {
        workload: workload.name,
        modes: rows(&group.tracers, samples, index),
    });
    Measured {
        group: group.name,
        unit: group.unit,
        unit_name: match group.unit {
            Unit::NanosecondsPerPair => "ns_per_pair",
            Unit::Seconds => "s",
        },
        traced_class: match group.filter {
            Filter::Class(class) => Some(class),
            Filter::All => None,
        },
        workloads: workloads.collect(),
    }
}

fn rows(tracers: &[Tracer], samples: &Samples, workload: usize) -> Vec<Row> {
    let of = |tracer: usize| samples[tracer].get(workload).filter(|own| !own.is_empty());
    let measured = tracers.iter().enumerate().filter_map(|(at, tracer)| Some((tracer, of(at)?)));
    let mut rows = Vec::new();
    for (tracer, own) in measured {
        let spread = |of: fn(&Sample) -> f64| Spread::of(&own.iter().map(of).collect::<Vec<_>>());
        rows.push(Row {
            mode: tracer.name(),
            value: spread(|sample| sample.value),
            added: spread(|sample| sample.value - sample.base),
            slowdown_percent: spread(|sample| (sample.value / sample.base - 1.0) * 100.0),
            of_memleak: None,
            samples: own.clone(),
        });
    }
    let memleak = rows.iter().find(|row| row.mode == Tracer::Memleak.name());
    // A share of nothing is none.
    if let Some(whole) = memleak.map(|row| row.added.median).filter(|&added| added > 0.0) {
        for row in rows.iter_mut().filter(|row| row.mode.starts_with("kleak")) {
            row.of_memleak = Some(row.added.median / whole);
        }
    }
    rows
}

pub(super) fn report(
    rounds: u32,
    pairs: u64,
    other_class: u32,
    memleak_version: Option<String>,
    groups: Vec<Measured>,
) -> Report {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    Report {
        schema: "kleak.bench/3",
        unix_time_s: now.as_secs(),
        kernel: kernel(),
        cpus: std::thread::available_parallelism().map_or(0, Into::into),
        memleak_version,
        rounds,
        pairs,
        other_class,
        groups,
    }
}

/// As `uname -r` prints it.
pub(super) fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// A title for a person, above a group's table.
pub(super) fn title(group: &Measured, report: &Report) -> String {
    let what = match group.traced_class {
        Some(class) => format!("class {class} traced, the other class is {}", report.other_class),
        None => "every kmalloc class traced".to_owned(),
    };
    let memleak = match &report.memleak_version {
        Some(version) => format!("memleak of libbpf-tools {version}"),
        None => "without memleak".to_owned(),
    };
    format!(
        "{}: {what}; {} rounds; Linux {}, {} CPUs; {memleak}",
        group.group, report.rounds, report.kernel, report.cpus
    )
}

const _: () = assert!(TRACED_CLASS == 512, "the proof that memleak works is a message of 512");

#[cfg(test)]
pub(super) mod tests {
    use super::{super::plan::groups, *};

    /// A report of one workload, of these tracers with one sample each.
    pub(in super::super) fn made_up(workload: &str, samples: &[(Tracer, &[f64])]) -> Report {
        let mut group = groups(false)
            .into_iter()
            .find(|group| group.workloads.iter().any(|found| found.name == workload));
        let group = group.as_mut().unwrap();
        group.workloads.retain(|found| found.name == workload);
        group.tracers = samples.iter().map(|(tracer, _)| *tracer).collect();
        let base = samples[0].1;
        let pair = |(&value, &base): (&f64, &f64)| Sample { value, base };
        let samples = samples.iter().map(|(_, own)| vec![own.iter().zip(base).map(pair).collect()]);
        let samples = samples.collect();
        report(1, 1, 256, Some("0.37".to_owned()), vec![measured(group, &samples)])
    }

    #[test]
    fn what_is_added_is_the_median_of_the_rounds_own_differences() {
        // The machine slows down by 100 ns a round; kleak adds 10, 20 and 30, memleak 200.
        let report = made_up(
            super::super::plan::IN_CLASS,
            &[
                (Tracer::None, &[500.0, 600.0, 700.0]),
                (Tracer::Kleak { stacks: "auto", all: false }, &[510.0, 620.0, 730.0]),
                (Tracer::Memleak, &[700.0, 800.0, 900.0]),
                (Tracer::EmptyPrograms, &[]),
            ],
        );
        let rows = &report.groups[0].workloads[0].modes;
        assert_eq!(rows.len(), 3, "what was not measured has no row");
        assert_eq!(rows[0].added.median.to_bits(), 0.0_f64.to_bits());
        assert!((rows[1].added.median - 20.0).abs() < 1e-9);
        assert!((rows[1].value.median - 620.0).abs() < 1e-9);
        assert!((rows[1].slowdown_percent.min - 2.0).abs() < 1e-9);
        assert!((rows[1].of_memleak.unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(rows[2].of_memleak, None);
    }
}
