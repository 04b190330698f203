//! kleak's BPF programs: raw tracepoints, a line or two each.
//!
//! Raw tracepoints and not perf ones: the latter skip every event that arrives while any BPF
//! program or map system call runs on that CPU, so that reading our own maps would lose frees.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(
    internal_features,
    reason = "an atomic instruction that 5.10 has, and that `core` offers no other way to"
)]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a key or value handed over whole is copied once more, on a stack of 512 bytes"
)]

mod cache;
mod cgroup;
mod kernel;
mod kmalloc;
mod ledger;
mod maps;
mod owner;
mod page;
mod path;
mod percpu;
mod process;
mod rcu;
mod slab;
mod stack;

use aya_ebpf::{
    macros::{fentry, kprobe, raw_tracepoint},
    programs::{FEntryContext, ProbeContext, RawTracePointContext},
};
use kleak_common::{cgroup_event, lies_in, row};

use crate::rcu::Arguments as _;

// Each allocation and free is offered to two programs, because the kernel skips an event that
// arrives, in an interrupt, while the same program runs on that CPU: see `ledger::offer`.

/// `kmalloc` and `kmalloc_node`: (call site, address, requested, allocated, flags, ...).
/// First of its pair.
#[raw_tracepoint]
pub fn kmalloc(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::KMALLOC }>(&ctx, ctx.arg(1), |state| {
        kmalloc::allocated::<{ row::KMALLOC }>(&ctx, 2, state)
    });
    0
}

/// `kmalloc` and `kmalloc_node`: (call site, address, requested, allocated, flags, ...).
/// Second of its pair.
#[raw_tracepoint]
pub fn kmalloc_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::KMALLOC + row::SECOND }>(&ctx, ctx.arg(1), |state| {
        kmalloc::allocated::<{ row::KMALLOC + row::SECOND }>(&ctx, 2, state)
    });
    0
}

/// `kmalloc` as 6.0 had it: (call site, address, cache, requested, allocated, flags, ...).
/// First of its pair.
#[raw_tracepoint]
pub fn kmalloc_with_cache(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::KMALLOC }>(&ctx, ctx.arg(1), |state| {
        kmalloc::allocated::<{ row::KMALLOC }>(&ctx, 3, state)
    });
    0
}

/// `kmalloc` as 6.0 had it: (call site, address, cache, requested, allocated, flags, ...).
/// Second of its pair.
#[raw_tracepoint]
pub fn kmalloc_with_cache_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::KMALLOC + row::SECOND }>(&ctx, ctx.arg(1), |state| {
        kmalloc::allocated::<{ row::KMALLOC + row::SECOND }>(&ctx, 3, state)
    });
    0
}

/// `kmem_cache_alloc` and its `_node` twin from 6.0: (call site, address, cache, ...).
/// First of its pair.
#[raw_tracepoint]
pub fn kmem_cache_alloc(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::CACHE_ALLOC }>(&ctx, ctx.arg(1), |state| {
        cache::allocated::<{ row::CACHE_ALLOC }>(&ctx, state)
    });
    0
}

/// `kmem_cache_alloc` and its `_node` twin from 6.0: (call site, address, cache, ...).
/// Second of its pair.
#[raw_tracepoint]
pub fn kmem_cache_alloc_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::CACHE_ALLOC + row::SECOND }>(&ctx, ctx.arg(1), |state| {
        cache::allocated::<{ row::CACHE_ALLOC + row::SECOND }>(&ctx, state)
    });
    0
}

/// `kmem_cache_alloc` and its `_node` twin up to 5.19: (call site, address, ...), without the cache.
/// First of its pair.
#[raw_tracepoint]
pub fn kmem_cache_alloc_unnamed(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::CACHE_ALLOC }>(&ctx, ctx.arg(1), |state| {
        cache::allocated_somewhere::<{ row::CACHE_ALLOC }>(&ctx, state)
    });
    0
}

/// `kmem_cache_alloc` and its `_node` twin up to 5.19: (call site, address, ...), without the cache.
/// Second of its pair.
#[raw_tracepoint]
pub fn kmem_cache_alloc_unnamed_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::CACHE_ALLOC + row::SECOND }>(&ctx, ctx.arg(1), |state| {
        cache::allocated_somewhere::<{ row::CACHE_ALLOC + row::SECOND }>(&ctx, state)
    });
    0
}

/// `kfree`: (call site, address). May free an object of a named cache too.
/// First of its pair.
#[raw_tracepoint]
pub fn kfree(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::KFREE }>(&ctx, ctx.arg(1), |state| {
        ledger::forget::<{ row::KFREE }>(ctx.arg(1), 0, state);
    });
    0
}

/// `kfree`: (call site, address). May free an object of a named cache too.
/// Second of its pair.
#[raw_tracepoint]
pub fn kfree_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::KFREE + row::SECOND }>(&ctx, ctx.arg(1), |state| {
        ledger::forget::<{ row::KFREE + row::SECOND }>(ctx.arg(1), 0, state);
    });
    0
}

/// `kmem_cache_free` up to 5.19: (call site, address, ...). May free a kmalloc object too.
/// First of its pair.
#[raw_tracepoint]
pub fn kmem_cache_free(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::CACHE_FREE }>(&ctx, ctx.arg(1), |state| {
        ledger::forget::<{ row::CACHE_FREE }>(ctx.arg(1), 0, state);
    });
    0
}

/// `kmem_cache_free` up to 5.19: (call site, address, ...). May free a kmalloc object too.
/// Second of its pair.
#[raw_tracepoint]
pub fn kmem_cache_free_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::CACHE_FREE + row::SECOND }>(&ctx, ctx.arg(1), |state| {
        ledger::forget::<{ row::CACHE_FREE + row::SECOND }>(ctx.arg(1), 0, state);
    });
    0
}

/// `kmem_cache_free` from 6.0: (call site, address, cache).
/// First of its pair.
#[raw_tracepoint]
pub fn kmem_cache_free_named(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::CACHE_FREE }>(&ctx, ctx.arg(1), |state| {
        ledger::forget::<{ row::CACHE_FREE }>(ctx.arg(1), ctx.arg(2), state);
    });
    0
}

/// `kmem_cache_free` from 6.0: (call site, address, cache).
/// Second of its pair.
#[raw_tracepoint]
pub fn kmem_cache_free_named_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::CACHE_FREE + row::SECOND }>(&ctx, ctx.arg(1), |state| {
        ledger::forget::<{ row::CACHE_FREE + row::SECOND }>(ctx.arg(1), ctx.arg(2), state);
    });
    0
}

/// `mm_page_alloc`: (page, order, flags, migrate type).
/// First of its pair.
#[raw_tracepoint]
pub fn mm_page_alloc(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::PAGE_ALLOC }>(&ctx, ctx.arg(0), |state| {
        page::allocated::<{ row::PAGE_ALLOC }>(&ctx, state)
    });
    0
}

/// `mm_page_alloc`: (page, order, flags, migrate type).
/// Second of its pair.
#[raw_tracepoint]
pub fn mm_page_alloc_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::PAGE_ALLOC + row::SECOND }>(&ctx, ctx.arg(0), |state| {
        page::allocated::<{ row::PAGE_ALLOC + row::SECOND }>(&ctx, state)
    });
    0
}

/// `mm_page_free`: (page, order). `mm_page_free_batched` comes on top of it.
/// First of its pair.
#[raw_tracepoint]
pub fn mm_page_free(ctx: RawTracePointContext) -> i32 {
    page::freed::<{ row::PAGE_FREE }>(&ctx);
    0
}

/// `mm_page_free`: (page, order). `mm_page_free_batched` comes on top of it.
/// Second of its pair.
#[raw_tracepoint]
pub fn mm_page_free_second(ctx: RawTracePointContext) -> i32 {
    page::freed::<{ row::PAGE_FREE + row::SECOND }>(&ctx);
    0
}

/// `percpu_alloc_percpu` from 5.19: (call site, reserved, atomic, size, alignment, chunk, offset, ...).
/// First of its pair.
#[raw_tracepoint]
pub fn percpu_alloc_percpu(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::PERCPU_ALLOC }>(
        &ctx,
        percpu::address(ctx.arg(5), ctx.arg(6)),
        |state| {
            percpu::allocated::<{ row::PERCPU_ALLOC }>(&ctx, 3, ctx.arg(0), state);
        },
    );
    0
}

/// `percpu_alloc_percpu` from 5.19: (call site, reserved, atomic, size, alignment, chunk, offset, ...).
/// Second of its pair.
#[raw_tracepoint]
pub fn percpu_alloc_percpu_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::PERCPU_ALLOC + row::SECOND }>(
        &ctx,
        percpu::address(ctx.arg(5), ctx.arg(6)),
        |state| {
            percpu::allocated::<{ row::PERCPU_ALLOC + row::SECOND }>(&ctx, 3, ctx.arg(0), state);
        },
    );
    0
}

/// `percpu_alloc_percpu` up to 5.18: (reserved, atomic, size, alignment, chunk, offset, ...).
/// First of its pair.
#[raw_tracepoint]
pub fn percpu_alloc_nameless(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::PERCPU_ALLOC }>(
        &ctx,
        percpu::address(ctx.arg(4), ctx.arg(5)),
        |state| {
            percpu::allocated::<{ row::PERCPU_ALLOC }>(&ctx, 2, 0, state);
        },
    );
    0
}

/// `percpu_alloc_percpu` up to 5.18: (reserved, atomic, size, alignment, chunk, offset, ...).
/// Second of its pair.
#[raw_tracepoint]
pub fn percpu_alloc_nameless_second(ctx: RawTracePointContext) -> i32 {
    ledger::offer::<{ row::PERCPU_ALLOC + row::SECOND }>(
        &ctx,
        percpu::address(ctx.arg(4), ctx.arg(5)),
        |state| {
            percpu::allocated::<{ row::PERCPU_ALLOC + row::SECOND }>(&ctx, 2, 0, state);
        },
    );
    0
}

/// `percpu_free_percpu`: (chunk, offset, pointer), before the memory can be given out again.
/// First of its pair.
#[raw_tracepoint]
pub fn percpu_free_percpu(ctx: RawTracePointContext) -> i32 {
    let address = percpu::address(ctx.arg(0), ctx.arg(1));
    ledger::offer::<{ row::PERCPU_FREE }>(&ctx, address, |state| {
        percpu::freed::<{ row::PERCPU_FREE }>(address, state);
    });
    0
}

/// `percpu_free_percpu`: (chunk, offset, pointer), before the memory can be given out again.
/// Second of its pair.
#[raw_tracepoint]
pub fn percpu_free_percpu_second(ctx: RawTracePointContext) -> i32 {
    let address = percpu::address(ctx.arg(0), ctx.arg(1));
    ledger::offer::<{ row::PERCPU_FREE + row::SECOND }>(&ctx, address, |state| {
        percpu::freed::<{ row::PERCPU_FREE + row::SECOND }>(address, state);
    });
    0
}

// Functions. Of a pair at a function's entry, that which is attached last is called first. Kprobes
// have no pairs: the kernel skips them whenever any other BPF program of their kind runs on the CPU.

/// The function `kmem_cache_free(cache, object)`, where the tracepoint fires after the free.
/// First of its pair.
#[fentry]
pub fn kmem_cache_free_entry(ctx: FEntryContext) -> i32 {
    let (cache, object) = (ctx.argument(0), ctx.argument(1));
    ledger::offer::<{ row::CACHE_FREE }>(&ctx, object, |state| {
        ledger::forget::<{ row::CACHE_FREE }>(object, cache, state);
    });
    0
}

/// The function `kmem_cache_free(cache, object)`, where the tracepoint fires after the free.
/// Second of its pair.
#[fentry]
pub fn kmem_cache_free_entry_second(ctx: FEntryContext) -> i32 {
    let (cache, object) = (ctx.argument(0), ctx.argument(1));
    ledger::offer::<{ row::CACHE_FREE + row::SECOND }>(&ctx, object, |state| {
        ledger::forget::<{ row::CACHE_FREE + row::SECOND }>(object, cache, state);
    });
    0
}

/// The function `kvfree_call_rcu(head, ...)`.
/// First of its pair.
#[fentry]
pub fn kvfree_call_rcu(ctx: FEntryContext) -> i32 {
    let object = rcu::object(&ctx);
    ledger::offer::<{ row::RCU_FREE }>(&ctx, object, |state| {
        rcu::queued::<{ row::RCU_FREE }>(object, state)
    });
    0
}

/// The function `kvfree_call_rcu(head, ...)`.
/// Second of its pair.
#[fentry]
pub fn kvfree_call_rcu_second(ctx: FEntryContext) -> i32 {
    let object = rcu::object(&ctx);
    ledger::offer::<{ row::RCU_FREE + row::SECOND }>(&ctx, object, |state| {
        rcu::queued::<{ row::RCU_FREE + row::SECOND }>(object, state)
    });
    0
}

/// The function `kvfree_call_rcu(head, ...)`, by kprobe.
#[kprobe]
pub fn kvfree_call_rcu_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(state) = maps::cpu() {
        rcu::queued::<{ row::RCU_FREE }>(rcu::object(&ctx), state);
    }
    0
}

/// The function `kmem_cache_free_bulk(cache, count, objects)`.
/// First of its pair.
#[fentry]
pub fn kmem_cache_free_bulk(ctx: FEntryContext) -> i32 {
    ledger::offer::<{ row::BULK_FREE }>(&ctx, ctx.argument(2), |state| {
        rcu::bulk::<{ row::BULK_FREE }>(&ctx, state)
    });
    0
}

/// The function `kmem_cache_free_bulk(cache, count, objects)`.
/// Second of its pair.
#[fentry]
pub fn kmem_cache_free_bulk_second(ctx: FEntryContext) -> i32 {
    ledger::offer::<{ row::BULK_FREE + row::SECOND }>(&ctx, ctx.argument(2), |state| {
        rcu::bulk::<{ row::BULK_FREE + row::SECOND }>(&ctx, state)
    });
    0
}

/// The function `kmem_cache_free_bulk(cache, count, objects)`, by kprobe.
#[kprobe]
pub fn kmem_cache_free_bulk_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(state) = maps::cpu() {
        rcu::bulk::<{ row::BULK_FREE }>(&ctx, state);
    }
    0
}

/// The function `kmem_cache_free(cache, object)`, by kprobe.
#[kprobe]
pub fn kmem_cache_free_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(state) = maps::cpu() {
        let (cache, object) = (ctx.argument(0), ctx.argument(1));
        ledger::forget::<{ row::CACHE_FREE }>(object, cache, state);
    }
    0
}

/// `cgroup_mkdir`: (cgroup, path).
#[raw_tracepoint]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    cgroup::happened(cgroup_event::MKDIR, ctx.arg(0), ctx.arg(1));
    0
}

/// `cgroup_rmdir`: (cgroup, path).
#[raw_tracepoint]
pub fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    cgroup::happened(cgroup_event::RMDIR, ctx.arg(0), ctx.arg(1));
    0
}

/// `cgroup_release`: (cgroup, path).
#[raw_tracepoint]
pub fn cgroup_release(ctx: RawTracePointContext) -> i32 {
    cgroup::happened(cgroup_event::RELEASE, ctx.arg(0), ctx.arg(1));
    0
}

/// `cgroup_attach_task`: a task has moved to another cgroup.
#[raw_tracepoint]
pub fn cgroup_attach_task(_ctx: RawTracePointContext) -> i32 {
    maps::new_epoch();
    0
}

/// `sched_process_fork`: (parent, child).
#[raw_tracepoint]
pub fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    process::forked(ctx.arg(1));
    0
}

/// `sched_process_exec`: (task, ...), in its own context.
#[raw_tracepoint]
pub fn sched_process_exec(_ctx: RawTracePointContext) -> i32 {
    process::renamed();
    0
}

/// `sched_process_exit`: (task, ...), in its own context.
#[raw_tracepoint]
pub fn sched_process_exit(_ctx: RawTracePointContext) -> i32 {
    process::exited();
    0
}

/// `softirq_entry`.
#[raw_tracepoint]
pub fn softirq_entry(_ctx: RawTracePointContext) -> i32 {
    owner::set_softirq(1);
    0
}

/// `softirq_exit`.
#[raw_tracepoint]
pub fn softirq_exit(_ctx: RawTracePointContext) -> i32 {
    owner::set_softirq(0);
    0
}

/// `irq_handler_entry`.
#[raw_tracepoint]
pub fn irq_handler_entry(_ctx: RawTracePointContext) -> i32 {
    owner::set_hardirq(1);
    0
}

/// `irq_handler_exit`.
#[raw_tracepoint]
pub fn irq_handler_exit(_ctx: RawTracePointContext) -> i32 {
    owner::set_hardirq(0);
    0
}

/// Never attached: user space runs it with (address, slab cache) as arguments, and gets one of
/// [`kleak_common::lies_in`]. Written out, because the macro drops what a program returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn lies_in(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let expected: u64 = ctx.arg(1);
    match slab::cache_of(ctx.arg(0)) {
        Ok(cache) if cache == expected => lies_in::YES,
        Ok(_) => lies_in::NO,
        Err(_) => lies_in::UNKNOWN,
    }
}

/// Never attached: user space runs it with the head of the list of slab caches as argument, until it
/// says that it is done; one of [`kleak_common::learn`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn learn_cache(ctx: *mut core::ffi::c_void) -> u32 {
    slab::learn_next(RawTracePointContext::new(ctx).arg(0))
}

/// Never attached: user space runs it with an address as argument, and finds the word there in
/// `Control::answer`. Returns 1 where it can be read.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn peek(ctx: *mut core::ffi::c_void) -> u32 {
    match kernel::read::<u64>(RawTracePointContext::new(ctx).arg(0), 0) {
        Ok(word) => {
            maps::set_answer(word);
            1
        }
        Err(_) => 0,
    }
}

/// `kmem_cache_alloc` of a kernel that names the cache in it (from 6.0), attached for a moment: leaves
/// the first slab cache that it meets in `Control::answer`.
#[raw_tracepoint]
pub fn first_cache(ctx: RawTracePointContext) -> i32 {
    if maps::answer() == 0 {
        maps::set_answer(ctx.arg(2));
    }
    0
}

/// Does nothing, for the benchmark that tells what being attached costs by itself.
#[raw_tracepoint]
pub fn empty(_ctx: RawTracePointContext) -> i32 {
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing in these programs panics (indices are masked or checked), so this is never
    // reached; the verifier would refuse the program otherwise.
    unsafe { core::hint::unreachable_unchecked() }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
