//! Records held in BPF maps.

use crate::stack::mix;

/// Kernel's `TASK_COMM_LEN` (`include/linux/sched.h`, unchanged since 2.6): bytes in a comm,
/// its terminating NUL included.
pub const COMM_LEN: usize = 16;

/// Longest cgroup path carried in one event, in bytes; a longer one is cut and marked so.
/// Kubelet's longest layouts (systemd driver, nested under kind) stay below 400.
pub const PATH_LEN: usize = 512;

/// Longest slab cache name carried, in bytes.
pub const CACHE_NAME_LEN: usize = 64;

/// Who runs on a CPU when it allocates.
pub mod context {
    /// A user process or a system call made by it.
    pub const TASK: u8 = 0;
    /// A kernel thread (`PF_KTHREAD`).
    pub const KTHREAD: u8 = 1;
    /// A softirq, on top of whatever it interrupted, or in ksoftirqd.
    pub const SOFTIRQ: u8 = 2;
    /// A hardware interrupt, on top of whatever it interrupted.
    pub const HARDIRQ: u8 = 3;
}

/// Which kmalloc family the flags of an allocation select, as `kmalloc_type()` does
/// (`include/linux/slab.h`): DMA before RECLAIMABLE before ACCOUNT.
pub mod flavour {
    /// `kmalloc-N`.
    pub const NORMAL: u8 = 0;
    /// `kmalloc-cg-N` (`__GFP_ACCOUNT`; a family of its own since 5.14).
    pub const ACCOUNT: u8 = 1;
    /// `kmalloc-rcl-N` (`__GFP_RECLAIMABLE`; since 4.20).
    pub const RECLAIMABLE: u8 = 2;
    /// `dma-kmalloc-N` (`__GFP_DMA`).
    pub const DMA: u8 = 3;
}

/// Which allocator an object comes from. Each but the two of slab memory keeps books of its own:
/// the slab allocator's memory consists of pages, and so does per-CPU memory.
pub mod kind {
    /// kmalloc.
    pub const KMALLOC: u8 = 0;
    /// A named slab cache.
    pub const CACHE: u8 = 1;
    /// The page allocator.
    pub const PAGE: u8 = 2;
    /// The per-CPU allocator.
    pub const PERCPU: u8 = 3;
}

/// What stands between the page allocator and whoever wanted memory: other allocators take pages
/// too, and keep books of their own on what they make of them.
pub mod origin {
    /// Nothing: the pages were asked for as such.
    pub const DIRECT: u8 = 0;
    /// The slab allocator took them for a cache.
    pub const SLAB: u8 = 1;
    /// A kmalloc too large for any cache, which the `kmalloc` event reports as well.
    pub const LARGE_KMALLOC: u8 = 2;
    /// `vmalloc`, also as the fallback of `kvmalloc`.
    pub const VMALLOC: u8 = 3;
    /// The per-CPU allocator populated a chunk.
    pub const PERCPU: u8 = 4;
    /// Not known: the path could not be read, or functions have no names here.
    pub const UNKNOWN: u8 = 5;
}

/// Bytes that a page block's order is moved up by in its key.
const ORDER_SHIFT: u32 = 56;

/// Key of a block of pages among the outstanding objects: the address of its first `struct page`
/// and its order. With the order, a block and what was allocated anew in a freed part of it are
/// told apart; kernel addresses begin with a byte of ones, which is where the order goes.
#[inline(always)]
#[must_use]
pub const fn page_key(page: u64, order: u32) -> u64 {
    page ^ (order as u64) << ORDER_SHIFT
}

/// The first `struct page` of a block with this key.
#[inline(always)]
#[must_use]
pub const fn page_of_key(key: u64) -> u64 {
    key | 0xff << ORDER_SHIFT
}

/// Orders a block of pages can have (`MAX_PAGE_ORDER` is 10, 13 on arm64 with 64 KiB pages).
pub const ORDERS: usize = 16;

/// One outstanding object; the map's key is its address, or for pages [`page_key`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Key of the [`Site`] that allocated it; 0 when the table of sites was full.
    pub site: u64,
    /// When it was allocated, `CLOCK_MONOTONIC` nanoseconds.
    pub born_ns: u64,
    /// Kernel stack id, negative when none was taken; see [`crate::stack_place`].
    pub kernel_stack: i32,
    /// User stack id, negative when none was taken.
    pub user_stack: i32,
    /// Bytes the caller asked for; for pages, what is still allocated of the block, which may be
    /// split and freed in parts.
    pub requested: u32,
    /// How many objects of its site this one's stack stands for; 0 when no stack was taken.
    pub weight: u32,
}

/// Who allocates, and where: everything that objects of one origin share.
///
/// Its key in the maps is [`Site::key`], a 64-bit hash, so that the hot path hashes and compares
/// eight bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Site {
    /// Start of the process since boot, nanoseconds (`task_struct.start_boottime` of the group
    /// leader); 0 in interrupts or when this kernel has no BTF.
    pub start_ns: u64,
    /// Id of the memory cgroup (v1) or of the cgroup (v2): its kernfs node id, which is the inode
    /// number of its directory. 0 when unknown or in an interrupt.
    pub cgroup: u64,
    /// Return address in the function that called the allocator; 0 when unknown.
    pub call_site: u64,
    /// Address of the `struct kmem_cache` for a named cache; 0 for kmalloc.
    pub cache: u64,
    /// Thread-group id in the first pid namespace; 0 in interrupts.
    pub tgid: u32,
    /// Bytes an object of the class occupies: for pages those of the whole block, for per-CPU
    /// memory those of all possible CPUs.
    pub size: u32,
    /// One of [`context`].
    pub context: u8,
    /// One of [`flavour`]; for pages their migrate type (`enum migratetype`, `mmzone.h`).
    pub flavour: u8,
    /// 1 when the process descends from the command that kleak runs.
    pub family: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`origin`]; 0 but for pages.
    pub origin: u8,
    /// Zero.
    pub _pad: [u8; 3],
    /// Address of the `struct kmem_cache` that the site's first object lies in, where the kernel side
    /// could tell; 0 otherwise. What follows from the rest, so that the key leaves it out.
    pub slab: u64,
}

impl Site {
    /// The site's key: a mix of all fields but `slab`, seeded at load so that nobody outside can aim at a
    /// collision. Never 0, which means "no site". With 16,384 sites the odds that any two share
    /// a key are about 1 in 10^11.
    #[inline(always)]
    #[must_use]
    pub fn key(&self, seed: u64) -> u64 {
        let small = u64::from(self.context)
            | (u64::from(self.flavour) << 8)
            | (u64::from(self.family & 1) << 16)
            | (u64::from(self.kind & 7) << 17)
            | (u64::from(self.origin & 7) << 20)
            | (u64::from(self.size) << 32);
        let mut hash = mix(seed, self.start_ns);
        hash = mix(hash, self.cgroup);
        hash = mix(hash, self.call_site);
        hash = mix(hash, self.cache);
        hash = mix(hash, u64::from(self.tgid));
        hash = mix(hash, small);
        hash ^= hash >> 32;
        if hash == 0 { 1 } else { hash }
    }
}

/// What one CPU has counted for a site.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteCounts {
    /// Objects allocated, tracked or not.
    pub allocated: u64,
    /// Of those, not tracked: the map of objects was full or busy.
    pub untracked: u64,
    /// Of those, freed without an event: their address was given out again while they were held
    /// outstanding. A site that has some frees by a path that is not followed.
    pub reused: u64,
    /// Objects until the next one whose stack is taken (`--stacks auto`).
    pub until_stack: u32,
    /// Which time slice `taken` belongs to.
    pub slice: u16,
    /// Stacks are taken of one object in 2^`shift`, on average.
    pub shift: u8,
    /// Stacks taken in this time slice.
    pub taken: u8,
}

/// A process, by what stays the same while it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// As [`Site::start_ns`].
    pub start_ns: u64,
    /// Thread-group id in the first pid namespace.
    pub tgid: u32,
    /// Zero.
    pub _pad: u32,
}

/// What the kernel side remembers of a process that has allocated something tracked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Name of the thread-group leader: at the first allocation, refreshed at exec and exit.
    pub comm: [u8; COMM_LEN],
    /// 1 once its last thread has exited.
    pub exited: u8,
    /// Zero.
    pub _pad: [u8; 7],
}

/// Everything one program, on one CPU, has lost or could not follow. One row a program, so that a
/// program that interrupts another never shares a counter with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Allocations and frees that passed the filter.
    pub events: u64,
    /// Events that the first program of a chain was skipped for, and this later one saw (whether or
    /// not they passed the filter).
    pub rescued: u64,
    /// Allocations not followed because the map of objects was full.
    pub untracked: u64,
    /// Allocations lost because the map of objects was busy (a nested use on this CPU).
    pub failed_inserts: u64,
    /// Frees that the map of objects refused; their addresses are queued for user space.
    pub failed_deletes: u64,
    /// Frees refused whose address could not be queued either: those objects look outstanding.
    pub lost_deletes: u64,
    /// Allocations that returned an address still held outstanding: its free was missed.
    pub implied_frees: u64,
    /// Frees of addresses not held: allocated before kleak attached, untracked, or of another
    /// class that shares the alignment.
    pub unknown_frees: u64,
    /// Kernel stacks that could not be stored.
    pub lost_kernel_stacks: u64,
    /// User stacks that could not be stored or walked.
    pub lost_user_stacks: u64,
    /// Allocations whose site did not fit the table: outstanding with an unknown owner.
    pub lost_sites: u64,
    /// Processes whose name did not fit the table.
    pub lost_processes: u64,
    /// Cgroup events that did not fit the ring buffer: a path may be missing.
    pub lost_cgroup_events: u64,
    /// Descendants of the command that did not fit the table.
    pub lost_family: u64,
    /// Reads of kernel memory that failed: an owner or a cgroup is unknown.
    pub failed_reads: u64,
    /// Slab caches that did not fit the table (`--cache`): their objects are not followed.
    pub lost_caches: u64,
    /// Objects handed to RCU to be freed (`kvfree_call_rcu`), ours or not.
    pub rcu_frees: u64,
    /// Objects of bulk frees past the last that a program looks at, or whose address could not be read: those
    /// of ours look outstanding.
    pub lost_bulk_frees: u64,
}

impl Tally {
    /// Adds another row.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.rescued += other.rescued;
        self.untracked += other.untracked;
        self.failed_inserts += other.failed_inserts;
        self.failed_deletes += other.failed_deletes;
        self.lost_deletes += other.lost_deletes;
        self.implied_frees += other.implied_frees;
        self.unknown_frees += other.unknown_frees;
        self.lost_kernel_stacks += other.lost_kernel_stacks;
        self.lost_user_stacks += other.lost_user_stacks;
        self.lost_sites += other.lost_sites;
        self.lost_processes += other.lost_processes;
        self.lost_cgroup_events += other.lost_cgroup_events;
        self.lost_family += other.lost_family;
        self.failed_reads += other.failed_reads;
        self.lost_caches += other.lost_caches;
        self.rcu_frees += other.rcu_frees;
        self.lost_bulk_frees += other.lost_bulk_frees;
    }
}

/// An object handed to RCU to be freed; the map's key is its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Address of its `struct kmem_cache`; 0 when unknown.
    pub cache: u64,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
}

/// A free that the map of objects refused. User space counts the object as freed if it was born
/// before `at_ns`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeferredFree {
    /// Address freed.
    pub address: u64,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
}

/// What happened to a cgroup.
pub mod cgroup_event {
    /// Its directory was made.
    pub const MKDIR: u32 = 0;
    /// Its directory was removed: from here it is dying.
    pub const RMDIR: u32 = 1;
    /// The kernel let go of it (`cgroup_release`).
    pub const RELEASE: u32 = 2;
    /// How many there are.
    pub const COUNT: u32 = 3;
}

/// Value of [`CgroupEvent::charged_pages`] when it is not known.
pub const UNKNOWN_PAGES: u64 = u64::MAX;

/// One event of a cgroup's life.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CgroupEvent {
    /// As [`Site::cgroup`].
    pub id: u64,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Start of the process that did it, as [`Site::start_ns`]; a release is done by a kernel
    /// worker.
    pub start_ns: u64,
    /// Cgroup of the process that did it, as [`Site::cgroup`].
    pub actor_cgroup: u64,
    /// Pages charged to it (`mem_cgroup.memory.usage`), with those of living and dying cgroups
    /// below; [`UNKNOWN_PAGES`] where that cannot be read.
    pub charged_pages: u64,
    /// Name of the process that did it: that of its thread-group leader.
    pub comm: [u8; COMM_LEN],
    /// One of [`cgroup_event`].
    pub what: u32,
    /// Thread-group id of the process that did it.
    pub tgid: u32,
    /// Bytes of `path` that count, without a NUL; [`PATH_LEN`] - 1 when it was cut.
    pub path_len: u32,
    /// 1 when the event is in [`crate::CpuState::cgroup_events`] too: kleak was counting.
    pub counted: u32,
    /// Path below the mount of its hierarchy.
    pub path: [u8; PATH_LEN],
}

/// What the program `revalidate` answers.
pub mod lies_in {
    /// It cannot be told, or the object is another one now.
    pub const UNKNOWN: u32 = 0;
    /// The address lies in a page of that slab cache.
    pub const YES: u32 = 1;
    /// It does not, and the object has been taken out.
    pub const NO: u32 = 2;
}

/// What the program `learn_cache` answers.
pub mod learn {
    /// Memory could not be read.
    pub const FAILED: u32 = 0;
    /// One more is entered, and there may be others.
    pub const MORE: u32 = 1;
    /// All are.
    pub const DONE: u32 = 2;
}

/// What user space has decided about a slab cache.
pub mod cache_state {
    /// Just seen; its objects are followed until user space decides.
    pub const UNDECIDED: u32 = 0;
    /// Selected by `--cache`.
    pub const SELECTED: u32 = 1;
    /// Not selected.
    pub const REJECTED: u32 = 2;
}

/// A slab cache seen by `kmem_cache_alloc`; the map's key is the address of its `kmem_cache`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    /// Bytes an object occupies (`kmem_cache.size`).
    pub size: u32,
    /// Bytes of it that its users asked for (`kmem_cache.object_size`).
    pub object_size: u32,
    /// One of [`cache_state`].
    pub state: u32,
    /// Zero.
    pub _pad: u32,
    /// Its name, NUL-terminated.
    pub name: [u8; CACHE_NAME_LEN],
}

// Sizes are part of the contract between two separately compiled programs.
const _: () = {
    assert!(size_of::<Object>() == 32);
    assert!(size_of::<Site>() == 56);
    assert!(size_of::<SiteCounts>() == 32);
    assert!(size_of::<ProcessKey>() == 16);
    assert!(size_of::<Process>() == 24);
    assert!(size_of::<Tally>() == 18 * 8);
    assert!(size_of::<DeferredFree>() == 16);
    assert!(size_of::<Queued>() == 16);
    assert!(size_of::<CgroupEvent>() == 72 + PATH_LEN);
    assert!(size_of::<Cache>() == 16 + CACHE_NAME_LEN);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        Cache, DeferredFree, Object, Process, ProcessKey, Queued, Site, SiteCounts, Tally,
    };
    use crate::{Bucket, CallPath, Control, CpuState, Tuning};
    use crate::{Offsets, Settings};

    macro_rules! pod {
        ($($type:ty),*) => { $(
            // SAFETY: `repr(C)`, plain integers and arrays of them, no padding (sizes above), so
            // every bit pattern is a valid value.
            unsafe impl aya::Pod for $type {}
        )* };
    }
    pod!(
        Object,
        Site,
        SiteCounts,
        ProcessKey,
        Process,
        Tally,
        CpuState,
        Control,
        DeferredFree,
        Queued,
        Cache,
        Settings,
        Offsets,
        CallPath,
        Bucket,
        Tuning
    );
}

#[cfg(test)]
mod tests {
    use super::{Site, page_key, page_of_key};

    #[test]
    fn every_field_of_a_site_changes_its_key() {
        let base = Site::default();
        let variants = [
            Site { start_ns: 1, ..base },
            Site { cgroup: 1, ..base },
            Site { call_site: 1, ..base },
            Site { cache: 1, ..base },
            Site { tgid: 1, ..base },
            Site { size: 1, ..base },
            Site { context: 1, ..base },
            Site { flavour: 1, ..base },
            Site { family: 1, ..base },
            Site { kind: 1, ..base },
            Site { kind: 4, ..base },
            Site { origin: 1, ..base },
            Site { origin: 4, ..base },
        ];
        for variant in variants {
            assert_ne!(base.key(7), variant.key(7), "{variant:?}");
        }
        assert_ne!(base.key(7), base.key(8));
    }

    #[test]
    fn blocks_of_pages_that_begin_alike_have_different_keys() {
        let pages = [0xffff_ea00_0001_0000, 0xffff_ea00_0001_0040, 0xffff_ea00_0001_0080];
        let mut keys: Vec<u64> = pages
            .iter()
            .flat_map(|&page| (0..16).map(move |order| page_key(page, order)))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 48);
        assert_eq!(page_key(pages[0], 0), pages[0]);
        assert!((0..16).all(|order| page_of_key(page_key(pages[1], order)) == pages[1]));
    }

    #[test]
    fn keys_of_a_realistic_table_do_not_collide() {
        let mut keys: Vec<u64> = (0..200_000_u64)
            .map(|i| {
                Site {
                    tgid: 1000 + (i % 500) as u32,
                    start_ns: 1_000_000_000 * (i % 500),
                    call_site: 0xffff_ffff_8100_0000 + 16 * (i / 500),
                    size: 512,
                    ..Site::default()
                }
                .key(0x1234_5678_9abc_def0)
            })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 200_000);
    }

    extern crate std;
    use std::vec::Vec;
}
