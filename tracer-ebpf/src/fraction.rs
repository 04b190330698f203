//! Which addresses are followed: all of them, or with `--budget` a fixed fraction, when all would cost too
//! much. What is counted of the fraction stands for as many times more.

use kleak_common::{in_fraction, kind, largest_block, row};

use crate::maps::{fraction_shift, setting};

/// Whether events of a program on what lies at this address are followed.
#[inline(always)]
pub(crate) fn takes<const ROW: u32>(address: u64) -> bool {
    match ROW % row::KINDS {
        // The address is of a list of objects: each is asked about.
        row::BULK_FREE => true,
        row::PAGE_ALLOC | row::PAGE_FREE => takes_page(address),
        _ => takes_object(address),
    }
}

/// Whether an object of the slab or the per-CPU allocator is followed.
#[inline(always)]
pub(crate) fn takes_object(address: u64) -> bool {
    in_fraction(address, setting!(seed), fraction_shift())
}

#[inline(always)]
fn takes_page(page: u64) -> bool {
    match largest_block(page, setting!(page_shift), setting!(struct_page_shift)) {
        Some(block) => takes_object(block),
        None => true,
    }
}

/// How many objects one of that kind stands for.
#[inline(always)]
pub(crate) fn stands_for(of: u8) -> u64 {
    if of == kind::PAGE && setting!(struct_page_shift) == 0 {
        1
    } else {
        1 << (fraction_shift() & 31)
    }
}

/// The same of what a program deals with.
#[inline(always)]
pub(crate) fn stands_for_row<const ROW: u32>() -> u64 {
    match ROW % row::KINDS {
        row::PAGE_ALLOC | row::PAGE_FREE => stands_for(kind::PAGE),
        _ => stands_for(kind::KMALLOC),
    }
}
