//! Every map, its size and why, and the globals that user space fixes at load.
//!
//! All hash maps are preallocated (no `BPF_F_NO_PREALLOC`): an allocation inside an allocator's
//! tracepoint would recurse, and memory must be bounded and known when kleak starts.

use aya_ebpf::{
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, Queue, RingBuf},
};
use kleak_common::{
    Cache, CallPath, Control, CpuState, DeferredFree, LongStack, ORDERS, Offsets, PIECES, Process,
    ProcessKey, Queued, SIZE_SLOTS, Settings, ShortStack, Site, SiteCounts, Tuning,
};

/// Sites by key. User space removes those of exited processes that own nothing any more.
#[map]
pub static SITES: HashMap<u64, Site> = HashMap::with_max_entries(16_384, 0);

/// Sites whose objects become more, as user space sees it: their stacks are worth more.
#[map]
pub static GROWING: HashMap<u64, u8> = HashMap::with_max_entries(256, 0);

/// What each CPU has counted for a site; per CPU, so that no cache line is shared.
#[map]
pub static COUNTS: PerCpuHashMap<u64, SiteCounts> = PerCpuHashMap::with_max_entries(16_384, 0);

/// Objects of followed caches that were handed to RCU: their free may show later, and is not to be
/// counted again. The oldest give way (from 6.18 on most show no free).
#[map]
pub static QUEUED: LruHashMap<u64, Queued> = LruHashMap::with_max_entries(16_384, 0);

/// Names of processes that own or owned something, which outlive them.
#[map]
pub static PROCESSES: HashMap<ProcessKey, Process> = HashMap::with_max_entries(16_384, 0);

/// The command that kleak runs and its descendants; one entry is enough when there is none.
#[map]
pub static FAMILY: HashMap<ProcessKey, u8> = HashMap::with_max_entries(16_384, 0);

/// Slab caches that followed objects come from. A kernel has some 250 to 450 of them.
#[map]
pub static CACHES: HashMap<u64, Cache> = HashMap::with_max_entries(1_024, 0);

/// Frees of objects that were not in the table, by slab cache, for each cache in `CACHES`.
#[map]
pub static OLDER: PerCpuHashMap<u64, u64> = PerCpuHashMap::with_max_entries(1_024, 0);

/// Stacks by id ([`kleak_common::stack_id`]). Not a stack map of the kernel's: that is direct-mapped by
/// hash, and of 100,000 stacks in 131,072 slots loses 30,000. `Probe::load` sets its size.
#[map]
pub static STACKS: HashMap<u32, ShortStack> = HashMap::with_max_entries(16_384, 0);

/// Those of more frames than a short one has.
#[map]
pub static LONG_STACKS: HashMap<u32, LongStack> = HashMap::with_max_entries(2_048, 0);

/// What stacks are walked into.
#[map]
pub static WALKED: PerCpuArray<LongStack> = PerCpuArray::with_max_entries(kleak_common::WALKED, 0);

/// Frees that the map of objects refused; user space takes them from here.
#[map]
pub static DEFERRED: Queue<DeferredFree> = Queue::with_max_entries(65_536, 0);

/// Cgroup events, for their paths.
#[map]
pub static CGROUP_EVENTS: RingBuf = RingBuf::with_byte_size(1024 * 1024, 0);

/// Counters and interrupt state of each CPU.
#[map]
pub static CPU: PerCpuArray<CpuState> = PerCpuArray::with_max_entries(1, 0);

/// Set by user space at load.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    seed: 0,
    free_mask: 0,
    stack_size: 0,
    page_offset: 0,
    vmemmap: 0,
    gfp_account: 0,
    gfp_reclaimable: 0,
    gfp_dma: 0,
    self_tgid: 0,
    stacks: 0,
    user_stacks: 0,
    follow_family: 0,
    cgroup_source: 0,
    memory_hierarchy: 0,
    page_struct: 0,
    page_shift: 0,
    struct_page_shift: 0,
    possible_cpus: 0,
    preemptible: 0,
    buckets: 0,
    credit_lot: 0,
};

/// Set by user space at load.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::NONE;

/// 1 at the slot ([`kleak_common::size_slot`]) of each followed size. Set by user space at load.
#[unsafe(no_mangle)]
static SIZES: [u8; SIZE_SLOTS] = [0; SIZE_SLOTS];

/// Which functions are which allocator's. Set by user space at load.
#[unsafe(no_mangle)]
static CALL_PATH: CallPath = CallPath::NONE;

/// The one thing both sides change while running.
#[unsafe(no_mangle)]
static mut CONTROL: Control = Control {
    active: 0,
    misaligned: 0,
    epoch: 0,
    answer: 0,
    cursor: 0,
    chained: 0,
    _pad: 0,
    credit: 0,
    orders: [0; ORDERS],
};

/// What only user space changes while running.
#[unsafe(no_mangle)]
static mut TUNING: Tuning = Tuning::FULL;

/// Stacks that a site may take on a CPU in one slice of time.
#[inline(always)]
pub(crate) fn stack_allowance() -> u32 {
    // SAFETY: an aligned u32; see `Tuning` for why half a write is none.
    unsafe { core::ptr::read_volatile(&raw const TUNING.stack_allowance) }
}

/// Objects are followed at one address in two to the power of this.
#[inline(always)]
pub(crate) fn fraction_shift() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const TUNING.fraction_shift) }
}

/// Reads one setting. Volatile, because the compiler must not believe the initial value; the
/// verifier does know the loaded one, and drops what it rules out.
macro_rules! setting {
    ($field:ident) => {
        // SAFETY: a valid, aligned, initialised static.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::settings().$field) }
    };
}
pub(crate) use setting;

/// Reads one offset, as [`setting`].
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a valid, aligned, initialised static.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::offsets().$field) }
    };
}
pub(crate) use offset;

#[inline(always)]
pub(crate) fn settings() -> &'static Settings {
    &SETTINGS
}

#[inline(always)]
pub(crate) fn offsets() -> &'static Offsets {
    &OFFSETS
}

/// Whether objects of the size in `slot` are followed.
#[inline(always)]
pub(crate) fn follows(slot: usize) -> bool {
    if slot >= SIZE_SLOTS {
        return false;
    }
    // SAFETY: the index was checked; volatile for the reason given at `setting`.
    unsafe { core::ptr::read_volatile((&raw const SIZES).cast::<u8>().add(slot)) != 0 }
}

/// Where a piece of the kernel's text begins.
#[inline(always)]
pub(crate) fn piece_start(index: usize) -> u64 {
    let start = (&raw const CALL_PATH.starts).cast::<u64>();
    // SAFETY: the index is below the length; volatile for the reason given at `setting`.
    unsafe { core::ptr::read_volatile(start.add(bounded(index, PIECES))) }
}

/// An index below `limit`, in a way that every verifier sees: up to 6.1 it loses track of one that was
/// made by shifts and masks, which the compiler knows to be small and does not compare.
#[inline(always)]
pub(crate) fn bounded(index: usize, limit: usize) -> usize {
    let mut index = index;
    // SAFETY: a local variable.
    let index = unsafe { core::ptr::read_volatile(&raw mut index) };
    if index < limit { index } else { 0 }
}

/// What it is.
#[inline(always)]
pub(crate) fn piece_role(index: usize) -> u8 {
    let role = (&raw const CALL_PATH.roles).cast::<u8>();
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(role.add(bounded(index, PIECES))) }
}

/// Whether a block of that order has been allocated since the start.
#[inline(always)]
pub(crate) fn has_order(order: u32) -> bool {
    // SAFETY: the index is masked, and a byte is read whole.
    unsafe {
        let seen = (&raw const CONTROL.orders).cast::<u8>();
        core::ptr::read_volatile(seen.add(order as usize & (ORDERS - 1))) != 0
    }
}

/// One is being allocated.
#[inline(always)]
pub(crate) fn set_order(order: u32) {
    // SAFETY: the index is below the length, and the byte is only ever set to 1.
    unsafe {
        let seen = (&raw mut CONTROL.orders).cast::<u8>();
        core::ptr::write_volatile(seen.add(bounded(order as usize, ORDERS)), 1);
    }
}

/// Whether counting is on.
#[inline(always)]
pub(crate) fn active() -> bool {
    // SAFETY: an aligned u32 that the other side writes whole.
    unsafe { core::ptr::read_volatile(&raw const CONTROL.active) != 0 }
}

/// Whether the later programs of a kind of event are attached.
#[inline(always)]
pub(crate) fn chained(kind: u32) -> bool {
    // SAFETY: as above.
    let chained = unsafe { core::ptr::read_volatile(&raw const CONTROL.chained) };
    chained >> kind & 1 != 0
}

/// From now on they are.
#[inline(always)]
pub(crate) fn set_chained(kind: u32) {
    // SAFETY: as above; only one program does so, one run at a time.
    unsafe {
        let chained = &raw mut CONTROL.chained;
        core::ptr::write_volatile(chained, core::ptr::read_volatile(chained) | 1 << (kind & 31));
    }
}

/// Whether an object has been seen where its class's alignment rules it out.
#[inline(always)]
pub(crate) fn misaligned() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const CONTROL.misaligned) != 0 }
}

/// Says that one has.
#[inline(always)]
pub(crate) fn set_misaligned() {
    // SAFETY: an aligned u32, only ever set to 1 here.
    unsafe { core::ptr::write_volatile(&raw mut CONTROL.misaligned, 1) }
}

/// Which tasks are which: see [`Control::epoch`].
#[inline(always)]
pub(crate) fn epoch() -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const CONTROL.epoch) }
}

/// A task has begun, ended or moved.
#[inline(always)]
pub(crate) fn new_epoch() {
    // SAFETY: helpers without arguments.
    let (time, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    // SAFETY: as above; every writer writes another value.
    unsafe { core::ptr::write_volatile(&raw mut CONTROL.epoch, time << 8 | u64::from(cpu) & 0xff) }
}

/// What a program that user space asks has found; 0 before.
#[inline(always)]
pub(crate) fn answer() -> u64 {
    // SAFETY: an aligned word, written whole.
    unsafe { core::ptr::read_volatile(&raw const CONTROL.answer) }
}

/// Says what it has.
#[inline(always)]
pub(crate) fn set_answer(found: u64) {
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut CONTROL.answer, found) }
}

/// Objects that the table has room for: see [`Control::credit`].
#[cfg(feature = "table")]
#[inline(always)]
pub(crate) fn credit() -> *mut u64 {
    // SAFETY: only its address is taken.
    unsafe { &raw mut CONTROL.credit }
}

/// Where the walk over the list of slab caches stands.
#[inline(always)]
pub(crate) fn cursor() -> u64 {
    // SAFETY: an aligned word, which only one program uses, one run at a time.
    unsafe { core::ptr::read_volatile(&raw const CONTROL.cursor) }
}

/// Moves it on.
#[inline(always)]
pub(crate) fn set_cursor(at: u64) {
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut CONTROL.cursor, at) }
}

/// This CPU's state. The lookup of entry 0 of an array of one cannot fail, but the verifier wants
/// it checked.
#[inline(always)]
pub(crate) fn cpu() -> Option<&'static mut CpuState> {
    // SAFETY: the entry lives as long as the map, is this CPU's own, and is reached by one program
    // at a time (rows and the two flags are each written by one program only).
    CPU.get_ptr_mut(0).map(|state| unsafe { &mut *state })
}
