//! Per-CPU memory.
//!
//! An object is held by the address of its first CPU's copy, chunk and offset, which no other
//! object has: per-CPU pointers are offsets that may look like anything.

use aya_ebpf::programs::RawTracePointContext;
use kleak_common::{CpuState, kind, role};

use crate::{
    fraction,
    ledger::{self, Allocation},
    maps::{active, setting},
    path,
};

/// One `percpu_alloc_percpu` event, whose arguments from `first` on are: bytes a CPU, alignment,
/// address of the chunk, offset. `call_site` is what the event says of it, 0 where it says nothing.
///
/// What counts is the size times the possible CPUs, which is what `Percpu` of /proc/meminfo is made
/// of. The `bytes_alloc` of the event (from 5.19) is more: it has the memory controller's own notes
/// in it (`pcpu_obj_full_size()`, mm/percpu-internal.h).
#[inline(always)]
pub(crate) fn allocated<const ROW: u32>(
    ctx: &RawTracePointContext,
    first: usize,
    call_site: u64,
    state: &mut CpuState,
) {
    if !active() {
        return;
    }
    let size: u64 = ctx.arg(first);
    let chunk: u64 = ctx.arg(first + 2);
    let offset: u64 = ctx.arg(first + 3);
    let bytes = (size as u32).wrapping_mul(setting!(possible_cpus));
    let caller = path::caller(ctx, role::PERCPU);
    ledger::record::<ROW>(
        ctx,
        &Allocation {
            address: address(chunk, offset),
            call_site: if caller.address == 0 { call_site } else { caller.address },
            cache: 0,
            requested: bytes,
            size: bytes,
            flavour: 0,
            kind: kind::PERCPU,
            origin: 0,
        },
        state,
    );
}

/// One `percpu_free_percpu` event.
#[inline(always)]
pub(crate) fn freed<const ROW: u32>(address: u64, state: &mut CpuState) {
    state.tally[ROW as usize].events += 1;
    if !ledger::remove::<ROW>(address, state) {
        state.tally[ROW as usize].unknown_frees += fraction::stands_for(kind::PERCPU);
    }
}

/// Address of the first CPU's copy; the event's offset is an `int`.
#[inline(always)]
pub(crate) fn address(chunk: u64, offset: u64) -> u64 {
    chunk.wrapping_add(offset & 0xffff_ffff)
}
