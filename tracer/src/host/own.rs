//! What this process itself takes.

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

use super::{Host, read_text};

/// CPU time of all its threads, ended ones included, nanoseconds; `None` when the kernel does not say.
pub fn cpu_ns() -> Option<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let of = |time: nix::sys::time::TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).ok()?;
        let micros = u64::try_from(time.tv_usec()).ok()?;
        Some(seconds * 1_000_000_000 + micros * 1_000)
    };
    Some(of(usage.user_time())? + of(usage.system_time())?)
}

/// Most memory it has had resident, bytes (`VmHWM`); `None` when the kernel does not say.
pub fn peak_rss_bytes(host: &Host) -> Option<u64> {
    parse_peak(&read_text(&host.proc("self/status")).ok()?)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// CPUs that are switched on, of which a machine's CPU time is made; 1 when nobody knows.
pub fn online_cpus() -> u32 {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    count.and_then(|count| u32::try_from(count).ok()).map_or(1, |count| count.max(1))
}

/// Whether somebody has the kernel measure all BPF programs all the time.
pub fn measures_bpf(host: &Host) -> bool {
    read_text(&host.proc("sys/kernel/bpf_stats_enabled")).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::{cpu_ns, online_cpus, parse_peak};

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(parse_peak("Name:\tkleak\nVmHWM:\t    1024 kB\nVmRSS:\t 1 kB\n"), Some(1 << 20));
        assert_eq!(parse_peak("VmHWM:\t99999999999999999999 kB\n"), None);
        assert_eq!(parse_peak("VmRSS:\t 1 kB\n"), None);
    }

    #[test]
    fn this_process_takes_time_on_some_cpus() {
        assert!(cpu_ns().is_some());
        assert!(online_cpus() >= 1);
    }
}
