//! kmalloc of any size: which class, which family.

use aya_ebpf::programs::RawTracePointContext;
use kleak_common::{CpuState, flavour, kind, size_slot};

use crate::{
    ledger::{self, Allocation},
    maps::{active, follows, setting},
};

/// One `kmalloc` event, whose arguments from `first` on are: requested, allocated, flags. The class
/// test comes first: most allocations are of other sizes.
#[inline(always)]
pub(crate) fn allocated<const ROW: u32>(
    ctx: &RawTracePointContext,
    first: usize,
    state: &mut CpuState,
) {
    let size: u64 = ctx.arg(first + 1);
    if !follows(size_slot(size)) || !active() {
        return;
    }
    let requested: u64 = ctx.arg(first);
    let gfp: u64 = ctx.arg(first + 2);
    ledger::record::<ROW>(
        ctx,
        &Allocation {
            address: ctx.arg(1),
            call_site: ctx.arg(0),
            cache: 0,
            requested: requested as u32,
            size: size as u32,
            flavour: flavour_of(gfp as u32),
            kind: kind::KMALLOC,
            origin: 0,
        },
        state,
    );
}

/// As `kmalloc_type()` decides (`include/linux/slab.h`, 5.14 to 7.2): DMA, then RECLAIMABLE, then
/// ACCOUNT. The random and bucket families leave no trace in the flags.
#[inline(always)]
fn flavour_of(gfp: u32) -> u8 {
    if gfp & setting!(gfp_dma) != 0 {
        flavour::DMA
    } else if gfp & setting!(gfp_reclaimable) != 0 {
        flavour::RECLAIMABLE
    } else if gfp & setting!(gfp_account) != 0 {
        flavour::ACCOUNT
    } else {
        flavour::NORMAL
    }
}
