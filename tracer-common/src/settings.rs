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
    /// Where the direct map of memory begins, or any address below it; 0 when an object's slab cache
    /// cannot be found.
    pub page_offset: u64,
    /// Where the `struct page` of that address lies, or would.
    pub vmemmap: u64,
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
    /// log2 of the bytes of a page.
    pub page_shift: u32,
    /// log2 of the bytes of a `struct page`; 0 when they are no power of two, or unknown: a block
    /// of pages that is freed in parts is then not recognised.
    pub struct_page_shift: u32,
    /// Possible CPUs: each has its copy of a per-CPU object.
    pub possible_cpus: u32,
    /// 1: a task may be preempted in the midst of a program, and another run the others on that CPU.
    pub preemptible: u32,
    /// Buckets of the table of objects; 0 where they are in a hash.
    pub buckets: u32,
    /// How many places in it a CPU takes at a time, and gives back.
    pub credit_lot: u32,
}

/// What a function of the kernel's text is to a call path into the page or per-CPU allocator.
pub mod role {
    /// Nothing in particular: whoever wanted the memory.
    pub const OTHER: u8 = 0;
    /// The page allocator.
    pub const PAGES: u8 = 1;
    /// The slab allocator.
    pub const SLAB: u8 = 2;
    /// The part of kmalloc that takes large objects from the page allocator.
    pub const LARGE_KMALLOC: u8 = 3;
    /// vmalloc and kvmalloc.
    pub const VMALLOC: u8 = 4;
    /// The per-CPU allocator.
    pub const PERCPU: u8 = 5;
}

/// Pieces of [`CallPath`]; a power of two.
pub const PIECES: usize = 512;

/// Which addresses of the kernel's text have which [`role`]: the text cut into pieces, in order of
/// address. Pieces that are not needed come first, at the lowest kernel address, and have no role.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPath {
    /// Where each piece begins; it ends where the next begins.
    pub starts: [u64; PIECES],
    /// What it is: one of [`role`].
    pub roles: [u8; PIECES],
}

impl CallPath {
    /// Nothing known.
    pub const NONE: Self = Self { starts: [1 << 63; PIECES], roles: [role::OTHER; PIECES] };

    /// Index of the piece that an address (of the kernel's half of the address space) lies in.
    /// `start` reads [`Self::starts`]. Without branches: the verifier follows each of them.
    #[inline(always)]
    #[must_use]
    pub fn piece(address: u64, start: impl Fn(usize) -> u64) -> usize {
        let mut at = 0;
        let mut step = PIECES / 2;
        while step > 0 {
            let begin = start((at + step) & (PIECES - 1));
            // 1 when the address lies before it: addresses of a half differ by less than 2^63.
            let before = (address.wrapping_sub(begin) >> 63) as usize;
            at += step * (before ^ 1);
            step /= 2;
        }
        at & (PIECES - 1)
    }
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
    /// `kmem_cache.list`: all caches are on one list.
    pub cache_list: u32,
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
        cache_list: Self::UNKNOWN,
        page_head: Self::UNKNOWN,
        slab_cache: Self::UNKNOWN,
    };
}

/// Rows of the tally: one a program, because a program never interrupts itself, and those of a chain
/// do interrupt each other (see [`KINDS`](row::KINDS)).
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
    /// `mm_page_alloc`.
    pub const PAGE_ALLOC: u32 = 6;
    /// `mm_page_free`.
    pub const PAGE_FREE: u32 = 7;
    /// `percpu_alloc_percpu`.
    pub const PERCPU_ALLOC: u32 = 8;
    /// `percpu_free_percpu`.
    pub const PERCPU_FREE: u32 = 9;
    /// Kinds of events, and what is added to one of the above for the next program of its chain. The
    /// kernel skips an event that arrives while the same program runs on that CPU, so that each event
    /// is offered to several: the next acts on what those before were skipped for. Lost is only what
    /// arrives while all of them run.
    pub const KINDS: u32 = 10;
    /// Programs of a chain, at most: two where only interrupts can arrive meanwhile; more where a task
    /// can be preempted in the midst of a program, and others on that CPU have events of their own.
    pub const CHAIN: u32 = 4;
    /// cgroup, process and interrupt bookkeeping.
    pub const LIFE: u32 = KINDS * CHAIN;
    /// How many there are.
    pub const COUNT: u32 = LIFE + 1;
}

const _: () = {
    assert!(size_of::<Settings>() == 104);
    assert!(size_of::<CallPath>() == PIECES * 9);
    assert!(size_of::<Offsets>() == 23 * 4);
};

#[cfg(test)]
mod tests {
    use super::{CallPath, PIECES, SIZE_SLOTS, SMALL_SLOTS, size_slot};

    #[test]
    fn an_address_lies_in_the_last_piece_that_begins_before_it() {
        const TEXT: u64 = 0xffff_ffff_8100_0000;
        let mut path = CallPath::NONE;
        for (index, start) in path.starts.iter_mut().rev().take(3).enumerate() {
            *start = TEXT + 0x300 - 0x100 * index as u64;
        }
        let piece = |address| CallPath::piece(address, |index| path.starts[index]);
        assert_eq!(piece(TEXT), PIECES - 4);
        assert_eq!(piece(TEXT + 0xff), PIECES - 4);
        assert_eq!(piece(TEXT + 0x100), PIECES - 3);
        assert_eq!(piece(TEXT + 0x2ff), PIECES - 2);
        assert_eq!(piece(TEXT + 0x300), PIECES - 1);
        assert_eq!(piece(u64::MAX), PIECES - 1);
    }

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
