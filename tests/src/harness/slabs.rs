//! Which cache serves what, on the kernel that runs.

use std::fs;

use anyhow::{Context as _, Result};

/// Cache of a message of the 512 class.
pub fn class_512_of_messages() -> Result<&'static str> {
    // Their own from 6.12, accounted from 5.14.
    first_of(&["msg_msg-512", "kmalloc-cg-512", "kmalloc-512"])
}

/// Cache of the text of a socket filter of 50 instructions: memory charged to nobody.
pub fn class_512_of_filters() -> Result<&'static str> {
    first_of(&["kmalloc-512"])
}

fn first_of(names: &[&'static str]) -> Result<&'static str> {
    let list = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let caches = list.lines().filter_map(|line| line.split_whitespace().next());
    let caches = caches.collect::<std::collections::HashSet<_>>();
    let found = names.iter().find(|name| caches.contains(*name));
    found.copied().with_context(|| format!("none of {names:?} in /proc/slabinfo"))
}
