//! As much as the machine takes, through as many doors of the kernel as this suite knows.

use std::sync::Mutex;
use std::thread::{Builder, available_parallelism, scope};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::Objects;
use super::descriptors::{EpollItems, Events, Files, Memory, Pipes, Timerfds};
use super::inodes::{Attributes, private_tmpfs};
use super::ipc::{Messages, Semaphores};
use super::keys::Keys;
use super::names::{Directories, Threads};
use super::sockets::{Connections, Datagrams, Groups, Pairs};
use super::timers::Timers;
use crate::workload::{net, protocol, set_comm};

/// Most objects of one kind at a time, in each thread.
const MOST: usize = 24;

#[derive(Debug, Args)]
pub(in crate::workload) struct StormArgs {
    /// Seconds that it lasts
    #[arg(long)]
    seconds: u64,
    /// Only these kinds
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// A kind of object, and how to begin with it in a thread with that name.
struct Kind {
    name: &'static str,
    /// Most at a time.
    most: usize,
    /// One round in so many, for what is slow.
    every: usize,
    begin: fn(&str) -> Result<Box<dyn Objects>>,
}

const KINDS: &[Kind] = &[
    Kind { name: "messages-512", most: MOST, every: 1, begin: |_| boxed(Messages::new(MOST, 512)) },
    Kind { name: "messages-4k", most: 8, every: 1, begin: |_| boxed(Messages::new(8, 4096)) },
    Kind { name: "semaphores", most: 8, every: 1, begin: |_| boxed(Ok(Semaphores::default())) },
    Kind { name: "keys", most: 8, every: 1, begin: |name| boxed(Ok(Keys::new(name))) },
    Kind { name: "pairs", most: MOST, every: 1, begin: |_| boxed(Ok(Pairs::default())) },
    Kind { name: "connections", most: 4, every: 1, begin: |_| boxed(Connections::new()) },
    Kind { name: "datagrams", most: MOST, every: 1, begin: |_| boxed(Datagrams::new()) },
    Kind { name: "groups", most: MOST, every: 1, begin: |_| boxed(Groups::new(MOST)) },
    Kind { name: "pipes", most: MOST, every: 1, begin: |_| boxed(Ok(Pipes::default())) },
    Kind { name: "memory", most: MOST, every: 1, begin: |_| boxed(Ok(Memory::default())) },
    Kind { name: "events", most: MOST, every: 1, begin: |_| boxed(Ok(Events::default())) },
    Kind { name: "files", most: MOST, every: 1, begin: |_| boxed(Ok(Files::default())) },
    Kind { name: "epoll", most: MOST, every: 1, begin: |_| boxed(EpollItems::new(MOST)) },
    Kind { name: "timerfds", most: MOST, every: 1, begin: |_| boxed(Ok(Timerfds::default())) },
    Kind { name: "timers", most: MOST, every: 1, begin: |_| boxed(Ok(Timers::default())) },
    Kind { name: "acls", most: MOST, every: 1, begin: |_| boxed(Attributes::acls(MOST)) },
    Kind { name: "attributes", most: MOST, every: 1, begin: |_| boxed(Attributes::plain(MOST)) },
    Kind { name: "threads", most: 4, every: 4, begin: |_| boxed(Ok(Threads::default())) },
    Kind {
        name: "directories",
        most: MOST,
        every: 1,
        begin: |name| boxed(Directories::ordinary(name)),
    },
    Kind { name: "cgroups", most: 2, every: 8, begin: |name| boxed(Directories::cgroups(name)) },
];

fn boxed<O: Objects + 'static>(objects: Result<O>) -> Result<Box<dyn Objects>> {
    Ok(Box::new(objects?))
}

/// Storms on `go`, for the time given.
pub(super) fn run(args: &StormArgs) -> Result<()> {
    net::private_loopback()?;
    private_tmpfs()?;
    let (kinds, missing) = kinds(&args.only)?;
    let cpus = available_parallelism().context("the number of CPUs")?.get();
    protocol::ready(&[])?;
    if !protocol::wait_for_go()? {
        return Ok(());
    }
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let total = Mutex::new(0);
    scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..2 * cpus {
            // The first half stays where it is, so that every CPU has one; the others move.
            let cpu = (number < cpus).then_some(number);
            let (kinds, total) = (&kinds, &total);
            let thread = Builder::new().spawn_scoped(scope, move || {
                let made = storm(number, cpu, kinds, end)?;
                *total.lock().map_err(|_| anyhow!("another thread panicked"))? += made;
                Ok(())
            });
            threads.push(thread.context("a thread")?);
        }
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        })
    })?;
    let made = total.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
    let missing = missing.join(",");
    protocol::say(&format!("done count={made} kinds={} missing={missing}", kinds.len()))?;
    protocol::wait_for_exit()
}

/// The kinds that this kernel has, and the names of the others.
fn kinds(only: &[String]) -> Result<(Vec<&'static Kind>, Vec<&'static str>)> {
    let (mut present, mut missing) = (Vec::new(), Vec::new());
    for kind in KINDS {
        if !only.is_empty() && !only.iter().any(|name| name == kind.name) {
            continue;
        }
        let name = format!("kleak-trial-{}", std::process::id());
        let trial = (kind.begin)(&name).and_then(|mut objects| {
            objects.make()?;
            objects.destroy()
        });
        match trial {
            Ok(_) => present.push(kind),
            Err(error) => {
                protocol::complain(&format!("no {}: {error:#}", kind.name));
                missing.push(kind.name);
            }
        }
    }
    ensure!(!present.is_empty(), "no kind of object is left");
    Ok((present, missing))
}

/// One thread's part, and how many objects it made.
fn storm(number: usize, cpu: Option<usize>, kinds: &[&Kind], end: Instant) -> Result<usize> {
    set_comm(format!("storm-{number}").as_bytes())?;
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        // On a machine where CPUs are numbered otherwise it stays free to move.
        sched_setaffinity(Pid::from_raw(0), &set).ok();
    }
    let name = format!("kleak-storm-{}-{number}", std::process::id());
    let begin = |kind: &&Kind| (kind.begin)(&name).with_context(|| kind.name);
    let mut all = kinds.iter().map(begin).collect::<Result<Vec<_>>>()?;
    let (mut made, mut round) = (0, number);
    while Instant::now() < end {
        for (kind, objects) in kinds.iter().zip(&mut all) {
            if round % kind.every != 0 {
                continue;
            }
            // From one to as many as there may be, each round another number.
            let count = 1 + round * 7 % kind.most;
            for _ in 0..count {
                objects.make().with_context(|| format!("{} in round {round}", kind.name))?;
            }
            made += count;
        }
        for (kind, objects) in kinds.iter().zip(&mut all) {
            objects.destroy().with_context(|| format!("{} in round {round}", kind.name))?;
        }
        round += 1;
    }
    Ok(made)
}
