//! Who is allocating: a process, a kernel thread, or an interrupt that happens to run on top of
//! one. Memory allocated in an interrupt is never the interrupted process's.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, generated},
    programs::RawTracePointContext,
};
use kleak_common::{CpuState, Offsets, ProcessKey, Tally, cgroup_source, context};

use crate::{
    kernel::read,
    maps::{FAMILY, cpu, epoch, offset, setting},
};

/// `PF_KTHREAD` (`include/linux/sched.h`, 0x00200000 from 2.6.27 to 7.2).
const PF_KTHREAD: u32 = 0x0020_0000;

/// Who allocates, as [`kleak_common::Site`] holds it.
pub(crate) struct Owner {
    pub(crate) start_ns: u64,
    pub(crate) cgroup: u64,
    pub(crate) tgid: u32,
    pub(crate) context: u8,
    pub(crate) family: u8,
}

/// Who runs now; `None` for kleak itself.
#[inline(always)]
pub(crate) fn current<const ROW: u32>(
    ctx: &RawTracePointContext,
    state: &mut CpuState,
) -> Option<Owner> {
    let row = ROW as usize;
    // SAFETY: a helper without arguments.
    let task = unsafe { generated::bpf_get_current_task() };
    let epoch = epoch();
    let known = state.last[row].task == task && state.last[row].epoch == epoch;
    let stack = if known { state.last[row].stack } else { stack_of(task, &mut state.tally[row]) };
    let context = interrupt(ctx, stack, state, row);
    if context != context::TASK {
        return Some(Owner { start_ns: 0, cgroup: 0, tgid: 0, context, family: 0 });
    }
    if !known {
        learn(task, epoch, stack, state, row);
    }
    let last = &state.last[row];
    if last.tgid == setting!(self_tgid) {
        return None;
    }
    Some(Owner {
        start_ns: last.start_ns,
        cgroup: last.cgroup,
        tgid: last.tgid,
        context: last.context,
        family: last.family,
    })
}

/// Reads who the current task is.
#[inline(always)]
fn learn(task: u64, epoch: u64, stack: u64, state: &mut CpuState, row: usize) {
    let tally = &mut state.tally[row];
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut context = context::TASK;
    if offset!(task_flags) != Offsets::UNKNOWN {
        match read::<u32>(task, offset!(task_flags)) {
            Ok(flags) if flags & PF_KTHREAD != 0 => context = context::KTHREAD,
            Ok(_) => {}
            Err(_) => tally.failed_reads += 1,
        }
    }
    let start_ns = start_of(task).unwrap_or_else(|_| {
        if offset!(task_start) != Offsets::UNKNOWN {
            tally.failed_reads += 1;
        }
        0
    });
    let cgroup = cgroup_of(task).unwrap_or_else(|_| {
        tally.failed_reads += 1;
        0
    });
    let family = if setting!(follow_family) != 0 {
        let key = ProcessKey { start_ns, tgid, _pad: 0 };
        u8::from(FAMILY.get_ptr(&key).is_some())
    } else {
        0
    };
    // An interrupt may look at any moment: the task's address goes first and comes last. Without
    // BTF there is no telling when a cgroup changes, so nothing is kept.
    let keep = if offset!(task_start) == Offsets::UNKNOWN { 0 } else { task };
    let last = &mut state.last[row];
    // SAFETY: a field of this CPU's own state; volatile, so that the order is kept.
    unsafe { core::ptr::write_volatile(&raw mut last.task, 0) };
    last.epoch = epoch;
    last.stack = stack;
    last.start_ns = start_ns;
    last.cgroup = cgroup;
    last.tgid = tgid;
    last.context = context;
    last.family = family;
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut last.task, keep) };
}

/// Start of the task's process since boot, nanoseconds.
#[inline(always)]
pub(crate) fn start_of(task: u64) -> Result<u64, i32> {
    let leader = read::<u64>(task, offset!(task_group_leader))?;
    read(leader, offset!(task_start))
}

/// Base of the task's kernel stack; 0 when unknown.
#[inline(always)]
fn stack_of(task: u64, tally: &mut Tally) -> u64 {
    if setting!(stack_size) == 0 || offset!(task_stack) == Offsets::UNKNOWN {
        return 0;
    }
    read(task, offset!(task_stack)).unwrap_or_else(|_| {
        tally.failed_reads += 1;
        0
    })
}

#[inline(always)]
pub(crate) fn cgroup_of(task: u64) -> Result<u64, i32> {
    match setting!(cgroup_source) {
        // SAFETY: a helper without arguments.
        cgroup_source::DEFAULT_HIERARCHY => Ok(unsafe { generated::bpf_get_current_cgroup_id() }),
        cgroup_source::MEMORY_V1 => {
            let set = read::<u64>(task, offset!(task_cgroups))?;
            let css = read::<u64>(set, offset!(css_set_memory))?;
            let cgroup = read::<u64>(css, offset!(css_cgroup))?;
            let node = read::<u64>(cgroup, offset!(cgroup_kn))?;
            read(node, offset!(kn_id))
        }
        _ => Ok(0),
    }
}

/// TASK when a task runs on its own behalf, else which interrupt.
///
/// Two signs, because neither is enough. Interrupts run on stacks of their own, and a raw
/// tracepoint's context lies on the stack in use: outside the task's stack means interrupt (x86
/// `run_irq_on_irqstack_cond`, `do_softirq_own_stack`; arm64 `call_on_irq_stack`). And the
/// tracepoints around handlers tell which, and catch what stays on the task's stack: ksoftirqd,
/// and an interrupt that came from user mode.
#[inline(always)]
fn interrupt(ctx: &RawTracePointContext, stack: u64, state: &mut CpuState, row: usize) -> u8 {
    if state.hardirq != 0 {
        return context::HARDIRQ;
    }
    if state.softirq != 0 {
        return context::SOFTIRQ;
    }
    let size = setting!(stack_size);
    if size == 0 || stack == 0 {
        return context::TASK;
    }
    let pointer = note_stack(ctx, state, row);
    if pointer.wrapping_sub(stack) < size { context::TASK } else { context::HARDIRQ }
}

/// Where the program's context lies: on the stack in use. Through memory, because the verifier lets
/// nobody calculate with a context's address.
#[inline(always)]
pub(crate) fn note_stack(ctx: &impl EbpfContext, state: &mut CpuState, row: usize) -> u64 {
    let slot = &raw mut state.stack_pointer[row];
    // SAFETY: the slot is this program's on this CPU.
    unsafe {
        core::ptr::write_volatile(slot, ctx.as_ptr() as u64);
        core::ptr::read_volatile(slot)
    }
}

/// A softirq begins or ends on this CPU. They do not nest.
#[inline(always)]
pub(crate) fn set_softirq(running: u32) {
    if let Some(state) = cpu() {
        state.softirq = running;
    }
}

/// A hardware interrupt's handler begins or ends on this CPU. They do not nest: the kernel runs
/// handlers with interrupts off (`handle_irq_event_percpu`).
#[inline(always)]
pub(crate) fn set_hardirq(running: u32) {
    if let Some(state) = cpu() {
        state.hardirq = running;
    }
}
