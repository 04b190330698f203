//! What is charged to a memory cgroup: `memory.stat` of both versions.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Result, cgroup::MemoryVersion, read_text};

/// Memory charged to cgroups, by what it is; bytes, `None` where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charges {
    /// Anonymous memory of processes.
    pub anon_bytes: Option<u64>,
    /// Page cache of files on disk.
    pub file_bytes: Option<u64>,
    /// tmpfs files, System V and POSIX shared memory, memfds.
    pub shmem_bytes: Option<u64>,
    /// The same and anonymous memory, swapped out.
    pub swap_bytes: Option<u64>,
    /// Kernel memory (version 2, from 5.18).
    pub kernel_bytes: Option<u64>,
}

impl Charges {
    /// Combines two, field by field; a field unknown in either is unknown.
    #[must_use]
    pub fn combine(self, other: Self, op: impl Fn(u64, u64) -> u64) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| Some(op(a?, b?));
        Self {
            anon_bytes: both(self.anon_bytes, other.anon_bytes),
            file_bytes: both(self.file_bytes, other.file_bytes),
            shmem_bytes: both(self.shmem_bytes, other.shmem_bytes),
            swap_bytes: both(self.swap_bytes, other.swap_bytes),
            kernel_bytes: both(self.kernel_bytes, other.kernel_bytes),
        }
    }

    /// All of it that is known.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.anon_bytes, self.file_bytes, self.shmem_bytes, self.swap_bytes, self.kernel_bytes]
            .into_iter()
            .flatten()
            .fold(0, u64::saturating_add)
    }
}

/// `memory.stat` of one cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    /// Charged to it and to every cgroup below it, dying ones included.
    pub with_descendants: Charges,
    /// Charged to itself alone; `None` on version 2, which does not say.
    pub own: Option<Charges>,
}

/// Reads the charges of the cgroup at `directory` (already rooted).
///
/// # Errors
///
/// [`super::HostError::is_missing`] when it has been removed, or has no memory controller.
pub fn stat(directory: &Path, version: MemoryVersion) -> Result<MemoryStat> {
    let text = read_text(&directory.join("memory.stat"))?;
    Ok(match version {
        MemoryVersion::V1 => {
            let mut stat = parse_v1(&text);
            // Until 5.11 a switch of its own, which systemd turns on: without, `total_` is of the
            // cgroup alone (`mem_cgroup_hierarchy_write()`, mm/memcontrol.c).
            let hierarchy = read_text(&directory.join("memory.use_hierarchy"));
            if hierarchy.is_ok_and(|text| text.trim() == "0") {
                stat.with_descendants = Charges::default();
            }
            stat
        }
        MemoryVersion::V2 => {
            let mut stat = parse_v2(&text);
            // Not there on the root, and without swap.
            let swap = read_text(&directory.join("memory.swap.current")).ok();
            stat.with_descendants.swap_bytes = swap.and_then(|text| text.trim().parse().ok());
            stat
        }
    })
}

/// Version 1: `cache` holds shared memory too, and `total_` marks sums over the hierarchy
/// (`memcg1_stat_format()` in `mm/memcontrol-v1.c`, `memcg_stat_show()` up to 6.10).
pub fn parse_v1(text: &str) -> MemoryStat {
    let charges = |prefix: &str| {
        let value = |key: &str| value(text, &format!("{prefix}{key}"));
        let shmem = value("shmem");
        Charges {
            anon_bytes: value("rss"),
            file_bytes: difference(value("cache"), shmem),
            shmem_bytes: shmem,
            swap_bytes: value("swap"),
            kernel_bytes: None,
        }
    };
    MemoryStat { with_descendants: charges("total_"), own: Some(charges("")) }
}

/// Version 2: `file` holds shared memory too (`memory_stats[]` in `mm/memcontrol.c`).
pub fn parse_v2(text: &str) -> MemoryStat {
    let shmem = value(text, "shmem");
    let with_descendants = Charges {
        anon_bytes: value(text, "anon"),
        file_bytes: difference(value(text, "file"), shmem),
        shmem_bytes: shmem,
        swap_bytes: None,
        kernel_bytes: value(text, "kernel"),
    };
    MemoryStat { with_descendants, own: None }
}

fn difference(all: Option<u64>, part: Option<u64>) -> Option<u64> {
    Some(all?.saturating_sub(part?))
}

/// The number after `key` and a blank, at the beginning of a line.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key { value.trim().parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_1_has_own_and_total() {
        let text = "cache 9601024\nrss 10\nrss_huge 0\nshmem 9068544\nmapped_file 3\nswap 4096\n\
                    total_cache 100\ntotal_rss 20\ntotal_shmem 60\ntotal_swap 8192\n";
        let stat = parse_v1(text);
        let own = stat.own.unwrap();
        assert_eq!(own.file_bytes, Some(9_601_024 - 9_068_544));
        assert_eq!((own.anon_bytes, own.swap_bytes), (Some(10), Some(4096)));
        let all = stat.with_descendants;
        assert_eq!((all.file_bytes, all.shmem_bytes), (Some(40), Some(60)));
        assert_eq!((all.anon_bytes, all.kernel_bytes), (Some(20), None));
        assert_eq!(all.total(), 40 + 60 + 20 + 8192);
    }

    #[test]
    fn version_2_has_totals_only() {
        let text = "anon 1000\nfile 5000\nkernel 700\nshmem 4000\nslab 300\n";
        let stat = parse_v2(text);
        assert_eq!(stat.own, None);
        let all = stat.with_descendants;
        assert_eq!((all.file_bytes, all.shmem_bytes), (Some(1000), Some(4000)));
        assert_eq!((all.kernel_bytes, all.swap_bytes), (Some(700), None));
    }

    #[test]
    fn what_is_not_said_is_unknown() {
        assert_eq!(parse_v2("anon x\n").with_descendants, Charges::default());
        // Before 5.10, version 2 did not report `kernel`; without shmem, files cannot be told.
        assert_eq!(parse_v2("file 5\n").with_descendants.file_bytes, None);
        let one = Charges { anon_bytes: Some(3), ..Charges::default() };
        assert_eq!(one.combine(Charges::default(), u64::wrapping_add), Charges::default());
        assert_eq!(one.combine(one, u64::saturating_sub).anon_bytes, Some(0));
    }

    #[test]
    fn a_removed_cgroup_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        assert!(stat(&gone, MemoryVersion::V1).unwrap_err().is_missing());
        std::fs::write(directory.path().join("memory.stat"), "anon 7\n").unwrap();
        std::fs::write(directory.path().join("memory.swap.current"), "4096\n").unwrap();
        let stat = stat(directory.path(), MemoryVersion::V2).unwrap();
        assert_eq!(stat.with_descendants.anon_bytes, Some(7));
        assert_eq!(stat.with_descendants.swap_bytes, Some(4096));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}", numbers in "((total_)?(cache|shmem|rss|file|anon) [0-9]{1,22}\n){0,12}") {
            for text in [text, numbers] {
                for stat in [parse_v1(&text), parse_v2(&text)] {
                    let all = stat.with_descendants;
                    prop_assert!(all.total() >= all.anon_bytes.unwrap_or(0));
                }
            }
        }
    }
}
