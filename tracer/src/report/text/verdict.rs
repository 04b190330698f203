//! The headline, and the facts to act on.

use super::super::sanitize::terminal;
use super::super::{Confidence, Owner, Report, human, names};
use super::layout::{Page, Paint};
use super::trust;

/// Columns of the facts' names.
const LABEL: usize = 12;

pub(super) fn render(report: &Report, page: &mut Page) {
    let verdict = &report.verdict;
    let paint = if verdict.growing { Paint::Alarm } else { Paint::Bold };
    page.paragraph(paint, "", &terminal(&verdict.summary));

    page.line(Paint::Plain, "");
    for (label, fact) in facts(report) {
        let paint = if label == "time left" { Paint::Bold } else { Paint::Plain };
        page.paragraph(paint, &format!("  {label:LABEL$}"), &fact);
    }
    let (paint, confidence) = confidence(report);
    page.paragraph(paint, &format!("  {:LABEL$}", "confidence"), &confidence);
}

/// What there is to act on: a label each, and the fact, safe to print.
pub(crate) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let verdict = &report.verdict;
    let mut facts = Vec::new();
    if let Some(owner) = &verdict.owner {
        describe(owner, &mut facts);
    }
    if let Some(cache) = names::text(verdict.cache.as_ref()) {
        facts.push(("cache", cache));
    }
    if let Some(rate) = verdict.growth_bytes_per_s {
        let minute = human::size(rate * 60.0);
        facts.push(("growth", format!("{}/s = {minute}/min", human::size(rate))));
    }
    if let Some(share) = verdict.share {
        let of = if verdict.growing { "the growth" } else { "what is left behind" };
        facts.push(("share", format!("{} of {of}", human::percent(share))));
    }
    if let Some(left) = verdict.exhausts_memory_in_s {
        facts.push(("time left", format!("memory gone in {} at this rate", human::duration(left))));
    }
    facts
}

/// How far the verdict can be trusted, and why.
pub(crate) fn confidence(report: &Report) -> (Paint, String) {
    let (confidence, paint) = match report.verdict.confidence {
        Confidence::High => ("high", Paint::Plain),
        Confidence::Medium => ("medium", Paint::Warn),
        Confidence::Low => ("low", Paint::Warn),
    };
    (paint, format!("{confidence}: {}", trust::reason(report)))
}

/// What is known of the owner.
fn describe(owner: &Owner, facts: &mut Vec<(&'static str, String)>) {
    let exited = if owner.exited == Some(true) { ", exited" } else { "" };
    let itself = match (owner.kind.as_str(), names::text(owner.comm.as_ref()), owner.pid) {
        ("softirq" | "hardirq", ..) => format!("{}: the kernel itself, for no process", owner.kind),
        ("unknown", None, None) => "unknown".into(),
        // The process, if it is one, is in it.
        ("pod" | "cgroup", comm, pid) => {
            let of = match (comm, pid) {
                (Some(comm), Some(pid)) => format!(": process {comm}, pid {pid}{exited}"),
                (Some(comm), None) => format!(": processes {comm}"),
                _ => String::new(),
            };
            format!("{} {}{of}", noun(&owner.kind), names::who(owner))
        }
        (kind, Some(comm), Some(pid)) => format!("{} {comm}, pid {pid}{exited}", noun(kind)),
        (kind, Some(comm), None) => format!("{} {comm}{exited}", noun(kind)),
        (kind, None, Some(pid)) => format!("{}, pid {pid}{exited}", noun(kind)),
        (kind, None, None) => format!("{} {}", noun(kind), names::who(owner)),
    };
    facts.push(("owner", itself));
    let rest = [
        ("unit", names::text(owner.unit.as_ref())),
        ("pod", names::pod(owner)),
        ("container", names::text(owner.container.as_ref())),
        ("cgroup", names::text(owner.cgroup.as_ref()).map(|path| names::marked(path, owner))),
    ];
    facts.extend(rest.into_iter().filter_map(|(label, fact)| Some((label, fact?))));
}

fn noun(kind: &str) -> String {
    match kind {
        "kthread" => "kernel thread".into(),
        "site" => "call site".into(),
        other => terminal(other).into_owned(),
    }
}
