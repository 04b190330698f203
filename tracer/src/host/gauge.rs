//! How much a memory cgroup uses, and how much it may.

use std::path::Path;

use super::{cgroup::MemoryVersion, read_text};

/// A limit of version 1 from which on there is none: the largest number of pages, in bytes, whatever
/// the size of a page (`PAGE_COUNTER_MAX` in `include/linux/page_counter.h`; before 3.19
/// `RESOURCE_MAX`, the largest number of bytes).
const NO_LIMIT: u64 = 1 << 60;

/// Usage and limit of one cgroup; `None` where it does not say (version 2's root says neither).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Charged to it and to all below it, bytes.
    pub usage_bytes: Option<u64>,
    /// Its own limit.
    pub limit: Option<Limit>,
}

/// A cgroup's own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// There is none.
    None,
    /// Bytes.
    Bytes(u64),
}

/// What `memory.stat` says that kubelet computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KubeletStat {
    /// Anonymous memory (version 2).
    pub anon_bytes: Option<u64>,
    /// Page cache, shared memory included (version 2).
    pub file_bytes: Option<u64>,
    /// File pages not used recently, with all below it.
    pub inactive_file_bytes: Option<u64>,
}

/// Reads usage and limit of the cgroup at `directory` (already rooted).
pub fn read(directory: &Path, version: MemoryVersion) -> Gauge {
    let (usage, limit) = match version {
        MemoryVersion::V1 => ("memory.usage_in_bytes", "memory.limit_in_bytes"),
        MemoryVersion::V2 => ("memory.current", "memory.max"),
    };
    let text = |name: &str| read_text(&directory.join(name)).ok();
    Gauge {
        usage_bytes: text(usage).and_then(|text| text.trim().parse().ok()),
        limit: text(limit).and_then(|text| parse_limit(&text)),
    }
}

/// Reads `memory.stat` of the cgroup at `directory`; all unknown when it cannot be read.
pub fn kubelet_stat(directory: &Path, version: MemoryVersion) -> KubeletStat {
    let text = read_text(&directory.join("memory.stat")).unwrap_or_default();
    parse_stat(&text, version)
}

/// A number, or `max`.
pub fn parse_limit(text: &str) -> Option<Limit> {
    match text.trim() {
        "max" => Some(Limit::None),
        number => match number.parse::<u64>().ok()? {
            NO_LIMIT.. => Some(Limit::None),
            bytes => Some(Limit::Bytes(bytes)),
        },
    }
}

/// Parses `memory.stat`.
pub fn parse_stat(text: &str, version: MemoryVersion) -> KubeletStat {
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            if name == key { value.trim().parse().ok() } else { None }
        })
    };
    match version {
        MemoryVersion::V1 => KubeletStat {
            inactive_file_bytes: value("total_inactive_file"),
            ..KubeletStat::default()
        },
        MemoryVersion::V2 => KubeletStat {
            anon_bytes: value("anon"),
            file_bytes: value("file"),
            inactive_file_bytes: value("inactive_file"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_of_both_versions() {
        assert_eq!(parse_limit("9223372036854771712\n"), Some(Limit::None));
        assert_eq!(parse_limit("9223372036854775807\n"), Some(Limit::None));
        assert_eq!(parse_limit("9223372036854710272\n"), Some(Limit::None), "64 KiB pages");
        assert_eq!(parse_limit("max\n"), Some(Limit::None));
        assert_eq!(parse_limit("536870912\n"), Some(Limit::Bytes(512 << 20)));
        assert_eq!(parse_limit("0\n"), Some(Limit::Bytes(0)));
        assert_eq!(parse_limit("much\n"), None);
    }

    #[test]
    fn version_1_sums_over_the_hierarchy() {
        let text = "inactive_file 1\ntotal_inactive_file 20\nanon 3\n";
        let stat = parse_stat(text, MemoryVersion::V1);
        assert_eq!((stat.inactive_file_bytes, stat.anon_bytes), (Some(20), None));
        let stat = parse_stat(text, MemoryVersion::V2);
        assert_eq!((stat.inactive_file_bytes, stat.anon_bytes), (Some(1), Some(3)));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}") {
            parse_limit(&text);
            parse_stat(&text, MemoryVersion::V1);
        }
    }
}
