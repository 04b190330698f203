//! The workloads, and how they are told what to do.
//!
//! A workload sets itself up, prints `ready pid=… [queues=…]`, and obeys one line at a time on its
//! standard input, answering each with one line: `go` → `done …`, `drain` → `drained …`, `exit`
//! ends it, as does the end of its input. What it makes before `ready` is there before any tracer;
//! between `go` and `done` it makes exactly what it says.

mod arp;
mod cgroups;
mod churn;
mod kubelet;
mod limit;
mod memory;
mod messages;
mod net;
mod objects;
mod pair;
mod paths;
mod percpu;
mod ping;
mod pipes;
mod protocol;
mod spawn;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

use crate::sysv;

/// Queues to remove when this process ends.
static QUEUES: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Makes a known number of kernel objects, when told to by a line on standard input.
#[derive(Debug, Parser)]
#[command(name = "kleak-workload")]
struct Cli {
    /// Name of this process (as in /proc/PID/comm)
    #[arg(long, global = true)]
    comm: Option<String>,
    /// The same in hexadecimal, for names that are not text
    #[arg(long, global = true, conflicts_with = "comm")]
    comm_hex: Option<String>,
    /// Run on this CPU only
    #[arg(long, global = true)]
    cpu: Option<usize>,
    /// Leave the queues and the messages in them behind
    #[arg(long, global = true)]
    leave: bool,
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// `go`: sends messages that nobody receives; `drain`: receives them
    Msg(MsgArgs),
    /// `go`: receives all messages of another process's queues
    Recv(RecvArgs),
    /// `go`: sends and receives as fast as it can, keeping some
    Churn(ChurnArgs),
    /// `go`: times a send and a receive
    Pair(PairArgs),
    /// `go`: sends a byte to another process over a socket and awaits its answer, again and again
    PingPong(PingPongArgs),
    /// The other process of `ping-pong`: sends back what comes
    #[command(hide = true)]
    Echo,
    /// `go`: starts processes, one after the other
    Spawn(SpawnArgs),
    /// Lets message queues hold more until it ends, and then puts the limit back
    Limit(LimitArgs),
    /// `go`: dials a server that never answers, again and again until `stop`, and keeps
    /// every socket with its filter
    Kubelet(KubeletArgs),
    /// `go`: receives ARP requests of many senders, each remembered by the kernel in an object
    /// that a softirq allocates
    Arp(ArpArgs),
    #[command(flatten)]
    Objects(objects::ObjectWork),
    /// `go`: makes cgroups and removes them; `drain`: deletes the files that keep them dying
    Cgroups(CgroupsArgs),
    /// `go`: fills pipes; `drain`: closes them
    Pipes(PipesArgs),
    /// `go`: touches memory; `drain`: gives back half of every huge page
    Memory(MemoryArgs),
    /// `go`: makes BPF arrays, per-CPU ones unless told otherwise; `drain`: closes them
    Arrays(ArraysArgs),
    /// `go`: keeps objects that one function allocates by three paths, amid many that are freed
    Paths(PathsArgs),
    /// `go`: sends messages from as many user call paths
    Walks(WalksArgs),
    /// Without waiting for a line: sends messages, lets children do the same, ends
    Tree(TreeArgs),
}

#[derive(Debug, Args)]
struct MsgArgs {
    /// Messages for each `go` that does not say how many
    #[arg(long)]
    count: usize,
    /// Messages there is room for (default: `--count`)
    #[arg(long)]
    capacity: Option<usize>,
    /// Threads that share the work
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Bytes of an object
    #[arg(long, default_value_t = 512)]
    size_class: usize,
}

#[derive(Debug, Args)]
struct RecvArgs {
    /// The queues
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<i32>,
}

#[derive(Debug, Args)]
struct ChurnArgs {
    /// How many pairs; 0: until `stop`
    #[arg(long)]
    pairs: usize,
    /// Keep one object of so many; 0: none
    #[arg(long, default_value_t = 0)]
    keep_every: usize,
    /// Bytes of an object
    #[arg(long, default_value_t = 512)]
    size_class: usize,
    /// Milliseconds of rest after every 64 pairs, with `--pairs 0`
    #[arg(long, default_value_t = 0)]
    rest_ms: u16,
    /// Attach and detach socket filters instead of sending messages: an object of the ordinary
    /// cache, freed by whoever runs the RCU callback
    #[arg(long, conflicts_with_all = ["keep_every", "size_class"])]
    filters: bool,
}

#[derive(Debug, Args)]
struct PairArgs {
    /// Pairs in a `go`
    #[arg(long, default_value_t = 200_000)]
    pairs: usize,
    /// Bytes of an object
    #[arg(long, default_value_t = 512)]
    size_class: usize,
    /// Threads that do so many each at once, on queues of their own
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Send on CPU 0 and receive on CPU 1
    #[arg(long, conflicts_with = "threads")]
    across: bool,
}

#[derive(Debug, Args)]
struct PingPongArgs {
    /// Round trips in a `go`
    #[arg(long)]
    count: usize,
}

#[derive(Debug, Args)]
struct SpawnArgs {
    /// Processes in a `go`
    #[arg(long)]
    count: usize,
}

#[derive(Debug, Args)]
struct LimitArgs {
    /// Bytes of text in a queue (kernel.msgmnb)
    #[arg(long)]
    queue_bytes: u32,
}

#[derive(Debug, Args)]
struct KubeletArgs {
    /// Sockets dialled (and left behind) at each try
    #[arg(long, default_value_t = 32)]
    dials: usize,
    /// Milliseconds between tries
    #[arg(long, default_value_t = 100)]
    period_ms: u16,
}

#[derive(Debug, Args)]
struct ArpArgs {
    /// Senders
    #[arg(long, default_value_t = 400)]
    count: u16,
}

#[derive(Debug, Args)]
struct CgroupsArgs {
    /// Cgroups for each `go` that does not say how many
    #[arg(long)]
    count: usize,
    /// Directory of the cgroup below which they are made
    #[arg(long)]
    parent: PathBuf,
    /// Directory of the cgroup that this process belongs to when it is in none of them
    #[arg(long)]
    home: PathBuf,
    /// Do not remove them
    #[arg(long)]
    keep: bool,
    /// Directory on a tmpfs: each cgroup is charged for a file of 2 MiB written there
    #[arg(long)]
    pin: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PipesArgs {
    /// Pipes
    #[arg(long)]
    count: usize,
    /// Pages in each
    #[arg(long, default_value_t = 16)]
    pages: usize,
}

#[derive(Debug, Args)]
struct MemoryArgs {
    /// How much
    #[arg(long)]
    mib: usize,
    /// In a file of huge pages
    #[arg(long)]
    huge: bool,
}

#[derive(Debug, Args)]
struct ArraysArgs {
    /// Arrays
    #[arg(long)]
    count: usize,
    /// Elements of each
    #[arg(long)]
    entries: u32,
    /// Bytes of an element (on each CPU)
    #[arg(long)]
    value_size: u32,
    /// Not per-CPU
    #[arg(long)]
    plain: bool,
}

#[derive(Debug, Args)]
struct PathsArgs {
    /// Objects kept
    #[arg(long)]
    count: usize,
    /// Objects made and freed before each of them
    #[arg(long, default_value_t = 0)]
    churn: usize,
}

#[derive(Debug, Args)]
struct WalksArgs {
    /// Messages
    #[arg(long)]
    count: usize,
}

#[derive(Debug, Args)]
struct TreeArgs {
    /// Messages each process sends
    #[arg(long)]
    count: usize,
    /// Levels of children
    #[arg(long, default_value_t = 0)]
    depth: usize,
    /// Children of each process
    #[arg(long, default_value_t = 1)]
    children: usize,
    /// File to which each process appends a line `pid=… queues=…`
    #[arg(long)]
    record: PathBuf,
    /// Exit status of the first process
    #[arg(long, default_value_t = 0)]
    exit_code: u8,
}

/// Runs the workload the command line names.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let leave = cli.leave;
    let result = run(cli);
    clean_up(leave);
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            protocol::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<u8> {
    clean_up_on_term(cli.leave)?;
    if let Some(comm) = comm(&cli)? {
        set_comm(&comm)?;
    }
    if let Some(cpu) = cli.cpu {
        pin(cpu)?;
    }
    match cli.work {
        Work::Msg(args) => messages::send(&args)?,
        Work::Recv(args) => messages::receive(args)?,
        Work::Paths(args) => paths::run(&args)?,
        Work::Walks(args) => paths::walks(&args)?,
        Work::Churn(args) if args.filters => churn::filters(&args)?,
        Work::Churn(args) => churn::messages(&args)?,
        Work::Pair(args) => pair::run(&args)?,
        Work::PingPong(args) => ping::run(&args)?,
        Work::Echo => ping::echo()?,
        Work::Spawn(args) => spawn::run(&args)?,
        Work::Limit(args) => limit::run(&args)?,
        Work::Kubelet(args) => kubelet::run(&args)?,
        Work::Arp(args) => arp::run(&args)?,
        Work::Objects(work) => objects::run(&work)?,
        Work::Cgroups(args) => cgroups::run(&args)?,
        Work::Pipes(args) => pipes::run(&args)?,
        Work::Memory(args) => memory::run(&args)?,
        Work::Arrays(args) => percpu::run(&args)?,
        Work::Tree(args) => return tree::run(&args, cli.leave),
    }
    Ok(0)
}

/// Has the calling thread run on this CPU only.
fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning to CPU {cpu}"))
}

fn comm(cli: &Cli) -> Result<Option<Vec<u8>>> {
    let Some(hex) = &cli.comm_hex else {
        return Ok(cli.comm.clone().map(String::into_bytes));
    };
    if !hex.is_ascii() || hex.len() % 2 != 0 {
        bail!("--comm-hex {hex}: not pairs of hexadecimal digits");
    }
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    Ok(Some(bytes.collect::<Result<_, _>>().with_context(|| format!("--comm-hex {hex}"))?))
}

fn set_comm(name: &[u8]) -> Result<()> {
    let name = std::ffi::CString::new(name).context("a name cannot hold a NUL")?;
    nix::sys::prctl::set_name(&name).context("prctl(PR_SET_NAME)")
}

/// Remembers queues for removal at the end, however it comes.
fn remember(ids: &[i32]) {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(ids);
}

/// What must be done however this process ends.
fn clean_up(leave: bool) {
    if !leave {
        remove_queues();
    }
    limit::put_back();
}

fn remove_queues() {
    for id in QUEUES.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        if let Err(error) = sysv::remove(id) {
            protocol::complain(&format!("{error:#}"));
        }
    }
}

/// SIGTERM and SIGINT are taken by a thread of their own, which cleans up and ends the process.
fn clean_up_on_term(leave: bool) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Ok(signal) = signals.wait() {
            clean_up(leave);
            std::process::exit(128 + signal as i32);
        }
    })?;
    Ok(())
}
