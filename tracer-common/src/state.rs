//! What the programs keep between events, a CPU each, and what both sides change while running.

use crate::{ORDERS, Tally, cgroup_event, row};

/// The task that allocated last on a CPU, so that its owner is not read from kernel memory for every
/// object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastTask {
    /// Address of its `task_struct`; 0 while the rest is being written.
    pub task: u64,
    /// [`Control::epoch`] when it was read: it says who the task is only while that stays.
    pub epoch: u64,
    /// Base of its kernel stack; 0 when unknown.
    pub stack: u64,
    /// As [`crate::Site::start_ns`].
    pub start_ns: u64,
    /// As [`crate::Site::cgroup`].
    pub cgroup: u64,
    /// As [`crate::Site::tgid`].
    pub tgid: u32,
    /// As [`crate::Site::context`].
    pub context: u8,
    /// As [`crate::Site::family`].
    pub family: u8,
    /// Zero.
    pub _pad: [u8; 2],
}

/// What one CPU keeps: one map lookup reaches all of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// A softirq is running.
    pub softirq: u32,
    /// A hardware interrupt's handler is running.
    pub hardirq: u32,
    /// The kernel's ticks (jiffies) when the clock was last read.
    pub tick: u64,
    /// What it showed, `CLOCK_MONOTONIC` nanoseconds.
    pub tick_ns: u64,
    /// Where a program writes the address of its context, to read it back as a number: it lies on
    /// the kernel stack in use. One a program, as a program never interrupts itself.
    pub stack_pointer: [u64; ROWS],
    /// The task that allocated last, a program each: from 7.0 on a task may be preempted in the midst of
    /// one, and another use the others.
    pub last: [LastTask; ROWS],
    /// Events that are being offered to the programs of their chains: [`OFFERS`] of them for each kind,
    /// by [`offer_slot`].
    pub offered: [Offer; OFFERS * row::KINDS as usize],
    /// Objects that a program may still enter into the table before it asks for more leave
    /// ([`Control::credit`]), or gives some back.
    pub credit: [u64; ROWS],
    /// Pages whose older objects are of no slab cache that is followed, by the lower bits of their number:
    /// that holds for good, as what is allocated there later, perhaps from another cache, is no older
    /// object. 0 is no such page.
    pub foreign: [u64; FOREIGN],
    /// Cgroups of the memory hierarchy made, removed, released ([`cgroup_event`]).
    pub cgroup_events: [u64; cgroup_event::COUNT as usize],
    /// Counters, one row a program ([`crate::row`]).
    pub tally: [Tally; ROWS],
}

/// Pages remembered in [`CpuState::foreign`]; a power of two.
pub const FOREIGN: usize = 256;

/// How many programs keep counters of their own.
pub const ROWS: usize = row::COUNT as usize;

/// An event that programs of a chain were offered. All of them find the event's arguments at the same
/// place on the stack, and an event that interrupts it, or of another task, has them elsewhere: together
/// with the object's address that tells events apart, however deep they are nested.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Address of the arguments.
    pub arguments: u64,
    /// Address of the object.
    pub address: u64,
    /// A bit for each program of the chain that has seen it, by place. One that finds its own, or a later
    /// one's, has an event before it that only looks the same.
    pub seen: u64,
}

/// Events of one kind that can be under way on a CPU without being taken for each other: 16 in a task,
/// in a softirq, in a hardware interrupt, and in one that interrupts a softirq.
pub const OFFERS: usize = 64;

/// Where the offer of an event with arguments at this address is kept, below [`OFFERS`]. What interrupts
/// an event never shares its place; another task that preempts it may, once in 16 times.
#[inline(always)]
#[must_use]
pub fn offer_slot(arguments: u64, softirq: u32, hardirq: u32) -> usize {
    let level = (softirq & 1) << 1 | hardirq & 1;
    let mixed = (arguments >> 5) ^ (arguments >> 10) ^ (arguments >> 14);
    (level as usize) << 4 | (mixed & 15) as usize
}

/// The only state that both sides change after loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// 1 while allocations are counted.
    pub active: u32,
    /// Set once an object of a followed class was seen at an address that the alignment of its
    /// class rules out: from then on no free is rejected by its address.
    pub misaligned: u32,
    /// Changes whenever a task begins, ends, or moves to another cgroup, on any CPU: a
    /// `task_struct` at the same address is then read anew. A time and a CPU, so that two CPUs that
    /// change it at once never agree.
    pub epoch: u64,
    /// What a program that user space asks has found; 0 before.
    pub answer: u64,
    /// Where the walk over the list of slab caches stands; 0 before it.
    pub cursor: u64,
    /// A bit for each kind of event ([`row`]) whose later programs are attached, or about to be: the first
    /// then tells them what it has seen.
    pub chained: u32,
    /// Zero.
    pub _pad: u32,
    /// Objects that the table has room for and no CPU has taken leave to enter.
    pub credit: u64,
    /// 1 at each order of which a block of pages has been allocated: others need not be looked for
    /// when a part of one is freed. A byte each, so that CPUs do not undo each other's.
    pub orders: [u8; ORDERS],
}

/// What user space sets while the programs run, apart from [`Control`], whose fields the programs write too:
/// a map's value is only ever written whole. Only the lowest byte of a field is ever other than 0, so that
/// half a write is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Stacks that a site may take on a CPU in one slice of time; 0 for none at all.
    pub stack_allowance: u32,
    /// Objects are followed at one address in 2^`fraction_shift`.
    pub fraction_shift: u32,
}

impl Tuning {
    /// Nothing held back.
    pub const FULL: Self = Self { stack_allowance: STACKS_PER_SLICE, fraction_shift: 0 };
}

/// Stacks that a site may take on a CPU in one slice of time before its rate is halved.
pub const STACKS_PER_SLICE: u32 = 128;

/// Smallest fraction of addresses: one in 2^16.
pub const LEAST_FRACTION: u32 = 16;

/// Whether what is held under `key` belongs to the fraction of addresses that is followed. Decided by the
/// address alone, so that an allocation and its free agree; a smaller fraction is a part of every larger
/// one, so that what a change leaves in it has been followed all along. The seed keeps a pattern of
/// addresses from being in or out on every machine.
#[inline(always)]
#[must_use]
pub const fn in_fraction(key: u64, seed: u64, shift: u32) -> bool {
    if shift == 0 {
        return true;
    }
    let mut hash = (key ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    // The upper bits of a product depend on all of its factor's.
    hash >> ((64 - shift) & 63) == 0
}

/// What stands for a page in [`in_fraction`]: the block of the largest order that it lies in, so that all
/// parts that a block may be freed in agree. `None` where blocks cannot be told by address: then pages are
/// not thinned out.
#[inline(always)]
#[must_use]
pub const fn largest_block(page: u64, page_shift: u32, struct_page_shift: u32) -> Option<u64> {
    if struct_page_shift == 0 {
        return None;
    }
    // `MAX_PAGE_ORDER`: 10, and 13 on arm64 with 64 KiB pages.
    let order = if page_shift > 12 { 13 } else { 10 };
    Some(page >> ((order + struct_page_shift) & 63))
}

const TALLY: usize = size_of::<Tally>();

const _: () = {
    assert!(size_of::<LastTask>() == 48);
    assert!(
        size_of::<CpuState>()
            == 24
                + (8 + 8 + size_of::<LastTask>() + TALLY) * ROWS
                + size_of::<Offer>() * OFFERS * row::KINDS as usize
                + 8 * FOREIGN
                + 24
    );
    assert!(size_of::<Control>() == 48 + ORDERS);
    assert!(size_of::<Tuning>() == 8);
};

#[cfg(test)]
mod tests {
    use super::{in_fraction, largest_block};

    #[test]
    fn a_fraction_holds_its_share_of_the_objects_of_slabs() {
        for seed in [1, 0xdead_beef, u64::MAX] {
            for stride in [8, 96, 512, 4096, 8192] {
                let addresses = (0..100_000_u64).map(|n| 0xffff_8880_1234_0000 + n * stride);
                for shift in [1, 3, 6] {
                    let held = addresses.clone().filter(|a| in_fraction(*a, seed, shift)).count();
                    let expected = 100_000.0 / f64::from(1_u32 << shift);
                    // Six standard deviations.
                    let off = (held as f64 - expected).abs();
                    assert!(off < 6.0 * expected.sqrt(), "{held} of 1 in 2^{shift} by {stride}");
                }
            }
        }
    }

    #[test]
    fn a_smaller_fraction_is_part_of_a_larger_one() {
        for n in 0..10_000_u64 {
            let address = 0xffff_8880_0000_0000 + n * 512;
            for shift in 1..16 {
                let smaller = in_fraction(address, 7, shift + 1);
                assert!(!smaller || in_fraction(address, 7, shift));
            }
            assert!(in_fraction(address, 7, 0));
        }
    }

    #[test]
    fn parts_of_a_block_of_pages_agree() {
        let head: u64 = 0xffff_ea00_0400_0000;
        let block = largest_block(head, 12, 6);
        assert!((0..1024).all(|page| largest_block(head + page * 64, 12, 6) == block));
        assert_ne!(largest_block(head + 1024 * 64, 12, 6), block);
        assert_eq!(largest_block(head, 12, 0), None);
    }
}
