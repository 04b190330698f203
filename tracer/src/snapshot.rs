//! Raw facts at one instant: what the kernel side holds, with ids and addresses, before any name
//! is looked up. A recording is a row of these; everything past this point is pure.

use hashbrown::HashMap;
use kleak_common::{Cache, Process, ProcessKey, Site, Tally};
use serde::{Deserialize, Serialize};

/// Equal slices of the window by which survivors are grouped by birth.
pub const BIRTH_SLICES: usize = 20;

/// Everything the kernel side held at one instant.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When counting began, `CLOCK_MONOTONIC` nanoseconds.
    pub start_ns: u64,
    /// When this was taken, likewise.
    pub at_ns: u64,
    /// Outstanding objects of the age asked for, by origin and stack.
    pub groups: HashMap<GroupKey, Group>,
    /// Outstanding objects of any age, by site key.
    pub outstanding: HashMap<u64, u64>,
    /// Sites by key.
    pub sites: HashMap<u64, SiteFacts>,
    /// Processes that allocated something tracked, as the kernel side knew them.
    pub processes: HashMap<ProcessKey, Process>,
    /// Slab caches by the address of their `kmem_cache`.
    pub caches: HashMap<u64, Cache>,
    /// Frees of objects that were not in the table, by the address of their `kmem_cache`, for caches
    /// met in `caches`.
    pub older_frees: HashMap<u64, u64>,
    /// Objects handed to RCU and not seen freed since, likewise: at most so many are still there.
    pub queued: HashMap<u64, u64>,
    /// Objects that looked outstanding and were found freed when the kernel was asked about them.
    pub found_freed: u64,
    /// Losses and events, all CPUs and programs added up.
    pub tally: Tally,
    /// Events skipped by the kernel because the program was running; `None` where not counted.
    pub missed_events: Option<u64>,
    /// Cgroups of the memory hierarchy made, removed, released since attach.
    pub cgroup_events: [u64; 3],
    /// How many objects each that is followed stands for, where it is not known of what kind it is: more
    /// than 1 when objects at a fraction of the addresses are followed. All counts here are scaled by it.
    pub scale: u64,
}

/// Objects that share origin and stack.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct GroupKey {
    /// [`Site::key`]; 0 when unknown.
    pub site: u64,
    /// Kernel stack id, negative when none.
    pub kernel_stack: i32,
    /// User stack id, negative when none.
    pub user_stack: i32,
}

/// Sums over the objects of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Objects.
    pub objects: u64,
    /// Bytes asked for.
    pub requested: u64,
    /// Objects that the sampled stacks stand for; 0 where none was taken.
    pub weight: u64,
    /// Birth of the oldest, `CLOCK_MONOTONIC` nanoseconds.
    pub oldest_ns: u64,
    /// Objects by birth: equal slices from start to this snapshot.
    pub births: [u64; BIRTH_SLICES],
}

impl Default for Group {
    fn default() -> Self {
        Self { objects: 0, requested: 0, weight: 0, oldest_ns: u64::MAX, births: [0; BIRTH_SLICES] }
    }
}

/// A site and what has been counted for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteFacts {
    /// Who and where.
    pub site: Site,
    /// Objects allocated since start, tracked or not.
    pub allocated: u64,
    /// Of those, not tracked.
    pub untracked: u64,
    /// Of those, found freed without an event.
    pub reused: u64,
    /// How many objects each of its own stands for; 0 for what was never scaled.
    pub scale: u64,
}
