//! What a send and a receive cost: the figure the overhead is measured by.

use std::time::Instant;

use anyhow::{Result, bail, ensure};

use super::protocol::{self, Order};
use super::{PairArgs, remember};
use crate::sysv::Queues;

/// Times `--pairs` pairs at each `go`.
pub(super) fn run(args: &PairArgs) -> Result<()> {
    ensure!(args.pairs > 0, "--pairs must not be 0");
    let mut queues = Queues::for_messages(1, args.size_class)?;
    remember(queues.ids());
    protocol::ready(queues.ids())?;
    loop {
        match protocol::next()? {
            Order::Go(count) => {
                let pairs = count.unwrap_or(args.pairs).max(1);
                let start = Instant::now();
                for _ in 0..pairs {
                    queues.send(0)?;
                    ensure!(queues.receive(0)?, "a message sent was not there");
                }
                let each = start.elapsed().as_nanos() as f64 / pairs as f64;
                protocol::say(&format!("done pairs={pairs} ns_per_pair={each:.1}"))?;
            }
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for pairs"),
        }
    }
}
