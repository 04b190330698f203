//! When to take a stack, and how. Walking it is nine tenths of what following an object costs, so
//! every object is counted, and few are asked how they came to be.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_USER_STACK, bpf_map_def},
    helpers::{bpf_get_prandom_u32, generated::bpf_get_stackid},
    maps::StackTrace,
    programs::RawTracePointContext,
};
use kleak_common::{SECOND_STACKS, STACKS_PER_SLICE, SiteCounts, Tally, stacks};

use crate::maps::{STACKS, STACKS2, setting, stack_allowance};

/// No stack was taken.
pub(crate) const NONE: i32 = -1;

/// log2 of nanoseconds in a slice.
const SLICE_SHIFT: u32 = 27;
/// One in 2^16 at the least.
const MAX_SHIFT: u8 = 16;

/// How many objects the stack of the one just allocated stands for; 0 means do not take it.
///
/// The first objects of a site are all taken. Then, when a slice's allowance is used up, the rate
/// is halved; when a slice uses less than a quarter of it, it is doubled. Gaps are random, so that
/// no pattern in the workload can hide from them.
#[inline(always)]
pub(crate) fn weight(counts: &mut SiteCounts, now: u64) -> u32 {
    // `--budget` lowers it.
    let allowance = stack_allowance();
    match setting!(stacks) {
        stacks::OFF => return 0,
        _ if allowance == 0 => return 0,
        stacks::ALL if allowance >= STACKS_PER_SLICE => return 1,
        _ => {}
    }
    if counts.until_stack > 0 {
        counts.until_stack -= 1;
        return 0;
    }
    let slice = (now >> SLICE_SHIFT) as u16;
    if counts.slice != slice {
        if u32::from(counts.taken) < allowance / 4 && counts.shift > 0 {
            counts.shift -= 1;
        }
        counts.slice = slice;
        counts.taken = 0;
    }
    let shift = counts.shift & 31;
    counts.taken += 1;
    if u32::from(counts.taken) >= allowance {
        counts.taken = 0;
        if counts.shift < MAX_SHIFT {
            counts.shift += 1;
        }
    }
    let next = counts.shift & 31;
    if next > 0 {
        // SAFETY: a helper without arguments.
        let random = unsafe { bpf_get_prandom_u32() };
        // Uniform from 0 to 2^(next+1) - 1: a mean gap of 2^next.
        counts.until_stack = random & ((2 << next) - 1);
    }
    1 << shift
}

/// Takes the kernel stack.
#[inline(always)]
pub(crate) fn kernel(ctx: &RawTracePointContext, tally: &mut Tally) -> i32 {
    let id = take(ctx, 0);
    if id < 0 {
        tally.lost_kernel_stacks += 1;
    }
    id
}

/// Takes the user stack. A kernel thread has none, which is no loss.
#[inline(always)]
pub(crate) fn user(ctx: &RawTracePointContext, tally: &mut Tally) -> i32 {
    let id = take(ctx, BPF_F_USER_STACK);
    if id < 0 {
        tally.lost_user_stacks += 1;
    }
    id
}

/// A stack map has one slot a hash and refuses (-EEXIST) a stack whose slot holds another. Skipping
/// one frame (ours, or for user stacks the leaf) gives the second map a hash of its own, so that
/// both slots being taken is as rare as the square of one.
#[inline(always)]
fn take(ctx: &RawTracePointContext, flags: u32) -> i32 {
    let id = stackid(ctx, &STACKS, flags);
    if id >= 0 {
        return id;
    }
    // A user stack loses its leaf when a frame is skipped, which would be untrue.
    if id != crate::ledger::EEXIST || flags != 0 {
        return NONE;
    }
    let id = stackid(ctx, &STACKS2, flags | 1);
    if id >= 0 { id | SECOND_STACKS } else { NONE }
}

#[inline(always)]
fn stackid(ctx: &RawTracePointContext, map: &'static StackTrace, flags: u32) -> i32 {
    // SAFETY: the context is the program's own, and the map is a stack map.
    unsafe {
        bpf_get_stackid(
            ctx.as_ptr(),
            core::ptr::from_ref(map).cast::<bpf_map_def>().cast_mut().cast(),
            u64::from(flags),
        ) as i32
    }
}
