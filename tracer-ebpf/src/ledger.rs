//! The only code that touches the outstanding objects.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    programs::RawTracePointContext,
};
use kleak_common::{
    CpuState, DeferredFree, LARGEST_CACHED, OFFERS, Object, Offer, Site, SiteCounts, Tally,
    context, kind, lies_in, offer_slot, row,
};

use crate::{
    cache, fraction,
    maps::{COUNTS, DEFERRED, SITES, bounded, chained, cpu, misaligned, set_misaligned, setting},
    objects::{self, Entered},
    owner, path, process, slab, stack,
};

/// `-EEXIST`: the key is there already.
pub(crate) const EEXIST: i32 = -17;
/// `ZERO_SIZE_PTR` (`include/linux/slab.h`): what `kmalloc(0)` returns. NULL is below it.
const ZERO_SIZE_PTR: u64 = 16;

/// What a tracepoint said of an allocation.
pub(crate) struct Allocation {
    pub(crate) address: u64,
    pub(crate) call_site: u64,
    pub(crate) cache: u64,
    pub(crate) requested: u32,
    pub(crate) size: u32,
    pub(crate) flavour: u8,
    pub(crate) kind: u8,
    pub(crate) origin: u8,
}

/// Offers an event on an object to one of a chain of programs. A later one leaves it alone when one
/// before has had it, and counts it as rescued when all before were skipped. What the kernel counts as
/// skipped by the first, less those, is lost: it came while all ran.
#[inline(always)]
pub(crate) fn offer<const ROW: u32>(
    ctx: &impl EbpfContext,
    address: u64,
    act: impl FnOnce(&mut CpuState),
) {
    // First of all: of what is not followed this is all that it costs.
    if !fraction::takes::<ROW>(address) {
        return;
    }
    let Some(state) = cpu() else { return };
    let place = ROW / row::KINDS;
    if place == 0 && !chained(ROW % row::KINDS) {
        act(state);
        return;
    }
    let arguments = owner::note_stack(ctx, state, ROW as usize);
    let slot = offer_slot(arguments, state.softirq, state.hardirq);
    let slot = (ROW % row::KINDS) as usize * OFFERS + slot;
    let offered = &mut state.offered[bounded(slot, OFFERS * row::KINDS as usize)];
    let same = offered.arguments == arguments && offered.address == address;
    if place > 0 && same && offered.seen >> place == 0 {
        offered.seen |= 1 << place;
        if place > 1 || !left_behind::<ROW>(address, state) {
            return;
        }
    } else {
        *offered = Offer { arguments, address, seen: 1 << place };
    }
    if place > 0 {
        state.tally[ROW as usize].rescued += fraction::stands_for_row::<ROW>();
    }
    act(state);
}

/// Whether the first program, which seems to have dealt with a free, has not. Interrupts free objects in
/// batches, all with their arguments at one place; an offer for which the second was skipped stays, and
/// the same address freed there again, while the first is skipped, looks dealt with. Only in interrupts:
/// nothing else finds a program running, before 7.0. (6 of 6.6 million objects of a storm were left so.)
#[inline(always)]
fn left_behind<const ROW: u32>(address: u64, state: &CpuState) -> bool {
    let kind = ROW % row::KINDS;
    let frees = kind == row::KFREE || kind == row::CACHE_FREE || kind == row::RCU_FREE;
    frees
        && (state.softirq != 0 || state.hardirq != 0)
        && (address & setting!(free_mask) == 0 || misaligned())
        && objects::find(address).is_some()
}

/// Enters an object. A failed allocation, which the kernel reports too, is none.
#[inline(always)]
pub(crate) fn record<const ROW: u32>(
    ctx: &RawTracePointContext,
    allocation: &Allocation,
    state: &mut CpuState,
) {
    let address = allocation.address;
    if address <= ZERO_SIZE_PTR {
        return;
    }
    // What comes between this event's offers could make a later program take it for new. An address
    // cannot be given out twice, so that what is there has been entered.
    if ROW >= row::KINDS && objects::find(address).is_some() {
        return;
    }
    let Some(owner) = owner::current::<ROW>(ctx, state) else { return };
    state.tally[ROW as usize].events += 1;
    if allocation.kind <= kind::CACHE && address & setting!(free_mask) != 0 {
        set_misaligned();
    }
    let site = Site {
        start_ns: owner.start_ns,
        cgroup: owner.cgroup,
        call_site: allocation.call_site,
        cache: allocation.cache,
        tgid: owner.tgid,
        size: allocation.size,
        context: owner.context,
        flavour: allocation.flavour,
        family: owner.family,
        kind: allocation.kind,
        origin: allocation.origin,
        _pad: [0; 3],
        slab: 0,
    };
    let key = site.key(setting!(seed));
    let born_ns = now(state);
    let tally = &mut state.tally[ROW as usize];
    let mut object = Object {
        site: key,
        born_ns,
        kernel_stack: stack::NONE,
        user_stack: stack::NONE,
        requested: allocation.requested,
        weight: 0,
    };
    let each = fraction::stands_for(allocation.kind);
    let mut counts = counts(key, &site, address, tally);
    match &mut counts {
        Some(counts) => {
            count(&mut counts.allocated, each);
            object.weight = stack::weight(counts, key);
            if object.weight != 0 {
                object.kernel_stack = stack::kernel::<ROW>(ctx, tally);
                if object.kernel_stack < 0 {
                    object.weight = 0;
                }
                if setting!(user_stacks) != 0 && site.context == context::TASK {
                    object.user_stack = stack::user::<ROW>(ctx, tally);
                }
            }
        }
        // Outstanding all the same, with an unknown owner.
        None => {
            object.site = 0;
            tally.lost_sites += 1;
        }
    }
    if !insert::<ROW>(address, &object, &site, each, state)
        && let Some(counts) = counts
    {
        count(&mut counts.untracked, each);
    }
}

/// The time of an object's birth, to a tick of the kernel's (10 ms at most): reading the clock takes longer
/// than the table does, and the count of ticks is a word in memory (`bpf_jiffies64`, from 5.6 on).
#[inline(always)]
fn now(state: &mut CpuState) -> u64 {
    // SAFETY: a helper without arguments.
    let tick = unsafe { bpf_jiffies64() };
    if state.tick != tick {
        // The time first: whoever interrupts this finds one that is a tick old at most.
        // SAFETY: a helper without arguments.
        state.tick_ns = unsafe { bpf_ktime_get_ns() };
        state.tick = tick;
    }
    state.tick_ns
}

/// Adds to a count of this CPU's. Where a task may be preempted in the midst of that, one of another
/// thread of its process may add to the same.
#[inline(always)]
fn count(counter: &mut u64, more: u64) {
    if setting!(preemptible) == 0 {
        *counter += more;
    } else {
        // SAFETY: an aligned word of this CPU's.
        let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, more) };
    }
}

/// Whether the object is in the table now.
#[inline(always)]
fn insert<const ROW: u32>(
    address: u64,
    object: &Object,
    site: &Site,
    each: u64,
    state: &mut CpuState,
) -> bool {
    let entered = objects::enter::<ROW>(address, object, state);
    let tally = &mut state.tally[ROW as usize];
    match entered {
        Entered::New => return true,
        // The address cannot be given out twice: we missed its free.
        Entered::Held(held) => {
            // SAFETY: the entry is not removed meanwhile, as the address is ours until this event is
            // over; it is of a map, whose entries live as long as it does.
            let first = unsafe { *held };
            if !reported_again(&first, object, site, each) {
                tally.implied_frees += each;
                reused(&first, each);
            }
            // SAFETY: as above.
            unsafe { *held = *object };
            return true;
        }
        Entered::Full => tally.untracked += each,
        Entered::Busy => tally.failed_inserts += 1,
    }
    false
}

/// Whether this is a second event for one and the same large kmalloc, whose first was of a call from
/// within kmalloc: `__do_kmalloc_node()` reports what `__kmalloc_large_node()` has reported before
/// (mm/slub.c, seen on 6.18). The first is taken back: the second knows who called.
#[inline(always)]
fn reported_again(first: &Object, object: &Object, site: &Site, each: u64) -> bool {
    if site.kind != kind::KMALLOC || u64::from(site.size) <= LARGEST_CACHED {
        return false;
    }
    // SAFETY: a copy; user space removes no site that holds something.
    let Some(inner) = (unsafe { SITES.get(&first.site) }).copied() else { return false };
    let same = first.requested == object.requested
        && (inner.size, inner.tgid, inner.kind) == (site.size, site.tgid, site.kind);
    if !same || !path::is_allocator(inner.call_site) || path::is_allocator(site.call_site) {
        return false;
    }
    if let Some(counts) = COUNTS.get_ptr_mut(&first.site) {
        // SAFETY: this CPU's own entry. On another CPU than the first's it wraps, and the sum over
        // the CPUs is right all the same.
        unsafe { (*counts).allocated = (*counts).allocated.wrapping_sub(each) }
    }
    true
}

/// Notes with the site of an object that it has been freed unseen: what happened
/// to one will happen to others of that site, whose addresses have not come up again yet.
#[inline(always)]
fn reused(object: &Object, each: u64) {
    if let Some(counts) = COUNTS.get_ptr_mut(&object.site) {
        // SAFETY: this CPU's own entry. That site may belong to a context that interrupts this one:
        // then one may be lost, of a count that is evidence and no sum.
        unsafe { (*counts).reused += each }
    }
}

/// This CPU's counts of the site, which is introduced if it is new; `None` when there is no room.
#[inline(always)]
fn counts(
    key: u64,
    site: &Site,
    address: u64,
    tally: &mut Tally,
) -> Option<&'static mut SiteCounts> {
    let found = match COUNTS.get_ptr_mut(&key) {
        Some(found) => found,
        None => {
            introduce(key, site, address, tally);
            COUNTS.get_ptr_mut(&key)?
        }
    };
    // SAFETY: the entry is this CPU's, and no other context that can interrupt this one has the
    // same site: tasks, softirqs and hardirqs differ in `context`. Another thread that preempts this
    // one may; `count()` allows for it, and stacks may then be taken a little too often.
    Some(unsafe { &mut *found })
}

/// Enters a site met for the first time, the slab cache that its first object lies in, and the name of
/// its process.
#[inline(always)]
fn introduce(key: u64, site: &Site, address: u64, tally: &mut Tally) {
    let slab = if site.cache != 0 || site.kind > kind::CACHE {
        site.cache
    } else {
        // Above the largest cache are whole pages.
        let cached = u64::from(site.size) <= LARGEST_CACHED;
        let found = if cached { slab::cache_of(address).unwrap_or(0) } else { 0 };
        if found != 0 && cache::learn(found, tally).is_none() { 0 } else { found }
    };
    let site = &Site { slab, ..*site };
    // The site first: a reader that finds counts finds what they are of.
    match SITES.insert(&key, site, u64::from(BPF_NOEXIST)) {
        Ok(()) | Err(EEXIST) => {}
        Err(_) => return,
    }
    // On failure the look-up that follows finds nothing, and counts the loss.
    let _ = COUNTS.insert(&key, &SiteCounts::default(), u64::from(BPF_NOEXIST));
    if site.context == context::TASK || site.context == context::KTHREAD {
        process::remember(site.start_ns, site.tgid, tally);
    }
}

/// Removes an object, if it is one of ours, and tells whether it is of a cache that is followed. `cache` is
/// its slab cache where the event says, 0 elsewhere.
#[inline(always)]
pub(crate) fn forget<const ROW: u32>(address: u64, cache: u64, state: &mut CpuState) -> bool {
    // `kfree(NULL)` fires the tracepoint, often.
    if address <= ZERO_SIZE_PTR {
        return false;
    }
    // An address that the alignment of the followed classes rules out is not ours.
    if address & setting!(free_mask) != 0 && !misaligned() {
        return false;
    }
    state.tally[ROW as usize].events += 1;
    if remove::<ROW>(address, state) {
        return true;
    }
    // A later program may have been parted from a first that has counted it: older objects are
    // then better counted a few too few (those that the first was skipped for) than twice.
    if ROW >= row::KINDS {
        return false;
    }
    slab::freed_older::<ROW>(address, cache, state)
}

/// Removes an object, and says whether it was held.
#[inline(always)]
pub(crate) fn remove<const ROW: u32>(key: u64, state: &mut CpuState) -> bool {
    match objects::remove::<ROW>(key, state) {
        Ok(held) => held,
        Err(_) => {
            let tally = &mut state.tally[ROW as usize];
            tally.failed_deletes += 1;
            // SAFETY: a helper without arguments.
            let at_ns = unsafe { bpf_ktime_get_ns() };
            if DEFERRED.push(&DeferredFree { address: key, at_ns }, 0).is_err() {
                tally.lost_deletes += 1;
            }
            true
        }
    }
}

/// Takes an object out whose page is of its slab cache no more; one of [`lies_in`].
#[inline(always)]
pub(crate) fn revalidate(address: u64, cache: u64, site: u64, born_ns: u64) -> u32 {
    let (Some(state), Some(object)) = (cpu(), objects::find(address)) else {
        return lies_in::UNKNOWN;
    };
    // SAFETY: a copy of an entry of a map, which lives as long as that does.
    let object = unsafe { *object };
    if object.site != site || object.born_ns != born_ns {
        return lies_in::UNKNOWN;
    }
    match slab::cache_of(address) {
        Ok(found) if found == cache => lies_in::YES,
        Ok(_) if remove::<{ row::LIFE }>(address, state) => lies_in::NO,
        _ => lies_in::UNKNOWN,
    }
}

const _: () = assert!(row::COUNT as usize == kleak_common::ROWS);
