//! Which slab cache an object lies in, by its address: the flags of an allocation do not settle it
//! (random copies, bucket caches, merged caches), and a free says nothing of it.
//!
//! Only on x86-64, and where user space found what the arithmetic starts from.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use kleak_common::{CpuState, FOREIGN, Offsets, kind, learn, row};

use crate::{
    cache, fraction,
    kernel::read,
    maps::{OLDER, QUEUED, active, bounded, cpu, cursor, offset, set_cursor, setting},
};

/// log2 of bytes in a page.
const PAGE_SHIFT: u64 = 12;

/// Address of the `struct kmem_cache` of a slab object; what it returns for any other address has no
/// meaning, and is looked up before it is believed.
///
/// `virt_to_page()` of the direct map (`arch/x86/include/asm/page.h`, `__pa_nodebug`; `vmemmap` of
/// `pgtable_64.h`), 5.10 to 7.2, and from there to the first page of the slab.
///
/// Errors: it cannot be told on this kernel, or memory could not be read.
#[inline(always)]
pub(crate) fn cache_of(address: u64) -> Result<u64, i32> {
    let direct = setting!(page_offset);
    if direct == 0 || address < direct || offset!(slab_cache) == Offsets::UNKNOWN {
        return Err(-1);
    }
    let frame = (address - direct) >> PAGE_SHIFT;
    let page = setting!(vmemmap).wrapping_add(frame * u64::from(setting!(page_struct)));
    let head = read::<u64>(page, offset!(page_head))?;
    read(first_of(page, head), offset!(slab_cache))
}

/// First page struct of a block: a page that is not the first has an odd word that is the first one's
/// address and 1 (`compound_head`), or from 7.1 on, where the size of a page struct is a power of two,
/// a mask of the address (`compound_info`, include/linux/page-flags.h), whose upper bits are all ones,
/// as no address of a page struct's are.
#[inline(always)]
fn first_of(page: u64, head: u64) -> u64 {
    if head & 1 == 0 {
        page
    } else if head >> 40 == 0xff_ffff {
        page & head
    } else {
        head - 1
    }
}

/// Enters the next slab cache of the list at `head` (`slab_caches`, mm/slab_common.c), and says whether
/// that was the last. Nobody holds the list's lock: a cache that is made or destroyed meanwhile may be
/// missed.
#[inline(always)]
pub(crate) fn learn_next(head: u64) -> u32 {
    let Some(state) = cpu() else { return learn::FAILED };
    let at = if cursor() == 0 { head } else { cursor() };
    let Ok(next) = read::<u64>(at, 0) else { return learn::FAILED };
    if next == head {
        return learn::DONE;
    }
    let cache = next.wrapping_sub(u64::from(offset!(cache_list)));
    if cache::learn(cache, &mut state.tally[row::LIFE as usize]).is_none() {
        return learn::FAILED;
    }
    set_cursor(next);
    learn::MORE
}

/// Counts a free of an object that was not in the table, if it is of a cache that is followed: then it
/// was allocated before, or has been counted when it was handed to RCU. `cache` is 0 when the event does
/// not say. Returns whether it was counted.
#[inline(always)]
pub(crate) fn freed_older<const ROW: u32>(address: u64, cache: u64, state: &mut CpuState) -> bool {
    let each = fraction::stands_for(kind::KMALLOC);
    state.tally[ROW as usize].unknown_frees += each;
    let page = address >> PAGE_SHIFT;
    let foreign = &mut state.foreign[bounded(page as usize & (FOREIGN - 1), FOREIGN)];
    if *foreign == page || !active() {
        return false;
    }
    let cache = if cache != 0 {
        cache
    } else {
        match cache_of(address) {
            Ok(cache) => cache,
            Err(_) => return false,
        }
    };
    let Some(count) = OLDER.get_ptr_mut(&cache) else {
        *foreign = page;
        return false;
    };
    // Kleak's own allocations are left out, so that its frees are of no older objects.
    if (bpf_get_current_pid_tgid() >> 32) as u32 == setting!(self_tgid) {
        return false;
    }
    let queued = ROW % row::KINDS == row::RCU_FREE;
    if !queued && QUEUED.get_ptr(&address).is_some() {
        let _ = QUEUED.remove(&address);
        return false;
    }
    // SAFETY: this CPU's own entry. An interrupt that frees another in the midst of this may cost one;
    // an atomic addition would cost more than that count is worth.
    unsafe { *count += each }
    true
}
