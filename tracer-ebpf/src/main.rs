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
mod fraction;
mod kernel;
mod kmalloc;
mod ledger;
mod maps;
mod objects;
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
use kleak_common::{cgroup_event, row};

use crate::rcu::Arguments as _;

/// The programs of a chain. Each allocation and free is offered to several, because the kernel skips an
/// event that arrives while the same program runs on that CPU: see `ledger::offer`.
macro_rules! chain {
    (
        $(#[$about:meta])*
        $row:ident: $first:ident, $second:ident, $third:ident, $fourth:ident;
        $attribute:ident |$ctx:ident: $context:ty| $address:expr => |$state:ident| $act:expr
    ) => {
        chain!(@ $(#[$about])* $row, 0, $first, $attribute, $ctx, $context, $address, $state, $act);
        chain!(@ $(#[$about])* $row, 1, $second, $attribute, $ctx, $context, $address, $state, $act);
        chain!(@ $(#[$about])* $row, 2, $third, $attribute, $ctx, $context, $address, $state, $act);
        chain!(@ $(#[$about])* $row, 3, $fourth, $attribute, $ctx, $context, $address, $state, $act);
    };
    (
        @ $(#[$about:meta])* $row:ident, $place:literal, $name:ident, $attribute:ident,
        $ctx:ident, $context:ty, $address:expr, $state:ident, $act:expr
    ) => {
        $(#[$about])*
        #[$attribute]
        pub fn $name($ctx: $context) -> i32 {
            const ROW: u32 = row::$row + $place * row::KINDS;
            ledger::offer::<ROW>(&$ctx, $address, |$state| { $act; });
            0
        }
    };
}

chain! {
    /// `kmalloc` and `kmalloc_node`: (call site, address, requested, allocated, flags, ...).
    KMALLOC: kmalloc, kmalloc_second, kmalloc_third, kmalloc_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(1)
        => |state| kmalloc::allocated::<ROW>(&ctx, 2, state)
}

chain! {
    /// `kmalloc` as 6.0 had it: (call site, address, cache, requested, allocated, flags, ...).
    KMALLOC: kmalloc_with_cache, kmalloc_with_cache_second, kmalloc_with_cache_third, kmalloc_with_cache_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(1)
        => |state| kmalloc::allocated::<ROW>(&ctx, 3, state)
}

chain! {
    /// `kmem_cache_alloc` and its `_node` twin from 6.0: (call site, address, cache, ...).
    CACHE_ALLOC: kmem_cache_alloc, kmem_cache_alloc_second, kmem_cache_alloc_third, kmem_cache_alloc_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(1)
        => |state| cache::allocated::<ROW>(&ctx, state)
}

chain! {
    /// `kmem_cache_alloc` and its `_node` twin up to 5.19: (call site, address, ...), without the cache.
    CACHE_ALLOC: kmem_cache_alloc_unnamed, kmem_cache_alloc_unnamed_second, kmem_cache_alloc_unnamed_third, kmem_cache_alloc_unnamed_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(1)
        => |state| cache::allocated_somewhere::<ROW>(&ctx, state)
}

chain! {
    /// `kfree`: (call site, address). May free an object of a named cache too.
    KFREE: kfree, kfree_second, kfree_third, kfree_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(1)
        => |state| ledger::forget::<ROW>(ctx.arg(1), 0, state)
}

chain! {
    /// `kmem_cache_free` up to 5.19: (call site, address, ...). May free a kmalloc object too.
    CACHE_FREE: kmem_cache_free, kmem_cache_free_second, kmem_cache_free_third, kmem_cache_free_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(1)
        => |state| ledger::forget::<ROW>(ctx.arg(1), 0, state)
}

chain! {
    /// `kmem_cache_free` from 6.0: (call site, address, cache).
    CACHE_FREE: kmem_cache_free_named, kmem_cache_free_named_second, kmem_cache_free_named_third, kmem_cache_free_named_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(1)
        => |state| ledger::forget::<ROW>(ctx.arg(1), ctx.arg(2), state)
}

chain! {
    /// `mm_page_alloc`: (page, order, flags, migrate type).
    PAGE_ALLOC: mm_page_alloc, mm_page_alloc_second, mm_page_alloc_third, mm_page_alloc_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(0)
        => |state| page::allocated::<ROW>(&ctx, state)
}

chain! {
    /// `mm_page_free`: (page, order). `mm_page_free_batched` comes on top of it.
    PAGE_FREE: mm_page_free, mm_page_free_second, mm_page_free_third, mm_page_free_fourth;
    raw_tracepoint |ctx: RawTracePointContext| ctx.arg(0)
        => |state| page::freed::<ROW>(ctx.arg(0), ctx.arg(1), state)
}

chain! {
    /// `percpu_alloc_percpu` from 5.19: (call site, reserved, atomic, size, alignment, chunk, offset, ...).
    PERCPU_ALLOC: percpu_alloc_percpu, percpu_alloc_percpu_second, percpu_alloc_percpu_third, percpu_alloc_percpu_fourth;
    raw_tracepoint |ctx: RawTracePointContext| percpu::address(ctx.arg(5), ctx.arg(6))
        => |state| percpu::allocated::<ROW>(&ctx, 3, ctx.arg(0), state)
}

chain! {
    /// `percpu_alloc_percpu` up to 5.18: (reserved, atomic, size, alignment, chunk, offset, ...).
    PERCPU_ALLOC: percpu_alloc_nameless, percpu_alloc_nameless_second, percpu_alloc_nameless_third, percpu_alloc_nameless_fourth;
    raw_tracepoint |ctx: RawTracePointContext| percpu::address(ctx.arg(4), ctx.arg(5))
        => |state| percpu::allocated::<ROW>(&ctx, 2, 0, state)
}

chain! {
    /// `percpu_free_percpu`: (chunk, offset, pointer), before the memory can be given out again.
    PERCPU_FREE: percpu_free_percpu, percpu_free_percpu_second, percpu_free_percpu_third, percpu_free_percpu_fourth;
    raw_tracepoint |ctx: RawTracePointContext| percpu::address(ctx.arg(0), ctx.arg(1))
        => |state| percpu::freed::<ROW>(percpu::address(ctx.arg(0), ctx.arg(1)), state)
}

// Functions. Of a chain at a function's entry, that which is attached last is called first. Kprobes
// have none: the kernel skips them whenever any other BPF program of their kind runs on the CPU.

chain! {
    /// The function `kmem_cache_free(cache, object)`, where the tracepoint fires after the free.
    CACHE_FREE: kmem_cache_free_entry, kmem_cache_free_entry_second, kmem_cache_free_entry_third, kmem_cache_free_entry_fourth;
    fentry |ctx: FEntryContext| ctx.argument(1)
        => |state| ledger::forget::<ROW>(ctx.argument(1), ctx.argument(0), state)
}

chain! {
    /// The function `kvfree_call_rcu(head, ...)`.
    RCU_FREE: kvfree_call_rcu, kvfree_call_rcu_second, kvfree_call_rcu_third, kvfree_call_rcu_fourth;
    fentry |ctx: FEntryContext| rcu::object(&ctx)
        => |state| rcu::queued::<ROW>(rcu::object(&ctx), state)
}

chain! {
    /// The function `kmem_cache_free_bulk(cache, count, objects)`.
    BULK_FREE: kmem_cache_free_bulk, kmem_cache_free_bulk_second, kmem_cache_free_bulk_third, kmem_cache_free_bulk_fourth;
    fentry |ctx: FEntryContext| ctx.argument(2)
        => |state| rcu::bulk::<ROW>(&ctx, state)
}

/// The function `kvfree_call_rcu(head, ...)`, by kprobe.
#[kprobe]
pub fn kvfree_call_rcu_kprobe(ctx: ProbeContext) -> u32 {
    let object = rcu::object(&ctx);
    if fraction::takes_object(object)
        && let Some(state) = maps::cpu()
    {
        rcu::queued::<{ row::RCU_FREE }>(object, state);
    }
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
    let (cache, object) = (ctx.argument(0), ctx.argument(1));
    if fraction::takes_object(object)
        && let Some(state) = maps::cpu()
    {
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

/// Never attached: user space runs it with (address, slab cache, site, birth) of an outstanding object as
/// arguments, and gets one of [`kleak_common::lies_in`]. One that does not lie in that cache has been
/// freed, and is taken out. Written out, because the macro drops what a program returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn revalidate(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    ledger::revalidate(ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3))
}

/// Never attached: user space runs it with a kind of event ([`row`]) before it attaches the later programs
/// of its chain.
#[raw_tracepoint]
pub fn announce_chain(ctx: RawTracePointContext) -> i32 {
    maps::set_chained(ctx.arg(0));
    0
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
