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
};
