//! The machine's memory as three views have it: the kernel's, kubelet's, and that of `free`. Pure.

use serde::{Deserialize, Serialize};

use super::facts::{Cgroups, Facts};
use crate::host::{cgroup::MemoryVersion, meminfo::MemInfo};

/// Where memory is, bytes; `null` where the kernel does not say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel manages.
    pub total_bytes: Option<u64>,
    /// Free pages.
    pub free_bytes: Option<u64>,
    /// What can be had without swapping, as the kernel estimates it and `free` prints it
    /// (`MemAvailable`); `null` on kernels before 3.14.
    pub available_bytes: Option<u64>,
    /// Total less `available_bytes`, as `free` (procps 4) prints it as used.
    pub used_bytes: Option<u64>,
    /// `memory.available` as kubelet computes it: total less [`Memory::kubelet_working_set_bytes`].
    pub kubelet_available_bytes: Option<u64>,
    /// Usage of the root memory cgroup less its inactive file pages.
    pub kubelet_working_set_bytes: Option<u64>,
    /// What kubelets with runc before 1.1.9 inside compute on cgroup version 2, where the root has no
    /// usage of its own: they take everything that is not free. `null` on version 1.
    pub kubelet_available_old_bytes: Option<u64>,
    /// All slab.
    pub slab_bytes: Option<u64>,
    /// Slab that shrinkers can free.
    pub slab_reclaimable_bytes: Option<u64>,
    /// Slab that they cannot.
    pub slab_unreclaimable_bytes: Option<u64>,
    /// Per-CPU memory, all CPUs together.
    pub percpu_bytes: Option<u64>,
    /// Anonymous memory of processes.
    pub anon_bytes: Option<u64>,
    /// Page cache of files on disk: buffers included, tmpfs and shared memory not.
    pub page_cache_bytes: Option<u64>,
    /// tmpfs and shared memory.
    pub shmem_bytes: Option<u64>,
    /// Page tables.
    pub page_tables_bytes: Option<u64>,
    /// Kernel stacks.
    pub kernel_stack_bytes: Option<u64>,
    /// vmalloc; `null` before 5.3, where the figure is 0 or counts address space.
    pub vmalloc_bytes: Option<u64>,
    /// Set aside for huge pages of hugetlbfs.
    pub hugetlb_bytes: Option<u64>,
    /// Other reclaimable kernel memory.
    pub other_reclaimable_bytes: Option<u64>,
    /// The cache of ZFS, which is in no line of meminfo; `null` without ZFS.
    pub zfs_cache_bytes: Option<u64>,
    /// What none of these explains: pages that drivers, network buffers, balloons and the like took
    /// from the page allocator. An estimate, as kernel stacks may count as vmalloc too.
    pub unaccounted_bytes: Option<u64>,
    /// Size of swap.
    pub swap_total_bytes: Option<u64>,
    /// Unused swap.
    pub swap_free_bytes: Option<u64>,
}

/// Puts the three views together.
#[must_use]
pub fn of(facts: &Facts) -> Memory {
    let Some(info) = &facts.meminfo else { return Memory::default() };
    let total = facts.total();
    let vmalloc =
        info.vmalloc_used.filter(|_| facts.release.is_some_and(|release| release.is_from(5, 3)));
    let page_cache = sum([info.cached, info.buffers, info.swap_cached])
        .map(|cached| cached.saturating_sub(info.shmem.unwrap_or(0)));
    let other_reclaimable = difference(info.kernel_reclaimable, info.slab_reclaimable);
    let mut memory = Memory {
        total_bytes: total,
        free_bytes: info.mem_free,
        available_bytes: info.mem_available,
        used_bytes: difference(total, info.mem_available),
        slab_bytes: info.slab,
        slab_reclaimable_bytes: info.slab_reclaimable,
        slab_unreclaimable_bytes: info.slab_unreclaimable,
        percpu_bytes: info.percpu,
        anon_bytes: info.anon_pages,
        page_cache_bytes: page_cache,
        shmem_bytes: info.shmem,
        page_tables_bytes: sum([info.page_tables, info.secondary_page_tables]),
        kernel_stack_bytes: info.kernel_stack,
        vmalloc_bytes: vmalloc,
        hugetlb_bytes: info.hugetlb,
        other_reclaimable_bytes: other_reclaimable,
        zfs_cache_bytes: facts.zfs_cache_bytes,
        swap_total_bytes: info.swap_total,
        swap_free_bytes: info.swap_free,
        ..Memory::default()
    };
    memory.unaccounted_bytes = unaccounted(&memory);
    if let (Some(cgroups), Some(total)) = (&facts.cgroups, total) {
        let set = working_set(cgroups, info);
        memory.kubelet_working_set_bytes = set;
        memory.kubelet_available_bytes = set.map(|set| total.saturating_sub(set));
        if cgroups.version == MemoryVersion::V2 && cgroups.root.usage_bytes.is_none() {
            let inactive = cgroups.root_stat.inactive_file_bytes.or(info.inactive_file);
            memory.kubelet_available_old_bytes = sum([info.mem_free, inactive]);
        }
    }
    memory
}

/// Usage of the root less its inactive file pages (`pkg/kubelet/eviction/helpers.go`, cAdvisor's
/// `setMemoryStats()`).
///
/// Version 1's root says its usage, of anonymous memory and page cache alone
/// (`mem_cgroup_usage()` in `mm/memcontrol.c`): kernel memory is not in it. Version 2's root does not
/// say, and runc takes anonymous memory and page cache of its `memory.stat` since 1.1.9, before which
/// it took all that is not free (`rootStatsFromMeminfo()`).
fn working_set(cgroups: &Cgroups, info: &MemInfo) -> Option<u64> {
    let stat = &cgroups.root_stat;
    let usage = match (cgroups.root.usage_bytes, cgroups.version) {
        (Some(usage), _) => usage,
        (None, MemoryVersion::V1) => return None,
        (None, MemoryVersion::V2) => match sum([stat.anon_bytes, stat.file_bytes]) {
            Some(usage) => usage,
            None => difference(info.mem_total, info.mem_free)?,
        },
    };
    let inactive = match cgroups.version {
        MemoryVersion::V1 => stat.inactive_file_bytes?,
        MemoryVersion::V2 => stat.inactive_file_bytes.or(info.inactive_file)?,
    };
    Some(usage.saturating_sub(inactive))
}

/// What is in no line; `None` when one that is always large is missing.
fn unaccounted(memory: &Memory) -> Option<u64> {
    let known = [
        memory.free_bytes?,
        memory.anon_bytes?,
        memory.page_cache_bytes?,
        memory.slab_bytes?,
        memory.shmem_bytes.unwrap_or(0),
        memory.page_tables_bytes.unwrap_or(0),
        memory.kernel_stack_bytes.unwrap_or(0),
        memory.percpu_bytes.unwrap_or(0),
        memory.vmalloc_bytes.unwrap_or(0),
        memory.hugetlb_bytes.unwrap_or(0),
        memory.other_reclaimable_bytes.unwrap_or(0),
        memory.zfs_cache_bytes.unwrap_or(0),
    ];
    let known = known.into_iter().fold(0, u64::saturating_add);
    Some(memory.total_bytes?.saturating_sub(known))
}

/// The sum of what is known; `None` when nothing is.
fn sum<const N: usize>(parts: [Option<u64>; N]) -> Option<u64> {
    parts.into_iter().flatten().reduce(u64::saturating_add)
}

fn difference(all: Option<u64>, part: Option<u64>) -> Option<u64> {
    Some(all?.saturating_sub(part?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroups::census::Census,
        host::{
            gauge::{Gauge, KubeletStat},
            meminfo, release,
        },
    };

    fn facts() -> Facts {
        let text = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 300 kB\nBuffers: 10 kB\n\
                    Cached: 250 kB\nSwapCached: 0 kB\nInactive(file): 150 kB\nAnonPages: 400 kB\n\
                    Shmem: 50 kB\nKReclaimable: 30 kB\nSlab: 80 kB\nSReclaimable: 30 kB\n\
                    SUnreclaim: 50 kB\nVmallocUsed: 20 kB\nPercpu: 5 kB\n";
        Facts {
            meminfo: Some(meminfo::parse(text)),
            release: release::parse("6.1.0"),
            ..Facts::default()
        }
    }

    fn cgroups(version: MemoryVersion, usage: Option<u64>) -> Cgroups {
        Cgroups {
            version,
            census: Census::default(),
            gauges: Vec::new(),
            held: Vec::new(),
            root: Gauge { usage_bytes: usage, limit: None },
            root_stat: KubeletStat {
                anon_bytes: Some(400 << 10),
                file_bytes: Some(260 << 10),
                inactive_file_bytes: Some(150 << 10),
            },
            pods: None,
        }
    }

    #[test]
    fn what_is_in_no_line_is_unaccounted() {
        let memory = of(&facts());
        // 1000 - 100 - 400 - 210 - 80 - 50 - 5 - 20
        assert_eq!(memory.unaccounted_bytes, Some(135 << 10));
        assert_eq!(memory.used_bytes, Some(700 << 10));
        assert_eq!(memory.kubelet_available_bytes, None);
        let mut old = facts();
        old.release = release::parse("3.10.0-957.el7");
        assert_eq!(of(&old).vmalloc_bytes, None);
        assert_eq!(of(&Facts::default()), Memory::default());
    }

    #[test]
    fn kubelet_takes_the_roots_usage() {
        let mut facts = facts();
        facts.cgroups = Some(cgroups(MemoryVersion::V1, Some(660 << 10)));
        let memory = of(&facts);
        assert_eq!(memory.kubelet_working_set_bytes, Some(510 << 10));
        assert_eq!(memory.kubelet_available_bytes, Some(490 << 10));
        assert_eq!(memory.kubelet_available_old_bytes, None);
        facts.cgroups = Some(cgroups(MemoryVersion::V1, None));
        assert_eq!(of(&facts).kubelet_available_bytes, None);
        facts.cgroups = Some(cgroups(MemoryVersion::V2, None));
        let memory = of(&facts);
        assert_eq!(memory.kubelet_available_bytes, Some(490 << 10));
        assert_eq!(memory.kubelet_available_old_bytes, Some(250 << 10));
    }
}
