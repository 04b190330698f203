//! The command line. Values are checked here, so that what comes out of it makes sense.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use globset::{Glob, GlobMatcher};

use crate::{analyse::By, export, judge::Condition, probe, recording::Look};

/// Names the process, service or pod that owns growing kernel memory.
#[derive(Debug, Parser)]
#[command(name = "kleak", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Start with: kleak doctor, or kleak trace --size 512 --duration 30s")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch a window and report who owns what was allocated in it and not freed
    Trace(Box<TraceArgs>),
    /// Print a recording (kleak trace --save) with any grouping, filter and format
    Report(Box<ReportArgs>),
    /// Write a recording in the formats of other tools
    Export(Box<ExportArgs>),
    /// Say what grew, appeared, went and shrank from one recording to another, by owner and path
    Diff(Box<DiffArgs>),
    /// Count memory cgroups: live, dying, made by whom, and how far from the limit
    Cgroups(CgroupsArgs),
    /// Say where this node's memory has gone, and which tool answers next; needs no BPF
    Doctor(DoctorArgs),
    /// Print completions for a shell, to be sourced by it
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff): kleak man | man -l -
    Man,
}

/// Writes completions for `shell`.
///
/// Errors: `out` cannot be written.
pub fn completions(shell: clap_complete::Shell, out: &mut impl Write) -> io::Result<()> {
    // The generator takes errors for bugs, so it writes to memory first.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kleak", &mut text);
    out.write_all(&text)
}

/// Writes the manual page, that of each command after that of kleak itself.
///
/// Errors: `out` cannot be written.
pub fn manual(out: &mut impl Write) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    clap_mangen::Man::new(command.clone()).render(out)?;
    for subcommand in command.get_subcommands() {
        clap_mangen::Man::new(subcommand.clone()).render(out)?;
    }
    Ok(())
}

/// Options of `kleak trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kleak trace --size 512 --duration 30s          who grows kmalloc-512?
  kleak trace --duration 5m --min-age 1m         what outlives a minute, in any class?
  kleak trace --size 512 --fail-on 'objects>100' -- ./run-tests
  kleak trace --size 1k --folded out.folded      for any flame-graph tool
  kleak trace --size 1k --html out.html          a page for a colleague
  kleak trace --kind page --duration 30s         who takes pages, past any slab cache?

Exit status: 0 done, 1 failed, 2 usage, 3 this system or user cannot, 4 a --fail-on held,
128+N ended by signal N. With a COMMAND, its own status unless a --fail-on held.")]
pub struct TraceArgs {
    /// Size class, by bytes or name: 512, 1k, kmalloc-512 (repeatable, or a comma list)
    ///
    /// Every kmalloc flavour of the class is followed. A size that is not a class selects the
    /// class that serves it. Without --size and --cache: every class.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = parse_size)]
    pub size: Vec<u64>,

    /// Slab caches by name: dentry, filp, kmalloc-* (repeatable, or a comma list)
    #[arg(long, value_name = "GLOB", value_delimiter = ',', value_parser = parse_glob)]
    pub cache: Vec<GlobMatcher>,

    /// Allocators to follow [default: kmalloc, and cache with --cache]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum)]
    pub kind: Vec<Kind>,

    /// Only this process (thread-group id)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,

    /// Only processes of this name
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    pub comm: Option<GlobMatcher>,

    /// Only cgroups of this path
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    pub cgroup: Option<GlobMatcher>,

    /// Only pods of this name, namespace/name or UID: web-0, shop/*
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    pub pod: Option<GlobMatcher>,

    /// Length of the window: 30s, 5m, 1h30m [default: until Ctrl-C]
    #[arg(long, value_name = "D", value_parser = parse_duration, allow_hyphen_values = true)]
    pub duration: Option<Duration>,

    /// Print a fresh report every D while tracing
    #[arg(long, value_name = "D", value_parser = parse_duration, allow_hyphen_values = true)]
    pub interval: Option<Duration>,

    /// Count only objects that have outlived D
    #[arg(long, value_name = "D", value_parser = parse_duration, allow_hyphen_values = true)]
    pub min_age: Option<Duration>,

    /// Group owners by
    #[arg(long, value_name = "KEY", value_enum, default_value_t = By::Process)]
    pub by: By,

    /// Rows shown [default: 10 in text, all in JSON]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,

    /// Kernel stacks: a sample, of every object, or none; objects are always counted exactly
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Stacks::Auto)]
    pub stacks: Stacks,

    /// Take the user-space half of the stacks too
    #[arg(long)]
    pub user_stacks: bool,

    /// Outstanding objects the kernel side may hold; past it objects are counted as untracked
    /// [default: 1000000, fewer when memory is short]
    ///
    /// A number, or one with k, M or G, which are thousands, millions and milliards: 16M is 16,000,000.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub max_objects: Option<u32>,

    /// Keep what kleak costs under this share of the machine's CPU time: 2%, 0.5%
    ///
    /// Measured while it runs: its BPF programs' own run time and its own. To keep it, fewer stacks are
    /// taken, then only objects at a fixed fraction of the addresses are followed, which is never widened
    /// again; figures are scaled up from them then, and marked. It says when it does so, and why.
    #[arg(long, value_name = "N%", value_parser = parse_share, allow_hyphen_values = true)]
    pub budget: Option<f64>,

    /// How the report is printed; ndjson is a line an interval
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Write the report here instead of to stdout (`-`)
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,

    /// Other formats.
    #[command(flatten)]
    pub exports: Exports,

    /// Also record everything that the report is made from, for: kleak report FILE
    ///
    /// Written as the run goes: what a crash or a full disk leaves can be read.
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,

    /// Where the root of the host is mounted, when run in a container: /host
    ///
    /// Everything under /proc, /sys, /run and /var is read there. Where only its /proc is mounted, the
    /// rest is what the host's first process sees.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub host_root: PathBuf,

    /// What makes a build fail.
    #[command(flatten)]
    pub judging: Judging,

    /// Attach, run this, and stop when it ends; the report is what it and its descendants leave
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

/// Files in the formats of other tools. They hold everything that is selected, whatever `--by` and
/// `--top` show.
#[derive(Clone, Debug, Default, Args)]
pub struct Exports {
    /// Also write folded stacks, for any flame-graph tool
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,

    /// Also write a flame graph that any browser shows
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Also write a profile for go tool pprof, Pyroscope and Parca
    #[arg(long, value_name = "FILE")]
    pub pprof: Option<PathBuf>,

    /// Also write a profile for speedscope
    #[arg(long, value_name = "FILE")]
    pub speedscope: Option<PathBuf>,

    /// Also write one HTML page: flame graph, growth over time, owners and stacks; opens in any browser,
    /// fetches nothing
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Exports {
    /// Those asked for.
    pub fn wanted(&self) -> Vec<(export::Format, PathBuf)> {
        let all = [
            (export::Format::Folded, &self.folded),
            (export::Format::Svg, &self.svg),
            (export::Format::Html, &self.html),
            (export::Format::Pprof, &self.pprof),
            (export::Format::Speedscope, &self.speedscope),
        ];
        all.into_iter().filter_map(|(format, path)| Some((format, path.clone()?))).collect()
    }
}

/// What makes a build fail, and where that is told.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Judging")]
pub struct Judging {
    /// Exit 4 when this holds (repeatable): growth>1MiB, growth>1MiB/min, objects>1000,
    /// owner.share>0.5, untracked>0
    ///
    /// Judged is everything selected, whatever --by and --top show; objects whose frees cannot be
    /// followed are left out.
    #[arg(long, value_name = "EXPR")]
    pub fail_on: Vec<Condition>,

    /// Leave out what this TOML file lists, each with a reason (repeatable)
    ///
    /// A table named suppress each, with `reason`, and of `stack` (a function's name, or a list of them from the
    /// leaf outwards), `comm`, `unit`, `cgroup`, `pod`, `cache` those that have to match; all are
    /// patterns. `max = "64KiB"` leaves out so much, and more is judged; from the day after
    /// `until = "2027-01-31"` it does not apply. Unused ones are reported.
    #[arg(long, value_name = "FILE", requires = "fail_on")]
    pub suppressions: Vec<PathBuf>,

    /// Fail only by what is more than in this recording of an earlier run (--save)
    ///
    /// Compared by program, slab cache and path: with a COMMAND run by run, else by time. A recording of
    /// another kernel or filter is compared as far as it goes, with a warning.
    #[arg(long, value_name = "FILE", requires = "fail_on")]
    pub baseline: Option<PathBuf>,

    /// Write the judgement as JUnit XML: a test case for each --fail-on
    #[arg(long, value_name = "FILE", requires = "fail_on")]
    pub junit: Option<PathBuf>,

    /// Write a summary as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,

    /// In a GitHub job: annotate it, and append the Markdown to its summary
    #[arg(long)]
    pub github: bool,
}

impl Judging {
    /// Files that are written, by their options.
    pub fn written(&self) -> Vec<(&'static str, &Path)> {
        let all = [("junit", &self.junit), ("markdown", &self.markdown)];
        all.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?))).collect()
    }

    /// What it is judged by, which nothing is to be written over.
    pub fn read(&self) -> impl Iterator<Item = &Path> {
        self.suppressions.iter().chain(&self.baseline).map(PathBuf::as_path)
    }
}

/// Options of `kleak report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kleak report run.kleak                         as the run printed it
  kleak report run.kleak --by pod --top 3        by another grouping
  kleak report run.kleak --size 512 --min-age 10s --format json
  ssh node cat run.kleak | kleak report -        without a copy

It needs no root and no BPF, and reads nothing of the machine that it runs on. What is not given is as in
the run: with --comm of the run and --pid, both have to hold; --comm '*' widens it again.

Exit status: 0 done, 1 failed, 2 usage, or no recording, 3 not readable by this kleak or user, 4 a --fail-on held.")]
pub struct ReportArgs {
    /// The recording; - is standard input
    pub file: PathBuf,

    /// What to look at.
    #[command(flatten)]
    pub look: LookArgs,

    /// Group owners by [default: as in the run]
    #[arg(long, value_name = "KEY", value_enum)]
    pub by: Option<By>,

    /// Rows shown [default: as in the run]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,

    /// The reports that --interval printed too, oldest first; ndjson has them anyhow
    #[arg(long)]
    pub all: bool,

    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Write the report here instead of to stdout (`-`)
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,

    /// Other formats.
    #[command(flatten)]
    pub exports: Exports,

    /// What makes a build fail.
    #[command(flatten)]
    pub judging: Judging,
}

/// Options of `kleak export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kleak export run.kleak --folded run.folded     for any flame-graph tool
  kleak export run.kleak --format folded | less  to standard output
  kleak export run.kleak --pid 1165 --folded kubelet.folded

Everything that is selected is written, whatever the run's --by and --top.

Exit status: 0 done, 1 failed, 2 usage, or no recording, 3 not readable by this kleak or user.")]
pub struct ExportArgs {
    /// The recording; - is standard input
    pub file: PathBuf,

    /// What to look at.
    #[command(flatten)]
    pub look: LookArgs,

    /// Files to write.
    #[command(flatten)]
    pub exports: Exports,

    /// Write this format to -o
    #[arg(long, value_name = "NAME", value_enum)]
    pub format: Option<export::Format>,

    /// Where --format goes [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Options of `kleak diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kleak diff good.kleak bad.kleak                what grew?
  kleak diff --svg diff.svg good.kleak bad.kleak and how: red grew, blue shrank
  kleak diff --by cache --format json good.kleak bad.kleak

Windows may differ in length: what is left behind is compared by the minute. Programs are matched by name and
by unit, pod or cgroup, never by pid. A difference is one of more than a tenth, and of more than chance and
estimates explain.

Exit status: 0 done, 1 failed, 2 usage, or no recording, 3 not readable by this kleak or user.")]
pub struct DiffArgs {
    /// The recording to compare with; - is standard input
    pub before: PathBuf,

    /// The recording in which something may have grown; - is standard input
    pub after: PathBuf,

    /// What to look at, in both.
    #[command(flatten)]
    pub look: LookArgs,

    /// Group owners by
    #[arg(long, value_name = "KEY", value_enum, default_value_t = By::Process)]
    pub by: By,

    /// Rows shown [default: 10 in text, all in JSON]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,

    /// How the comparison is printed
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,

    /// Write the comparison here instead of to stdout (`-`)
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,

    /// Also write a flame graph of both: red grew, blue shrank
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Also write folded stacks with two counts, bytes before (by AFTER's window) and after
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,
}

/// Which part of a recording to look at.
#[derive(Clone, Debug, Default, Args)]
pub struct LookArgs {
    /// Only this process (thread-group id)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,

    /// Only processes of this name
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    pub comm: Option<GlobMatcher>,

    /// Only cgroups of this path
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    pub cgroup: Option<GlobMatcher>,

    /// Only pods of this name, namespace/name or UID: web-0, shop/*
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    pub pod: Option<GlobMatcher>,

    /// Only these size classes, by bytes or name: 512, 1k (repeatable, or a comma list)
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = parse_size)]
    pub size: Vec<u64>,

    /// Only what the report calls so: kmalloc-cg-512, dentry, page* (repeatable, or a comma list)
    #[arg(long, value_name = "GLOB", value_delimiter = ',', value_parser = parse_glob)]
    pub cache: Vec<GlobMatcher>,

    /// Count only objects that have outlived D: as much as in the run, or more
    ///
    /// A recording tells births by twentieths of its window, so D is taken as the next age that it can
    /// tell, which is said.
    #[arg(long, value_name = "D", value_parser = parse_duration, allow_hyphen_values = true)]
    pub min_age: Option<Duration>,
}

impl LookArgs {
    /// What is asked for, grouped as in the run.
    pub fn look(&self) -> Look {
        Look {
            by: None,
            top: None,
            pid: self.pid,
            comm: self.comm.clone(),
            cgroup: self.cgroup.clone(),
            pod: self.pod.clone(),
            sizes: self.size.clone(),
            caches: self.cache.clone(),
            min_age: self.min_age,
        }
    }
}

/// Options of `kleak cgroups`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kleak cgroups --duration 1m                    why does mkdir say \"No space left on device\"?
  kleak cgroups --duration 30s --format json     the same for scripts

Without the rights to load BPF programs, it reports what can be read and says what is missing.

Exit status: 0 done, 1 failed, 2 usage, 3 this system or user cannot, 128+N ended by signal N.")]
pub struct CgroupsArgs {
    /// Length of the window: 30s, 5m, 1h30m [default: until Ctrl-C]
    #[arg(long, value_name = "D", value_parser = parse_duration, allow_hyphen_values = true)]
    pub duration: Option<Duration>,

    /// Rows shown of each table [default: 10 in text, all in JSON]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,

    /// Where the root of the host is mounted, when run in a container: /host
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub host_root: PathBuf,

    /// How the report is printed
    #[arg(long, value_enum, default_value_t = CgroupsFormat::Text)]
    pub format: CgroupsFormat,

    /// Write the report here instead of to stdout (`-`)
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
}

/// Options of `kleak doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kleak doctor                                   where has this node's memory gone?
  kleak doctor --format json -o node.json        the same for scripts
  kleak doctor --root /mnt/node                  of a saved or mounted tree

It reads files and nothing else: no BPF, any kernel from 3.10, in less than two seconds. Without root it
says what it could not read. A saved tree may hold as little as proc/meminfo.

Exit status: 0 done, 1 failed, 2 usage, 3 nothing about memory could be read.")]
pub struct DoctorArgs {
    /// Read proc, sys, var/log and dev/kmsg below DIR, of a saved or mounted tree
    #[arg(long, value_name = "DIR", conflicts_with = "host_root")]
    pub root: Option<PathBuf>,

    /// Where the root of the host is mounted, when run in a container: /host
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub host_root: PathBuf,

    /// How the report is printed
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,

    /// Write the report here instead of to stdout (`-`)
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
}

/// Formats of what is reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people
    Text,
    /// One indented JSON document
    Json,
}

/// Formats of the report on cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupsFormat {
    /// For people
    Text,
    /// One indented JSON document
    Json,
}

/// Allocators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// kmalloc and its kin
    Kmalloc,
    /// Named slab caches
    Cache,
    /// Pages: pipes, page tables, buffers, user memory; by order and migrate type
    Page,
    /// Per-CPU memory, in bytes over all CPUs
    Percpu,
}

/// When kernel stacks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stacks {
    /// For the first objects of a call site, then sampled
    Auto,
    /// For every object
    All,
    /// Never
    Off,
}

/// Formats of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One indented JSON document a report
    Json,
    /// One JSON line a report
    Ndjson,
}

impl From<Stacks> for probe::Stacks {
    fn from(stacks: Stacks) -> Self {
        match stacks {
            Stacks::Auto => Self::Auto,
            Stacks::All => Self::All,
            Stacks::Off => Self::Off,
        }
    }
}

/// Largest kmalloc: `KMALLOC_MAX_SIZE`, `MAX_PAGE_ORDER` pages (4 MiB on x86-64 and arm64 with 4
/// KiB pages).
const LARGEST_KMALLOC: u64 = 4 << 20;

/// Bytes, or the name of a kmalloc cache of any flavour.
fn parse_size(text: &str) -> Result<u64, String> {
    let hint = "give bytes or a class, such as 512, 1k or kmalloc-512";
    let is_class = |name: &&str| {
        ["kmalloc-", "dma-kmalloc-", "msg_msg-", "memdup_user-"].iter().any(|p| name.starts_with(p))
    };
    let number = if is_class(&text) { text.rsplit('-').next().unwrap_or(text) } else { text };
    let lower = number.trim().to_ascii_lowercase();
    let (digits, unit) =
        lower.split_at(lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len()));
    let factor = match unit {
        "" | "b" => 1,
        // The kernel's cache names count in 1024.
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        _ => return Err(hint.to_owned()),
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| hint.to_owned())?;
    if bytes == 0 {
        return Err(format!("no object has 0 bytes; {hint}"));
    }
    if bytes > LARGEST_KMALLOC {
        return Err(format!("kmalloc serves at most 4 MiB; {hint}"));
    }
    Ok(bytes)
}

fn parse_glob(text: &str) -> Result<GlobMatcher, String> {
    if text.is_empty() {
        return Err("the pattern is empty; use * for anything".to_owned());
    }
    match Glob::new(text) {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(error) => Err(format!("{}; * and ? and [a-z] and {{a,b}} are known", error.kind())),
    }
}

/// A duration with units; a bare number is seconds, as for timeout(1).
fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "give a time such as 30s, 5m or 1h30m";
    let duration = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|error| format!("{error}; {hint}"))?,
    };
    if duration < Duration::from_millis(1) {
        return Err(format!("it must be at least 1ms; {hint}"));
    }
    if duration > Duration::from_hours(366 * 24) {
        return Err(format!("that is more than a year; {hint}"));
    }
    Ok(duration)
}

/// A share of the machine, in percent: a bare number could be meant either way.
fn parse_share(text: &str) -> Result<f64, String> {
    let hint =
        "give a share of the machine in percent, above 0% and up to 100%, such as 2% or 0.5%";
    let number = text.trim().strip_suffix('%').map(str::trim_end).ok_or(hint)?;
    // Digits alone: what else a float may be written as (1e9, inf, +2) is no share.
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(hint.to_owned());
    }
    match number.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(hint.to_owned()),
    }
}

/// A count with an optional k, M or G (thousands, millions, milliards).
fn parse_count(text: &str) -> Result<u32, String> {
    let hint = "give a number from 1 to 200M, such as 100000, 500k or 16M (16,000,000)";
    let lower = text.trim().to_ascii_lowercase().replace('_', "");
    let digits = lower.trim_end_matches(['k', 'm', 'g']);
    let factor = match lower.get(digits.len()..) {
        Some("") => 1_u64,
        Some("k") => 1_000,
        Some("m") => 1_000_000,
        Some("g") => 1_000_000_000,
        _ => return Err(hint.to_owned()),
    };
    let number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let count = number.and_then(|n| n.parse::<u64>().ok()).and_then(|n| n.checked_mul(factor));
    match count.and_then(|count| u32::try_from(count).ok()) {
        Some(count @ 1..=200_000_000) => Ok(count),
        _ => Err(hint.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, Command, parse_count, parse_duration, parse_glob, parse_share, parse_size};
    use clap::{CommandFactory as _, Parser as _, ValueEnum as _};
    use std::time::Duration;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn completions_and_manual_know_the_options() {
        for shell in clap_complete::Shell::value_variants() {
            let mut text = Vec::new();
            super::completions(*shell, &mut text).unwrap();
            assert!(String::from_utf8(text).unwrap().contains("max-objects"), "{shell}");
        }
        let mut page = Vec::new();
        super::manual(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains(r"\-\-max\-objects") && page.contains("kleak\\-trace"), "{page}");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512", 512),
            ("1k", 1024),
            ("1K", 1024),
            ("8KiB", 8192),
            ("kmalloc-512", 512),
            ("kmalloc-cg-2k", 2048),
            ("dma-kmalloc-96", 96),
            ("msg_msg-512", 512),
            ("500", 500),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "banana", "0", "-1", "5M", "512x", "kmalloc-", "99999999999999999999", "1.5k"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "0", "0s", "5 parsecs", "-1s", "ten", "999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_and_globs() {
        assert_eq!(parse_count("16M"), Ok(16_000_000));
        assert_eq!(parse_count("500k"), Ok(500_000));
        assert_eq!(parse_count("100_000"), Ok(100_000));
        for text in ["0", "", "k", "-1", "1e6", "999999M", "1G", "1kk", "1km", "+5"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
        assert!(parse_glob("kmalloc-*").is_ok());
        assert!(parse_glob("[").is_err());
        assert!(parse_glob("").is_err());
    }

    #[test]
    fn budgets_are_in_percent() {
        for (text, share) in [("2%", 0.02), ("0.5%", 0.005), (" 100 % ", 1.0), (".5%", 0.005)] {
            assert!(parse_share(text).is_ok_and(|found| (found - share).abs() < 1e-12), "{text}");
        }
        for text in ["", "%", "2", "0.02", "0%", "-1%", "101%", "inf%", "NaN%", "1e1%", "2%%", ".%"]
        {
            assert!(parse_share(text).is_err_and(|error| error.contains("percent")), "{text}");
        }
    }

    #[test]
    fn a_command_takes_the_rest_of_the_line() {
        let cli = Cli::try_parse_from(["kleak", "trace", "--size", "512,1k", "--", "ls", "-l"]);
        let Command::Trace(args) = cli.unwrap().command else { panic!("another command") };
        assert_eq!(args.size, [512, 1024]);
        assert_eq!(args.command, ["ls", "-l"]);
    }
}
