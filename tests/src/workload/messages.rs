//! Messages that stay, and messages another process takes away.

use anyhow::{Result, bail, ensure};

use super::protocol::{self, Order};
use super::{MsgArgs, RecvArgs, remember, set_comm};
use crate::sysv::Queues;

/// Sends on `go`, receives on `drain`.
pub(super) fn send(args: &MsgArgs) -> Result<()> {
    let capacity = args.capacity.unwrap_or(args.count);
    let mut queues = Queues::for_messages(capacity, args.size_class)?;
    remember(queues.ids());
    protocol::ready(queues.ids())?;
    let mut sent = 0;
    loop {
        match protocol::next()? {
            Order::Go(count) => {
                let count = count.unwrap_or(args.count);
                ensure!(sent + count <= capacity, "room for {capacity} messages, {sent} sent");
                send_by_threads(&queues, sent, count, args.threads)?;
                sent += count;
                protocol::say(&format!("done count={count}"))?;
            }
            Order::Drain => {
                sent = 0;
                protocol::say(&format!("drained count={}", queues.drain()?))?;
            }
            Order::Exit => return Ok(()),
            Order::Stop => bail!("nothing to stop"),
        }
    }
}

fn send_by_threads(queues: &Queues, first: usize, count: usize, threads: usize) -> Result<()> {
    if threads <= 1 {
        return (first..first + count).try_for_each(|index| queues.send(index));
    }
    let each = count.div_ceil(threads);
    std::thread::scope(|scope| {
        let workers = (0..threads)
            .map(|thread| {
                let from = (first + thread * each).min(first + count);
                let to = (from + each).min(first + count);
                scope.spawn(move || {
                    // Threads with names of their own, as most programs with threads have.
                    set_comm(format!("worker-{thread}").as_bytes())?;
                    (from..to).try_for_each(|index| queues.send(index))
                })
            })
            .collect::<Vec<_>>();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        })
    })
}

/// Receives on `go`.
pub(super) fn receive(args: RecvArgs) -> Result<()> {
    let mut queues = Queues::over(args.ids, 512)?;
    protocol::ready(&[])?;
    loop {
        match protocol::next()? {
            Order::Go(None) => protocol::say(&format!("done count={}", queues.drain()?))?,
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for a receiver"),
        }
    }
}
