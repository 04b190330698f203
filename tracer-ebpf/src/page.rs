//! Blocks of pages.
//!
//! A block need not be freed as it was allocated: `split_page()`, the splitting of huge pages and
//! `__free_pages()` of a page that is still referenced free it in parts (mm/page_alloc.c), and what
//! is allocated anew in a freed part may begin where the block began. So a block is held by address
//! and order, and counts down the bytes that are left of it.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::programs::RawTracePointContext;
use kleak_common::{CpuState, ORDERS, Object, kind, page_key, role};

use crate::{
    fraction,
    ledger::{self, Allocation},
    maps::{active, has_order, set_order, setting},
    objects, path,
};

/// `mm_page_alloc`: (page, order, flags, migrate type). A failed allocation has no page.
#[inline(always)]
pub(crate) fn allocated<const ROW: u32>(ctx: &RawTracePointContext, state: &mut CpuState) {
    let page: u64 = ctx.arg(0);
    let order: u64 = ctx.arg(1);
    let migrate_type: u64 = ctx.arg(3);
    if page == 0 || order >= ORDERS as u64 || !active() {
        return;
    }
    let order = order as u32;
    let caller = path::caller(ctx, role::PAGES);
    // Before the block can be found: whoever frees a part of it looks for blocks of such orders.
    set_order(order);
    let bytes = bytes(order);
    ledger::record::<ROW>(
        ctx,
        &Allocation {
            address: page_key(page, order),
            call_site: caller.address,
            cache: 0,
            requested: bytes,
            size: bytes,
            flavour: migrate_type as u8,
            kind: kind::PAGE,
            origin: caller.origin,
        },
        state,
    );
}

/// `mm_page_free` of a block of an order that there is, before the pages can be given out again.
#[inline(always)]
pub(crate) fn freed<const ROW: u32>(page: u64, order: u64, state: &mut CpuState) {
    if order >= ORDERS as u64 {
        return;
    }
    let order = order as u32;
    let key = page_key(page, order);
    state.tally[ROW as usize].events += 1;
    if ledger::remove::<ROW>(key, state) {
        return;
    }
    let tally = &mut state.tally[ROW as usize];
    let Some((block, object)) = containing(page, order) else {
        tally.unknown_frees += fraction::stands_for(kind::PAGE);
        return;
    };
    // SAFETY: the entry is of a block that is not wholly free before this event is over, so that
    // nobody removes it meanwhile; other CPUs may free other parts, hence the atomic instruction.
    let left = unsafe {
        let left = &raw mut (*object).requested;
        // A freed part that was allocated again in bulk, which no event shows, is freed once more.
        if core::ptr::read_volatile(left) < bytes(order) {
            tally.unknown_frees += fraction::stands_for(kind::PAGE);
            return;
        }
        // Its result is not used: the instruction that returns it needs 5.12, as does
        // a subtraction.
        let _ =
            atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(left, bytes(order).wrapping_neg());
        core::ptr::read_volatile(left)
    };
    if left == 0 {
        ledger::remove::<ROW>(block, state);
    }
}

/// The smallest outstanding block that the pages are a part of. What was allocated later lies in a
/// freed part of what was allocated before, so the smallest is the one that they belong to now.
#[inline(always)]
fn containing(page: u64, order: u32) -> Option<(u64, *mut Object)> {
    let shift = setting!(struct_page_shift);
    if shift == 0 {
        return None;
    }
    for larger in 1..ORDERS as u32 {
        if larger <= order || !has_order(larger) {
            continue;
        }
        // Blocks are aligned to their size by page number, and the array of `struct page` to much
        // more than 2^15 of them.
        let head = page & !((1 << (larger + (shift & 15))) - 1);
        let key = page_key(head, larger);
        if let Some(object) = objects::find(key) {
            return Some((key, object));
        }
    }
    None
}

/// Bytes of a block.
#[inline(always)]
fn bytes(order: u32) -> u32 {
    1 << ((setting!(page_shift) + order) & 31)
}
