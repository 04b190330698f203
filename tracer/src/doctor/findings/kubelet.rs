//! Memory as kubelet sees it, and whether evicting pods can save the node.

use super::{Context, Finding, Severity, process};
use crate::{
    doctor::facts::{Facts, Process, Threshold},
    host::cgroup::MemoryVersion,
    report::human,
    resolve::cgroup_path,
};

/// kubelet's own default: `memory.available<100Mi` (`DefaultEvictionHard` in
/// `pkg/kubelet/eviction/defaults_linux.go`).
const DEFAULT_HARD: u64 = 100 << 20;
/// Shares of memory.
const SHORT: f64 = 0.05;
const PLENTY: f64 = 0.20;
const APART: f64 = 0.10;
const OUTSIDE: f64 = 0.40;
const LOW: f64 = 0.15;

struct View {
    total: u64,
    kubelet: u64,
    kernel: u64,
    hard: u64,
    soft: Option<u64>,
    working_set: u64,
    pods: Option<u64>,
}

/// Adds what is found.
pub(super) fn find(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let Some(view) = view(context) else { return };
    let found = outside_pods(context, &view)
        .or_else(|| blind(context, &view))
        .or_else(|| eager(&view))
        .or_else(|| apart(&view));
    findings.extend(found.map(|finding| evidence(context, &view, finding)));
}

fn view(context: &Context<'_>) -> Option<View> {
    let facts = context.facts;
    let kubelet = facts.kubelet.as_ref()?;
    let total = facts.total()?;
    let bytes = |threshold: Option<Threshold>| threshold.map(|threshold| threshold.bytes(total));
    let pods = facts.cgroups.as_ref().and_then(|cgroups| {
        let (_, gauge, stat) = cgroups.pods.as_ref()?;
        Some(gauge.usage_bytes?.saturating_sub(stat.inactive_file_bytes?))
    });
    Some(View {
        total,
        kubelet: context.memory.kubelet_available_bytes?,
        kernel: context.available?,
        hard: bytes(kubelet.hard).unwrap_or(DEFAULT_HARD),
        soft: bytes(kubelet.soft),
        working_set: context.memory.kubelet_working_set_bytes?,
        pods,
    })
}

fn evidence(context: &Context<'_>, view: &View, finding: Finding) -> Finding {
    let outside = view.pods.map(|pods| view.working_set.saturating_sub(pods));
    let configured = context.facts.kubelet.as_ref().is_some_and(|kubelet| kubelet.hard.is_some());
    finding
        .with("kubelet_available_bytes", view.kubelet)
        .with("kernel_available_bytes", view.kernel)
        .with("working_set_bytes", view.working_set)
        .with("pods_working_set_bytes", view.pods)
        .with("outside_pods_bytes", outside)
        .with("eviction_hard_bytes", view.hard)
        .with("eviction_hard_is_default", !configured)
        .with("eviction_soft_bytes", view.soft)
}

fn share(view: &View, bytes: u64) -> f64 {
    bytes as f64 / view.total as f64
}

/// `kubelet computes 0.5 GiB available (…), free prints 0.8 GiB`.
fn both(view: &View) -> String {
    format!(
        "kubelet computes {} available (capacity less the root cgroup's working set of {}), where free \
         prints {}",
        human::bytes(view.kubelet),
        human::bytes(view.working_set),
        human::bytes(view.kernel)
    )
}

fn thresholds(view: &View) -> String {
    match view.soft {
        Some(soft) => {
            format!(
                "soft eviction below {}, hard below {}",
                human::bytes(soft),
                human::bytes(view.hard)
            )
        }
        None => format!("hard eviction below {}", human::bytes(view.hard)),
    }
}

/// Whether a process is in a pod, by its cgroup.
fn in_pod(process: &Process) -> bool {
    process.cgroup.as_deref().is_some_and(|path| cgroup_path::parse(path).pod_uid.is_some())
}

fn largest_outside(facts: &Facts) -> Option<&Process> {
    // A process whose cgroup is not known may be in a pod.
    facts
        .processes
        .iter()
        .filter(|one| one.cgroup.is_some() && !in_pod(one))
        .max_by_key(|one| process::held(one))
}

/// Memory is short, and most of it is in no pod: evicting pods frees none of that.
fn outside_pods(context: &Context<'_>, view: &View) -> Option<Finding> {
    let largest = largest_outside(context.facts);
    // Without the usage of all pods, what one process outside holds is the least that there is.
    let least = || largest.map(process::held);
    let outside = match view.pods {
        Some(pods) => view.working_set.saturating_sub(pods),
        None => least()?,
    };
    let threshold = view.soft.unwrap_or(0).max(view.hard.saturating_mul(2));
    let low = view.kubelet <= threshold || share(view, view.kubelet) <= LOW;
    let less = view.pods.is_some_and(|pods| outside <= pods);
    if !low || share(view, outside) < OUTSIDE || less {
        return None;
    }
    let severe = view.kubelet <= view.hard.saturating_mul(2) || share(view, view.kernel) <= SHORT;
    let severity = if severe { Severity::Critical } else { Severity::Warning };
    let who = largest.map_or_else(String::new, |one| {
        format!(", {} of it by {}", human::bytes(process::held(one)), process::who(one))
    });
    let summary = format!(
        "eviction ({}) cannot save this node: kubelet computes {} available and free prints {}, but of \
         the working set of {} {} in no pod{who}, and no eviction frees it",
        thresholds(view),
        human::bytes(view.kubelet),
        human::bytes(view.kernel),
        human::bytes(view.working_set),
        match view.pods {
            Some(pods) => {
                format!(
                    "only {} is in pods; the other {} is",
                    human::bytes(pods),
                    human::bytes(outside)
                )
            }
            None => format!("at least {} is", human::bytes(outside)),
        },
    );
    Some(
        Finding::new("kubelet-view", severity, outside, summary)
            .with("case", "memory-outside-pods")
            .next(largest.map(process::command)),
    )
}

/// The kernel is short of memory and kubelet does not see it: kernel memory is not in the root's usage.
fn blind(context: &Context<'_>, view: &View) -> Option<Finding> {
    let version = context.facts.cgroups.as_ref()?.version;
    let threshold = view.hard.max(view.soft.unwrap_or(0));
    let short = share(view, view.kernel) <= LOW / 1.5;
    if !short || view.kubelet <= threshold || share(view, view.kubelet) < LOW {
        return None;
    }
    let unseen = view.kubelet.saturating_sub(view.kernel);
    if share(view, unseen) < APART {
        return None;
    }
    let severity =
        if share(view, view.kernel) <= SHORT { Severity::Critical } else { Severity::Warning };
    let why = match version {
        MemoryVersion::V1 => "the root cgroup's usage has no kernel memory in it",
        MemoryVersion::V2 => "it takes the root's usage for anonymous memory and page cache alone",
    };
    let summary = format!(
        "kubelet will not evict ({}) before the kernel kills: {}, since {why}",
        thresholds(view),
        both(view),
    );
    Some(Finding::new("kubelet-view", severity, unseen, summary).with("case", "kubelet-blind"))
}

/// kubelet evicts though there is memory: page cache in use counts as used.
fn eager(view: &View) -> Option<Finding> {
    let threshold = view.hard.max(view.soft.unwrap_or(0));
    if view.kubelet > threshold || share(view, view.kernel) < PLENTY {
        return None;
    }
    let summary = format!(
        "kubelet evicts pods though there is memory: {}, as page cache in use counts as used ({})",
        both(view),
        thresholds(view)
    );
    let weight = view.kernel.saturating_sub(view.kubelet);
    Some(
        Finding::new("kubelet-view", Severity::Warning, weight, summary)
            .with("case", "page-cache-counts-as-used"),
    )
}

/// They disagree, without consequence so far.
fn apart(view: &View) -> Option<Finding> {
    let difference = view.kubelet.abs_diff(view.kernel);
    if share(view, difference) < APART {
        return None;
    }
    let why = if view.kubelet < view.kernel {
        "page cache in use counts as used"
    } else {
        "kernel memory does not count"
    };
    let summary = format!("{}: for kubelet {why} ({})", both(view), thresholds(view));
    Some(
        Finding::new("kubelet-view", Severity::Info, difference, summary)
            .with("case", "views-differ"),
    )
}
