//! What was read of a machine, before anything is concluded. Everything past this point is pure.

use crate::{
    cgroups::census::{Census, parent},
    host::{
        cgroup::MemoryVersion,
        features::Features,
        footprint::Footprint,
        gauge::{Gauge, KubeletStat, Limit},
        kmem::Accounting,
        kmsg::Log,
        meminfo::MemInfo,
        release::Release,
        slabinfo::SlabCache,
    },
    resolve::containers::Named,
};

/// A machine at one instant; what could not be read is `None`, and in [`Facts::unread`] with why.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Whether this is the running system.
    pub live: bool,
    /// `uname -r`.
    pub kernel: Option<String>,
    /// `uname -m`.
    pub machine: Option<String>,
    /// `uname -n`.
    pub hostname: Option<String>,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup_mode: Option<&'static str>,
    /// What the kernel's version says.
    pub release: Option<Release>,
    /// Time since boot.
    pub uptime_s: Option<f64>,
    /// The kernel's command line.
    pub command_line: Option<String>,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// `/proc/meminfo`.
    pub meminfo: Option<MemInfo>,
    /// Memory of ZFS's cache, which is in no line of meminfo.
    pub zfs_cache_bytes: Option<u64>,
    /// Slab caches.
    pub caches: Option<Vec<Cache>>,
    /// How caches grew in a short second look; empty for a saved tree.
    pub growth: Vec<Growth>,
    /// Length of that look, seconds; 0 without one.
    pub looked_s: f64,
    /// Processes by what they have in memory, largest first; kernel threads have none.
    pub processes: Vec<Process>,
    /// How many processes were seen.
    pub processes_seen: u64,
    /// Memory cgroups.
    pub cgroups: Option<Cgroups>,
    /// Memory cgroups by `/proc/cgroups` (version 1), dying ones included; known also where their
    /// directories are not.
    pub cgroups_all: Option<u64>,
    /// Kernel-memory accounting of top-level cgroups (version 1), by path.
    pub accounting: Vec<(String, Accounting)>,
    /// What is known of kubelet; `None` where there is no sign of one.
    pub kubelet: Option<Kubelet>,
    /// The kernel's log.
    pub log: Option<Log>,
    /// What the kernel offers a tracer.
    pub features: Features,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

/// A slab cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// Its counts.
    pub slab: SlabCache,
    /// Whether shrinkers can free its objects; `None` when that cannot be told.
    pub reclaimable: Option<bool>,
    /// Other names that the kernel keeps it under, having merged caches of one shape.
    pub aliases: Vec<String>,
}

/// How a cache grew.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Growth {
    /// The cache.
    pub name: String,
    /// Bytes of an object.
    pub object_size: u64,
    /// Objects in use at three points of time.
    pub objects: [u64; 3],
    /// Seconds between the first and the second, the second and the third.
    pub seconds: [f64; 2],
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// What it has in memory.
    pub footprint: Footprint,
    /// Its memory cgroup, as `/proc/PID/cgroup` has it.
    pub cgroup: Option<String>,
    /// Its cgroup in systemd's own hierarchy, where that is another one (version 1).
    pub systemd_cgroup: Option<String>,
    /// What the pod and the container of these cgroups are called.
    pub called: Named,
}

impl Process {
    /// Its cgroups, the one that its memory is charged to first.
    pub fn cgroups(&self) -> impl Iterator<Item = &str> {
        [&self.cgroup, &self.systemd_cgroup].into_iter().flatten().map(String::as_str)
    }
}

/// Memory cgroups.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Version that the memory controller is used through.
    pub version: MemoryVersion,
    /// Those that are there, and how many are dying.
    pub census: Census,
    /// Usage and limit of those that could be read, by path.
    pub gauges: Vec<(String, Gauge)>,
    /// Anonymous and shared memory of those that use most, with all below them, by path.
    pub held: Vec<(String, u64)>,
    /// The root's usage and what kubelet computes with.
    pub root: Gauge,
    /// The same of the root, from `memory.stat`.
    pub root_stat: KubeletStat,
    /// Usage and statistics of all pods together, and where (`/kubepods`).
    pub pods: Option<(String, Gauge, KubeletStat)>,
}

impl Cgroups {
    /// The lowest limit of a cgroup and those above it; `None` when one of them is not known.
    #[must_use]
    pub fn limit(&self, path: &str) -> Option<Limit> {
        let mut lowest = Limit::None;
        let mut at = path;
        while at != "/" {
            // On version 2 a cgroup may be without the controller, and so without a limit of its own.
            let own = match self.gauges.iter().find(|(known, _)| known == at) {
                Some((_, gauge)) => gauge.limit?,
                None if self.census.groups.get(at).is_some_and(|group| !group.memory) => {
                    Limit::None
                }
                None => return None,
            };
            match (own, lowest) {
                (Limit::Bytes(limit), Limit::Bytes(low)) if low <= limit => {}
                (limit @ Limit::Bytes(_), _) => lowest = limit,
                (Limit::None, _) => {}
            }
            at = parent(at)?;
        }
        Some(lowest)
    }
}

/// What is known of kubelet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubelet {
    /// Available memory below which it evicts at once.
    pub hard: Option<Threshold>,
    /// Available memory below which it evicts after a while.
    pub soft: Option<Threshold>,
}

/// A threshold of available memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Bytes.
    Bytes(u64),
    /// Thousandths of the machine's memory.
    PerMille(u64),
}

impl Threshold {
    /// In bytes, on a machine of `total`.
    #[must_use]
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::PerMille(share) => {
                let part = u128::from(total) * u128::from(share) / 1000;
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// A path of that machine.
    pub path: String,
    /// Why.
    pub why: String,
    /// Whether it is there, and was refused.
    pub denied: bool,
}

impl Facts {
    /// The machine's memory.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.meminfo.as_ref()?.mem_total.filter(|total| *total > 0)
    }

    /// Part of the machine's memory, 0 to 1; 0 when that is not known.
    #[must_use]
    pub fn share(&self, bytes: u64) -> f64 {
        self.total().map_or(0.0, |total| bytes as f64 / total as f64)
    }

    /// Whether the kernel is older than a version; `None` when its version is not known.
    #[must_use]
    pub fn is_before(&self, major: u32, minor: u32) -> Option<bool> {
        Some(!self.release?.is_from(major, minor))
    }
}
