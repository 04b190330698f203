//! Memory cgroups: how many, how many of them dead, what keeps them, and which are under no limit.

use super::{Context, Finding, LEAST, Pressure, Severity};
use crate::{
    cgroups::limit,
    doctor::facts::{Cgroups, Facts},
    host::{gauge::Limit, kmem::Slabinfo},
    report::{human, sanitize::terminal},
};

/// kernfs nodes of very many cgroups: a busy machine without them has some 100,000.
const MANY_NODES: u64 = 1_000_000;
/// Live and dying cgroups that are very many.
const MANY_CGROUPS: u64 = 5_000;
/// Per-CPU memory that goes with very many cgroups: bytes, and share of memory.
const MUCH_PERCPU: u64 = 256 << 20;
const MUCH_PERCPU_SHARE: f64 = 0.01;
/// Dying cgroups worth a word, and a warning.
const DYING: u64 = 500;
const MANY_DYING: u64 = 10_000;
/// The same where they keep their ids, so that they count against the limit.
const MANY_DYING_WITH_IDS: u64 = 1_000;
/// Shares of all ids.
const CROWDED: f64 = 0.80;
/// Share of memory that a cgroup without a limit may hold.
const LARGE: f64 = 0.25;
/// Bytes of kernel memory below which accounting is as good as off.
const NOTHING: u64 = 0;

/// Adds what is found.
pub(super) fn find(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let cure = accounting_leaks(context).then(|| cure(context.facts)).flatten();
    findings.extend(id_limit(context, cure.as_ref()));
    findings.extend(dying(context, cure.as_ref()));
    findings.extend(accounting(context, cure.as_ref()));
    findings.extend(many(context));
    findings.extend(unlimited(context));
}

/// Ids in use, at least and at most; and how many are known to be for sure.
pub(in crate::doctor) struct Ids {
    pub(in crate::doctor) least: u64,
    pub(in crate::doctor) most: Option<u64>,
    pub(in crate::doctor) sure: u64,
}

pub(in crate::doctor) fn ids(facts: &Facts, cgroups: &Cgroups) -> Ids {
    let swap =
        facts.meminfo.as_ref().and_then(|info| info.swap_total?.checked_sub(info.swap_free?));
    let release = facts.kernel.as_deref().unwrap_or_default();
    let (least, most) = limit::used(&cgroups.census, cgroups.version, release, swap);
    // Where a dying one keeps its id, both are used for sure.
    let keeps = facts.kernel.is_some() && !limit::ids_outlived(release);
    let sure = if keeps { most.unwrap_or(least) } else { least };
    Ids { least, most, sure }
}

/// The same where the kernel's count is all that there is: of a tree without directories, or with some
/// of them only.
fn ids_by_count(facts: &Facts) -> Option<Ids> {
    let all = facts.cgroups_all?.min(limit::MAX_IDS);
    let release = facts.kernel.as_deref()?;
    let keeps = !limit::ids_outlived(release);
    Some(Ids { least: 0, most: Some(all), sure: if keeps { all } else { 0 } })
}

fn id_limit(context: &Context<'_>, cure: Option<&String>) -> Option<Finding> {
    let facts = context.facts;
    let census = facts.cgroups.as_ref().map(|cgroups| &cgroups.census);
    let counted = facts.cgroups.as_ref().map(|cgroups| ids(facts, cgroups));
    let ids = match counted {
        Some(ids) if ids.most.is_some() => ids,
        Some(ids) => ids_by_count(facts).unwrap_or(ids),
        None => ids_by_count(facts)?,
    };
    let live = census.map(|census| census.groups.len() as u64);
    let dying = census.and_then(|census| census.dying);
    // Up to 5.17 the last one is never given out.
    let gone = |used: u64| used.saturating_add(1) >= limit::MAX_IDS;
    let share = |used: u64| used as f64 / limit::MAX_IDS as f64;
    let most = ids.most.unwrap_or(ids.sure);
    let severity = if gone(ids.sure) {
        Severity::Critical
    } else if share(ids.sure) >= CROWDED || gone(most) {
        Severity::Warning
    } else {
        return None;
    };
    let consequence = if gone(ids.sure) {
        "no container can be created: mkdir fails with \"no space left on device\" or \"cannot \
         allocate memory\""
    } else {
        "when all are used, no container can be created: mkdir fails with \"no space left on device\""
    };
    let summary = format!(
        "{} of {} ids of memory cgroups are used{}; {consequence}",
        if most > ids.sure {
            format!("{} to {}", human::count(ids.sure), human::count(most))
        } else {
            human::count(ids.sure)
        },
        human::count(limit::MAX_IDS),
        match (live, dying) {
            (Some(live), Some(dying)) => {
                format!(", by {} live and {} dying ones", human::count(live), human::count(dying))
            }
            _ => String::new(),
        },
    );
    Some(
        Finding::new("memcg-limit", severity, u64::MAX, summary)
            .with("ids", limit::MAX_IDS)
            .with("used_at_least", ids.sure)
            .with("used_at_most", ids.most)
            .with("live", live)
            .with("dying", dying)
            .with("left", limit::MAX_IDS.saturating_sub(most))
            .next(cure.cloned().or_else(|| Some("kleak cgroups --duration 1m".to_owned()))),
    )
}

fn dying(context: &Context<'_>, cure: Option<&String>) -> Option<Finding> {
    let cgroups = context.facts.cgroups.as_ref()?;
    let dying = cgroups.census.dying.filter(|dying| *dying >= DYING)?;
    let live = cgroups.census.groups.len() as u64;
    let keeps_ids =
        context.facts.kernel.as_deref().is_some_and(|release| !limit::ids_outlived(release));
    let severity = if dying >= MANY_DYING || (keeps_ids && dying >= MANY_DYING_WITH_IDS) {
        Severity::Warning
    } else {
        Severity::Info
    };
    let ids = if keeps_ids {
        "each keeps one of 65,535 ids and its memory"
    } else {
        "each keeps its memory"
    };
    let summary = format!(
        "{} removed memory cgroups are dying beside {} live ones: what was charged to them is not \
         freed yet, and {ids} until it is",
        human::count(dying),
        human::count(live)
    );
    Some(
        // After the limit, before all that is a matter of bytes.
        Finding::new("memcg-dying", severity, u64::MAX - 2, summary)
            .with("dying", dying)
            .with("live", live)
            .with("ids", limit::MAX_IDS)
            .next(cure.cloned().or_else(|| Some("kleak cgroups --duration 1m".to_owned()))),
    )
}

/// Whether kernel memory is accounted on a kernel that then never lets go of a removed cgroup.
fn accounting_leaks(context: &Context<'_>) -> bool {
    leaky(context.facts) == Some(true) && state(context.facts).is_some_and(|state| state.on > 0)
}

/// Kernels whose accounting keeps removed cgroups: 3.8 (when it came) to 3.x, but for those of RHEL 7
/// from build 1075 on (Red Hat's bug 1507149). `None` when the version is not known.
fn leaky(facts: &Facts) -> Option<bool> {
    let release = facts.release?;
    let mended = release.enterprise == Some(7) && release.build.is_some_and(|build| build >= 1075);
    Some(release.is_from(3, 8) && !release.is_from(4, 0) && !mended)
}

/// What the check says of all top-level cgroups together.
struct State<'a> {
    on: u64,
    off: u64,
    unknown: u64,
    /// The one accounted most to.
    largest: Option<(&'a str, u64)>,
    groups: serde_json::Value,
}

fn state(facts: &Facts) -> Option<State<'_>> {
    if facts.accounting.is_empty() {
        return None;
    }
    let mut state =
        State { on: 0, off: 0, unknown: 0, largest: None, groups: serde_json::Value::Null };
    let mut groups = serde_json::Map::new();
    for (path, accounting) in &facts.accounting {
        let used = accounting.usage_bytes.is_some_and(|bytes| bytes > NOTHING);
        let word = match (&accounting.slabinfo, used) {
            (Slabinfo::On { caches: 1.., .. }, _) | (_, true) => "on",
            (Slabinfo::Off, _) => "off",
            // A heading, and nothing accounted.
            (Slabinfo::On { .. } | Slabinfo::Stub, false) if accounting.usage_bytes.is_some() => {
                "off"
            }
            _ => "unknown",
        };
        match word {
            "on" => {
                state.on += 1;
                let bytes = accounting.usage_bytes.unwrap_or(0);
                if state.largest.is_none_or(|(_, most)| bytes > most) {
                    state.largest = Some((path, bytes));
                }
            }
            "off" => state.off += 1,
            _ => state.unknown += 1,
        }
        let slabinfo = match &accounting.slabinfo {
            Slabinfo::Off => "input/output error".to_owned(),
            Slabinfo::On { caches, objects } => {
                format!("a table: {objects} objects in {caches} caches")
            }
            Slabinfo::Stub => "empty".to_owned(),
            Slabinfo::Unknown(why) => format!("unknown: {why}"),
        };
        let row = serde_json::json!({
            "accounting": word,
            "slabinfo": slabinfo,
            "kmem_usage_bytes": accounting.usage_bytes,
        });
        groups.insert(path.clone(), row);
    }
    state.groups = serde_json::Value::Object(groups);
    Some(state)
}

/// Whether `cgroup.memory=nokmem` is on the kernel's command line; `None` when that is not known.
fn nokmem(facts: &Facts) -> Option<bool> {
    let line = facts.command_line.as_deref()?;
    let options =
        line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("cgroup.memory="));
    Some(options.flat_map(|options| options.split(',')).any(|option| option == "nokmem"))
}

/// The command that switches accounting off, where the distribution is known to have it.
fn cure(facts: &Facts) -> Option<String> {
    let grubby = "grubby --update-kernel=ALL --args=cgroup.memory=nokmem";
    facts.release?.enterprise.map(|_| grubby.to_owned())
}

fn accounting(context: &Context<'_>, cure: Option<&String>) -> Option<Finding> {
    let facts = context.facts;
    let state = state(facts)?;
    let leaky = leaky(facts);
    let dying = facts.cgroups.as_ref().and_then(|cgroups| cgroups.census.dying);
    let evidence = |finding: Finding| {
        finding
            .with("groups_on", state.on)
            .with("groups_off", state.off)
            .with("groups_unknown", state.unknown)
            .with("groups", state.groups.clone())
            .with("kernel_keeps_removed_cgroups", leaky)
            .with("nokmem", nokmem(facts))
            .with("dying", dying)
    };
    if state.on > 0 {
        if leaky != Some(true) {
            return on_elsewhere(context, &state, leaky, dying).map(evidence);
        }
        let severity = match dying {
            Some(dying) if dying < MANY_DYING_WITH_IDS => Severity::Warning,
            _ => Severity::Critical,
        };
        let largest = state.largest.map_or_else(String::new, |(path, bytes)| {
            format!(" (most to {}: {})", terminal(path), human::bytes(bytes))
        });
        let kubelet = if facts.kubelet.is_some() {
            ", or kubelet 1.14 or later built with -tags=nokmem and a runc built so too"
        } else {
            ", or a runc built with the tag nokmem"
        };
        let kernel = if facts.release.and_then(|release| release.enterprise) == Some(7) {
            "a kernel from 3.10.0-1075.el7 on, or cgroup.memory=nokmem on the kernel's command line"
        } else {
            "a kernel from 4.0 on, or cgroup.memory=nokmem on the kernel's command line where it is known"
        };
        let summary = format!(
            "kernel-memory accounting is on for {} of {} top-level cgroups{largest}, as \
             memory.kmem.slabinfo gives a table there or usage is not 0, and this kernel then never \
             frees a removed cgroup; cures: {kernel}{kubelet}; the lost ids come back with a reboot",
            state.on,
            facts.accounting.len(),
        );
        return Some(
            evidence(Finding::new("kmem-accounting", severity, u64::MAX - 1, summary))
                .next(cure.cloned()),
        );
    }
    // Off: worth a word only where it would matter.
    if leaky == Some(false) || state.off == 0 {
        return None;
    }
    let lost = match dying {
        Some(dying) if dying >= MANY_DYING_WITH_IDS => format!(
            "; the {} that are dying are from before that, and a reboot gets their ids back",
            human::count(dying)
        ),
        _ => String::new(),
    };
    let summary = format!(
        "kernel-memory accounting is off for {} top-level cgroups that could be checked \
         (memory.kmem.slabinfo gives an error, or usage is 0), as it has to be on kernels that leak so{lost}",
        state.off
    );
    Some(evidence(Finding::new("kmem-accounting", Severity::Info, 0, summary)))
}

/// Accounting that is on where it need not leak: later kernels always account, and let go of it. Said
/// where removed cgroups pile up all the same, or where nobody knows what kernel it is.
fn on_elsewhere(
    context: &Context<'_>,
    state: &State<'_>,
    leaky: Option<bool>,
    dying: Option<u64>,
) -> Option<Finding> {
    let failures = context.facts.log.as_ref().is_some_and(|log| {
        log.lines.iter().any(|line| line.text.contains("SLUB: Unable to allocate memory on node"))
    });
    let piles_up = dying.is_some_and(|dying| dying >= MANY_DYING_WITH_IDS) || failures;
    let mended_3 = context.facts.is_before(4, 0) == Some(true);
    let (severity, what) = match (leaky, piles_up) {
        (None, _) => (
            Severity::Warning,
            "which kernel this is is not known: those from 3.8 to 3.x then never free a removed cgroup, \
             and cgroup.memory=nokmem on their command line is the cure",
        ),
        (Some(_), true) if mended_3 => (
            Severity::Warning,
            "this kernel should let go of removed cgroups, yet they pile up or allocations fail: \
             cgroup.memory=nokmem on the kernel's command line switches accounting off",
        ),
        (Some(_), true) => (
            Severity::Info,
            "which is the rule on this kernel, and lets go of removed cgroups in the end",
        ),
        (Some(_), false) => return None,
    };
    let summary = format!(
        "kernel-memory accounting is on for {} of {} top-level cgroups; {what}",
        state.on,
        context.facts.accounting.len()
    );
    Some(Finding::new("kmem-accounting", severity, u64::MAX - 1, summary))
}

fn many(context: &Context<'_>) -> Option<Finding> {
    let facts = context.facts;
    let caches = facts.caches.as_deref().unwrap_or_default();
    let nodes = caches.iter().find(|cache| cache.slab.name == "kernfs_node_cache");
    let nodes_bytes = nodes.map(|cache| cache.slab.slab_bytes(facts.page_bytes));
    let nodes = nodes.map(|cache| cache.slab.active_objects);
    let percpu = context.memory.percpu_bytes;
    let census = facts.cgroups.as_ref().map(|cgroups| &cgroups.census);
    // Dying ones have a finding of their own.
    let there = census.map(|census| census.groups.len() as u64);
    let by_nodes = nodes.is_some_and(|nodes| nodes >= MANY_NODES);
    let by_count = there.is_some_and(|there| there >= MANY_CGROUPS);
    let by_percpu =
        percpu.is_some_and(|bytes| bytes >= MUCH_PERCPU && facts.share(bytes) >= MUCH_PERCPU_SHARE);
    // Many nodes alone may be of devices; where cgroups were counted, their number decides.
    let found = by_count || (by_nodes && (by_percpu || there.is_none()));
    if !found || (there.is_some() && !by_count && !by_percpu) {
        return None;
    }
    let severity = if by_percpu || by_nodes { Severity::Warning } else { Severity::Info };
    let mut signs = Vec::new();
    if let Some(there) = there {
        signs.push(format!("{} are there", human::count(there)));
    }
    if let Some(nodes) = nodes.filter(|_| by_nodes) {
        signs.push(format!("{} kernfs nodes", human::count(nodes)));
    }
    if let Some(percpu) = percpu.filter(|_| by_percpu) {
        signs.push(format!("{} of per-CPU memory", human::bytes(percpu)));
    }
    let summary = format!(
        "very many cgroups, by the look of it: {}; something makes them and does not remove them, or \
         the kernel cannot let go of them",
        signs.join(" and ")
    );
    let weight = nodes_bytes.unwrap_or(0).saturating_add(percpu.unwrap_or(0));
    Some(
        Finding::new("many-cgroups", severity, weight, summary)
            .with("kernfs_nodes", nodes)
            .with("kernfs_bytes", nodes_bytes)
            .with("percpu_bytes", percpu)
            .with("live", census.map(|census| census.groups.len() as u64))
            .with("dying", census.and_then(|census| census.dying))
            .next(Some("kleak cgroups --duration 1m".to_owned())),
    )
}

/// A cgroup under no limit that holds much while memory is short, and whose processes are small, so
/// that none of them is named.
fn unlimited(context: &Context<'_>) -> Option<Finding> {
    let facts = context.facts;
    let cgroups = facts.cgroups.as_ref()?;
    if context.pressure == Pressure::Fine {
        return None;
    }
    let below = |path: &str, above: &str| {
        path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
    };
    let large = |held: u64| held >= LEAST && facts.share(held) >= LARGE;
    let (path, held) = cgroups
        .held
        .iter()
        .filter(|(path, held)| {
            // The innermost one that holds most of it.
            let deeper = cgroups
                .held
                .iter()
                .any(|(other, part)| below(other, path) && *part >= *held / 4 * 3);
            large(*held) && !deeper && cgroups.limit(path) == Some(Limit::None)
        })
        .max_by_key(|(path, held)| (*held, std::cmp::Reverse(path.clone())))?;
    let by_one = facts.processes.iter().any(|process| {
        let inside = process.cgroup.as_deref().is_some_and(|at| at == path || below(at, path));
        inside && super::process::held(process) >= held / 2
    });
    if by_one {
        return None;
    }
    let severity =
        if context.pressure == Pressure::Short { Severity::Critical } else { Severity::Warning };
    let summary = format!(
        "cgroup {} holds {} of anonymous and shared memory ({}) in many processes, under no limit",
        terminal(path),
        human::bytes(*held),
        human::percent(facts.share(*held))
    );
    Some(
        Finding::new("cgroup-unlimited", severity, *held, summary)
            .with("cgroup", path.clone())
            .with("held_bytes", *held)
            .with("share_of_memory", facts.share(*held))
            .next(Some("systemd-cgtop --order=memory --iterations=1".to_owned())),
    )
}
