//! What `kleak doctor` found, as data: the JSON of schema `kleak.doctor/1`
//! (`schema/kleak.doctor-1.schema.json`). Names carry units, counts are integers, and unknown is
//! `null`, never 0.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::books::Memory;

/// Value of [`DoctorReport::schema`].
pub const SCHEMA: &str = "kleak.doctor/1";

/// A whole report.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct DoctorReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// The machine.
    pub host: Machine,
    /// Whether this is the running system, and not a saved or mounted tree.
    pub live: bool,
    /// How long caches were looked at for growth, seconds; 0 for one look.
    pub looked_s: f64,
    /// One sentence a tired person can act on.
    pub summary: String,
    /// Where memory is.
    pub memory: Memory,
    /// What stands out, worst first. None at all is an answer too.
    pub findings: Vec<Finding>,
    /// The one command to run next; `null` when there is nothing to do.
    pub next: Option<String>,
    /// Processes by what they have in memory, largest first.
    pub processes: Vec<ProcessRow>,
    /// Slab caches by the memory they take, largest first; `null` when they could not be read.
    pub caches: Option<Vec<CacheRow>>,
    /// Memory cgroups; `null` when there are none, or they could not be read.
    pub cgroups: Option<CgroupsRow>,
    /// What could not be read.
    pub unread: Vec<UnreadRow>,
}

/// The machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: Option<String>,
    /// `uname -m`.
    pub machine: Option<String>,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup: Option<String>,
    /// `uname -n`.
    pub hostname: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The node is in danger.
    Critical,
    /// Somebody should look.
    Warning,
    /// Worth knowing.
    Info,
}

/// Something that stands out.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Finding {
    /// What kind: `kernel-slab`, `user-process`, …
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// One sentence.
    pub summary: String,
    /// The numbers it rests on.
    pub evidence: Map<String, Value>,
    /// A command to run; `null` when there is none to give.
    pub next: Option<String>,
    /// Bytes it is about, by which findings of one severity are ranked.
    #[serde(skip)]
    pub weight: u64,
}

/// A process.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ProcessRow {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Resident.
    pub rss_bytes: Option<u64>,
    /// Of that, anonymous.
    pub anon_bytes: Option<u64>,
    /// Of that, shared memory.
    pub shmem_bytes: Option<u64>,
    /// Swapped out.
    pub swap_bytes: Option<u64>,
    /// Its memory cgroup.
    pub cgroup: Option<String>,
    /// systemd unit, by its cgroup.
    pub unit: Option<String>,
    /// Pod name, by its cgroup, or the pod's UID while the name is unknown.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Container name, by its cgroup, or the container's id while the name is unknown.
    pub container: Option<String>,
    /// Pod UID.
    pub pod_uid: Option<String>,
    /// Container id.
    pub container_id: Option<String>,
    /// Lowest memory limit it is under.
    pub limit_bytes: Option<u64>,
    /// Whether it is under any; `null` when that is not known.
    pub limited: Option<bool>,
}

/// A slab cache.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CacheRow {
    /// Its name.
    pub name: String,
    /// Bytes of its slabs.
    pub bytes: u64,
    /// Objects there is room for.
    pub objects: u64,
    /// Objects in use.
    pub active_objects: u64,
    /// Bytes of an object.
    pub object_size_bytes: u64,
    /// Whether shrinkers can free them; `null` when that cannot be told.
    pub reclaimable: Option<bool>,
    /// Growth in the second look; `null` without one, or when it did not grow.
    pub growth_objects_per_s: Option<f64>,
}

/// Memory cgroups.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct CgroupsRow {
    /// `v1` or `v2`: what the memory controller is used through.
    pub version: String,
    /// With a directory, the root included.
    pub live: u64,
    /// Removed, and still held by the kernel.
    pub dying: Option<u64>,
    /// Most there can be.
    pub ids: u64,
    /// Ids in use, at least.
    pub used_at_least: u64,
    /// Ids in use, at most.
    pub used_at_most: Option<u64>,
    /// Those that use most.
    pub largest: Vec<CgroupRow>,
}

/// A memory cgroup.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct CgroupRow {
    /// Its path.
    pub path: String,
    /// Charged to it and to those below it, page cache included.
    pub usage_bytes: u64,
    /// Its own limit.
    pub limit_bytes: Option<u64>,
    /// Whether it or one above it has one; `null` when that is not known.
    pub limited: Option<bool>,
}

/// Something that could not be read.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct UnreadRow {
    /// Which.
    pub path: String,
    /// Why.
    pub why: String,
}
