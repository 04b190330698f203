//! `/proc/PID`: who a process is, and whether it is still the same one.

use super::{Host, HostError, Result, malformed, read, read_text};

/// `PF_KTHREAD` in `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// What is used of `/proc/PID/stat` (`do_task_stat()` in `fs/proc/array.c`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: u32,
    /// Name of the thread-group leader: any bytes but NUL, 15 of them at most for a process.
    pub comm: Vec<u8>,
    /// State of the thread-group leader: `R`, `S`, `D`, `Z`, `X`, …
    pub state: u8,
    /// Parent's process id.
    pub parent: u32,
    /// Flags of the task (`PF_*`).
    pub flags: u64,
    /// Threads that have not been reaped, the leader included.
    pub threads: u64,
    /// Start since boot, in ticks of [`ticks_per_second`].
    pub start_ticks: u64,
}

impl Stat {
    /// Whether it runs. A leader that has called `pthread_exit()` is a zombie while its other
    /// threads go on, and they are counted; a dead process has only itself left.
    pub fn is_running(&self) -> bool {
        match self.state {
            b'X' | b'x' => false,
            b'Z' => self.threads > 1,
            _ => true,
        }
    }

    /// Whether it is a kernel thread.
    pub fn is_kthread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// A process's place in one cgroup hierarchy: a line of `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Number of the hierarchy; 0 is v2.
    pub hierarchy: u32,
    /// Controllers of a v1 hierarchy, comma-separated; empty for v2.
    pub controllers: String,
    /// Path below the mount of that hierarchy.
    pub path: String,
    /// Whether the cgroup has been removed under the process (a zombie's may be).
    pub deleted: bool,
}

/// Reads `/proc/PID/stat`.
///
/// # Errors
///
/// [`HostError::is_missing`] when there is no such process.
pub fn stat(host: &Host, pid: u32) -> Result<Stat> {
    let path = host.proc(format!("{pid}/stat"));
    parse_stat(&read(&path)?).ok_or_else(|| malformed(&path, "not the stat of a process"))
}

/// Reads `/proc/PID/comm`: the name of the thread-group leader, any bytes.
///
/// # Errors
///
/// [`HostError::is_missing`] when there is no such process.
pub fn comm(host: &Host, pid: u32) -> Result<Vec<u8>> {
    let mut bytes = read(&host.proc(format!("{pid}/comm")))?;
    // Only the newline that the kernel adds: a name may end in one of its own.
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(bytes)
}

/// Reads `/proc/PID/cgroup`.
///
/// # Errors
///
/// [`HostError::is_missing`] when there is no such process.
pub fn cgroup(host: &Host, pid: u32) -> Result<Vec<Membership>> {
    Ok(parse_cgroup(&read_text(&host.proc(format!("{pid}/cgroup")))?))
}

/// The path of a process in one hierarchy.
pub fn path_in(memberships: &[Membership], hierarchy: u32) -> Option<&str> {
    let found = memberships.iter().find(|membership| membership.hierarchy == hierarchy);
    found.map(|membership| membership.path.as_str())
}

/// Whether the process `pid` that started `start_ns` nanoseconds after boot still runs; a later
/// process with the same id does not count.
///
/// # Errors
///
/// When the process exists and cannot be read.
pub fn live(host: &Host, pid: u32, start_ns: u64) -> Result<bool> {
    match stat(host, pid) {
        Ok(stat) => Ok(stat.is_running() && started_at(&stat, start_ns, ticks_per_second()?)),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

/// `USER_HZ`: the unit of times in `/proc/PID/stat`.
///
/// # Errors
///
/// When the C library does not say.
pub fn ticks_per_second() -> Result<u64> {
    let what = "the length of a clock tick";
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .map_err(|cause| HostError::Call { what, cause })?;
    ticks
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|&ticks| ticks > 0)
        .ok_or(HostError::Call { what, cause: nix::Error::EINVAL })
}

/// Whether a process started at `start_ns`. The kernel rounds down (`nsec_to_clock_t()` in
/// `kernel/time/time.c`); one tick of grace covers a `USER_HZ` that does not divide a second.
fn started_at(stat: &Stat, start_ns: u64, ticks_per_second: u64) -> bool {
    let ticks = u128::from(start_ns) * u128::from(ticks_per_second) / 1_000_000_000;
    ticks.abs_diff(u128::from(stat.start_ticks)) <= 1
}

/// Parses `PID (comm) S ppid …`. The name may hold parentheses and newlines; nothing after it
/// does, so it ends at the last one.
pub fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|&byte| byte == b'(')?;
    let close = bytes.iter().rposition(|&byte| byte == b')')?;
    let comm = bytes.get(open + 1..close)?.to_vec();
    let pid = std::str::from_utf8(&bytes[..open]).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(&bytes[close + 1..]).ok()?;
    // The first is field 3 of proc_pid_stat(5).
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |n: usize| field(n)?.parse::<u64>().ok();
    let state = match field(3)?.as_bytes() {
        [state] => *state,
        _ => return None,
    };
    Some(Stat {
        pid,
        comm,
        state,
        parent: field(4)?.parse().ok()?,
        flags: number(9)?,
        threads: number(20)?,
        start_ticks: number(22)?,
    })
}

/// Parses `/proc/PID/cgroup`: `hierarchy:controllers:path`, one a line. Other lines are passed
/// over. A path may hold colons.
pub fn parse_cgroup(text: &str) -> Vec<Membership> {
    let mut memberships = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let Ok(hierarchy) = hierarchy.parse() else {
            continue;
        };
        if !path.starts_with('/') {
            continue;
        }
        // `proc_cgroup_show()` in `kernel/cgroup/cgroup.c` marks it so.
        let (path, deleted) = match path.strip_suffix(" (deleted)") {
            Some(path) => (path, true),
            None => (path, false),
        };
        memberships.push(Membership {
            hierarchy,
            controllers: controllers.to_owned(),
            path: path.to_owned(),
            deleted,
        });
    }
    memberships
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KUBELET: &[u8] = b"1165 (kubelet) S 1 1165 1165 0 -1 4194560 96155 48 215 0 \
        4412 2011 0 0 20 0 17 0 1893 1964023808 24011 18446744073709551615 1 1 0 0 0 0 0 0 \
        2143420159 0 0 0 17 3 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    fn with_comm(comm: &[u8]) -> Vec<u8> {
        let mut bytes = b"7 (".to_vec();
        bytes.extend_from_slice(comm);
        bytes.extend_from_slice(b") Z 1 7 7 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 512 0 0\n");
        bytes
    }

    #[test]
    fn an_ordinary_process() {
        let stat = parse_stat(KUBELET).unwrap();
        assert_eq!((stat.pid, stat.parent), (1165, 1));
        assert_eq!(stat.comm, b"kubelet");
        assert_eq!((stat.state, stat.threads, stat.start_ticks), (b'S', 17, 1893));
        assert!(stat.is_running() && !stat.is_kthread());
    }

    #[test]
    fn names_that_fight_back() {
        for comm in [b"a) S 1 (b".as_slice(), b")", b"(", b"", b"a\nb c", b"\xff\xfe)", b")) R 9 9"]
        {
            let stat = parse_stat(&with_comm(comm)).unwrap();
            assert_eq!(stat.comm, comm);
            assert_eq!((stat.pid, stat.start_ticks), (7, 512));
            assert!(stat.is_kthread());
        }
    }

    #[test]
    fn a_zombie_runs_only_while_it_has_threads() {
        let zombie = parse_stat(&with_comm(b"x")).unwrap();
        assert!(!zombie.is_running());
        assert!(Stat { threads: 2, ..zombie.clone() }.is_running());
        assert!(!Stat { state: b'X', threads: 2, ..zombie }.is_running());
    }

    #[test]
    fn malformed_stat() {
        for bad in [
            b"".as_slice(),
            b"1",
            b"1 (a",
            b"1 a) S",
            b"x (a) S 1",
            b") (",
            b"1 (a) SS 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5",
        ] {
            assert_eq!(parse_stat(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_start_is_compared_in_ticks() {
        let stat = Stat { start_ticks: 1893, ..Stat::default() };
        assert!(started_at(&stat, 18_930_000_000, 100));
        assert!(started_at(&stat, 18_939_999_999, 100));
        assert!(started_at(&stat, 18_920_000_000, 100));
        assert!(!started_at(&stat, 18_910_000_000, 100));
        assert!(!started_at(&stat, 18_950_000_000, 100));
        assert!(!started_at(&stat, u64::MAX, 100));
    }

    #[test]
    fn this_process_is_live_and_an_earlier_one_of_its_id_is_not() {
        let host = Host::default();
        let pid = std::process::id();
        let start =
            stat(&host, pid).unwrap().start_ticks * (1_000_000_000 / ticks_per_second().unwrap());
        assert!(live(&host, pid, start).unwrap());
        assert!(
            !live(&host, pid, start.saturating_sub(60_000_000_000)).unwrap()
                || start < 60_000_000_000
        );
        assert!(!live(&host, u32::MAX, start).unwrap());
        assert_eq!(comm(&host, pid).unwrap(), stat(&host, pid).unwrap().comm);
        assert!(cgroup(&host, u32::MAX).unwrap_err().is_missing());
    }

    #[test]
    fn memberships_of_a_hybrid_machine() {
        let lines = parse_cgroup(
            "9:name=systemd:/\n\
             4:cpu,cpuacct:/a\n\
             3:memory:/kubepods/pod:1/x (deleted)\n\
             0::/system.slice/kubelet.service\n\
             nonsense\n\
             5:pids\n\
             x:y:/z\n\
             6:pids:z\n",
        );
        assert_eq!(lines.len(), 4);
        assert_eq!(path_in(&lines, 3), Some("/kubepods/pod:1/x"));
        assert!(lines[2].deleted && !lines[3].deleted);
        assert_eq!(path_in(&lines, 0), Some("/system.slice/kubelet.service"));
        assert_eq!(path_in(&lines, 77), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, text in "(?s).{0,200}") {
            parse_stat(&bytes);
            parse_cgroup(&text);
        }

        #[test]
        fn any_name_is_read_back(comm in proptest::collection::vec(1..=255_u8, 0..16)) {
            prop_assert_eq!(parse_stat(&with_comm(&comm)).unwrap().comm, comm);
        }

        #[test]
        fn the_kernels_rounding_is_ours(start_ns: u64) {
            let stat = Stat { start_ticks: start_ns / 10_000_000, ..Stat::default() };
            prop_assert!(started_at(&stat, start_ns, 100));
        }
    }
}
