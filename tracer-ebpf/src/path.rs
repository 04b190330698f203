//! Who called the page or the per-CPU allocator: their events do not say, and both are reached
//! through many functions of their own and of other allocators.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_stack, programs::RawTracePointContext,
};
use kleak_common::{CallPath, origin, role};

use crate::maps::{piece_role, piece_start};

/// Frames looked at: ours and the tracing's, the allocator's, those of an allocator in between.
/// The longest path seen has 12 (`kvmalloc` on 5.10).
const FRAMES: usize = 20;

/// Who wanted memory.
pub(crate) struct Caller {
    /// Return address in it; 0 when unknown.
    pub(crate) address: u64,
    /// One of [`origin`].
    pub(crate) origin: u8,
}

/// The function that called the allocator whose functions have the role `allocator`, past other
/// allocators in between.
#[inline(always)]
pub(crate) fn caller(ctx: &RawTracePointContext, allocator: u8) -> Caller {
    let mut frames = [0_u64; FRAMES];
    // SAFETY: the context is the program's own, the buffer ours and of the length given.
    let bytes = unsafe {
        bpf_get_stack(ctx.as_ptr(), frames.as_mut_ptr().cast(), size_of_val(&frames) as u32, 0)
    };
    let mut origin = origin::UNKNOWN;
    let mut inside = false;
    for (index, &frame) in frames.iter().enumerate() {
        if frame == 0 || bytes < (index as i64 + 1) * 8 {
            break;
        }
        let role = role_of(frame);
        if !inside {
            // Before the allocator: the tracing itself.
            inside = role == allocator;
            continue;
        }
        if role == allocator {
            continue;
        }
        if origin == origin::UNKNOWN {
            origin = origin_of(role);
        }
        if role == role::OTHER {
            return Caller { address: frame, origin };
        }
    }
    Caller { address: 0, origin }
}

/// What a function of that role makes of the pages it takes.
#[inline(always)]
fn origin_of(role: u8) -> u8 {
    match role {
        role::SLAB => origin::SLAB,
        role::LARGE_KMALLOC => origin::LARGE_KMALLOC,
        role::VMALLOC => origin::VMALLOC,
        role::PERCPU => origin::PERCPU,
        _ => origin::DIRECT,
    }
}

/// Whether an address lies in kmalloc, kvmalloc or what they call.
#[inline(always)]
pub(crate) fn is_allocator(address: u64) -> bool {
    matches!(role_of(address), role::SLAB | role::LARGE_KMALLOC | role::VMALLOC)
}

#[inline(always)]
fn role_of(frame: u64) -> u8 {
    // A return address may be the first byte after a function whose last act was the call.
    piece_role(CallPath::piece(frame.wrapping_sub(1), piece_start))
}
