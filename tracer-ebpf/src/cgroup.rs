//! Creation, removal and release of cgroups of the memory controller's hierarchy.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes, generated::bpf_ktime_get_ns,
};
use kleak_common::{CgroupEvent, Tally, cgroup_event, row};

use crate::{
    kernel::read,
    maps::{CGROUP_EVENTS, active, cpu, offset, setting},
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
    if active() && what < cgroup_event::COUNT {
        state.cgroup_events[what as usize] += 1;
    }
    if publish(what, cgroup, path, tally).is_err() {
        tally.failed_reads += 1;
    }
}

#[inline(always)]
fn publish(what: u32, cgroup: u64, path: u64, tally: &mut Tally) -> Result<(), i32> {
    let node = read::<u64>(cgroup, offset!(cgroup_kn))?;
    let id = read::<u64>(node, offset!(kn_id))?;
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
        (*event).what = what;
        (*event).tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*event)._pad = 0;
        let bytes = bpf_probe_read_kernel_str_bytes(path as *const u8, &mut (*event).path);
        (*event).path_len = bytes.map_or(0, |bytes| bytes.len() as u32);
    }
    entry.submit(0);
    Ok(())
}
