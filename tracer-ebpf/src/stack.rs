//! When to take a stack, and how. Walking it is nine tenths of what following an object costs, so
//! every object is counted, and few are asked how they came to be.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_USER_STACK, BPF_NOEXIST},
    helpers::{
        bpf_get_prandom_u32,
        generated::{bpf_get_stack, bpf_ktime_get_ns},
    },
    maps::HashMap,
    programs::RawTracePointContext,
};
use kleak_common::{
    LONG_STACK, LongStack, SHORT_FRAMES, STACK_EVENTS, STACK_PROBES, STACKS_PER_SLICE, ShortStack,
    SiteCounts, Stack, Tally, row, stack_hash, stack_id, stacks,
};

use crate::maps::{GROWING, LONG_STACKS, STACKS, WALKED, setting, stack_allowance};

/// No stack was taken.
pub(crate) const NONE: i32 = -1;

/// log2 of nanoseconds in a slice of time, 17 ms: 7,600 stacks a second, under a percent of a CPU, for a site
/// that does nothing but allocate; most never come near it.
const SLICE_SHIFT: u32 = 24;
/// The same for a site whose objects become more, 2 ms: 61,000 stacks a second.
///
/// So many, because the shares of a leak's paths are known only from those of its objects whose stacks
/// were taken, and of a site that frees 99 of 100 objects these are one in a hundred of what was paid
/// for: with one stack in 8 objects, 2,500 of a leak of 20,000, which gives a share of 70 % a standard
/// error of 0.9 points.
const GROWING_SLICE_SHIFT: u32 = 21;
/// One in 2^16 at the least.
const MAX_SHIFT: u8 = 16;

/// How many objects the stack of the one just allocated stands for; 0 means do not take it.
///
/// The first objects of a site are all taken. Then, when a slice's allowance is used up, the rate
/// is halved; when a slice uses less than a quarter of it, it is doubled. Gaps are random, so that
/// no pattern in the workload can hide from them.
#[inline(always)]
pub(crate) fn weight(counts: &mut SiteCounts, site: u64) -> u32 {
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
    // The gap that ends here was drawn at this rate.
    let shift = counts.shift & 31;
    let growing = GROWING.get_ptr(&site).is_some();
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let slice = (now >> if growing { GROWING_SLICE_SHIFT } else { SLICE_SHIFT }) as u16;
    if counts.slice != slice {
        if u32::from(counts.taken) < allowance / 4 && counts.shift > 0 {
            counts.shift -= 1;
        }
        counts.slice = slice;
        counts.taken = 0;
    }
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

/// Takes the kernel stack, without our own frame: the programs of a chain shall find the same.
#[inline(always)]
pub(crate) fn kernel<const ROW: u32>(ctx: &RawTracePointContext, tally: &mut Tally) -> i32 {
    let id = take::<ROW>(ctx, 1);
    if id < 0 {
        tally.lost_kernel_stacks += 1;
    }
    id
}

/// Takes the user stack. A kernel thread has none, which is no loss.
#[inline(always)]
pub(crate) fn user<const ROW: u32>(ctx: &RawTracePointContext, tally: &mut Tally) -> i32 {
    let id = take::<ROW>(ctx, BPF_F_USER_STACK);
    if id < 0 {
        tally.lost_user_stacks += 1;
    }
    id
}

/// Walks a stack, and finds or enters it in the map for its length.
#[inline(always)]
fn take<const ROW: u32>(ctx: &RawTracePointContext, flags: u32) -> i32 {
    let Some(walked) = WALKED.get_ptr_mut(const { place::<ROW>() }) else { return NONE };
    // SAFETY: the entry lives as long as the map, is this CPU's and this program's own, and a program
    // never runs twice at once on a CPU.
    let walked: &mut LongStack = unsafe { &mut *walked };
    // SAFETY: the context is the program's own, the buffer of the length given. What the stack leaves
    // of it is zeroed (`__bpf_get_stack()`, kernel/bpf/stackmap.c, 5.10 to 7.2).
    let bytes = unsafe {
        bpf_get_stack(
            ctx.as_ptr(),
            walked.frames.as_mut_ptr().cast(),
            size_of_val(&walked.frames) as u32,
            u64::from(flags),
        )
    };
    if bytes <= 0 {
        return NONE;
    }
    walked.hash = stack_hash(setting!(seed), &walked.frames);
    if bytes <= (SHORT_FRAMES * size_of::<u64>()) as i64 {
        let short = core::ptr::from_ref::<LongStack>(walked).cast::<ShortStack>();
        // SAFETY: a short stack is laid out as the beginning of a long one.
        held(&STACKS, unsafe { &*short })
    } else {
        match held(&LONG_STACKS, walked) {
            NONE => NONE,
            id => id | LONG_STACK,
        }
    }
}

/// The id under which a map holds a stack, which is entered if it is new. None is ever removed, so that
/// an id stands for the same stack as long as the programs run.
#[inline(always)]
fn held<const FRAMES: usize>(map: &HashMap<u32, Stack<FRAMES>>, stack: &Stack<FRAMES>) -> i32 {
    for probe in 0..STACK_PROBES {
        let id = stack_id(stack.hash, probe);
        // Twice: another CPU may enter a stack under this id between the look-up and the insertion.
        for _ in 0..2 {
            match map.get_ptr(&id) {
                // SAFETY: entries are complete before they can be found, and stay.
                Some(there) if unsafe { (*there).hash } == stack.hash => return id as i32,
                Some(_) => break,
                None => {}
            }
            match map.insert(&id, stack, u64::from(BPF_NOEXIST)) {
                Ok(()) => return id as i32,
                Err(crate::ledger::EEXIST) => {}
                Err(_) => return NONE,
            }
        }
    }
    NONE
}

/// Which of the buffers is a program's.
const fn place<const ROW: u32>() -> u32 {
    let kind = match ROW % row::KINDS {
        row::KMALLOC => 0,
        row::CACHE_ALLOC => 1,
        row::PAGE_ALLOC => 2,
        row::PERCPU_ALLOC => 3,
        _ => panic!("no stacks are taken of these events"),
    };
    ROW / row::KINDS * STACK_EVENTS + kind
}
