//! How far the answer can be trusted: what the kernel's own count says, what was lost and what
//! that does to the answer, and what the tracing cost.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::super::ledger::Ledger;
use super::super::sanitize::terminal;
use super::super::{CacheRow, Command, Loss, Report, Sampling, followed, human, names};
use super::layout::{Page, Paint};

/// Columns of the names before each line.
const LABEL: usize = 12;
/// Caches compared with the kernel's own count.
const CACHES: usize = 5;
/// Parts of the kernel's count at which a cache counts as explained. Above, missed frees are as
/// likely as a leak.
const EXPLAINED: RangeInclusive<f64> = 0.9..=1.1;

pub(super) fn render(report: &Report, page: &mut Page) {
    page.heading("Trust");
    for Entry { paint, label, text } in entries(report) {
        page.paragraph(paint, &format!("  {label:LABEL$}"), &text);
    }
}

/// A line of the section.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) paint: Paint,
    /// Empty below an entry of the same.
    pub(crate) label: &'static str,
    /// Safe to print.
    pub(crate) text: String,
}

/// All that is said, for pages of other kinds too.
pub(crate) fn entries(report: &Report) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |paint, label, text: String| entries.push(Entry { paint, label, text });
    let mut label = "checked";
    // The kernel counts slab caches one by one, the others as a whole or not at all.
    let mut whole = BTreeSet::new();
    let compared = report.caches.iter().filter(|cache| {
        let ledger = Ledger::of_cache(&cache.name);
        ledger == Ledger::Slab || whole.insert(ledger)
    });
    for cache in compared.take(CACHES) {
        let (paint, text) = check(cache);
        add(paint, label, text);
        label = "";
    }
    label = "merged";
    for cache in report.caches.iter().take(CACHES).filter(|cache| !cache.aliases.is_empty()) {
        let (name, others) = (terminal(&cache.name), names::list(&cache.aliases));
        add(Paint::Plain, label, format!("the kernel keeps {name} in one cache with {others}"));
        label = "";
    }
    label = "losses";
    for text in losses(&report.loss).into_iter().chain(unfollowed(report)) {
        add(Paint::Warn, label, text);
        label = "";
    }
    let complete = label == "losses";
    match (complete, report.loss.missed_events) {
        (true, Some(_)) => add(Paint::Plain, label, "nothing lost".into()),
        (true, None) => {
            let text = "nothing known to be lost; missed events: unknown on this kernel";
            add(Paint::Plain, label, text.into());
        }
        (false, None) => {
            add(Paint::Plain, "", "missed events: unknown on this kernel".into());
        }
        (false, Some(_)) => (),
    }
    if let Some(sampling) = &report.sampling {
        add(Paint::Warn, "sampled", sampled(sampling));
    }
    if let Some(older) = older(&report.loss) {
        add(Paint::Plain, "older", older);
    }
    for note in &report.notes {
        add(Paint::Warn, "note", terminal(note).into_owned());
    }
    if let Some(command) = &report.command {
        add(Paint::Plain, "command", ran(command));
    }
    add(Paint::Plain, "cgroups", cgroups(report));
    add(Paint::Dim, "traced", traced(report));
    add(Paint::Dim, "cost", cost(report));
    entries
}

/// In a few words, why the confidence is what it is.
pub(super) fn reason(report: &Report) -> String {
    let mut reasons = Vec::new();
    let named = report.verdict.cache.as_ref();
    let cache = report.caches.iter().find(|cache| Some(&cache.name) == named);
    match cache {
        Some(CacheRow { explained: Some(explained), .. }) => reasons
            .push(format!("explains {} of the kernel's own count", human::percent(*explained))),
        Some(_) => reasons.push("nothing of the kernel's own to check it by".into()),
        None => (),
    }
    let loss = &report.loss;
    if loss.untracked_objects > 0 {
        let n = human::counted(loss.untracked_objects, "object");
        reasons.push(format!("{n} not followed"));
    }
    match losses(loss).len() - usize::from(loss.untracked_objects > 0) {
        0 if loss.untracked_objects > 0 => (),
        0 => reasons.push("nothing lost".into()),
        _ => reasons.push("losses, below".into()),
    }
    reasons.join("; ")
}

fn check(cache: &CacheRow) -> (Paint, String) {
    let name = terminal(&cache.name);
    match Ledger::of_cache(&cache.name) {
        Ledger::Slab => {}
        Ledger::Pages => {
            let text = "pages: the kernel counts them by no use that this could be compared with";
            return (Paint::Plain, text.into());
        }
        Ledger::PerCpu => return check_percpu(cache.explained),
    }
    match (cache.explained, cache.slabinfo_growth_objects) {
        (Some(explained), growth) => {
            let counted = growth.map_or_else(String::new, |growth| {
                let sign = if growth < 0 { "-" } else { "+" };
                format!(": {sign}{} objects", human::count(growth.unsigned_abs()))
            });
            let fits = EXPLAINED.contains(&explained);
            let paint = if fits { Paint::Plain } else { Paint::Warn };
            let part = human::percent(explained);
            (paint, format!("explains {part} of {name}'s growth (slabinfo{counted})"))
        }
        (None, Some(_)) => (Paint::Plain, format!("{name} grew too little in slabinfo to compare")),
        (None, None) => {
            (Paint::Plain, format!("{name}: slabinfo has no count by this name to compare with"))
        }
    }
}

/// Per-CPU memory is compared as a whole.
fn check_percpu(explained: Option<f64>) -> (Paint, String) {
    let Some(explained) = explained else {
        let text = "per-CPU memory grew too little in /proc/meminfo (Percpu) to compare";
        return (Paint::Plain, text.into());
    };
    let paint = if EXPLAINED.contains(&explained) { Paint::Plain } else { Paint::Warn };
    let part = human::percent(explained);
    (paint, format!("explains {part} of the growth of Percpu (/proc/meminfo)"))
}

/// What was lost, each with what it does to the answer. Frees of older objects are none: nothing
/// that is reported depends on them.
pub(super) fn losses(loss: &Loss) -> Vec<String> {
    let one = |n: u64, noun: &str, effect: &str| {
        (n > 0).then(|| format!("{} {effect}", human::counted(n, noun)))
    };
    [
        one(
            loss.untracked_objects,
            "allocation",
            "not followed, as the table was full: sums are too low; raise --max-objects or trace \
             fewer sizes",
        ),
        one(
            loss.missed_events.unwrap_or(0),
            "event",
            "missed: an unseen free looks like a leak, an unseen allocation like none",
        ),
        one(
            loss.failed_updates,
            "update",
            "refused by the kernel's table: as many objects may be wrongly in or out",
        ),
        one(
            loss.missed_frees_detected,
            "missed free",
            "found out and corrected; others may still look like leaks",
        ),
        one(loss.lost_stacks, "stack", "not stored: counted, but in no code path"),
        one(loss.lost_owners, "object", "whose owner did not fit: counted as [unknown]"),
        one(
            loss.lost_cgroup_events,
            "cgroup event",
            "without a path: who makes cgroups may be wrong",
        ),
        one(loss.failed_reads, "read", "of kernel memory failed: a name or a size may be missing"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Not a loss, but what a cache that shrinks, or grows less than its owners, may be due to.
fn older(loss: &Loss) -> Option<String> {
    match loss.frees_of_older_objects {
        Some(0) => None,
        Some(n) => {
            let frees = human::counted(n, "free");
            Some(format!("{frees} of objects from before the trace, which no owner here had"))
        }
        None => Some(format!(
            "frees of objects from before the trace: unknown on this kernel, at most {}",
            human::count(loss.unmatched_frees)
        )),
    }
}

/// What is not seen at all.
fn unfollowed(report: &Report) -> Option<String> {
    let slab = report.filter.kinds.iter().any(|kind| kind == "kmalloc" || kind == "cache");
    if report.mode.follows_rcu() || !slab {
        return None;
    }
    let why = report.mode.obstacle.as_deref().map(terminal).unwrap_or_default();
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    Some(format!(
        "frees by RCU and in bulk cannot be followed{why}; what is freed so is told apart, where it is \
         known"
    ))
}

fn ran(command: &Command) -> String {
    let words: Vec<_> = command.argv.iter().map(|word| terminal(word)).collect();
    let ended = match (command.exit_status, command.signal) {
        (Some(status), _) => format!("exit status {status}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "still running".into(),
    };
    format!("{} (pid {}): {ended}", words.join(" "), command.pid)
}

fn cgroups(report: &Report) -> String {
    let cgroups = &report.cgroups;
    let dying = cgroups.dying.map_or_else(|| "unknown on this kernel".into(), human::count);
    let oldest = cgroups.oldest_dying_s.map_or_else(String::new, |age| {
        format!(", of those removed here the oldest for {}", human::seconds(age))
    });
    format!(
        "{} created, {} removed, {} released; dying now: {dying}{oldest}",
        human::count(cgroups.created),
        human::count(cgroups.removed),
        human::count(cgroups.released),
    )
}

/// What was followed, for how long, where.
fn traced(report: &Report) -> String {
    let host = &report.host;
    let mut parts = vec![human::seconds(report.window_s)];
    parts.extend(followed::words(&report.filter));
    parts.push(format!(
        "{}, Linux {} {}",
        terminal(&host.hostname),
        terminal(&host.kernel),
        terminal(&host.machine)
    ));
    parts.join("; ")
}

fn cost(report: &Report) -> String {
    let cost = &report.cost;
    let each = cost
        .bpf_ns_per_event
        .map_or("time each unknown".into(), |each| format!("{each:.0} ns each"));
    let of_machine =
        |share: f64, of: &str| format!("{} of the machine ({of})", human::percent(share));
    let shares = match (cost.bpf_cpu_share, cost.user_cpu_share) {
        (Some(bpf), Some(user)) => {
            Some(format!("{} and {} (kleak itself)", of_machine(bpf, "BPF"), human::percent(user)))
        }
        (Some(bpf), None) => Some(of_machine(bpf, "BPF")),
        (None, Some(user)) => Some(of_machine(user, "kleak itself; BPF not measured")),
        (None, None) => None,
    };
    let memory = cost
        .user_rss_bytes
        .map_or_else(String::new, |bytes| format!(" and {} of kleak's own", human::bytes(bytes)));
    let maps = format!("{} of maps{memory}", human::bytes(cost.map_bytes));
    let events = human::counted(cost.events, "event");
    let parts = [Some(events), Some(each), shares, Some(maps)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What of all objects was followed.
fn sampled(sampling: &Sampling) -> String {
    // A power of two.
    let each = (1.0 / sampling.fraction).round();
    format!(
        "objects at 1 in {each} addresses are followed since {}, as {}; what is marked ~ is scaled up \
         from them",
        human::seconds(sampling.since_s),
        terminal(&sampling.reason)
    )
}
