//! In a table of our own, without locks: see `kleak_common::table`.
//!
//! A slot is claimed by compare-and-exchange of its key, and given back by writing 0. Objects stay where
//! they were entered, so that whoever reads the table meanwhile sees each of them once.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use kleak_common::{BEING_WRITTEN, Bucket, CpuState, Object, PROBES, SLOTS, bucket_at, spread};

use super::Entered;
use crate::maps::{bounded, credit, setting};

/// Keys. Sized at load.
#[map]
static BUCKETS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Objects, by index of the bucket and slot in it. Sized at load.
#[map]
static OBJECTS: Array<Object> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What the out-of-line parts answer when it is not an index into `OBJECTS`.
const NOTHING: u64 = 1 << 32;
/// With an index: the object was there before.
const BEFORE: u64 = 1 << 33;

/// Enters an object.
#[inline(always)]
pub(crate) fn enter<const ROW: u32>(
    address: u64,
    object: &Object,
    state: &mut CpuState,
) -> Entered {
    let spread = spread(address, setting!(seed));
    let index = bucket_at(spread, 0, setting!(buckets));
    let Some(bucket) = BUCKETS.get_ptr_mut(index) else { return Entered::Full };
    let (mut free, mut held) = (SLOTS, SLOTS);
    for slot in 0..SLOTS {
        match key(bucket, slot) {
            0 => free = slot,
            found if found == address => held = slot,
            _ => {}
        }
    }
    if held < SLOTS {
        return at(place(index, held)).map_or(Entered::Full, Entered::Held);
    }
    if !take_credit::<ROW>(state) {
        return Entered::Full;
    }
    if free < SLOTS && spilled(bucket) == 0 && claim(bucket, free, address) {
        if let Some(target) = at(place(index, free)) {
            write(target, object);
        }
        publish(bucket, free, address);
        return Entered::New;
    }
    let answer = enter_elsewhere(address, spread, object);
    if answer & NOTHING == 0 && answer & BEFORE == 0 {
        return Entered::New;
    }
    give_credit::<ROW>(state);
    if answer & NOTHING != 0 {
        return Entered::Full;
    }
    at(answer as u32).map_or(Entered::Full, Entered::Held)
}

/// The object at an address, if it is outstanding.
#[inline(always)]
pub(crate) fn find(address: u64) -> Option<*mut Object> {
    let spread = spread(address, setting!(seed));
    let index = bucket_at(spread, 0, setting!(buckets));
    let bucket = BUCKETS.get_ptr_mut(index)?;
    let mut held = SLOTS;
    for slot in 0..SLOTS {
        if key(bucket, slot) == address {
            held = slot;
        }
    }
    if held < SLOTS {
        return at(place(index, held));
    }
    if spilled(bucket) == 0 {
        return None;
    }
    let answer = find_elsewhere(address, spread);
    if answer & NOTHING == 0 { at(answer as u32) } else { None }
}

/// Removes the object at an address; says whether there was one.
///
/// Errors: none.
#[inline(always)]
pub(crate) fn remove<const ROW: u32>(address: u64, state: &mut CpuState) -> Result<bool, i32> {
    let spread = spread(address, setting!(seed));
    let Some(bucket) = BUCKETS.get_ptr_mut(bucket_at(spread, 0, setting!(buckets))) else {
        return Ok(false);
    };
    let mut removed = false;
    for slot in 0..SLOTS {
        if key(bucket, slot) == address {
            set_key(bucket, slot, 0);
            removed = true;
        }
    }
    if !removed && spilled(bucket) != 0 {
        removed = remove_elsewhere(address, spread) != 0;
    }
    if removed {
        give_credit::<ROW>(state);
    }
    Ok(removed)
}

/// Enters an object whose first bucket is full, or has been: one of its address may be in a later one.
#[inline(never)]
fn enter_elsewhere(address: u64, spread: u64, object: &Object) -> u64 {
    let found = find_elsewhere(address, spread);
    if found & NOTHING == 0 {
        return found | BEFORE;
    }
    for probe in 0..PROBES {
        let index = bucket_at(spread, probe, setting!(buckets));
        let Some(bucket) = BUCKETS.get_ptr_mut(index) else { return NOTHING };
        for slot in 0..SLOTS {
            if key(bucket, slot) != 0 || !claim(bucket, slot, address) {
                continue;
            }
            let place = place(index, slot);
            if let Some(target) = at(place) {
                write(target, object);
            }
            spill(spread, probe, 1);
            publish(bucket, slot, address);
            return u64::from(place);
        }
    }
    NOTHING
}

#[inline(never)]
fn find_elsewhere(address: u64, spread: u64) -> u64 {
    for probe in 0..PROBES {
        let index = bucket_at(spread, probe, setting!(buckets));
        let Some(bucket) = BUCKETS.get_ptr_mut(index) else { return NOTHING };
        for slot in 0..SLOTS {
            if key(bucket, slot) == address {
                return u64::from(place(index, slot));
            }
        }
        if spilled(bucket) == 0 {
            return NOTHING;
        }
    }
    NOTHING
}

#[inline(never)]
fn remove_elsewhere(address: u64, spread: u64) -> u64 {
    for probe in 1..PROBES {
        let index = bucket_at(spread, probe, setting!(buckets));
        let Some(bucket) = BUCKETS.get_ptr_mut(index) else { return 0 };
        for slot in 0..SLOTS {
            if key(bucket, slot) == address {
                set_key(bucket, slot, 0);
                // -1.
                spill(spread, probe, u32::MAX);
                return 1;
            }
        }
        if spilled(bucket) == 0 {
            return 0;
        }
    }
    0
}

/// Adds to what the buckets before the `probe`th of an address have spilled.
#[inline(always)]
fn spill(spread: u64, probe: u32, add: u32) {
    for before in 0..PROBES {
        if before >= probe {
            break;
        }
        if let Some(bucket) = BUCKETS.get_ptr_mut(bucket_at(spread, before, setting!(buckets))) {
            // SAFETY: an aligned word of a map's entry, which lives as long as the map.
            let _ = unsafe {
                atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(
                    &raw mut (*bucket).spilled,
                    add,
                )
            };
        }
    }
}

/// Leave to hold one more: taken from all CPUs' in lots, so that nothing shared is written for each object.
#[inline(always)]
fn take_credit<const ROW: u32>(state: &mut CpuState) -> bool {
    let lot = u64::from(setting!(credit_lot));
    let own = &mut state.credit[ROW as usize];
    if *own == 0 {
        // Not relaxed: LLVM 22 then makes it an addition that returns nothing, used or not.
        // SAFETY: an aligned word that lives as long as the programs.
        let left = unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(credit(), lot.wrapping_neg())
        };
        // Signed, for others may have taken it below zero for a moment.
        if (left as i64) < lot as i64 {
            give_back(lot);
            return false;
        }
        *own = lot;
    }
    *own -= 1;
    true
}

#[inline(always)]
fn give_credit<const ROW: u32>(state: &mut CpuState) {
    let lot = u64::from(setting!(credit_lot));
    let own = &mut state.credit[ROW as usize];
    *own += 1;
    if *own >= lot * 2 {
        *own -= lot;
        give_back(lot);
    }
}

#[inline(always)]
fn give_back(lot: u64) {
    // SAFETY: an aligned word that lives as long as the programs.
    let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(credit(), lot) };
}

#[inline(always)]
fn place(index: u32, slot: usize) -> u32 {
    index * SLOTS as u32 + slot as u32
}

#[inline(always)]
fn at(place: u32) -> Option<*mut Object> {
    OBJECTS.get_ptr_mut(place)
}

#[inline(always)]
fn key_of(bucket: *mut Bucket, slot: usize) -> *mut u64 {
    // SAFETY: within the entry: the index is bounded.
    unsafe { (&raw mut (*bucket).keys).cast::<u64>().add(bounded_slot(slot)) }
}

/// A slot in a way that every verifier sees is below [`SLOTS`], and that costs nothing where it is constant.
#[inline(always)]
fn bounded_slot(slot: usize) -> usize {
    if slot < SLOTS { slot } else { 0 }
}

#[inline(always)]
fn key(bucket: *mut Bucket, slot: usize) -> u64 {
    // SAFETY: an aligned word of a map's entry, which lives as long as the map.
    unsafe { read_volatile(key_of(bucket, slot)) }
}

#[inline(always)]
fn set_key(bucket: *mut Bucket, slot: usize, key: u64) {
    // SAFETY: as above.
    unsafe { write_volatile(key_of(bucket, slot), key) }
}

#[inline(always)]
fn spilled(bucket: *mut Bucket) -> u32 {
    // SAFETY: as above.
    unsafe { read_volatile(&raw const (*bucket).spilled) }
}

/// Makes a free slot ours.
#[inline(always)]
fn claim(bucket: *mut Bucket, slot: usize, address: u64) -> bool {
    let key = key_of(bucket, bounded(slot, SLOTS));
    // SAFETY: as above.
    let (_, claimed) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            key,
            0,
            address | BEING_WRITTEN,
        )
    };
    claimed
}

/// Lets readers see the object.
#[inline(always)]
fn publish(bucket: *mut Bucket, slot: usize, address: u64) {
    let key = key_of(bucket, bounded(slot, SLOTS));
    if cfg!(bpf_target_arch = "x86_64") {
        // SAFETY: as above. Stores are seen in their order there.
        unsafe { write_volatile(key, address) }
    } else {
        // SAFETY: as above. The slot is ours, and the exchange orders what was written before it.
        let _ = unsafe {
            core::intrinsics::atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(key, address)
        };
    }
}

#[inline(always)]
fn write(target: *mut Object, object: &Object) {
    // SAFETY: the slot has been claimed, so that nobody else writes there; a reader that comes too early
    // sees that by the key.
    unsafe { write_volatile(target, *object) }
}
