//! Which cache serves what, on the kernel that runs.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{PATIENCE, output::shout, wait_for};

/// Cache of a message of the 512 class.
pub fn class_512_of_messages() -> Result<&'static str> {
    // Their own from 6.12, accounted from 5.14.
    first_of(&["msg_msg-512", "kmalloc-cg-512", "kmalloc-512"])
}

/// Cache of the text of a socket filter of 50 instructions: memory charged to nobody.
pub fn class_512_of_filters() -> Result<&'static str> {
    first_of(&["kmalloc-512"])
}

/// Objects of a cache in use, by the kernel's books.
pub fn in_use(cache: &str) -> Result<u64> {
    let list = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let row = list.lines().find(|line| line.split_whitespace().next() == Some(cache));
    let objects = row.and_then(|row| row.split_whitespace().nth(1));
    objects.with_context(|| format!("no {cache} in /proc/slabinfo"))?.parse().context("its count")
}

/// Waits until what earlier tests left behind is freed: sockets and their filters go in the
/// background, long after the process that had them. Gives up on a machine that never rests.
pub fn settle(cache: &str) -> Result<()> {
    let mut last = in_use(cache)?;
    // Frees come in batches, so that one quiet step says little.
    let mut quiet = 0;
    for _ in 0..30 {
        // Nothing to wait for: the question is whether nothing happens.
        std::thread::sleep(Duration::from_millis(500));
        let now = in_use(cache)?;
        quiet = if now.abs_diff(last) < 64 { quiet + 1 } else { 0 };
        if quiet == 3 {
            break;
        }
        last = now;
    }
    Ok(())
}

/// Holds a test's end until a cache is about as full as it was: the sockets of a process that has
/// ended are freed by RCU callbacks and workers, seconds later on a busy machine, and the next test
/// compares what it traced with the kernel's own count.
#[derive(Debug)]
pub struct Returned {
    cache: &'static str,
    before: u64,
}

impl Returned {
    /// Notes how full the cache is.
    pub fn watch(cache: &'static str) -> Result<Self> {
        Ok(Self { cache, before: in_use(cache)? })
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        // Others on the machine may have taken some for good; a failure to read it will be told by
        // the test that needs it.
        let returned = wait_for("return of the cache", PATIENCE, || {
            Ok((in_use(self.cache)? <= self.before + 256).then_some(()))
        });
        if let Err(error) = returned {
            shout(&format!("{}: {error:#}", self.cache));
        }
    }
}

fn first_of(names: &[&'static str]) -> Result<&'static str> {
    let list = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let caches = list.lines().filter_map(|line| line.split_whitespace().next());
    let caches = caches.collect::<std::collections::HashSet<_>>();
    let found = names.iter().find(|name| caches.contains(*name));
    found.copied().with_context(|| format!("none of {names:?} in /proc/slabinfo"))
}
