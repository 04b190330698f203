//! What `kleak cgroups` found, as data: the JSON of schema `kleak.cgroups/1`
//! (`schema/kleak.cgroups-1.schema.json`). Names carry units, counts are integers, and unknown is
//! `null`, never 0.

use serde::{Deserialize, Serialize};

use crate::{
    host::memcg::Charges,
    report::{Host, Owner},
};

/// Value of [`CgroupsReport::schema`].
pub const SCHEMA: &str = "kleak.cgroups/1";

/// A whole report.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CgroupsReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// Where it was made.
    pub host: Host,
    /// Length of the window, seconds; 0 for one look without a window.
    pub window_s: f64,
    /// The memory controller's hierarchy.
    pub hierarchy: Hierarchy,
    /// One sentence a tired person can act on.
    pub summary: String,
    /// Whether somebody should act: ids run out, or dying cgroups pile up.
    pub alarm: bool,
    /// How many there are at the end of the window.
    pub cgroups: Population,
    /// How many there can be.
    pub limit: Limit,
    /// What happened in the window; `null` where events cannot be followed (`notes` says why).
    pub life: Option<Lives>,
    /// Who made and removed cgroups in the window, most made first.
    pub creators: Vec<CreatorRow>,
    /// Under which cgroups they live and die, most dying first.
    pub parents: Vec<ParentRow>,
    /// Removed in the window and still held by the kernel, oldest first.
    pub dying: Vec<DyingRow>,
    /// What dying cgroups are charged for, which is what holds them; `null` when unknown.
    pub held: Option<Held>,
    /// What was lost; `null` with `life`.
    pub loss: Option<Loss>,
    /// Kernel memory of kleak's own maps; `null` with `life`.
    pub map_bytes: Option<u64>,
    /// Things that weaken or explain the answer, one sentence each.
    pub notes: Vec<String>,
}

/// The memory controller's hierarchy.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Hierarchy {
    /// `v1` or `v2`.
    pub version: String,
    /// Where it is mounted.
    pub mount: String,
}

/// How many cgroups there are.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Population {
    /// With a directory, the root included.
    pub live: u64,
    /// The same when the window began.
    pub live_at_start: u64,
    /// Removed and still held by the kernel, by its own count; `null` where it does not say.
    pub dying: Option<u64>,
    /// The same when the window began.
    pub dying_at_start: Option<u64>,
    /// Of `dying`, those seen being removed in the window; `null` without events.
    pub dying_seen: Option<u64>,
    /// Time since the oldest of those was removed; `null` when none was seen, as the kernel does
    /// not say when.
    pub oldest_dying_s: Option<f64>,
}

/// Ids of memory cgroups, of which a kernel has 65,535.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Limit {
    /// Most there can be: past it, `mkdir` fails with "No space left on device".
    pub ids: u64,
    /// Ids in use, at least: those of cgroups that are there.
    pub used_at_least: u64,
    /// Ids in use, at most: a dying cgroup keeps its id only while memory charged to it is swapped
    /// out (from 4.8), which cannot be told one by one. `null` when unknown.
    pub used_at_most: Option<u64>,
    /// `used_at_least` divided by `ids`.
    pub share_at_least: f64,
    /// `used_at_most` divided by `ids`.
    pub share_at_most: Option<f64>,
    /// How fast ids are used up, in the window; `null` without one.
    pub growth_per_s: Option<f64>,
    /// When none are left at that rate, at the earliest; `null` when they do not become more.
    pub reached_in_s: Option<u64>,
}

/// What happened in the window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Lives {
    /// Cgroups made.
    pub created: u64,
    /// Cgroups removed.
    pub removed: u64,
    /// Removed cgroups (then or before) that the kernel let go of.
    pub released: u64,
    /// `created` by the window's length.
    pub created_per_s: f64,
    /// `removed` by the window's length.
    pub removed_per_s: f64,
    /// `released` by the window's length.
    pub released_per_s: f64,
    /// From removal to release, mean of those that had both in the window.
    pub dying_mean_s: Option<f64>,
    /// The longest of the same.
    pub dying_longest_s: Option<f64>,
}

/// Processes of one name and cgroup.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CreatorRow {
    /// Who, as named when it did it; `pid` is `null` when there were several.
    pub owner: Owner,
    /// How many processes; `null` when too many to tell apart.
    pub processes: Option<u64>,
    /// Cgroups they made in the window.
    pub created: u64,
    /// Cgroups they removed in the window, whoever made them.
    pub removed: u64,
    /// Of those they made: still there.
    pub live: u64,
    /// Of those they made: removed and still held by the kernel.
    pub dying: u64,
    /// Of those they made: gone.
    pub released: u64,
}

/// A cgroup with others below it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ParentRow {
    /// Path from the mount. What is below a cgroup that is gone counts for the nearest one above
    /// that is there.
    pub path: String,
    /// Cgroups directly below it that are there.
    pub live: u64,
    /// Dying ones below it, by the kernel's count; `null` where it does not say (version 1).
    pub dying: Option<u64>,
    /// Those of them that were seen being removed in the window; `null` without events.
    pub dying_seen: Option<u64>,
    /// Made below it in the window; `null` without events.
    pub created: Option<u64>,
    /// Removed below it in the window; `null` without events.
    pub removed: Option<u64>,
    /// Charged to dying ones below it: see [`Held::charges`].
    pub held: Option<Charges>,
}

/// A cgroup removed in the window and still held.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct DyingRow {
    /// Path from the mount, which another cgroup may have by now.
    pub path: String,
    /// Id it had: inode number of its directory.
    pub id: u64,
    /// Time since it was removed.
    pub dying_s: f64,
    /// Time that it was there; `null` when it was made before the window.
    pub lived_s: Option<f64>,
    /// Who made it; `null` when that was before the window.
    pub creator: Option<Owner>,
    /// Who removed it.
    pub remover: Option<Owner>,
    /// Charged to it, and to cgroups below it, when it was removed; of this, what could not be
    /// freed then holds it.
    pub charged_bytes: Option<u64>,
}

/// What dying cgroups are charged for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub struct Held {
    /// Differences of counters that are not read at one instant: an estimate.
    pub charges: Charges,
    /// What their parents are charged for themselves is in it too: version 2 does not part them.
    pub with_parents_own: bool,
}

/// What was lost.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Loss {
    /// Events that did not fit kleak's buffer: counted, but not whose they were.
    pub lost_events: u64,
    /// Events that kleak had no room for.
    pub untracked_events: u64,
    /// Events that the kernel skipped; `null` where it does not count them.
    pub missed_events: Option<u64>,
    /// Reads of kernel memory that failed.
    pub failed_reads: u64,
}
