//! What the kernel's log says of memory: each kind of line once, with what it means.

use super::{Context, Finding, Severity};
use crate::{
    host::kmsg::Line,
    report::{human, sanitize::terminal},
};

/// What happened longer ago is history, and no more than information.
const RECENT_S: f64 = 24.0 * 3600.0;
/// Characters of a line that are shown.
const SHOWN: usize = 160;
/// `memory.kmem.limit_in_bytes` without a limit, in kB, from here on.
const NO_LIMIT_KB: u64 = 1 << 50;

/// A kind of line.
struct Signature {
    /// Its name in the evidence.
    name: &'static str,
    /// Whether a line is one.
    is: fn(&str) -> bool,
    /// How bad it is.
    severity: Severity,
    /// What it means.
    means: &'static str,
}

/// Worst first: a line counts for the first that it is one of.
const SIGNATURES: [Signature; 9] = [
    Signature {
        name: "slub-allocation-failure",
        is: |text| text.contains("SLUB: Unable to allocate memory on node"),
        severity: Severity::Warning,
        means: "the kernel could not get a page for a slab cache: memory was out, or a cgroup's \
                kernel-memory accounting refused it, as on 3.10 kernels where it leaks",
    },
    Signature {
        name: "memcg-oom",
        is: |text| text.contains("Memory cgroup out of memory"),
        severity: Severity::Info,
        means: "a cgroup reached its own limit and a process in it was killed; the node itself need not \
                be short of memory",
    },
    Signature {
        name: "oom-kill",
        is: |text| {
            text.starts_with("Out of memory: Kill")
                || text.contains("Out of memory and no killable")
        },
        severity: Severity::Warning,
        means: "the node ran out of memory, and the kernel killed a process to get some back",
    },
    Signature {
        name: "oom-killer",
        is: |text| text.contains(" invoked oom-killer: "),
        severity: Severity::Info,
        means: "an allocation found no memory and called the OOM killer, for the whole node or for the \
                cgroup that a later line names",
    },
    Signature {
        name: "kmem-usage",
        is: |text| text.starts_with("kmem: usage ") && text.contains(", limit "),
        severity: Severity::Info,
        means: "kernel memory was accounted to the cgroup that was out of memory, so accounting was on",
    },
    Signature {
        name: "percpu-allocation-failure",
        is: |text| text.starts_with("percpu: allocation failed"),
        severity: Severity::Warning,
        means: "the kernel could not get per-CPU memory, of which each cgroup needs some",
    },
    Signature {
        name: "vmalloc-failure",
        is: |text| text.starts_with("vmap allocation for size") || text.contains("vmalloc error"),
        severity: Severity::Warning,
        means: "the kernel could not get memory or addresses for vmalloc",
    },
    Signature {
        name: "page-allocation-failure",
        is: |text| text.contains("page allocation failure: order:"),
        severity: Severity::Info,
        means: "the page allocator had no free block of that order just then; a few of those of a high \
                order or in interrupts are harmless",
    },
    Signature {
        name: "audit-backlog",
        is: |text| {
            text.contains("audit: backlog limit exceeded")
                || (text.contains("audit_backlog=") && text.contains("audit_backlog_limit="))
                || text.contains("audit_lost=")
        },
        severity: Severity::Info,
        means: "auditd did not keep up with the kernel's audit events, which were lost or held \
                processes up; the kernel's own queue is bounded by audit_backlog_limit",
    },
];

/// Adds what is found.
pub(super) fn find(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let Some(log) = &context.facts.log else { return };
    for (rank, signature) in SIGNATURES.iter().enumerate() {
        let lines: Vec<&Line> = log
            .lines
            .iter()
            .filter(|line| kind(&line.text).is_some_and(|kind| kind.name == signature.name))
            .collect();
        findings.extend(one(context, signature, &lines, &log.source, rank));
    }
}

fn kind(text: &str) -> Option<&'static Signature> {
    SIGNATURES.iter().find(|signature| (signature.is)(text))
}

fn one(
    context: &Context<'_>,
    signature: &Signature,
    lines: &[&Line],
    source: &str,
    rank: usize,
) -> Option<Finding> {
    let last = lines.last()?;
    let ago = context.facts.uptime_s.zip(last.at_s).map(|(now, at)| (now - at).max(0.0));
    let recent = ago.is_none_or(|ago| ago <= RECENT_S);
    let severity = if recent { signature.severity } else { Severity::Info };
    let shown: String = terminal(&last.text).chars().take(SHOWN).collect();
    let when = ago.map_or_else(String::new, |ago| format!(", {} ago", human::seconds(ago.round())));
    let times = match lines.len() {
        1 => "once".to_owned(),
        times => format!("{} times", human::count(times as u64)),
    };
    let more = detail(signature, &last.text);
    let summary =
        format!("the kernel's log has {times} (last{when}) \"{shown}\": {}{more}", signature.means);
    // Among those of one severity in the order above, and after what is a matter of bytes.
    let weight = (SIGNATURES.len() - rank) as u64;
    Some(
        Finding::new("log-signature", severity, weight, summary)
            .with("signature", signature.name)
            .with("count", lines.len() as u64)
            .with("last_line", last.text.chars().take(SHOWN).collect::<String>())
            .with("last_at_s", last.at_s)
            .with("last_ago_s", ago)
            .with("source", source),
    )
}

/// What the numbers in a line say.
fn detail(signature: &Signature, text: &str) -> String {
    match signature.name {
        "kmem-usage" => {
            let [usage, limit, failures] =
                ["usage ", "limit ", "failcnt "].map(|key| number(text, key));
            let (Some(usage), Some(limit)) = (usage, limit) else { return String::new() };
            let limit = if limit >= NO_LIMIT_KB {
                "no limit".to_owned()
            } else {
                format!("a limit of {}", human::bytes(limit.saturating_mul(1024)))
            };
            let failures = failures.map_or_else(String::new, |count| {
                format!(" and {}", human::counted(count, "failure"))
            });
            format!(
                " ({} in use under {limit}{failures})",
                human::bytes(usage.saturating_mul(1024))
            )
        }
        "slub-allocation-failure" => match flags(text) {
            Some((flags, words)) => format!(" (gfp={flags}: {words})"),
            None => String::new(),
        },
        _ => String::new(),
    }
}

/// The number after a key, in kB where it has a unit.
fn number(text: &str, key: &str) -> Option<u64> {
    let (_, rest) = text.split_once(key)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// The flags of a failed allocation, where they are the two that 3.10 kernels log when accounting
/// leaks (`include/linux/gfp.h` of 3.10: `GFP_KERNEL` is 0xd0, `__GFP_ZERO` 0x8000).
fn flags(text: &str) -> Option<(&'static str, &'static str)> {
    [
        ("0x80d0", "an ordinary allocation that may wait, zeroed"),
        ("0x8020", "an allocation that may not wait, zeroed"),
        ("0xd0", "an ordinary allocation that may wait"),
        ("0x20", "an allocation that may not wait"),
    ]
    .into_iter()
    .find(|(flags, _)| text.contains(&format!("gfp={flags})")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Option<&'static str> {
        kind(text).map(|kind| kind.name)
    }

    #[test]
    fn lines_of_the_incidents() {
        for (text, expected) in [
            ("SLUB: Unable to allocate memory on node -1 (gfp=0x80d0)", "slub-allocation-failure"),
            ("kmem: usage 3868836kB, limit 9007199254740988kB, failcnt 0", "kmem-usage"),
            (
                "Memory cgroup out of memory: Kill process 7 (java) score 1 or sacrifice child",
                "memcg-oom",
            ),
            ("Memory cgroup out of memory: Killed process 7 (java) total-vm:1kB", "memcg-oom"),
            ("java invoked oom-killer: gfp_mask=0xd0, order=0, oom_score_adj=996", "oom-killer"),
            ("Out of memory: Killed process 9 (x)", "oom-kill"),
            (
                "swapper/0: page allocation failure: order:5, mode:0x40(GFP)",
                "page-allocation-failure",
            ),
            ("audit: backlog limit exceeded", "audit-backlog"),
            ("audit: audit_backlog=8193 > audit_backlog_limit=8192", "audit-backlog"),
            ("percpu: allocation failed, size=8 align=8 atomic=0", "percpu-allocation-failure"),
        ] {
            assert_eq!(name(text), Some(expected), "{text}");
        }
        for text in ["memory: usage 7kB, limit 8kB, failcnt 9", "eth0: link up", ""] {
            assert_eq!(name(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_explained() {
        let of = |text: &str| detail(kind(text).unwrap(), text);
        assert_eq!(
            of("kmem: usage 3868836kB, limit 9007199254740988kB, failcnt 0"),
            " (3.7 GiB in use under no limit and 0 failures)"
        );
        assert_eq!(
            of("kmem: usage 1024kB, limit 2048kB, failcnt 1"),
            " (1.0 MiB in use under a limit of 2.0 MiB and 1 failure)"
        );
        assert_eq!(of("kmem: usage x, limit y"), "");
        assert!(of("SLUB: Unable to allocate memory on node -1 (gfp=0x80d0)").contains("may wait"));
        assert_eq!(of("SLUB: Unable to allocate memory on node -1, gfp=0xcc0(GFP_KERNEL)"), "");
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,120}") {
            for text in [text.clone(), format!("kmem: usage {text}, limit {text}")] {
                if let Some(kind) = kind(&text) {
                    detail(kind, &text);
                }
            }
        }
    }
}
