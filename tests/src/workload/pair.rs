//! What a send and a receive cost: the figure the overhead is measured by.
//!
//! It is CPU time of the threads that do it, and the median over many short stretches: what others
//! do on the machine meanwhile, which is much on a noisy one, is in neither.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};

use super::protocol::{self, Order};
use super::{PairArgs, pin, remember};
use crate::sysv::{self, Queues};

/// Pairs in a stretch: enough that what comes once in a while, such as a new slab, is in each.
const STRETCH: usize = 1024;
/// Queues between two CPUs. One is filled while another is emptied, so that the two meet at no
/// lock of a queue.
const RING: usize = 16;
/// Messages in each of them, where the limit on a queue allows for so many.
const BATCH: usize = 32;

/// Times `--pairs` pairs at each `go`.
pub(super) fn run(args: &PairArgs) -> Result<()> {
    ensure!(args.pairs > 0, "--pairs must not be 0");
    ensure!(args.threads > 0, "--threads must not be 0");
    let mut work = Work::set_up(args)?;
    protocol::ready(work.queues())?;
    loop {
        match protocol::next()? {
            Order::Go(count) => {
                let pairs = count.unwrap_or(args.pairs).max(1);
                let each = work.time(pairs)?;
                protocol::say(&format!("done pairs={pairs} ns_per_pair={each:.1}"))?;
            }
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for pairs"),
        }
    }
}

/// Who sends and who receives.
enum Work {
    /// The same thread, each of these with one queue.
    Alone(Vec<Queues>, Vec<i32>),
    /// Two threads, on two CPUs.
    Across { sender: Queues, receiver: Queues, batch: usize },
}

impl Work {
    fn set_up(args: &PairArgs) -> Result<Self> {
        if args.across {
            let mut ids = Vec::new();
            for _ in 0..RING {
                let id = sysv::create()?;
                remember(&[id]);
                ids.push(id);
            }
            return Ok(Self::Across {
                sender: Queues::over(ids.clone(), args.size_class)?,
                receiver: Queues::over(ids, args.size_class)?,
                batch: sysv::messages_per_queue(args.size_class)?.min(BATCH),
            });
        }
        let mut all = Vec::new();
        let mut ids = Vec::new();
        for _ in 0..args.threads {
            let queues = Queues::for_messages(1, args.size_class)?;
            remember(queues.ids());
            ids.extend_from_slice(queues.ids());
            all.push(queues);
        }
        Ok(Self::Alone(all, ids))
    }

    fn queues(&self) -> &[i32] {
        match self {
            Self::Alone(_, ids) => ids,
            Self::Across { sender, .. } => sender.ids(),
        }
    }

    /// Nanoseconds for one pair.
    fn time(&mut self, pairs: usize) -> Result<f64> {
        match self {
            Self::Alone(queues, _) => match queues.as_mut_slice() {
                // In the thread that `--cpu` has pinned.
                [queues] => Ok(median(alone(queues, pairs)?)),
                all => Ok(median(together(all, pairs)?)),
            },
            Self::Across { sender, receiver, batch } => across(sender, receiver, *batch, pairs),
        }
    }
}

/// Nanoseconds for a pair, in each stretch.
fn alone(queues: &mut Queues, pairs: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut left = pairs;
    while left > 0 {
        let now = left.min(STRETCH);
        let start = cpu_time()?;
        for _ in 0..now {
            queues.send(0)?;
            ensure!(queues.receive(0)?, "a message sent was not there");
        }
        times.push((cpu_time()? - start) / now as f64);
        left -= now;
    }
    Ok(times)
}

/// The same of several threads at once.
fn together(all: &mut [Queues], pairs: usize) -> Result<Vec<f64>> {
    thread::scope(|scope| {
        let start_one = |queues| scope.spawn(move || alone(queues, pairs));
        let workers: Vec<_> = all.iter_mut().map(start_one).collect();
        let mut times = Vec::new();
        for worker in workers {
            times.append(&mut joined(worker)?);
        }
        Ok(times)
    })
}

/// Fills queue after queue on CPU 0, and empties queue after queue on CPU 1: what the one takes for
/// a message and what the other takes for it, without the time in which they wait.
fn across(sender: &Queues, receiver: &mut Queues, batch: usize, pairs: usize) -> Result<f64> {
    let batches = pairs.div_ceil(batch);
    let filled = AtomicUsize::new(0);
    let emptied = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    // Waits in user space: in the kernel it would allocate, or be woken up.
    let wait_for = |enough: &dyn Fn() -> bool| -> Result<()> {
        while !enough() {
            ensure!(!failed.load(Ordering::Relaxed), "the other side has failed");
            hint::spin_loop();
        }
        Ok(())
    };
    let side = |cpu: usize, one: &mut dyn FnMut(usize) -> Result<f64>| {
        let mut work = || {
            pin(cpu)?;
            let mut times = Vec::new();
            let stretch = (STRETCH / batch).max(1);
            for first in (0..batches).step_by(stretch) {
                let numbers = first..(first + stretch).min(batches);
                let messages = (numbers.len() * batch) as f64;
                let all: Result<f64> = numbers.map(&mut *one).sum();
                times.push(all? / messages);
            }
            Ok(median(times))
        };
        let result = work();
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            side(0, &mut |number| {
                wait_for(&|| number - emptied.load(Ordering::Acquire) < RING)?;
                let start = cpu_time()?;
                (0..batch).try_for_each(|_| sender.send(number % RING))?;
                let time = cpu_time()? - start;
                filled.store(number + 1, Ordering::Release);
                Ok(time)
            })
        });
        let receiving = scope.spawn(|| {
            side(1, &mut |number| {
                wait_for(&|| filled.load(Ordering::Acquire) > number)?;
                let start = cpu_time()?;
                for _ in 0..batch {
                    ensure!(receiver.receive(number % RING)?, "a message sent was not there");
                }
                let time = cpu_time()? - start;
                emptied.store(number + 1, Ordering::Release);
                Ok(time)
            })
        });
        match [joined(sending), joined(receiving)] {
            [Ok(sent), Ok(received)] => Ok(sent + received),
            // Not that of the side which waited in vain for the other.
            [Err(error), Err(other)] if error.to_string().starts_with("the other") => Err(other),
            [Err(error), _] | [_, Err(error)] => Err(error),
        }
    })
}

fn joined<T>(worker: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match worker.join() {
        Ok(result) => result,
        Err(_) => bail!("a thread panicked"),
    }
}

/// Nanoseconds that this thread has run.
fn cpu_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("the thread's clock")?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
