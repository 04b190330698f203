//! A higher limit on message queues for as long as this process lives.
//!
//! It is a process of its own so that the limit is put back also when whoever asked for it is
//! killed: its standard input then ends.

use std::fs;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use super::LimitArgs;
use super::protocol;
use crate::sysv::{self, QUEUE_BYTES};

/// What the limit was.
static BEFORE: Mutex<Option<usize>> = Mutex::new(None);

/// Raises it, and waits for its end; [`put_back`] follows.
pub(super) fn run(args: &LimitArgs) -> Result<()> {
    let before = sysv::queue_bytes()?;
    let wanted = usize::try_from(args.queue_bytes).context("--queue-bytes")?;
    if wanted > before {
        // First noted, then changed: a signal in between puts back what is there anyway.
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        fs::write(QUEUE_BYTES, wanted.to_string())
            .with_context(|| format!("cannot write {wanted} to {QUEUE_BYTES}"))?;
    }
    protocol::ready(&[])?;
    protocol::wait_for_exit()
}

/// Undoes what [`run`] did, if it did.
pub(super) fn put_back() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take()
        && let Err(error) = fs::write(QUEUE_BYTES, before.to_string())
    {
        protocol::complain(&format!("{QUEUE_BYTES} was {before} and is not put back: {error}"));
    }
}
