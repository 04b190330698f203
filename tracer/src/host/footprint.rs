//! What a process has in memory: `/proc/PID/statm` and `/proc/PID/status`.

use super::{Host, Result, malformed, read_text};

/// Memory of a process, bytes; `None` where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Resident.
    pub rss_bytes: Option<u64>,
    /// Of that, anonymous: heap and stacks (`RssAnon`, from 4.5).
    pub anon_bytes: Option<u64>,
    /// Of that, mapped files (`RssFile`, from 4.5).
    pub file_bytes: Option<u64>,
    /// Of that, shared memory, which others may have mapped too (`RssShmem`, from 4.5).
    pub shmem_bytes: Option<u64>,
    /// Swapped out.
    pub swap_bytes: Option<u64>,
}

/// Resident pages and those of them that are not anonymous, by `/proc/PID/statm`: cheap enough to ask
/// of every process.
///
/// # Errors
///
/// [`super::HostError::is_missing`] when there is no such process.
pub fn pages(host: &Host, pid: u32) -> Result<(u64, u64)> {
    let path = host.proc(format!("{pid}/statm"));
    parse_statm(&read_text(&path)?).ok_or_else(|| malformed(&path, "not the statm of a process"))
}

/// Resident pages by `/proc/PID/stat`, where a saved tree has no more.
///
/// # Errors
///
/// [`super::HostError::is_missing`] when there is no such process.
pub fn resident_by_stat(host: &Host, pid: u32) -> Result<u64> {
    let path = host.proc(format!("{pid}/stat"));
    parse_stat(&read_text(&path)?).ok_or_else(|| malformed(&path, "not the stat of a process"))
}

/// Reads `/proc/PID/status`.
///
/// # Errors
///
/// [`super::HostError::is_missing`] when there is no such process.
pub fn status(host: &Host, pid: u32) -> Result<Footprint> {
    Ok(parse_status(&read_text(&host.proc(format!("{pid}/status")))?))
}

/// `size resident shared …`, in pages (`proc_pid_statm()` in `fs/proc/array.c`). The kernel adds file
/// pages and shared memory up for the third.
pub fn parse_statm(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_ascii_whitespace().skip(1).map(|word| word.parse::<u64>().ok());
    Some((words.next()??, words.next()??))
}

/// Field 24 of `proc_pid_stat(5)`; the first after the name, which may hold anything, is the third.
pub fn parse_stat(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(24 - 3)?.parse().ok()
}

/// The `Vm` and `Rss` lines (`task_mem()` in `fs/proc/task_mmu.c`); a kernel thread has none.
pub fn parse_status(text: &str) -> Footprint {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Footprint {
        rss_bytes: value("VmRSS"),
        anon_bytes: value("RssAnon"),
        file_bytes: value("RssFile"),
        shmem_bytes: value("RssShmem"),
        swap_bytes: value("VmSwap"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_status_says() {
        let text = "Name:\tRssAnon:\t9 kB\nVmRSS:\t   12812 kB\nRssAnon:\t    6356 kB\n\
                    RssFile:\t       8 kB\nRssShmem:\t    6448 kB\nVmSwap:\t       0 kB\n";
        let footprint = parse_status(text);
        assert_eq!(footprint.rss_bytes, Some(12_812 << 10));
        assert_eq!(footprint.anon_bytes, Some(6356 << 10));
        assert_eq!((footprint.file_bytes, footprint.swap_bytes), (Some(8 << 10), Some(0)));
        // 3.10, and a kernel thread.
        assert_eq!(parse_status("Name:\ta\nVmRSS:\t 7 kB\n").anon_bytes, None);
        assert_eq!(parse_status("Name:\tkthreadd\n"), Footprint::default());
    }

    #[test]
    fn what_statm_says() {
        assert_eq!(parse_statm("11760 3203 1614 1327 0 8634 0\n"), Some((3203, 1614)));
        assert_eq!(parse_statm("11760 3203"), None);
        let stat = "7 (a) b) S 1 7 7 0 -1 0 1 0 0 0 1 1 0 0 20 0 1 0 70 8192 3203 184467";
        assert_eq!((parse_stat(stat), parse_stat("7 (a) S 1")), (Some(3203), None));
        assert_eq!(parse_statm(""), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}") {
            parse_status(&text);
            parse_statm(&text);
            parse_stat(&text);
        }
    }
}
