//! From evidence to a report: pure functions.

use hashbrown::HashMap;

use crate::report::{Cgroups, Command, Cost, Filter, Host, Loss, Owner};
use crate::snapshot::Snapshot;

/// Everything known when a window (or an interval of it) ends, names included.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Where.
    pub host: Host,
    /// What was followed, and how to show it.
    pub filter: Filter,
    /// The facts.
    pub snapshot: Snapshot,
    /// Outstanding objects at points in time after the start, oldest first, the snapshot last.
    pub history: Vec<Point>,
    /// Owner by site key (`process`, `kthread`, `softirq`, `hardirq`, `unknown`).
    pub owners: HashMap<u64, Owner>,
    /// Slab cache by site key.
    pub cache_names: HashMap<u64, String>,
    /// Kernel frames by kernel stack id, leaf first; frames of the tracing itself are gone.
    pub kernel_stacks: HashMap<i32, Vec<String>>,
    /// User frames by site key and user stack id, leaf first.
    pub user_stacks: HashMap<(u64, i32), Vec<String>>,
    /// Function that called the allocator, by return address.
    pub call_sites: HashMap<u64, String>,
    /// `active_objs` of `/proc/slabinfo` by cache when counting began; empty when unreadable.
    pub slab_before: HashMap<String, SlabCount>,
    /// The same at the snapshot.
    pub slab_after: HashMap<String, SlabCount>,
    /// `MemAvailable`, bytes.
    pub mem_available_bytes: Option<u64>,
    /// Possible CPUs: slabinfo counts what lies in their private lists as in use.
    pub cpus: u32,
    /// Cgroup life.
    pub cgroups: Cgroups,
    /// Losses.
    pub loss: Loss,
    /// Cost.
    pub cost: Cost,
    /// With `-- COMMAND`.
    pub command: Option<Command>,
    /// Notes gathered on the way (what could not be read, and so on).
    pub notes: Vec<String>,
}

/// A row of `/proc/slabinfo`, as far as the analysis needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabCount {
    /// `<active_objs>`.
    pub active_objects: u64,
    /// `<objperslab>`.
    pub objects_per_slab: u64,
}

/// Outstanding objects by site key at one instant.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Objects by site key.
    pub outstanding: HashMap<u64, u64>,
}
