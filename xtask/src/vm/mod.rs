//! The kernel matrix: the ground-truth tests on Debian's kernels, each in a virtual machine.

mod image;
mod kernel;
mod outcome;
mod plan;
mod qemu;
mod suite;
mod table;

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, builder::PossibleValuesParser};

use crate::{apt::Apt, say, test::Tally, workspace::Workspace};

use kernel::Kernel;
use outcome::Cell;
use plan::{Planned, Variant};
use qemu::{Accelerator, End, Machine};
use suite::{Brief, Check};

/// The packages of Debian and Ubuntu that have what this runs.
const NEEDED: [&str; 9] = [
    "binutils",
    "busybox-static",
    "cpio",
    "debian-archive-keyring",
    "iproute2",
    "kmod",
    "qemu-system-x86",
    "util-linux",
    "xz-utils",
];

/// Longest time for one check on a processor of its own, times the accelerator's slowness.
const CHECK_LIMIT: Duration = Duration::from_secs(90);

/// Memory that a machine takes, with QEMU's own.
const MACHINE_BYTES: u64 = 1400 << 20;

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct VmArgs {
    /// Only these kernels
    #[arg(long, value_delimiter = ',', value_name = "SERIES",
          value_parser = PossibleValuesParser::new(kernel::ALL.iter().map(|series| series.name)))]
    kernel: Vec<String>,
    /// Only machines of these kinds
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    variant: Vec<Variant>,
    /// Only these checks: files of tests/tests
    #[arg(long, value_delimiter = ',', value_name = "FILE",
          value_parser = PossibleValuesParser::new(suite::CHECKS.map(|check| check.name)))]
    check: Vec<String>,
    /// Only tests with one of these in their names
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    filter: Vec<String>,
    /// Of each check only what a change is most likely to break, and most checks on the oldest and the
    /// newest kernel only: ten minutes instead of half an hour on two emulated processors
    #[arg(long, conflicts_with_all = ["check", "filter"])]
    brief: bool,
    /// Boot the first of the machines to a shell, with kleak and the tests in /kleak
    #[arg(long)]
    shell: bool,
    /// Machines at a time (default: as many as there are processors and memory for)
    #[arg(long)]
    jobs: Option<usize>,
    /// Look for newer kernels than those kept from before
    #[arg(long)]
    update: bool,
}

/// What all machines of a run share.
struct Matrix<'a> {
    args: &'a VmArgs,
    checks: Vec<Check>,
    kernels: Vec<(&'static str, Kernel)>,
    common: PathBuf,
    work: PathBuf,
    accelerator: Accelerator,
    _lock: File,
}

/// Runs the matrix and prints the table. Each cell is a test in the tally.
pub(crate) fn run(workspace: &Workspace, args: &VmArgs) -> Result<Tally> {
    let planned = plan::of(&args.kernel, &args.variant)?;
    let matrix = Matrix::prepare(workspace, args, &planned)?;
    if args.shell {
        return matrix.shell(planned[0]).map(|()| Tally::default());
    }
    let started = Instant::now();
    let rows = matrix.run_all(&planned);
    let mut tally = Tally::default();
    for (label, cells) in &rows {
        for cell in cells {
            tell(label, cell, &mut tally);
        }
    }
    for line in table::lines(&rows) {
        say::result(&line);
    }
    say::step("vm", &format!("{} machines in {} s", rows.len(), started.elapsed().as_secs()));
    ensure!(tally.passed + tally.failed > 0, "no test was run: check the --filter");
    Ok(tally)
}

/// Adds a cell up, and shows what a failed one printed.
fn tell(label: &str, cell: &Cell, tally: &mut Tally) {
    use outcome::Result::{Failed, Nothing, Passed};
    if let Some(output) = &cell.first {
        say::result(&format!("vm: {label}: {}: FAILED first, and was tried again:", cell.check));
        for line in output.lines() {
            say::result(&format!("    {line}"));
        }
    }
    match &cell.result {
        Passed { tests: 0, not_applicable, .. } if !not_applicable.is_empty() => tally.ignored += 1,
        Passed { .. } => tally.passed += 1,
        Nothing => {}
        Failed { why, output } => {
            tally.failed += 1;
            say::result(&format!("vm: {label}: {}: FAILED: {why}", cell.check));
            for line in output.lines() {
                say::result(&format!("    {line}"));
            }
        }
    }
}

impl VmArgs {
    /// The short matrix.
    pub(crate) fn brief() -> Self {
        Self { brief: true, ..Self::default() }
    }
}

impl<'a> Matrix<'a> {
    fn prepare(workspace: &Workspace, args: &'a VmArgs, planned: &[Planned]) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            bail!("the virtual machines are of x86-64 processors and run programs built here");
        }
        let Some(mut apt) = Apt::find() else {
            bail!("the kernels are Debian's: fetching them takes apt, so Debian or Ubuntu");
        };
        apt.install(&NEEDED)?;
        let mut kernels = Vec::<(&str, Kernel)>::new();
        for Planned { series, .. } in planned {
            if !kernels.iter().any(|(name, _)| *name == series.name) {
                let kernel = Kernel::find_or_fetch(series, args.update)?;
                say::step("vm", &format!("{}: {}", series.name, kernel.release));
                kernels.push((series.name, kernel));
            }
        }
        let named = |check: &Check| {
            args.check.is_empty() || args.check.iter().any(|name| name == check.name)
        };
        let checks = suite::CHECKS.into_iter().filter(named).collect::<Vec<_>>();
        let programs = suite::build(workspace, &checks)?;
        suite::ensure_found(&programs, &checks, args.brief)?;
        // Apart from each other: a shell may be open while the matrix runs.
        let work = workspace.target.join(if args.shell { "vm-shell" } else { "vm" });
        fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        let lock = work.join("lock");
        let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
        if lock.try_lock().is_err() {
            say::step("vm", "waiting for another run in this clone");
            lock.lock().context("cannot wait for another run")?;
        }
        let common = image::common(&programs, &work)?;
        let accelerator = Accelerator::probe(&kernels[0].1, &work.join("kvm"))?;
        Ok(Self { args, checks, kernels, common, work, accelerator, _lock: lock })
    }

    fn run_all(&self, planned: &[Planned]) -> Vec<table::Row> {
        let jobs = self.args.jobs.unwrap_or_else(machines_at_a_time).max(1);
        let queue = planned.iter().copied().enumerate().collect::<VecDeque<_>>();
        let queue = Mutex::new(queue);
        let rows = Mutex::new(Vec::new());
        let count = planned.len().min(jobs);
        say::step("vm", &format!("{} machines, {count} at a time", planned.len()));
        thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some((index, planned)) = next else { return };
                        let cells = self.cells_of(planned);
                        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                        rows.push((index, (planned.label(), cells)));
                    }
                });
            }
        });
        let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        rows.sort_by_key(|(index, _)| *index);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// Runs one machine, and says how it went in a line.
    fn cells_of(&self, planned: Planned) -> Vec<Cell> {
        let started = Instant::now();
        let cells = self.try_cells_of(planned).unwrap_or_else(|error| {
            let why = format!("{error:#}");
            let failed = |check: &&str| Cell {
                check: (*check).to_owned(),
                result: outcome::Result::Failed { why: why.clone(), output: String::new() },
                first: None,
            };
            self.checks_of(planned).iter().map(failed).collect()
        });
        let words = cells.iter().map(|cell| match &cell.result {
            outcome::Result::Passed { seconds, .. } if *seconds > 0 => {
                format!("{} {} in {seconds} s", cell.check, cell.shown())
            }
            _ => format!("{} {}", cell.check, cell.shown()),
        });
        let words = words.collect::<Vec<_>>().join("; ");
        let seconds = started.elapsed().as_secs();
        say::step("vm", &format!("{}, {seconds} s: {words}", planned.label()));
        cells
    }

    fn checks_of(&self, planned: Planned) -> Vec<&'static str> {
        let whole = planned.variant == Variant::CgroupV2;
        // A check that is asked for by name is run wherever.
        let all = whole || !self.args.check.is_empty();
        let end = whole && planned.series.is_end();
        let due = |check: &&Check| {
            (all || check.in_variants)
                && (!self.args.brief || end || matches!(check.brief, Brief::Everywhere(_)))
        };
        self.checks.iter().filter(due).map(|check| check.name).collect()
    }

    fn try_cells_of(&self, planned: Planned) -> Result<Vec<Cell>> {
        let machine = self.machine(planned, false)?;
        for log in [machine.console(), machine.results()] {
            // It may not be there yet.
            drop(fs::remove_file(log));
        }
        let checks = self.checks_of(planned);
        // Before that each check ends at its own limit, and says so.
        let silence = (CHECK_LIMIT + Duration::from_mins(1)) * self.accelerator.slowness();
        let end = machine.run(silence)?;
        let read = |log: &Path| qemu::lossy(log).unwrap_or_default();
        let mut console = read(&machine.console());
        if end == End::Failed {
            console.push_str(&read(&machine.directory.join("qemu.log")));
        }
        Ok(outcome::cells(&checks, &read(&machine.results()), &console, end))
    }

    fn machine(&self, planned: Planned, shell: bool) -> Result<Machine> {
        let directory = self.work.join(planned.label().replace(' ', "-"));
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let (_, kernel) = self
            .kernels
            .iter()
            .find(|(name, _)| *name == planned.series.name)
            .context("a kernel that is planned was looked for")?;
        let slowness = self.accelerator.slowness();
        let settings = [
            ("VARIANT", planned.variant.name().to_owned()),
            ("CHECKS", self.checks_of(planned).join(" ")),
            ("LIMIT_S", (CHECK_LIMIT * slowness).as_secs().to_string()),
            ("SLOWNESS", slowness.to_string()),
            ("SHELL_WANTED", if shell { "yes" } else { "" }.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let filters = self.checks.iter().map(|check| {
            let asked = self.args.filter.join(" ");
            let own = check.tests(self.args.brief).join(" ");
            let filters = if asked.is_empty() { own } else { asked };
            (format!("FILTERS_{}", check.name), filters)
        });
        let settings = settings.into_iter().chain(filters).collect();
        let initramfs = image::of_machine(&self.common, kernel, settings, &directory)?;
        Ok(Machine {
            kernel: kernel.image()?,
            initramfs: Some(initramfs),
            directory,
            accelerator: self.accelerator,
        })
    }

    fn shell(&self, planned: Planned) -> Result<()> {
        say::step("vm", &format!("{}: Ctrl-A X ends the machine", planned.label()));
        self.machine(planned, true)?.attend()
    }
}

/// One for each processor: a test mostly keeps one busy. And no more than half of what memory is
/// free, for the builds of others.
fn machines_at_a_time() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let list = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = list.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = available
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0);
    let by_memory = usize::try_from(kilobytes * 1024 / 2 / MACHINE_BYTES).unwrap_or(1);
    processors.min(by_memory).max(1)
}
