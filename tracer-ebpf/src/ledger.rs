//! The only code that touches the outstanding objects.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_ns,
    programs::RawTracePointContext,
};
use kleak_common::{
    CpuState, DeferredFree, LARGEST_CACHED, OFFERS, Object, Offer, Site, SiteCounts, Tally,
    context, kind, offer_slot, row,
};

use crate::{
    cache, fraction,
    maps::{COUNTS, DEFERRED, OBJECTS, SITES, bounded, cpu, misaligned, set_misaligned, setting},
    owner, path, process, slab, stack,
};

/// `-EEXIST`: the key is there already.
pub(crate) const EEXIST: i32 = -17;
/// `-E2BIG`: the map is full.
const E2BIG: i32 = -7;
/// `-ENOENT`: the key is not there.
const ENOENT: i32 = -2;
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
        && OBJECTS.get_ptr(&address).is_some()
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
    if ROW >= row::KINDS && OBJECTS.get_ptr(&address).is_some() {
        return;
    }
    let Some(owner) = owner::current::<ROW>(ctx, state) else { return };
    let tally = &mut state.tally[ROW as usize];
    tally.events += 1;
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
    // SAFETY: a helper without arguments.
    let born_ns = unsafe { bpf_ktime_get_ns() };
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
            object.weight = stack::weight(counts, born_ns);
            if object.weight != 0 {
                object.kernel_stack = stack::kernel(ctx, tally);
                if object.kernel_stack < 0 {
                    object.weight = 0;
                }
                if setting!(user_stacks) != 0 && site.context == context::TASK {
                    object.user_stack = stack::user(ctx, tally);
                }
            }
        }
        // Outstanding all the same, with an unknown owner.
        None => {
            object.site = 0;
            tally.lost_sites += 1;
        }
    }
    if !insert(address, &object, &site, each, tally)
        && let Some(counts) = counts
    {
        count(&mut counts.untracked, each);
    }
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

/// Whether the object is in the map now.
#[inline(always)]
fn insert(address: u64, object: &Object, site: &Site, each: u64, tally: &mut Tally) -> bool {
    match OBJECTS.insert(&address, object, u64::from(BPF_NOEXIST)) {
        Ok(()) => return true,
        // The address cannot be given out twice: we missed its free.
        Err(EEXIST) => {
            if !reported_again(address, object, site, each) {
                tally.implied_frees += each;
                reused(address, each);
            }
            if OBJECTS.insert(&address, object, u64::from(BPF_ANY)).is_ok() {
                return true;
            }
            tally.failed_inserts += 1;
        }
        Err(E2BIG) => tally.untracked += each,
        Err(_) => tally.failed_inserts += 1,
    }
    false
}

/// Whether this is a second event for one and the same large kmalloc, whose first was of a call from
/// within kmalloc: `__do_kmalloc_node()` reports what `__kmalloc_large_node()` has reported before
/// (mm/slub.c, seen on 6.18). The first is taken back: the second knows who called.
#[inline(always)]
fn reported_again(address: u64, object: &Object, site: &Site, each: u64) -> bool {
    if site.kind != kind::KMALLOC || u64::from(site.size) <= LARGEST_CACHED {
        return false;
    }
    // SAFETY: copies; neither entry is removed meanwhile, as the address is ours until this event is
    // over, and user space removes no site that holds something.
    let Some(first) = (unsafe { OBJECTS.get(&address) }).copied() else { return false };
    // SAFETY: as above.
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

/// Notes with the site of the object held at an address that it has been freed unseen: what happened
/// to one will happen to others of that site, whose addresses have not come up again yet.
#[inline(always)]
fn reused(address: u64, each: u64) {
    // SAFETY: a copy; the entry is not removed meanwhile, as the address is ours until this event is
    // over.
    let Some(object) = (unsafe { OBJECTS.get(&address) }).copied() else { return };
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
    let tally = &mut state.tally[ROW as usize];
    tally.events += 1;
    // Most frees are of somebody else's objects. A look-up takes no lock, a removal takes the
    // bucket's even when there is nothing to remove.
    if OBJECTS.get_ptr(&address).is_none() {
        // A later program may have been parted from a first that has counted it: older objects are
        // then better counted a few too few (those that the first was skipped for) than twice.
        if ROW >= row::KINDS {
            return false;
        }
        let queued = ROW % row::KINDS == row::RCU_FREE;
        return slab::freed_older(address, cache, queued, tally);
    }
    remove(address, tally);
    true
}

/// Removes an object that is held, or has just been removed: an interrupted pair of programs may see
/// a free twice.
#[inline(always)]
pub(crate) fn remove(key: u64, tally: &mut Tally) {
    match OBJECTS.remove(&key) {
        Ok(()) | Err(ENOENT) => {}
        Err(_) => {
            tally.failed_deletes += 1;
            // SAFETY: a helper without arguments.
            let at_ns = unsafe { bpf_ktime_get_ns() };
            if DEFERRED.push(&DeferredFree { address: key, at_ns }, 0).is_err() {
                tally.lost_deletes += 1;
            }
        }
    }
}

const _: () = assert!(row::COUNT as usize == kleak_common::ROWS);
