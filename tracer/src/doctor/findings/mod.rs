//! What stands out: rules over facts, a file a group. Pure.

mod capability;
mod cgroup;
mod kubelet;
mod log;
mod memory;
mod process;
mod slab;

pub(super) use cgroup::ids;
use serde_json::Value;

use super::{
    books::Memory,
    facts::Facts,
    report::{Finding, Severity},
};

/// Part of memory below which what is available is short, and low.
const SHORT: f64 = 0.10;
const LOW: f64 = 0.20;
/// The smallest that anything is worth a finding of more than information, bytes.
const LEAST: u64 = 256 << 20;

/// How short memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pressure {
    /// There is enough, or nobody knows.
    Fine,
    /// A fifth or less is available.
    Low,
    /// A tenth or less is.
    Short,
}

/// What every rule is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) facts: &'a Facts,
    pub(super) memory: &'a Memory,
    /// Available as the kernel says, or as it can be guessed at on kernels that do not.
    pub(super) available: Option<u64>,
    pub(super) pressure: Pressure,
}

impl<'a> Context<'a> {
    pub(super) fn new(facts: &'a Facts, memory: &'a Memory) -> Self {
        let available = memory.available_bytes.or_else(|| {
            // What `free` took for it before the kernel said.
            let parts = [memory.page_cache_bytes, memory.slab_reclaimable_bytes];
            let cache = parts.into_iter().flatten().fold(0, u64::saturating_add);
            Some(memory.free_bytes?.saturating_add(cache))
        });
        let pressure = match available {
            Some(available) if facts.total().is_some() => match facts.share(available) {
                share if share <= SHORT => Pressure::Short,
                share if share <= LOW => Pressure::Low,
                _ => Pressure::Fine,
            },
            _ => Pressure::Fine,
        };
        Self { facts, memory, available, pressure }
    }

    /// Whether kleak can trace on this kernel, as far as its version tells; when that is not known, it
    /// is taken to be able to.
    pub(super) fn can_trace(&self) -> bool {
        self.facts.is_before(5, 10) != Some(true)
    }
}

/// All findings, worst first.
pub(super) fn all(context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    slab::find(context, &mut findings);
    memory::find(context, &mut findings);
    cgroup::find(context, &mut findings);
    process::find(context, &mut findings);
    kubelet::find(context, &mut findings);
    log::find(context, &mut findings);
    capability::find(context, &mut findings);
    // Stable: rules of one group come in the order in which they explain each other.
    findings.sort_by_key(|finding| (finding.severity, std::cmp::Reverse(finding.weight)));
    findings
}

impl Finding {
    fn new(id: &str, severity: Severity, weight: u64, summary: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            severity,
            summary: summary.into(),
            evidence: serde_json::Map::new(),
            next: None,
            weight,
        }
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(key.to_owned(), value.into());
        self
    }

    fn next(mut self, command: Option<String>) -> Self {
        self.next = command;
        self
    }
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) && !word.starts_with('-') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::meminfo;

    #[test]
    fn pressure_is_what_the_kernel_says_is_available() {
        let pressure = |text: &str| {
            let facts = Facts { meminfo: Some(meminfo::parse(text)), ..Facts::default() };
            let memory = crate::doctor::books::of(&facts);
            Context::new(&facts, &memory).pressure
        };
        assert_eq!(pressure("MemTotal: 100 kB\nMemAvailable: 21 kB\n"), Pressure::Fine);
        assert_eq!(pressure("MemTotal: 100 kB\nMemAvailable: 20 kB\n"), Pressure::Low);
        assert_eq!(pressure("MemTotal: 100 kB\nMemAvailable: 0 kB\n"), Pressure::Short);
        // Before 3.14.
        let old = "MemTotal: 100 kB\nMemFree: 5 kB\nCached: 20 kB\nShmem: 5 kB\nBuffers: 5 kB\n";
        assert_eq!(pressure(old), Pressure::Fine);
        assert_eq!(pressure("MemTotal: 100 kB\nMemFree: 5 kB\n"), Pressure::Short);
        assert_eq!(pressure(""), Pressure::Fine);
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("auditd.service"), "auditd.service");
        assert_eq!(quoted("getty@tty1.service"), "getty@tty1.service");
        assert_eq!(quoted(r"a\x2db.scope"), r"'a\x2db.scope'");
        assert_eq!(quoted("a b'; rm"), r"'a b'\''; rm'");
        assert_eq!(quoted("-x"), "'-x'");
        assert_eq!(quoted(""), "''");
    }
}
