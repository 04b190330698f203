//! The kernel and the machine: what they are called, and the few sizes that readings depend on.

use std::fs;

use super::meminfo::MemInfo;
use super::{Host, HostError, Result, malformed, read_text};

/// Inode of the first pid namespace: `PROC_PID_INIT_INO` in `include/linux/proc_ns.h`.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// More CPUs than any kernel is built for (`CONFIG_NR_CPUS` is 8192 at most).
const MAX_CPUS: u32 = 1 << 16;

/// What `uname` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uname {
    /// `uname -r`.
    pub release: String,
    /// `uname -m`; `None` for a saved tree of a kernel before 6.1, which has no
    /// `/proc/sys/kernel/arch`.
    pub machine: Option<String>,
    /// `uname -n`.
    pub hostname: String,
}

/// Names of the kernel and the machine: by system call on the running system, else from
/// `/proc/sys/kernel`.
///
/// # Errors
///
/// When the call fails, or a saved tree does not have the kernel's release.
pub fn uname(host: &Host) -> Result<Uname> {
    if host.is_live() {
        let name = nix::sys::utsname::uname()
            .map_err(|cause| HostError::Call { what: "the name of the system", cause })?;
        let own_name = name.nodename().to_string_lossy().into_owned();
        // In a container the call names the container.
        let node = if host.is_own_root() { None } else { configured_name(host) };
        return Ok(Uname {
            release: name.release().to_string_lossy().into_owned(),
            machine: Some(name.machine().to_string_lossy().into_owned()),
            hostname: node.unwrap_or(own_name),
        });
    }
    let sysctl = |name: &str| {
        read_text(&host.proc(format!("sys/kernel/{name}"))).map(|text| text.trim().to_owned())
    };
    Ok(Uname {
        release: sysctl("osrelease")?,
        machine: sysctl("arch").ok(),
        hostname: sysctl("hostname").unwrap_or_default(),
    })
}

/// The name in `/etc/hostname`.
fn configured_name(host: &Host) -> Option<String> {
    let text = read_text(&host.join("etc/hostname")).ok()?;
    let name =
        text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    Some(name.to_owned())
}

/// How many CPUs there can be, present or not: the kernel's `num_possible_cpus()`, by which it
/// sizes per-CPU values.
///
/// # Errors
///
/// When `/sys/devices/system/cpu/possible` cannot be read or is not a CPU list.
pub fn possible_cpus(host: &Host) -> Result<u32> {
    let path = host.sys("devices/system/cpu/possible");
    parse_cpu_list(&read_text(&path)?).ok_or_else(|| malformed(&path, "not a list of CPUs"))
}

/// Whether `/proc` shows processes by the ids that the kernel itself uses, those of the first pid
/// namespace. `None` when the link cannot be read, as in a saved tree.
pub fn in_initial_pid_namespace(host: &Host) -> Option<bool> {
    let link = fs::read_link(host.proc(format!("{}/ns/pid", host.first_process()))).ok()?;
    Some(parse_namespace(link.to_str()?)? == INITIAL_PID_NAMESPACE)
}

/// This process's id as `/proc` shows it, which with a machine's root mounted elsewhere is not its
/// own. `None` when it is not shown there.
pub fn own_pid(host: &Host) -> Option<u32> {
    if host.is_own_root() {
        return Some(std::process::id());
    }
    fs::read_link(host.proc("self")).ok()?.to_str()?.parse().ok()
}

/// Whether this process's own `/proc` (which libraries read) shows the same processes by the same
/// ids.
pub fn own_proc_is_of(host: &Host) -> bool {
    let namespace = |host: &Host| fs::read_link(host.proc("self/ns/pid")).ok();
    host.is_own_root()
        || (own_pid(host) == Some(std::process::id())
            && namespace(&Host::default()).is_some_and(|own| Some(own) == namespace(host)))
}

/// `kernel.kptr_restrict`: 0 shows kernel addresses, 1 only with `CAP_SYSLOG`, 2 never. `None`
/// when it cannot be read.
pub fn kptr_restrict(host: &Host) -> Option<u8> {
    read_text(&host.proc("sys/kernel/kptr_restrict")).ok()?.trim().parse().ok()
}

/// Bytes of one kernel stack: what all stacks take, divided by the number of threads. `None` when
/// either is not known.
pub fn kernel_stack_bytes(host: &Host, meminfo: &MemInfo) -> Option<u64> {
    let threads = parse_threads(&read_text(&host.proc("loadavg")).ok()?)?;
    stack_size(meminfo.kernel_stack?, threads)
}

/// The power of two nearest to the average, between 8 KiB (`THREAD_SIZE` of x86 up to 3.14) and
/// 64 KiB (arm64 with 64 KiB pages): `THREAD_SIZE` is one, and the average is off by the stacks
/// that are cached for new threads.
fn stack_size(all_stacks: u64, threads: u64) -> Option<u64> {
    let average = all_stacks.checked_div(threads)?;
    let mut size = 8 << 10;
    // 1.5 times a power of two is as far from it as from the next.
    while size < 64 << 10 && average >= size + size / 2 {
        size *= 2;
    }
    Some(size)
}

/// The number of threads, from `0.06 0.01 0.03 1/88 5992` (`fs/proc/loadavg.c`).
fn parse_threads(loadavg: &str) -> Option<u64> {
    let (_, total) = loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?;
    total.parse().ok()
}

/// How many CPUs a list such as `0-3,8` names.
fn parse_cpu_list(text: &str) -> Option<u32> {
    let mut count: u32 = 0;
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= MAX_CPUS {
            return None;
        }
        count = count.saturating_add(last - first + 1);
    }
    Some(count)
}

/// The inode in `pid:[4026531836]`.
fn parse_namespace(link: &str) -> Option<u64> {
    link.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_lists() {
        for (list, count) in [("0\n", 1), ("0-1\n", 2), ("0-3,8-11\n", 8), ("0,2\n", 2)] {
            assert_eq!(parse_cpu_list(list), Some(count), "{list}");
        }
        for bad in ["", "\n", "a", "3-1", "0-", "-1", "0,,1", "0-4294967295"] {
            assert_eq!(parse_cpu_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn stacks_round_to_a_power_of_two() {
        // 1412 KiB for 88 threads; the incident node's order of magnitude.
        assert_eq!(stack_size(1412 << 10, 88), Some(16 << 10));
        assert_eq!(stack_size(9024 << 10, 564), Some(16 << 10));
        assert_eq!(stack_size(11 << 10, 1), Some(8 << 10));
        assert_eq!(stack_size(12 << 10, 1), Some(16 << 10));
        assert_eq!(stack_size(33 << 10, 1), Some(32 << 10));
        assert_eq!(stack_size(0, 10), Some(8 << 10));
        assert_eq!(stack_size(u64::MAX, 1), Some(64 << 10));
        assert_eq!(stack_size(1, 0), None);
    }

    #[test]
    fn threads_and_namespaces() {
        assert_eq!(parse_threads("0.06 0.01 0.03 1/88 5992\n"), Some(88));
        assert_eq!(parse_threads("0.06 0.01 0.03\n"), None);
        assert_eq!(parse_threads("0.06 0.01 0.03 1 5\n"), None);
        assert_eq!(parse_namespace("pid:[4026531836]"), Some(INITIAL_PID_NAMESPACE));
        assert_eq!(parse_namespace("pid:[x]"), None);
        assert_eq!(parse_namespace("net:[1]"), None);
    }

    #[test]
    fn a_saved_tree() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        fs::create_dir_all(host.proc("sys/kernel")).unwrap();
        assert!(uname(&host).unwrap_err().is_missing());
        assert_eq!(kptr_restrict(&host), None);
        fs::write(host.proc("sys/kernel/osrelease"), "4.18.0-305.el8\n").unwrap();
        fs::write(host.proc("sys/kernel/hostname"), "node7\n").unwrap();
        fs::write(host.proc("sys/kernel/kptr_restrict"), "1\n").unwrap();
        fs::write(host.proc("loadavg"), "0.06 0.01 0.03 1/100 5992\n").unwrap();
        assert_eq!(
            uname(&host).unwrap(),
            Uname {
                release: "4.18.0-305.el8".to_owned(),
                machine: None,
                hostname: "node7".to_owned()
            }
        );
        assert_eq!(kptr_restrict(&host), Some(1));
        let memory = MemInfo { kernel_stack: Some(1600 << 10), ..MemInfo::default() };
        assert_eq!(kernel_stack_bytes(&host, &memory), Some(16 << 10));
        assert_eq!(kernel_stack_bytes(&host, &MemInfo::default()), None);
        assert_eq!(in_initial_pid_namespace(&host), None);
        assert!(possible_cpus(&host).unwrap_err().is_missing());
    }

    #[test]
    fn a_container_s_name_is_not_its_host_s() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::mounted(tree.path());
        let own = uname(&Host::default()).unwrap();
        assert_eq!(uname(&host).unwrap(), own, "nothing else is known");
        fs::create_dir_all(host.join("etc")).unwrap();
        fs::write(host.join("etc/hostname"), "# set by hand\n\nnode7\n").unwrap();
        assert_eq!(uname(&host).unwrap(), Uname { hostname: "node7".to_owned(), ..own });
        assert_eq!(own_pid(&host), None);
        assert!(!own_proc_is_of(&host));
        assert_eq!(own_pid(&Host::default()), Some(std::process::id()));
        assert!(own_proc_is_of(&Host::default()));
    }

    #[test]
    fn the_running_system() {
        let host = Host::default();
        assert!(!uname(&host).unwrap().release.is_empty());
        assert!(possible_cpus(&host).unwrap() >= 1);
        assert!(in_initial_pid_namespace(&host).is_some());
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,60}", list in "[0-9,-]{0,20}", stacks: u64, threads: u64) {
            parse_cpu_list(&text);
            parse_cpu_list(&list);
            parse_threads(&text);
            parse_namespace(&text);
            stack_size(stacks, threads);
        }
    }
}
