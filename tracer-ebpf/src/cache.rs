//! Named slab caches.

use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::bpf_probe_read_kernel_str_bytes, programs::RawTracePointContext,
};
use kleak_common::{CACHE_NAME_LEN, Cache, CpuState, Tally, cache_state, flavour, kind};

use crate::{
    kernel::read,
    ledger::{self, Allocation},
    maps::{CACHES, OLDER, active, offset},
    slab,
};

/// One `kmem_cache_alloc` event of a kernel that names the cache in it (from 6.0).
#[inline(always)]
pub(crate) fn allocated<const ROW: u32>(ctx: &RawTracePointContext, state: &mut CpuState) {
    if active() {
        allocated_from::<ROW>(ctx, ctx.arg(2), state);
    }
}

/// One of a kernel that does not: the cache is found by the object's address.
#[inline(always)]
pub(crate) fn allocated_somewhere<const ROW: u32>(
    ctx: &RawTracePointContext,
    state: &mut CpuState,
) {
    let address: u64 = ctx.arg(1);
    // A failed allocation is reported too.
    if !active() || address == 0 {
        return;
    }
    match slab::cache_of(address) {
        Ok(cache) if cache != 0 => allocated_from::<ROW>(ctx, cache, state),
        _ => state.tally[ROW as usize].failed_reads += 1,
    }
}

#[inline(always)]
fn allocated_from<const ROW: u32>(ctx: &RawTracePointContext, cache: u64, state: &mut CpuState) {
    // SAFETY: user space changes only `state`, and entries are never removed.
    let known = unsafe { CACHES.get(&cache) };
    let (size, object_size) = match known {
        Some(known) if known.state == cache_state::REJECTED => return,
        Some(known) => (known.size, known.object_size),
        None => match learn(cache, &mut state.tally[ROW as usize]) {
            Some(sizes) => sizes,
            None => return,
        },
    };
    ledger::record::<ROW>(
        ctx,
        &Allocation {
            address: ctx.arg(1),
            call_site: ctx.arg(0),
            cache,
            requested: object_size,
            size,
            flavour: flavour::NORMAL,
            kind: kind::CACHE,
            origin: 0,
        },
        state,
    );
}

/// Enters a cache met for the first time. Until user space has decided whether it is wanted, its
/// objects are followed, so that none is lost.
#[inline(never)]
pub(crate) fn learn(cache: u64, tally: &mut Tally) -> Option<(u32, u32)> {
    let (Ok(size), Ok(object_size), Ok(name)) = (
        read::<u32>(cache, offset!(cache_size)),
        read::<u32>(cache, offset!(cache_object_size)),
        read::<u64>(cache, offset!(cache_name)),
    ) else {
        tally.failed_reads += 1;
        return None;
    };
    let mut entry = Cache {
        size,
        object_size,
        state: cache_state::UNDECIDED,
        _pad: 0,
        name: [0; CACHE_NAME_LEN],
    };
    // SAFETY: the helper checks the address; the buffer is ours.
    if unsafe { bpf_probe_read_kernel_str_bytes(name as *const u8, &mut entry.name) }.is_err() {
        tally.failed_reads += 1;
        return None;
    }
    match CACHES.insert(&cache, &entry, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        // Another CPU met it at the same moment.
        Err(errno) if errno == crate::ledger::EEXIST => {}
        Err(_) => {
            tally.lost_caches += 1;
            return None;
        }
    }
    // From here on frees of its older objects are counted.
    let _ = OLDER.insert(&cache, &0, u64::from(BPF_NOEXIST));
    Some((size, object_size))
}
