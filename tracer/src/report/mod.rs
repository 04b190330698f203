//! The report: what the analysis found, as data. `text` and `json` print it, [`crate::judge`] judges it.
//!
//! The types are the JSON of schema `kleak.report/1` (`schema/kleak.report-1.schema.json`): names
//! carry units, counts are integers, and unknown is `null`, never 0.

pub(crate) mod followed;
pub mod function;
pub mod human;
pub mod json;
pub mod judgement;
pub mod ledger;
pub mod names;
pub mod profile;
pub mod program;
pub mod sanitize;
pub mod text;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
pub(crate) mod schema;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Value of [`Report::schema`].
pub const SCHEMA: &str = "kleak.report/1";

/// A whole report.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Where it was made.
    pub host: Host,
    /// Length of the window, seconds.
    pub window_s: f64,
    /// What was followed and shown.
    pub filter: Filter,
    /// The answer.
    pub verdict: Verdict,
    /// By slab cache, largest residue first.
    pub caches: Vec<CacheRow>,
    /// By owner (or by `filter.by`) and cache, largest residue first.
    pub owners: Vec<OwnerRow>,
    /// Code paths, largest residue first.
    pub stacks: Vec<StackRow>,
    /// Cgroup life in the window.
    pub cgroups: Cgroups,
    /// By which means this kernel was traced.
    pub mode: Mode,
    /// What was lost.
    pub loss: Loss,
    /// What the tracing cost.
    pub cost: Cost,
    /// Which fraction of the objects was followed, to keep a `--budget`; `null` when all were.
    pub sampling: Option<Sampling>,
    /// The command that was run, with `-- COMMAND`.
    pub command: Option<Command>,
    /// Things that weaken or explain the answer, one sentence each.
    pub notes: Vec<String>,
    /// What `--fail-on` came to; `null` without, and before the end of the window.
    #[serde(default)]
    pub judgement: Option<judgement::Judgement>,
}

/// The machine.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Host {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// `v1`, `v2` or `hybrid`; `null` without cgroups.
    pub cgroup: Option<String>,
    /// `uname -n`.
    pub hostname: String,
}

/// What was followed, and how it is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Filter {
    /// `kmalloc` classes followed whatever their caches are called, bytes; with none, those of [`Filter::caches`].
    pub size_classes: Vec<u64>,
    /// `kmalloc`, `cache`, `page`, `percpu`.
    pub kinds: Vec<String>,
    /// `--cache`.
    pub caches: Vec<String>,
    /// `--pid`.
    pub pid: Option<u32>,
    /// `--comm`.
    pub comm: Option<String>,
    /// `--cgroup`.
    pub cgroup: Option<String>,
    /// `--pod`.
    pub pod: Option<String>,
    /// `--min-age`, seconds (0: none).
    pub min_age_s: f64,
    /// `--by`.
    pub by: String,
    /// `--stacks`.
    pub stacks: String,
}

/// The answer in one object.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Verdict {
    /// Whether something grows, as against churn, warm-up or a single burst.
    pub growing: bool,
    /// The cache it grows in.
    pub cache: Option<String>,
    /// Who owns the growth; when nothing grows, who holds most of the residue.
    pub owner: Option<Owner>,
    /// The owner's share: of the growth when `growing`, else of the residue. 0 to 1.
    pub share: Option<f64>,
    /// How fast the owner's residue grows.
    pub growth_bytes_per_s: Option<f64>,
    /// `MemAvailable` divided by the growth; `null` when nothing grows.
    pub exhausts_memory_in_s: Option<u64>,
    /// How far it can be trusted.
    pub confidence: Confidence,
    /// One sentence a tired person can act on.
    pub summary: String,
}

/// How far a verdict can be trusted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Too little evidence, or losses that could change the answer.
    Low,
    /// Something is missing that would make it certain.
    Medium,
    /// Several intervals agree, and so does the slab allocator's own count.
    High,
}

/// Who owns memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `process`, `kthread`, `softirq`, `hardirq` or `unknown`; with `--by`, also `cgroup`,
    /// `pod`, `cache`, `stack` or `site`.
    pub kind: String,
    /// Thread-group id.
    pub pid: Option<u32>,
    /// Name of the process; for `--by cache|stack|site`, what the row stands for.
    pub comm: Option<String>,
    /// Whether the process has ended.
    pub exited: Option<bool>,
    /// Path of its memory cgroup (v1) or cgroup (v2).
    pub cgroup: Option<String>,
    /// Whether that cgroup has been removed: what its members made outlives it.
    pub cgroup_removed: Option<bool>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Pod name, or its UID while the name is unknown.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Container name, or its id while the name is unknown.
    pub container: Option<String>,
    /// Pod UID.
    pub pod_uid: Option<String>,
    /// Container id.
    pub container_id: Option<String>,
}

/// A slab cache.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CacheRow {
    /// As in `/proc/slabinfo`; [`ledger::page_cache`] and [`ledger::percpu_cache`] for what is in no
    /// slab cache.
    pub name: String,
    /// Other names of the same cache: the kernel merges caches of one shape, and whose objects they
    /// are only the call sites tell. Empty where it was not merged, or cannot be told.
    pub aliases: Vec<String>,
    /// Bytes an object occupies.
    pub object_size_bytes: u64,
    /// Allocated in the window and not freed.
    pub outstanding_objects: u64,
    /// The same, in bytes of slab.
    pub outstanding_bytes: u64,
    /// How the cache grew by the kernel's own count; `null` when it has none by this name.
    pub slabinfo_growth_objects: Option<i64>,
    /// Standard error of `outstanding_objects`: 0 when all objects were followed, `null` where it is not
    /// known (pages are followed or not by blocks of many).
    pub standard_error_objects: Option<u64>,
    /// Scaled up from a fraction of the objects: see [`Sampling`].
    pub estimated: bool,
    /// Objects from before the window that were freed in it; `null` where the kernel side cannot tell
    /// of which cache a freed object was.
    pub older_frees_objects: Option<u64>,
    /// Traced growth over the kernel's, which is increased by the frees of older objects where those
    /// are known; `null` when the kernel's is too small to compare. Of per-CPU memory: all of it over
    /// the growth of `Percpu` in `/proc/meminfo`.
    pub explained: Option<f64>,
}

/// An owner's residue in a cache.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct OwnerRow {
    /// Who.
    pub owner: Owner,
    /// Slab cache.
    pub cache: String,
    /// Allocated in the window.
    pub allocated_objects: u64,
    /// Of those, freed.
    pub freed_objects: u64,
    /// Of those, not freed (and older than `--min-age`).
    pub outstanding_objects: u64,
    /// The same in bytes of slab.
    pub outstanding_bytes: u64,
    /// The same in bytes asked for; of pages and per-CPU memory, the bytes that are left.
    pub requested_bytes: u64,
    /// Of those outstanding, objects that are freed by a path that cannot be followed here, and that
    /// the kernel's own count does not confirm: no evidence of a leak.
    pub unfollowed_objects: u64,
    /// Standard error of `outstanding_objects`, as [`CacheRow::standard_error_objects`].
    pub standard_error_objects: Option<u64>,
    /// Scaled up from a fraction of the objects: see [`Sampling`]. Allocated and freed are rough then, as
    /// an address that is used again and again is followed each time or never.
    pub estimated: bool,
    /// Share of all residue shown, 0 to 1: of slab memory, pages or per-CPU memory, never of the
    /// sum of two of them, as one is made of the other.
    pub share: f64,
    /// Slope of the residue over the window; `null` with fewer than two points in time.
    pub growth_bytes_per_s: Option<f64>,
    /// Age of the oldest outstanding object; `null` when there is none.
    pub oldest_s: Option<f64>,
    /// Outstanding objects at equal steps of the window, oldest first.
    pub trend: Vec<u64>,
    /// Ids in [`Report::stacks`], largest first.
    pub stacks: Vec<u32>,
}

/// Functions of a stack, leaf first. Shared, names and all: there may be 100,000 stacks of a few hundred
/// functions.
pub type Frames = Arc<[Arc<str>]>;

/// Frames of names that nobody shares.
#[must_use]
pub fn frames<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Frames {
    names.into_iter().map(|name| Arc::from(name.as_ref())).collect()
}

/// A code path.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct StackRow {
    /// For [`OwnerRow::stacks`].
    pub id: u32,
    /// Kernel functions, leaf first.
    pub kernel: Frames,
    /// User functions, leaf first.
    pub user: Frames,
    /// Outstanding by this path.
    pub outstanding_objects: u64,
    /// The same in bytes of slab.
    pub outstanding_bytes: u64,
    /// Scaled up: from a sample of stacks, to totals that are exact, or from a fraction of the objects.
    pub estimated: bool,
    /// Slab cache.
    pub cache: String,
    /// Who allocated. Shared, as [`Frames`] are.
    pub owner: Arc<Owner>,
}

/// Cgroup life in the window (the memory controller's hierarchy).
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Cgroups {
    /// Directories made.
    pub created: u64,
    /// Directories removed.
    pub removed: u64,
    /// Let go of by the kernel.
    pub released: u64,
    /// Removed but still held by the kernel, now; `null` when the kernel does not say.
    pub dying: Option<u64>,
    /// Time since the removal of the oldest of those that were removed while kleak watched; `null`
    /// when there is none, as the kernel does not say when.
    pub oldest_dying_s: Option<f64>,
}

/// What was lost or could not be followed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Loss {
    /// Allocations not followed because `--max-objects` was reached.
    pub untracked_objects: u64,
    /// Events that arrived while the same program ran on that CPU; `null` where the kernel does
    /// not count them.
    pub missed_events: Option<u64>,
    /// Inserts and deletes that the kernel's map refused.
    pub failed_updates: u64,
    /// Frees that were missed and found out, because their address was allocated again.
    pub missed_frees_detected: u64,
    /// Frees of objects allocated before kleak attached; `null` where the kernel does not say of
    /// which cache a freed object was.
    pub frees_of_older_objects: Option<u64>,
    /// Frees of addresses not held, of any class: an upper bound of the above.
    pub unmatched_frees: u64,
    /// Stacks that could not be stored.
    pub lost_stacks: u64,
    /// Objects whose owner did not fit the table: in the totals, as `unknown`.
    pub lost_owners: u64,
    /// Cgroup events whose path was lost.
    pub lost_cgroup_events: u64,
    /// Reads of kernel memory that failed.
    pub failed_reads: u64,
}

/// By which means this kernel was traced.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Mode {
    /// How frees by RCU and in bulk are followed: `trampolines`, `kprobes`, or `tracepoints`, which do
    /// not show them.
    pub frees: String,
    /// What stands in the way of a better one; `null` when nothing does.
    pub obstacle: Option<String>,
    /// How the slab cache of a kmalloc object is told: `address`, exactly, or `flags` of the allocation
    /// and its call site, as far as they tell.
    pub caches: String,
}

impl Mode {
    /// Whether frees by RCU and in bulk are seen.
    #[must_use]
    pub fn follows_rcu(&self) -> bool {
        self.frees != "tracepoints"
    }
}

/// What the tracing cost.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Cost {
    /// Events that passed the filter.
    pub events: u64,
    /// Nanoseconds in our programs for each event that passed the filter: all their run time, that of
    /// events that did not pass included, over the events that did, both in the same short windows in which
    /// the kernel measured. `null` when it did not, or saw no event.
    pub bpf_ns_per_event: Option<f64>,
    /// Runs of our programs in those windows: each event is offered to two at least, and those that do not
    /// pass the filter run them too.
    pub bpf_runs: Option<u64>,
    /// Run time in those windows over the CPU time of all CPUs that are switched on, 0 to 1.
    pub bpf_cpu_share: Option<f64>,
    /// This process's own CPU time over that of all CPUs, since counting began.
    pub user_cpu_share: Option<f64>,
    /// Both together over the last five seconds.
    pub recent_cpu_share: Option<f64>,
    /// Length of those windows, all together.
    pub measured_s: f64,
    /// Most memory that this process has had resident.
    pub user_rss_bytes: Option<u64>,
    /// Kernel memory of the maps.
    pub map_bytes: u64,
}

/// What of all objects was followed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Sampling {
    /// Objects whose address lies in this fraction of all addresses are followed, and stand for the others.
    pub fraction: f64,
    /// When it was not all of them any more, seconds after counting began.
    pub since_s: f64,
    /// Why.
    pub reason: String,
}

/// The command run by `-- COMMAND`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Command {
    /// Its words.
    pub argv: Vec<String>,
    /// Its process.
    pub pid: u32,
    /// Exit status; `null` when a signal ended it.
    pub exit_status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}
