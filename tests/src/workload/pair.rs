//! What a send and a receive cost: the figure the overhead is measured by.

use std::hint;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use super::protocol::{self, Order};
use super::{PairArgs, pin, remember};
use crate::sysv::{self, Queues};

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

    /// Nanoseconds for one pair; of several threads, for one pair of each.
    fn time(&mut self, pairs: usize) -> Result<f64> {
        let elapsed = match self {
            Self::Alone(queues, _) => match queues.as_mut_slice() {
                // In the thread that `--cpu` has pinned and warmed up.
                [queues] => {
                    let start = Instant::now();
                    alone(queues, pairs)?;
                    start.elapsed()
                }
                all => {
                    let start = together(all, pairs)?;
                    start.elapsed()
                }
            },
            Self::Across { sender, receiver, batch } => {
                // Whole batches.
                let batches = pairs.div_ceil(*batch);
                let start = Instant::now();
                across(sender, receiver, *batch, batches)?;
                return Ok(start.elapsed().as_nanos() as f64 / (batches * *batch) as f64);
            }
        };
        Ok(elapsed.as_nanos() as f64 / pairs as f64)
    }
}

fn alone(queues: &mut Queues, pairs: usize) -> Result<()> {
    for _ in 0..pairs {
        queues.send(0)?;
        ensure!(queues.receive(0)?, "a message sent was not there");
    }
    Ok(())
}

/// When all of the threads began; when this returns, all of them have ended.
fn together(all: &mut [Queues], pairs: usize) -> Result<Instant> {
    let barrier = &Barrier::new(all.len() + 1);
    thread::scope(|scope| {
        let start_one = |queues| {
            scope.spawn(move || {
                barrier.wait();
                alone(queues, pairs)
            })
        };
        let workers: Vec<_> = all.iter_mut().map(start_one).collect();
        // Before the barrier opens: this thread may be the last to run on after it.
        let start = Instant::now();
        barrier.wait();
        workers.into_iter().try_for_each(joined)?;
        Ok(start)
    })
}

/// Fills queue after queue on CPU 0, and empties queue after queue on CPU 1.
fn across(sender: &Queues, receiver: &mut Queues, batch: usize, batches: usize) -> Result<()> {
    let filled = AtomicUsize::new(0);
    let emptied = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    // Waits in user space: in the kernel it would allocate, or be woken up, which costs its own.
    let wait_for = |enough: &dyn Fn() -> bool| -> Result<()> {
        while !enough() {
            ensure!(!failed.load(Ordering::Relaxed), "the other side has failed");
            hint::spin_loop();
        }
        Ok(())
    };
    let watched = |side: &mut dyn FnMut() -> Result<()>| {
        let result = side();
        if result.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        result
    };
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            watched(&mut || {
                pin(0)?;
                for number in 0..batches {
                    wait_for(&|| number - emptied.load(Ordering::Acquire) < RING)?;
                    (0..batch).try_for_each(|_| sender.send(number % RING))?;
                    filled.store(number + 1, Ordering::Release);
                }
                Ok(())
            })
        });
        let receiving = scope.spawn(|| {
            watched(&mut || {
                pin(1)?;
                for number in 0..batches {
                    wait_for(&|| filled.load(Ordering::Acquire) > number)?;
                    for _ in 0..batch {
                        ensure!(receiver.receive(number % RING)?, "a message sent was not there");
                    }
                    emptied.store(number + 1, Ordering::Release);
                }
                Ok(())
            })
        });
        let results = [joined(sending), joined(receiving)];
        // The first failure, rather than that of the side which waited for it in vain.
        match results {
            [Err(error), Err(other)] if error.to_string().starts_with("the other") => Err(other),
            [sent, received] => sent.and(received),
        }
    })
}

fn joined(worker: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    match worker.join() {
        Ok(result) => result,
        Err(_) => bail!("a thread panicked"),
    }
}
