//! What tracing costs: kleak in each mode, empty programs and memleak, on the same workloads in the
//! same run.
//!
//! The machine's own drift is larger than the differences sought, so the tracers take turns within
//! each round, every one is compared with the untraced runs just before and after it, and the median
//! over the rounds is what counts.

mod check;
mod compile;
mod memleak;
mod plan;
mod programs;
mod report;
mod scale;
mod stats;
mod table;
mod watching;
mod work;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use self::{
    compile::Tree,
    memleak::Memleak,
    plan::{Group, Tracer, Work},
    programs::Programs,
    report::{Measured, Report, Sample, Samples},
};
use crate::{
    apt::is_root,
    build::{self, Profile},
    say,
    workspace::Workspace,
};

const ROUNDS: u32 = 5;
const ROUNDS_QUICK: u32 = 3;
const PAIRS: u64 = 120_000;
const PAIRS_QUICK: u64 = 40_000;

/// kleak's own exit status where a system or user cannot.
const CANNOT: i32 = 3;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// How often everything is measured [default: 5, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Allocations, each with its free, in one measurement [default: 120000, with --quick 40000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: Option<u64>,
    /// A size class that is not traced, to see what bystanders pay
    #[arg(long, default_value_t = 256)]
    other_class: u32,
    /// Only workloads whose name holds this, or a group: micro, macro (repeatable)
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
    /// The short form: fewer rounds and pairs, and one program instead of four
    #[arg(long)]
    quick: bool,
    /// Fail when the result is nonsense, such as a mode slower than a multiple of another, in two
    /// runs
    #[arg(long)]
    check: bool,
    /// Also write every sample and the summary to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Instead, leave a real node's number of objects outstanding, and see whether kleak counts
    /// them to the last one, and at what price
    #[arg(long, conflicts_with_all = ["rounds", "pairs", "only", "quick", "check", "json"])]
    scale: bool,
    /// How many, with --scale; each takes 512 bytes, and kleak some more
    #[arg(long, requires = "scale", default_value_t = 14_500_000,
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    objects: u64,
}

/// What came of the short form as a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Fine,
    /// This user or system cannot; the reason has been said.
    Skipped,
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
    let mut programs = Programs::build(workspace, built.executable)?;
    if args.scale {
        return scale::run(workspace, &programs, args.objects);
    }
    let mut report = measure_all(workspace, args, &mut programs)?;
    if args.check {
        let mut found = check::nonsense(&report);
        if !found.is_empty() {
            say::warning("bench", &format!("measuring once more: {}", found.join("; ")));
            report = measure_all(workspace, args, &mut programs)?;
            found = check::nonsense(&report);
        }
        write(json, &report)?;
        if !found.is_empty() {
            bail!("the figures are nonsense, twice: {}", found.join("; "));
        }
        return Ok(());
    }
    write(json, &report)
}

/// `bench --quick --check` as a test of its own, where BPF programs may be attached.
pub(crate) fn check(workspace: &Workspace, kleak: &Path) -> Result<Checked> {
    if !is_root() {
        say::warning("bench", "skipped: measuring takes root");
        return Ok(Checked::Skipped);
    }
    let mut probe = Command::new(kleak);
    probe.args(["trace", "--size", "512", "--duration", "100ms", "-o", "/dev/null"]);
    let probed = probe.output().with_context(|| format!("cannot run {}", kleak.display()))?;
    if probed.status.code() == Some(CANNOT) {
        let why = String::from_utf8_lossy(&probed.stderr);
        say::warning("bench", &format!("skipped: {}", why.trim()));
        return Ok(Checked::Skipped);
    }
    run(workspace, &BenchArgs::short()).map(|()| Checked::Fine)
}

impl BenchArgs {
    fn short() -> Self {
        Self {
            rounds: None,
            pairs: None,
            other_class: 256,
            only: Vec::new(),
            quick: true,
            check: true,
            json: None,
            scale: false,
            objects: 0,
        }
    }
}

fn write(json: Option<File>, report: &Report) -> Result<()> {
    let Some(file) = json else { return Ok(()) };
    serde_json::to_writer_pretty(file, report).context("cannot write the JSON")
}

fn measure_all(workspace: &Workspace, args: &BenchArgs, programs: &mut Programs) -> Result<Report> {
    let mut groups = plan::only(plan::groups(args.quick), &args.only);
    if groups.is_empty() {
        bail!("no workload or group has a name with {}", args.only.join(" or "));
    }
    let rounds = args.rounds.unwrap_or(if args.quick { ROUNDS_QUICK } else { ROUNDS });
    programs.pairs = args.pairs.unwrap_or(if args.quick { PAIRS_QUICK } else { PAIRS });
    programs.other_class = args.other_class;
    programs.memleak = match Memleak::find_or_fetch() {
        Ok(memleak) => Some(memleak),
        Err(error) => {
            say::warning("bench", &format!("memleak is left out: {error:#}"));
            None
        }
    };
    let memleak = programs.memleak.as_ref().map(|memleak| memleak.version.clone());
    prepare(workspace, &mut groups, programs);
    let mut measured = Vec::new();
    for group in &mut groups {
        measured.push(measure(group, rounds, programs)?);
    }
    let report = report::report(rounds, programs.pairs, args.other_class, memleak, measured);
    for group in &report.groups {
        say::result("");
        say::result(&report::title(group, &report));
        for line in table::lines(group) {
            say::result(&line);
        }
    }
    Ok(report)
}

/// Leaves out, loudly, what cannot be done here.
fn prepare(workspace: &Workspace, groups: &mut Vec<Group>, programs: &mut Programs) {
    let cpus = std::thread::available_parallelism().map_or(1, Into::into);
    for group in &mut *groups {
        if programs.memleak.is_none() {
            group.tracers.retain(|&tracer| tracer != Tracer::Memleak);
        }
        group.workloads.retain(|workload| {
            let able = match workload.work {
                Work::Across if cpus < 2 => Err(anyhow::anyhow!("there is only one CPU")),
                Work::Compile => Tree::make(&workspace.target.join("bench")).map(|tree| {
                    programs.tree = Some(tree);
                }),
                // Also reads into memory what is walked over.
                Work::Find { .. } => programs.sample(workload).map(drop),
                _ => Ok(()),
            };
            if let Err(error) = &able {
                let name = workload.name;
                say::warning("bench", &format!("{name} is left out: {error:#}"));
            }
            able.is_ok()
        });
    }
    groups.retain(|group| !group.workloads.is_empty());
}

fn measure(group: &mut Group, rounds: u32, programs: &mut Programs) -> Result<Measured> {
    let mut samples: Samples = vec![vec![Vec::new(); group.workloads.len()]; group.tracers.len()];
    if let Some(memleak) = &mut programs.memleak
        && let Err(error) = memleak.prove(group.filter, &programs.workload)
    {
        say::warning("bench", &format!("memleak is left out: {error:#}"));
        programs.memleak = None;
    }
    let programs = &*programs;
    let mut without_memleak = programs.memleak.is_none();
    let untraced = || programs.measure(Tracer::None, group.filter, &group.workloads);
    let mut before = untraced()?;
    for round in 0..rounds {
        say::step("bench", &format!("{}: round {} of {rounds}", group.name, round + 1));
        for index in plan::order(round, group.tracers.len()) {
            let tracer = group.tracers[index];
            if tracer == Tracer::None || without_memleak && tracer == Tracer::Memleak {
                continue;
            }
            match programs.measure(tracer, group.filter, &group.workloads) {
                Ok(values) => {
                    let after = untraced()?;
                    for (workload, value) in values.into_iter().enumerate() {
                        let (before, after) = (before[workload], after[workload]);
                        let base = f64::midpoint(before, after);
                        samples[index][workload].push(Sample { value, base });
                        samples[0][workload].push(Sample { value: after, base: after });
                    }
                    before = after;
                }
                Err(error) if tracer == Tracer::Memleak => {
                    say::warning("bench", &format!("memleak is left out: {error:#}"));
                    without_memleak = true;
                    samples[index] = vec![Vec::new(); group.workloads.len()];
                }
                Err(error) => return Err(error).with_context(|| tracer.name()),
            }
        }
    }
    Ok(report::measured(group, &samples))
}
