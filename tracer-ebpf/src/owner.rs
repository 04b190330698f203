//! Who is allocating: a process, a kernel thread, or an interrupt that happens to run on top of
//! one. Memory allocated in an interrupt is never the interrupted process's.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, generated},
    programs::RawTracePointContext,
};
use kleak_common::{CpuState, Offsets, ProcessKey, cgroup_source, context};

use crate::{
    kernel::read,
    maps::{FAMILY, cpu, offset, setting},
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
    let mut context = interrupt(ctx, task, state, row);
    if context != context::TASK {
        return Some(Owner { start_ns: 0, cgroup: 0, tgid: 0, context, family: 0 });
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if tgid == setting!(self_tgid) {
        return None;
    }
    let tally = &mut state.tally[row];
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
    Some(Owner { start_ns, cgroup, tgid, context, family })
}

/// Start of the task's process since boot, nanoseconds.
#[inline(always)]
pub(crate) fn start_of(task: u64) -> Result<u64, i32> {
    let leader = read::<u64>(task, offset!(task_group_leader))?;
    read(leader, offset!(task_start))
}

#[inline(always)]
fn cgroup_of(task: u64) -> Result<u64, i32> {
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
fn interrupt(ctx: &RawTracePointContext, task: u64, state: &mut CpuState, row: usize) -> u8 {
    if state.hardirq != 0 {
        return context::HARDIRQ;
    }
    if state.softirq != 0 {
        return context::SOFTIRQ;
    }
    let size = setting!(stack_size);
    if size == 0 || offset!(task_stack) == Offsets::UNKNOWN {
        return context::TASK;
    }
    let Ok(base) = read::<u64>(task, offset!(task_stack)) else {
        state.tally[row].failed_reads += 1;
        return context::TASK;
    };
    // Through memory, because the verifier lets nobody calculate with a context's address.
    let slot = &raw mut state.stack_pointer[row];
    // SAFETY: the slot is this program's on this CPU.
    let pointer = unsafe {
        core::ptr::write_volatile(slot, ctx.as_ptr() as u64);
        core::ptr::read_volatile(slot)
    };
    if pointer.wrapping_sub(base) < size { context::TASK } else { context::HARDIRQ }
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
