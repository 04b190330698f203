//! Settings fixed when the programs are loaded: read-only globals, so that the verifier drops the
//! code that a setting switches off.

/// Slots of the table that maps an allocation's size to "followed or not": one for each multiple
/// of 8 bytes up to 8 KiB (the largest kmalloc cache), then one for each power of two above.
pub const SIZE_SLOTS: usize = SMALL_SLOTS + 32;
/// Slots for sizes up to 8 KiB.
pub const SMALL_SLOTS: usize = 1025;
/// Largest size served by a kmalloc cache, bytes (`KMALLOC_MAX_CACHE_SIZE`: two pages of 4 KiB).
pub const LARGEST_CACHED: u64 = 8192;

/// The slot of an allocation of `bytes` (as `bytes_alloc` of the tracepoint).
#[inline(always)]
#[must_use]
pub fn size_slot(bytes: u64) -> usize {
    if bytes <= LARGEST_CACHED {
        (bytes >> 3) as usize
    } else {
        // 64 - leading zeros, without the instruction BPF lacks: orders above 8 KiB are few.
        let mut order = 0;
        let mut rest = (bytes - 1) >> 13;
        while rest != 0 && order < 31 {
            order += 1;
            rest >>= 1;
        }
        SMALL_SLOTS + order
    }
}

/// When a kernel stack is taken.
pub mod stacks {
    /// Never.
    pub const OFF: u32 = 0;
    /// For the first objects of a site, then at a falling rate.
    pub const AUTO: u32 = 1;
    /// For every object.
    pub const ALL: u32 = 2;
}

/// Where the cgroup of a task is to be found.
pub mod cgroup_source {
    /// Nowhere: no BTF and no default hierarchy.
    pub const NONE: u32 = 0;
    /// `bpf_get_current_cgroup_id()`: the default (v2) hierarchy.
    pub const DEFAULT_HIERARCHY: u32 = 1;
    /// `task->cgroups->subsys[memory]->cgroup->kn->id`: the memory controller is on v1.
    pub const MEMORY_V1: u32 = 2;
}

/// Settings of a load, as one read-only global.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Mixed into [`crate::Site::key`].
    pub seed: u64,
    /// Address bits that are zero in every object of the followed classes.
    pub free_mask: u64,
    /// Size of a kernel stack in bytes; 0 when unknown.
    pub stack_size: u64,
    /// Address of the variable `page_offset_base`; 0 when an object's slab cache cannot be found.
    pub page_offset_symbol: u64,
    /// Address of the variable `vmemmap_base`.
    pub vmemmap_symbol: u64,
    /// `__GFP_ACCOUNT` of this kernel.
    pub gfp_account: u32,
    /// `__GFP_RECLAIMABLE` of this kernel.
    pub gfp_reclaimable: u32,
    /// `__GFP_DMA` of this kernel.
    pub gfp_dma: u32,
    /// Our own thread-group id: never followed.
    pub self_tgid: u32,
    /// One of [`stacks`].
    pub stacks: u32,
    /// 1: user stacks too.
    pub user_stacks: u32,
    /// 1: children of kleak and their descendants are marked.
    pub follow_family: u32,
    /// One of [`cgroup_source`].
    pub cgroup_source: u32,
    /// Hierarchy number of the memory controller's cgroups, 0 for v2; others are ignored.
    pub memory_hierarchy: u32,
    /// Bytes of a `struct page`.
    pub page_struct: u32,
}

/// Offsets of kernel struct fields, bytes, from the running kernel's BTF; [`Offsets::UNKNOWN`]
/// where it has none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.group_leader`.
    pub task_group_leader: u32,
    /// `task_struct.start_boottime` (`real_start_time` up to 5.4).
    pub task_start: u32,
    /// `task_struct.flags`.
    pub task_flags: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.stack`.
    pub task_stack: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `signal_struct.live`.
    pub signal_live: u32,
    /// `task_struct.cgroups`.
    pub task_cgroups: u32,
    /// `css_set.subsys[memory_cgrp_id]`: the array's offset plus eight times the enum's value.
    pub css_set_memory: u32,
    /// `cgroup_subsys_state.cgroup`.
    pub css_cgroup: u32,
    /// `cgroup.kn`.
    pub cgroup_kn: u32,
    /// `cgroup.root`.
    pub cgroup_root: u32,
    /// `cgroup_root.hierarchy_id`.
    pub root_hierarchy: u32,
    /// `kernfs_node.id`.
    pub kn_id: u32,
    /// `cgroup.subsys[memory_cgrp_id]`: the array's offset plus eight times the enum's value.
    pub cgroup_memory: u32,
    /// `mem_cgroup.memory.usage`, whose `css` is its first field.
    pub memcg_usage: u32,
    /// `kmem_cache.name`.
    pub cache_name: u32,
    /// `kmem_cache.size`.
    pub cache_size: u32,
    /// `kmem_cache.object_size`.
    pub cache_object_size: u32,
    /// `page.compound_head`, `page.compound_info` from 7.1: odd in a page that is not the first of its block.
    pub page_head: u32,
    /// `slab.slab_cache` (from 5.17), or `page.slab_cache`, which lies in the same place.
    pub slab_cache: u32,
}

impl Offsets {
    /// The field does not exist on this kernel, or BTF is not to be had.
    pub const UNKNOWN: u32 = u32::MAX;
    /// Nothing known.
    pub const NONE: Self = Self {
        task_group_leader: Self::UNKNOWN,
        task_start: Self::UNKNOWN,
        task_flags: Self::UNKNOWN,
        task_comm: Self::UNKNOWN,
        task_tgid: Self::UNKNOWN,
        task_stack: Self::UNKNOWN,
        task_signal: Self::UNKNOWN,
        signal_live: Self::UNKNOWN,
        task_cgroups: Self::UNKNOWN,
        css_set_memory: Self::UNKNOWN,
        css_cgroup: Self::UNKNOWN,
        cgroup_kn: Self::UNKNOWN,
        cgroup_root: Self::UNKNOWN,
        root_hierarchy: Self::UNKNOWN,
        kn_id: Self::UNKNOWN,
        cgroup_memory: Self::UNKNOWN,
        memcg_usage: Self::UNKNOWN,
        cache_name: Self::UNKNOWN,
        cache_size: Self::UNKNOWN,
        cache_object_size: Self::UNKNOWN,
        page_head: Self::UNKNOWN,
        slab_cache: Self::UNKNOWN,
    };
}

/// Rows of the tally: one a program, because a program never interrupts itself, and those of a pair
/// do interrupt each other (see [`SECOND`](row::SECOND)).
pub mod row {
    /// `kmalloc` and its `_node` twin.
    pub const KMALLOC: u32 = 0;
    /// `kmem_cache_alloc` and its `_node` twin.
    pub const CACHE_ALLOC: u32 = 1;
    /// `kfree`.
    pub const KFREE: u32 = 2;
    /// `kmem_cache_free`, the tracepoint or the function.
    pub const CACHE_FREE: u32 = 3;
    /// `kvfree_call_rcu`, the function.
    pub const RCU_FREE: u32 = 4;
    /// `kmem_cache_free_bulk`, the function.
    pub const BULK_FREE: u32 = 5;
    /// Added to one of the above for the second program of a pair. The kernel skips an event that
    /// arrives (in an interrupt) while the same program runs on that CPU, so that each event is
    /// offered to two: the second acts on what the first was skipped for. Lost is only what arrives
    /// while both run.
    pub const SECOND: u32 = 6;
    /// cgroup, process and interrupt bookkeeping.
    pub const LIFE: u32 = 12;
    /// How many there are.
    pub const COUNT: u32 = 13;
}

const _: () = {
    assert!(size_of::<Settings>() == 80);
    assert!(size_of::<Offsets>() == 22 * 4);
};

#[cfg(test)]
mod tests {
    use super::{SIZE_SLOTS, SMALL_SLOTS, size_slot};

    #[test]
    fn each_size_has_a_slot_of_its_own() {
        assert_eq!(size_slot(8), 1);
        assert_eq!(size_slot(512), 64);
        assert_eq!(size_slot(8192), SMALL_SLOTS - 1);
        assert_eq!(size_slot(16384), SMALL_SLOTS + 1);
        assert_eq!(size_slot(32768), SMALL_SLOTS + 2);
        assert_eq!(size_slot(4 << 20), SMALL_SLOTS + 9);
        assert!(size_slot(u64::MAX) < SIZE_SLOTS);
    }
}
