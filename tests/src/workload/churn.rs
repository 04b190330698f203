//! As many objects made and freed as the machine allows.

use anyhow::{Context as _, Result, ensure};
use nix::poll::PollTimeout;

use super::net::{self, FilteredSocket};
use super::protocol;
use super::{ChurnArgs, remember};
use crate::sysv::Queues;

/// Pairs between two looks at standard input.
const BATCH: usize = 64;

/// By messages: sent and received at once, but for those kept.
pub(super) fn messages(args: &ChurnArgs) -> Result<()> {
    let room = args.pairs.checked_div(args.keep_every).unwrap_or(0);
    ensure!(args.pairs > 0 || args.keep_every == 0, "--keep-every needs --pairs");
    let mut passing = Queues::for_messages(1, args.size_class)?;
    remember(passing.ids());
    let kept_queues = Queues::for_messages(room, args.size_class)?;
    remember(kept_queues.ids());
    let all = [passing.ids(), kept_queues.ids()].concat();
    protocol::ready(&all)?;
    let mut kept = 0;
    run(args, |pair| {
        if args.keep_every > 0 && (pair + 1) % args.keep_every == 0 {
            kept_queues.send(kept)?;
            kept += 1;
            return Ok(1);
        }
        passing.send(0)?;
        ensure!(passing.receive(0)?, "a message sent was not there");
        Ok(0)
    })
}

/// By socket filters: the program's text is one 512-class object, freed by RCU some time after
/// another filter replaces it.
pub(super) fn filters(args: &ChurnArgs) -> Result<()> {
    let socket = FilteredSocket::open()?;
    socket.attach(&net::filter())?;
    protocol::ready(&[])?;
    run(args, |_| {
        socket.attach(&net::filter())?;
        Ok(0)
    })
}

fn run(args: &ChurnArgs, mut pair: impl FnMut(usize) -> Result<usize>) -> Result<()> {
    if !protocol::wait_for_go()? {
        return Ok(());
    }
    let (mut made, mut kept) = (0, 0);
    loop {
        if args.pairs == 0 {
            if made % BATCH == 0 && protocol::pending(PollTimeout::from(args.rest_ms))? {
                break;
            }
        } else if made == args.pairs {
            break;
        }
        kept += pair(made).with_context(|| format!("pair {made}"))?;
        made += 1;
    }
    protocol::say(&format!("done pairs={made} kept={kept}"))?;
    protocol::wait_for_exit()
}
