//! Names that outlive processes, and the descendants of the command that kleak runs.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_current_task},
};
use kleak_common::{COMM_LEN, Offsets, Process, ProcessKey, Tally, row};

use crate::{
    kernel::read,
    ledger::EEXIST,
    maps::{FAMILY, PROCESSES, cpu, new_epoch, offset, setting},
    owner::start_of,
};

/// Remembers the process that allocates now, if it is not yet known.
#[inline(always)]
pub(crate) fn remember(start_ns: u64, tgid: u32, tally: &mut Tally) {
    let key = ProcessKey { start_ns, tgid, _pad: 0 };
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let process = Process { comm: leader_comm(task, tally), exited: 0, _pad: [0; 7] };
    match PROCESSES.insert(&key, &process, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        Err(errno) if errno == EEXIST => {}
        Err(_) => tally.lost_processes += 1,
    }
}

/// Name of the task's process: that of its first thread. Without BTF, that of the thread itself.
#[inline(always)]
pub(crate) fn leader_comm(task: u64, tally: &mut Tally) -> [u8; COMM_LEN] {
    let comm = read::<u64>(task, offset!(task_group_leader))
        .and_then(|leader| read::<[u8; COMM_LEN]>(leader, offset!(task_comm)))
        .or_else(|_| bpf_get_current_comm());
    comm.unwrap_or_else(|_| {
        tally.failed_reads += 1;
        [0; COMM_LEN]
    })
}

/// The current process has a new name, by exec.
#[inline(always)]
pub(crate) fn renamed() {
    update(false);
}

/// A thread of the current process exits; when it is the last, so does the process.
#[inline(always)]
pub(crate) fn exited() {
    new_epoch();
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    // `do_exit()` decrements `signal->live` before the tracepoint (kernel/exit.c, 5.10 to 7.2).
    let last = match read::<u64>(task, offset!(task_signal)) {
        Ok(signal) => matches!(read::<u32>(signal, offset!(signal_live)), Ok(0)),
        // Without BTF, user space finds out from /proc.
        Err(_) => false,
    };
    if last {
        update(true);
    }
}

#[inline(always)]
fn update(exited: bool) {
    let Some(state) = cpu() else { return };
    let tally = &mut state.tally[row::LIFE as usize];
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let start_ns = start_of(task).unwrap_or_else(|_| {
        if offset!(task_start) != Offsets::UNKNOWN {
            tally.failed_reads += 1;
        }
        0
    });
    let key = ProcessKey { start_ns, tgid, _pad: 0 };
    // SAFETY: the entry is the current process's own; user space removes it only once it has
    // exited.
    let Some(process) = PROCESSES.get_ptr_mut(&key).map(|entry| unsafe { &mut *entry }) else {
        return;
    };
    process.comm = leader_comm(task, tally);
    if exited {
        process.exited = 1;
    }
}

/// The current process forks. Children of kleak are the command; theirs are its descendants.
#[inline(always)]
pub(crate) fn forked(child: u64) {
    follow(child);
    new_epoch();
}

#[inline(always)]
fn follow(child: u64) {
    if setting!(follow_family) == 0 {
        return;
    }
    let Some(state) = cpu() else { return };
    let tally = &mut state.tally[row::LIFE as usize];
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let (Ok(child_tgid), Ok(child_start)) =
        (read::<u32>(child, offset!(task_tgid)), start_of(child))
    else {
        tally.failed_reads += 1;
        return;
    };
    // A thread is of the same process.
    if child_tgid == tgid {
        return;
    }
    if tgid != setting!(self_tgid) {
        // SAFETY: a helper without arguments.
        let task = unsafe { bpf_get_current_task() };
        let Ok(start_ns) = start_of(task) else {
            tally.failed_reads += 1;
            return;
        };
        if FAMILY.get_ptr(&ProcessKey { start_ns, tgid, _pad: 0 }).is_none() {
            return;
        }
    }
    let key = ProcessKey { start_ns: child_start, tgid: child_tgid, _pad: 0 };
    if FAMILY.insert(&key, &1, u64::from(BPF_ANY)).is_err() {
        tally.lost_family += 1;
    }
}
