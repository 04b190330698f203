//! Frees that no tracepoint shows, at the entry of the kernel's functions: objects handed to RCU,
//! which frees them in batches, and bulk frees. Not every kernel lets us there: user space tries.

#[cfg(feature = "table")]
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_ktime_get_ns,
    programs::{FEntryContext, ProbeContext},
};
use kleak_common::{CpuState, Queued};

use crate::{fraction, kernel::read, ledger, maps::QUEUED, slab};

/// Largest offset of a `struct rcu_head` in its object: what the macro that frees by it checks
/// (`__is_kvfree_rcu_offset`, `include/linux/rcupdate.h`).
const LARGEST_OFFSET: u64 = 4096;

/// Objects of one bulk free that are looked at: a page of RCU's batch holds 510 (`struct
/// kvfree_rcu_bulk_data`), and skbs go by 64.
const BULK: u64 = 512;

/// The first arguments of a function, however a program got there.
pub(crate) trait Arguments {
    /// The `n`th, from 0.
    fn argument(&self, n: u32) -> u64;
}

impl Arguments for FEntryContext {
    /// Read as memory: up to 6.12 the verifier refuses a direct read of a pointer to anything but a
    /// struct (`btf_ctx_access`, kernel/bpf/btf.c).
    #[inline(always)]
    fn argument(&self, n: u32) -> u64 {
        read(self.as_ptr() as u64, n * 8).unwrap_or(0)
    }
}

impl Arguments for ProbeContext {
    #[inline(always)]
    fn argument(&self, n: u32) -> u64 {
        self.arg(n as usize).unwrap_or(0)
    }
}

/// What `kvfree_call_rcu()` was given: `(head, func)` up to 6.4, where `func` is the offset of the
/// head in the object or, without a head, the object; `(head, object)` from 6.5
/// (`kernel/rcu/tree.c`, `mm/slab_common.c`). An offset is no address, so that one rule does for both.
#[inline(always)]
pub(crate) fn object(ctx: &impl Arguments) -> u64 {
    let (head, second) = (ctx.argument(0), ctx.argument(1));
    if head != 0 && second < LARGEST_OFFSET { head.wrapping_sub(second) } else { second }
}

/// An object handed to RCU. Its address is not given out again before it is freed.
#[inline(always)]
pub(crate) fn queued<const ROW: u32>(address: u64, state: &mut CpuState) {
    state.tally[ROW as usize].rcu_frees += 1;
    let cache = slab::cache_of(address).unwrap_or(0);
    if ledger::forget::<ROW>(address, cache, state) {
        // Without an entry its free, should it show, counts as one of an older object.
        // SAFETY: a helper without arguments.
        let at_ns = unsafe { bpf_ktime_get_ns() };
        let _ = QUEUED.insert(&address, &Queued { cache, at_ns }, 0);
    }
}

/// A bulk free.
struct Batch {
    cache: u64,
    count: u64,
    /// Address of an array of the objects' addresses.
    objects: u64,
}

/// `kmem_cache_free_bulk(cache, count, objects)`. Those that came from RCU are gone from the table
/// already.
#[inline(always)]
pub(crate) fn bulk<const ROW: u32>(ctx: &impl Arguments, state: &mut CpuState) {
    let batch = Batch { cache: ctx.argument(0), count: ctx.argument(1), objects: ctx.argument(2) };
    let done = each::<ROW>(&batch, state);
    if batch.count > done {
        state.tally[ROW as usize].lost_bulk_frees += batch.count - done;
    }
}

/// Deals with one of them.
#[inline(always)]
fn one<const ROW: u32>(batch: &Batch, index: u64, state: &mut CpuState) {
    let Ok(address) = read::<u64>(batch.objects, index as u32 * 8) else {
        state.tally[ROW as usize].lost_bulk_frees += 1;
        return;
    };
    if fraction::takes_object(address) {
        ledger::forget::<ROW>(address, batch.cache, state);
    }
}

/// Deals with the first [`BULK`] of them, and says how many these are.
#[cfg(not(feature = "table"))]
#[inline(always)]
fn each<const ROW: u32>(batch: &Batch, state: &mut CpuState) -> u64 {
    for index in 0..BULK {
        if index >= batch.count {
            return index;
        }
        one::<ROW>(batch, index, state);
    }
    BULK
}

/// The same by `bpf_loop()`, which has the verifier see one turn only: so many of them, each of which looks
/// into the table, are too many for it (1,000,000 instructions on 6.12, 8,192 jumps before).
#[cfg(feature = "table")]
#[inline(always)]
fn each<const ROW: u32>(batch: &Batch, _: &mut CpuState) -> u64 {
    let turns = if batch.count < BULK { batch.count } else { BULK };
    let turn: unsafe extern "C" fn(u64, *const Batch) -> u64 = turn::<ROW>;
    // SAFETY: the batch outlives the call, and the function takes what the helper gives it.
    let done = unsafe {
        bpf_loop(turns as u32, turn as *mut _, core::ptr::from_ref(batch).cast_mut().cast(), 0)
    };
    // Negative where the helper refuses.
    if done > 0 { done as u64 } else { 0 }
}

/// What `bpf_loop()` calls: 0 to go on.
///
/// # Safety
///
/// `batch` is a [`Batch`] that lives.
#[cfg(feature = "table")]
#[inline(never)]
unsafe extern "C" fn turn<const ROW: u32>(index: u64, batch: *const Batch) -> u64 {
    let Some(state) = crate::maps::cpu() else { return 1 };
    // SAFETY: by this function's own condition.
    let batch = unsafe { &*batch };
    one::<ROW>(batch, index, state);
    0
}
