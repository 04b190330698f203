//! Creation, removal and release of cgroups of the memory controller's hierarchy.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes,
    generated::{bpf_get_current_task, bpf_ktime_get_ns},
};
use kleak_common::{CgroupEvent, Offsets, Tally, UNKNOWN_PAGES, cgroup_event, row};

use crate::{
    kernel::read,
    maps::{CGROUP_EVENTS, active, cpu, offset, setting},
    owner::{cgroup_of, start_of},
    process::leader_comm,
};

/// Counts the event and hands its path to user space.
#[inline(always)]
pub(crate) fn happened(what: u32, cgroup: u64, path: u64) {
    let Some(state) = cpu() else { return };
    let tally = &mut state.tally[row::LIFE as usize];
    let hierarchy = read::<u64>(cgroup, offset!(cgroup_root))
        .and_then(|root| read::<u32>(root, offset!(root_hierarchy)));
    match hierarchy {
        Ok(hierarchy) if hierarchy == setting!(memory_hierarchy) => {}
        Ok(_) => return,
        Err(_) => {
            tally.failed_reads += 1;
            return;
        }
    }
    let counted = active() && what < cgroup_event::COUNT;
    if counted {
        state.cgroup_events[what as usize] += 1;
    }
    if publish(what, cgroup, path, counted, tally).is_err() {
        tally.failed_reads += 1;
    }
}

#[inline(always)]
fn publish(what: u32, cgroup: u64, path: u64, counted: bool, tally: &mut Tally) -> Result<(), i32> {
    let node = read::<u64>(cgroup, offset!(cgroup_kn))?;
    let id = read::<u64>(node, offset!(kn_id))?;
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let start_ns = start_of(task).unwrap_or_else(|_| {
        tally.failed_reads += 1;
        0
    });
    let actor_cgroup = cgroup_of(task).unwrap_or_else(|_| {
        tally.failed_reads += 1;
        0
    });
    let comm = leader_comm(task, tally);
    let charged_pages = charged(cgroup);
    let Some(mut entry) = CGROUP_EVENTS.reserve::<CgroupEvent>(0) else {
        tally.lost_cgroup_events += 1;
        return Ok(());
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is ours until it is submitted, and every field is written before
    // that, the path's unused end excepted, which `path_len` excludes.
    unsafe {
        (*event).id = id;
        (*event).at_ns = bpf_ktime_get_ns();
        (*event).start_ns = start_ns;
        (*event).actor_cgroup = actor_cgroup;
        (*event).charged_pages = charged_pages;
        (*event).comm = comm;
        (*event).what = what;
        (*event).tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*event).counted = counted as u32;
        let bytes = bpf_probe_read_kernel_str_bytes(path as *const u8, &mut (*event).path);
        (*event).path_len = bytes.map_or(0, |bytes| bytes.len() as u32);
    }
    entry.submit(0);
    Ok(())
}

/// Pages charged to a cgroup. That it has no memory controller (v2) or is already without (at the
/// end of its life) is no failure.
#[inline(always)]
fn charged(cgroup: u64) -> u64 {
    if offset!(memcg_usage) == Offsets::UNKNOWN {
        return UNKNOWN_PAGES;
    }
    match read::<u64>(cgroup, offset!(cgroup_memory)) {
        Ok(memcg) if memcg != 0 => read(memcg, offset!(memcg_usage)).unwrap_or(UNKNOWN_PAGES),
        _ => UNKNOWN_PAGES,
    }
}
