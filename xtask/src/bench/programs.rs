//! Starts what watches and what is watched.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use super::{
    compile::Tree,
    memleak::{self, Memleak},
    plan::{Filter, TRACED_CLASS, Tracer, Work, Workload},
    watching::{DONE_WITHIN, Ready, Watching},
    work::{Running, number},
};
use crate::{
    command::{outer_cargo, run, shown},
    workspace::Workspace,
};

/// How kleak, and the program with empty programs, say that from now on all is counted.
pub(super) const ATTACHED: Ready = Ready::Says("attached:");

/// A tree that is the same on most machines, and big.
const FIND_IN: &str = "/usr";

/// The programs, and what they are to be given.
pub(super) struct Programs {
    pub(super) kleak: PathBuf,
    pub(super) workload: PathBuf,
    empty: PathBuf,
    pub(super) memleak: Option<Memleak>,
    pub(super) tree: Option<Tree>,
    /// Allocations, each with its free, in one measurement.
    pub(super) pairs: u64,
    /// The class of the pairs that are not traced.
    pub(super) other_class: u32,
}

impl Programs {
    pub(super) fn build(workspace: &Workspace, kleak: PathBuf) -> Result<Self> {
        let mut cargo = outer_cargo(workspace);
        cargo.args(["build", "--release", "--package", "kleak-tests", "--bins"]);
        // One of them attaches programs of its own, out of the same object.
        cargo.env(crate::build::ENV_OBJECT, workspace.bpf_object());
        run(&mut cargo).context("could not build the workload")?;
        let built = |name: &str| {
            let path = workspace.target.join("release").join(name);
            if !path.is_file() {
                bail!("the package kleak-tests has no program {name}");
            }
            Ok(path)
        };
        Ok(Self {
            kleak,
            workload: built("kleak-workload")?,
            empty: built("kleak-empty-programs")?,
            memleak: None,
            tree: None,
            pairs: 1,
            other_class: 256,
        })
    }

    /// One sample of each workload while the tracer watches, and has seen one: what comes first costs
    /// more, of whatever tracer.
    pub(super) fn measure(
        &self,
        tracer: Tracer,
        filter: Filter,
        workloads: &[Workload],
    ) -> Result<Vec<f64>> {
        let attached = self.attach(tracer, filter)?;
        let warmed = match workloads.first() {
            Some(first @ Workload { work: Work::Pairs { .. }, .. }) => self.sample(first).map(drop),
            _ => Ok(()),
        };
        let samples: Result<Vec<f64>> =
            warmed.and_then(|()| workloads.iter().map(|workload| self.sample(workload)).collect());
        // The tracer ends also when a workload has failed.
        attached.stop()?;
        samples
    }

    fn attach(&self, tracer: Tracer, filter: Filter) -> Result<Attached> {
        Ok(match tracer {
            Tracer::None => Attached::Nothing,
            Tracer::EmptyPrograms => {
                Attached::Silent(Watching::start(Command::new(&self.empty), ATTACHED)?)
            }
            Tracer::Kleak { stacks, all } => {
                let mut command = Command::new(&self.kleak);
                command.args(["trace", "--stacks", stacks]);
                if let Filter::Class(bytes) = filter {
                    command.args(["--size", &bytes.to_string()]);
                }
                if all {
                    // A condition is a reason for it not to wait; this one never holds.
                    command.args(["--fail-on", "objects>1000000000000"]);
                }
                // The end that it has of its own is for a bench that was killed.
                command.args(["--duration", "600s", "--format", "json", "-o", "/dev/null"]);
                Attached::Silent(Watching::start(command, ATTACHED)?)
            }
            Tracer::Memleak => {
                let memleak = self.memleak.as_ref().context("there is no memleak")?;
                Attached::Memleak(memleak.start(filter)?)
            }
        })
    }

    /// Nanoseconds for a pair, or seconds for all of it.
    pub(super) fn sample(&self, workload: &Workload) -> Result<f64> {
        self.sample_of(workload.work).with_context(|| workload.name)
    }

    fn sample_of(&self, work: Work) -> Result<f64> {
        let pairs = |pairs: u64, class: u32, more: &[&str]| {
            let (pairs, class) = (pairs.max(1).to_string(), class.to_string());
            let mut args = vec!["pair", "--pairs", &pairs, "--size-class", &class];
            args.extend(more);
            number(&self.run_workload(&args)?.1, "ns_per_pair")
        };
        match work {
            Work::Pairs { in_class } => {
                let class = if in_class { TRACED_CLASS } else { self.other_class };
                pairs(self.pairs, class, &["--cpu", "0"])
            }
            Work::Across => pairs(self.pairs, TRACED_CLASS, &["--across"]),
            // Each has a share of a CPU only.
            Work::Threads(threads) => {
                let threads = threads.to_string();
                pairs(self.pairs / 2, TRACED_CLASS, &["--threads", &threads])
            }
            Work::PingPong { count } => {
                Ok(self.run_workload(&["ping-pong", "--count", &count.to_string()])?.0)
            }
            Work::Spawn { count } => {
                Ok(self.run_workload(&["spawn", "--count", &count.to_string()])?.0)
            }
            Work::Find { times } => find(times),
            Work::Compile => self.tree.as_ref().context("there is no tree")?.measure(),
        }
    }

    /// Seconds that its work took, and what it said.
    fn run_workload(&self, args: &[&str]) -> Result<(f64, String)> {
        let mut running = Running::start(&self.workload, args)?;
        let start = Instant::now();
        let said = running.go()?;
        let elapsed = start.elapsed();
        running.finish()?;
        Ok((elapsed.as_secs_f64(), said))
    }
}

fn find(times: u32) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..times {
        let mut command = Command::new("find");
        command.arg(Path::new(FIND_IN)).arg("-xdev").stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().with_context(|| format!("cannot run {}", shown(&command)))?;
        // Files that go meanwhile have it fail with 1; it has walked on.
        if status.code().is_none_or(|code| code > 1) {
            bail!("failed with {status}: {}", shown(&command));
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

/// What watches.
enum Attached {
    Nothing,
    Silent(Watching),
    Memleak(memleak::Attached),
}

impl Attached {
    fn stop(self) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Silent(watching) => watching.stop(DONE_WITHIN, |_| {}).map(drop),
            Self::Memleak(attached) => attached.stop(),
        }
    }
}
