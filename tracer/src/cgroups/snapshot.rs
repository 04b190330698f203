//! Raw facts of a window, before anything is concluded. Everything past this point is pure.

use super::{census::Census, life::Life};
use crate::{
    host::cgroup::MemoryVersion,
    report::{Host, Owner},
};

/// What was read and seen.
#[derive(Clone, Debug)]
pub struct CgroupsSnapshot {
    /// The machine.
    pub host: Host,
    /// Version that the memory controller is used through.
    pub version: MemoryVersion,
    /// Where its hierarchy is mounted.
    pub mount: String,
    /// Beginning of the window, `CLOCK_MONOTONIC` nanoseconds.
    pub start_ns: u64,
    /// Its end, likewise.
    pub at_ns: u64,
    /// The hierarchy at the beginning.
    pub before: Census,
    /// The hierarchy at the end, with charges as far as they could be read.
    pub after: Census,
    /// Whether charges were read.
    pub charges_read: bool,
    /// The life of cgroups by events, or why it could not be followed.
    pub watched: Result<Watched, String>,
    /// Swap in use at the end, bytes.
    pub swap_used_bytes: Option<u64>,
    /// Bytes of a page.
    pub page_bytes: u64,
}

/// What events told.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Cgroups made, removed, released, by the kernel side's own counters.
    pub counts: [u64; 3],
    /// Whose they were.
    pub life: Life,
    /// Who each of [`Life::makers`] is.
    pub owners: Vec<Owner>,
    /// Events that did not fit the ring buffer.
    pub lost_events: u64,
    /// Events that the kernel skipped.
    pub missed_events: Option<u64>,
    /// Reads of kernel memory that failed.
    pub failed_reads: u64,
    /// Kernel memory of the maps.
    pub map_bytes: u64,
}
