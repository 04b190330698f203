//! What tracing adds to one allocation and its free.
//!
//! The machine's own drift is larger than the differences sought, so the modes take turns within
//! each round, every one is compared with the untraced run of its own round, and the median over
//! the rounds is what counts.

mod load;
mod stats;
mod table;

use std::{
    fs::File,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use self::{load::Programs, stats::Spread};
use crate::{
    apt::is_root,
    build::{self, Profile},
    say,
    workspace::Workspace,
};

/// The size class that is traced.
const TRACED_CLASS: u32 = 512;

#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// How often every mode is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Allocations, each with its free, in one measurement
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// A size class that is not traced, to see what bystanders pay
    #[arg(long, default_value_t = 256)]
    other_class: u32,
    /// Also write every sample and the summary to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What watches while the workload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tracer {
    None,
    /// Programs that do nothing: what being attached costs, which no tracer can avoid.
    EmptyPrograms,
    Kleak {
        stacks: &'static str,
    },
}

/// One row of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    name: &'static str,
    tracer: Tracer,
    in_class: bool,
}

impl Mode {
    const ALL: [Self; 7] = [
        Self::new("untraced", Tracer::None, true),
        Self::new("empty programs", Tracer::EmptyPrograms, true),
        Self::new("kleak, stacks auto", Tracer::Kleak { stacks: "auto" }, true),
        Self::new("kleak, stacks all", Tracer::Kleak { stacks: "all" }, true),
        Self::new("kleak, stacks off", Tracer::Kleak { stacks: "off" }, true),
        Self::new("other class, untraced", Tracer::None, false),
        Self::new("other class, kleak auto", Tracer::Kleak { stacks: "auto" }, false),
    ];

    const fn new(name: &'static str, tracer: Tracer, in_class: bool) -> Self {
        Self { name, tracer, in_class }
    }

    /// The untraced mode that it is compared with.
    fn baseline(&self) -> usize {
        Self::ALL
            .iter()
            .position(|mode| mode.tracer == Tracer::None && mode.in_class == self.in_class)
            .unwrap_or(0)
    }
}

/// The file that `--json` writes.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    unix_time_s: u64,
    kernel: String,
    cpus: usize,
    rounds: u32,
    pairs: u64,
    modes: Vec<Row>,
}

/// What was measured of one mode.
#[derive(Serialize)]
struct Row {
    mode: &'static str,
    size_class: u32,
    ns_per_pair: Spread,
    /// Over the untraced runs of the same class, round by round.
    added_ns: Spread,
    ratio: f64,
    samples_ns_per_pair: Vec<f64>,
}

pub(crate) fn run(workspace: &Workspace, args: &BenchArgs) -> Result<()> {
    if !is_root() {
        bail!("measuring attaches BPF programs, which takes root: sudo -E cargo xtask bench");
    }
    // Before minutes of measuring rather than after.
    let json = args
        .json
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display())))
        .transpose()?;
    let built = build::everything(workspace, Profile::Release)?;
    let programs = Programs::build(workspace, built.executable)?;

    let mut samples = vec![Vec::new(); Mode::ALL.len()];
    for round in 0..args.rounds {
        say::step("bench", &format!("round {} of {}", round + 1, args.rounds));
        for index in order(round, Mode::ALL.len()) {
            let mode = &Mode::ALL[index];
            let class = class(mode, args);
            let ns = programs
                .measure(mode.tracer, class, args.pairs)
                .with_context(|| format!("{} (class {class})", mode.name))?;
            samples[index].push(ns);
        }
    }

    let rows = rows(&samples, args);
    for line in table::lines(&rows) {
        say::result(&line);
    }
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &report(args, rows)).context("cannot write the JSON")?;
    }
    Ok(())
}

fn class(mode: &Mode, args: &BenchArgs) -> u32 {
    if mode.in_class { TRACED_CLASS } else { args.other_class }
}

/// Every mode once, in another order each round: forwards from a place that moves on, then
/// backwards, so that none always follows the same other.
fn order(round: u32, modes: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..modes).collect();
    order.rotate_left(round as usize % modes);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn rows(samples: &[Vec<f64>], args: &BenchArgs) -> Vec<Row> {
    let row = |(mode, own): (&Mode, &Vec<f64>)| {
        let baseline = &samples[mode.baseline()];
        let added: Vec<f64> = own.iter().zip(baseline).map(|(own, base)| own - base).collect();
        let ratios: Vec<f64> = own.iter().zip(baseline).map(|(own, base)| own / base).collect();
        Row {
            mode: mode.name,
            size_class: class(mode, args),
            ns_per_pair: Spread::of(own),
            added_ns: Spread::of(&added),
            ratio: Spread::of(&ratios).median,
            samples_ns_per_pair: own.clone(),
        }
    };
    Mode::ALL.iter().zip(samples).map(row).collect()
}

fn report(args: &BenchArgs, modes: Vec<Row>) -> Report {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    Report {
        schema: "kleak.bench/1",
        unix_time_s: now.as_secs(),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned()),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        rounds: args.rounds,
        pairs: args.pairs,
        modes,
    }
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
    }

    #[test]
    fn each_mode_is_compared_with_the_untraced_run_of_its_class() {
        for mode in Mode::ALL {
            let baseline = Mode::ALL[mode.baseline()];
            assert_eq!(baseline.tracer, Tracer::None);
            assert_eq!(baseline.in_class, mode.in_class);
        }
    }

    #[test]
    fn what_is_added_is_the_median_of_the_rounds_own_differences() {
        // The machine slows down by 100 ns a round; the tracer adds 10, 20 and 30.
        let args = BenchArgs { rounds: 3, pairs: 1, other_class: 256, json: None };
        let base = vec![500.0, 600.0, 700.0];
        let mut samples = vec![base.clone(); Mode::ALL.len()];
        samples[2] = vec![510.0, 620.0, 730.0];
        let rows = rows(&samples, &args);
        assert_eq!(rows[0].added_ns.median.to_bits(), 0.0_f64.to_bits());
        assert!((rows[2].added_ns.median - 20.0).abs() < 1e-9);
        assert!((rows[2].ns_per_pair.median - 620.0).abs() < 1e-9);
        assert_eq!(rows[6].size_class, 256);
    }
}
