//! What a judgement says on standard error.

use super::words;
use crate::report::judgement::{Guilty, Judgement, Outcome};
use crate::report::sanitize::terminal;

/// Lines, safe to print: what held, who is guilty, how to see it again; then what does not fit.
pub fn lines(judgement: &Judgement) -> Vec<String> {
    let mut lines = Vec::new();
    for outcome in judgement.held() {
        lines.push(format!("fail-on: {}", said(outcome)));
    }
    let mut seen: Vec<&Guilty> = Vec::new();
    for guilty in judgement.held().filter_map(|outcome| outcome.guilty.as_ref()) {
        // Several conditions may be about one and the same.
        if !seen.contains(&guilty) {
            seen.push(guilty);
            lines.extend(account(guilty));
        }
    }
    let held = judgement.held().next().is_some();
    lines.extend(sums(judgement));
    if held {
        lines.push(entry("reproduce", &judgement.reproduce));
    }
    for outcome in judgement.conditions.iter().filter(|outcome| !outcome.held) {
        lines
            .extend(outcome.message.as_ref().map(|message| format!("note: {}", terminal(message))));
    }
    lines.extend(remarks(judgement).iter().map(|remark| format!("note: {remark}")));
    lines
}

/// The guilty, as lines of an account.
pub(super) fn account(guilty: &Guilty) -> Vec<String> {
    let mut lines = vec![
        entry("owner", &words::owner(guilty)),
        entry("cache", &terminal(&guilty.cache)),
        entry("left", &words::left(guilty)),
    ];
    // A word before each, so that no name can begin a line and be taken for something else.
    for (number, frame) in words::frames(guilty).iter().enumerate() {
        lines.push(entry(if number == 0 { "through" } else { "" }, &format!("at {frame}")));
    }
    lines
}

/// What was not judged.
pub(super) fn sums(judgement: &Judgement) -> Vec<String> {
    let suppressed = words::suppressed(judgement).map(|text| entry("suppressed", &text));
    let baseline = words::baseline(judgement).map(|text| entry("baseline", &text));
    suppressed.into_iter().chain(baseline).collect()
}

/// What does not fit, a sentence each: suppressions that are good for nothing, and what weakens the
/// judgement.
pub(super) fn remarks(judgement: &Judgement) -> Vec<String> {
    let mut remarks = Vec::new();
    for unused in &judgement.unused_suppressions {
        let place = words::place(&unused.file, unused.line, &unused.reason);
        remarks.push(format!("unused suppression {place}: {}", terminal(&unused.why)));
    }
    for suppressed in judgement.suppressed.iter().filter(|one| one.max_reached) {
        let place = words::place(&suppressed.file, suppressed.line, &suppressed.reason);
        remarks.push(format!(
            "suppression {place} has reached its max: it took out {}, the rest is judged",
            words::amounts(&suppressed.amounts)
        ));
    }
    remarks.extend(judgement.notes.iter().map(|note| terminal(note).into_owned()));
    remarks
}

/// What a condition says.
pub(super) fn said(outcome: &Outcome) -> String {
    terminal(outcome.message.as_deref().unwrap_or(&outcome.expression)).into_owned()
}

fn entry(label: &str, text: &str) -> String {
    const LABEL: usize = 11;
    format!("  {label:LABEL$}{text}")
}
