//! Memory that is neither slab nor a process's: what kind of it is large, and what nothing explains.

use super::{Context, Finding, LEAST, Pressure, Severity};
use crate::report::human;

/// Shares of memory.
const LARGE: f64 = 0.25;
const NOTABLE: f64 = 0.10;

/// A kind of memory.
struct Kind {
    /// Its name in the evidence.
    name: &'static str,
    /// Its name in the sentence.
    words: &'static str,
    bytes: Option<u64>,
    /// What it is, and what helps.
    advice: &'static str,
    /// The command to run next: where kleak can trace, and elsewhere.
    next: [Option<&'static str>; 2],
}

/// Adds what is found.
pub(super) fn find(context: &Context<'_>, findings: &mut Vec<Finding>) {
    findings.extend(kinds(context).iter().filter_map(|kind| kernel(context, kind)));
    findings.extend(shared(context));
    findings.extend(huge_pages(context));
}

fn kinds(context: &Context<'_>) -> [Kind; 5] {
    let memory = context.memory;
    [
        Kind {
            name: "unaccounted",
            words: "in no line of /proc/meminfo",
            bytes: memory.unaccounted_bytes,
            advice: "drivers, network buffers, a virtual machine's balloon or pipes took it page by page",
            next: [
                Some("kleak trace --kind page --duration 30s"),
                Some("perf record -a -g -e kmem:mm_page_alloc -- sleep 10"),
            ],
        },
        Kind {
            name: "percpu",
            words: "per-CPU memory",
            bytes: memory.percpu_bytes,
            advice: "mostly of cgroups, BPF maps and network devices",
            next: [Some("kleak trace --kind percpu --duration 1m"), None],
        },
        Kind {
            name: "vmalloc",
            words: "vmalloc",
            bytes: memory.vmalloc_bytes,
            advice: "/proc/vmallocinfo says who took it",
            next: [Some("sort -k2 -n -r /proc/vmallocinfo | head -20"); 2],
        },
        Kind {
            name: "page_tables",
            words: "page tables",
            bytes: memory.page_tables_bytes,
            advice: "many processes that map the same large memory each need their own; huge pages \
                     make them smaller",
            next: [Some("grep -H VmPTE /proc/[0-9]*/status | sort -k2 -n -r | head -20"); 2],
        },
        Kind {
            name: "kernel_stacks",
            words: "kernel stacks",
            bytes: memory.kernel_stack_bytes,
            advice: "one for each thread, so something starts threads without end",
            next: [Some("ps -eo nlwp,pid,comm --sort=-nlwp | head -20"); 2],
        },
    ]
}

fn kernel(context: &Context<'_>, kind: &Kind) -> Option<Finding> {
    let bytes = kind.bytes.filter(|bytes| *bytes >= LEAST)?;
    let share = context.facts.share(bytes);
    let severity = match (share, context.pressure) {
        (LARGE.., Pressure::Short) => Severity::Critical,
        (LARGE.., _) | (NOTABLE.., Pressure::Low | Pressure::Short) => Severity::Warning,
        (NOTABLE.., Pressure::Fine) => Severity::Info,
        _ => return None,
    };
    let summary = format!(
        "{} of memory ({}) {} {}: {}",
        human::bytes(bytes),
        human::percent(share),
        if kind.name == "unaccounted" { "is" } else { "is of the kind" },
        kind.words,
        kind.advice
    );
    let [able, unable] = kind.next;
    let next = if context.can_trace() { able } else { unable };
    Some(
        Finding::new("kernel-memory", severity, bytes, summary)
            .with("kind", kind.name)
            .with("bytes", bytes)
            .with("share_of_memory", share)
            .with("estimated", kind.name == "unaccounted")
            .next(next.map(str::to_owned)),
    )
}

/// tmpfs and shared memory: held by files, whoever wrote them.
fn shared(context: &Context<'_>) -> Option<Finding> {
    let bytes = context.memory.shmem_bytes.filter(|bytes| *bytes >= LEAST)?;
    let share = context.facts.share(bytes);
    let severity = match (share, context.pressure) {
        (LARGE.., Pressure::Short) => Severity::Critical,
        (LARGE.., Pressure::Low) | (NOTABLE.., Pressure::Short) => Severity::Warning,
        (NOTABLE.., _) => Severity::Info,
        _ => return None,
    };
    let summary = format!(
        "{} ({}) is tmpfs and shared memory, which stays until the files or segments are deleted, \
         whether or not a process has them open",
        human::bytes(bytes),
        human::percent(share)
    );
    Some(
        Finding::new("shared-memory", severity, bytes, summary)
            .with("shmem_bytes", bytes)
            .with("share_of_memory", share)
            .next(Some("df -h -t tmpfs; ipcs -m".to_owned())),
    )
}

/// Huge pages that are set aside and not used.
fn huge_pages(context: &Context<'_>) -> Option<Finding> {
    let info = context.facts.meminfo.as_ref()?;
    let bytes = context.memory.hugetlb_bytes.filter(|bytes| *bytes >= LEAST)?;
    let free = info.huge_pages_free?;
    let share = context.facts.share(free);
    let severity = match (share, context.pressure) {
        (NOTABLE.., Pressure::Short) => Severity::Warning,
        (NOTABLE.., _) => Severity::Info,
        _ => return None,
    };
    let summary = format!(
        "{} of memory ({}) is set aside for huge pages that nobody uses, of {} in all",
        human::bytes(free),
        human::percent(share),
        human::bytes(bytes)
    );
    Some(
        Finding::new("huge-pages", severity, free, summary)
            .with("hugetlb_bytes", bytes)
            .with("unused_bytes", free)
            .next(Some("sysctl vm.nr_hugepages".to_owned())),
    )
}
