//! The code paths.

use std::collections::BTreeMap;

use super::super::ledger::{self, Ledger};
use super::super::sanitize::terminal;
use super::super::{Report, StackRow, human, names};
use super::layout::{Page, Paint, shorten};

/// Frames shown of each half of a stack.
const FRAMES: usize = 12;
/// Blanks before a frame.
const INDENT: &str = "    ";

pub(super) fn render(report: &Report, top: usize, page: &mut Page) {
    if report.stacks.is_empty() {
        if report.filter.stacks == "off" && !report.owners.is_empty() {
            page.heading("Stacks");
            page.line(Paint::Dim, "  none taken (--stacks off)");
        }
        return;
    }
    let totals = totals(report);
    page.heading("Stacks, innermost function first");
    let shown = report.stacks.get(..top).unwrap_or(&report.stacks);
    for (i, stack) in shown.iter().enumerate() {
        if i > 0 {
            page.line(Paint::Plain, "");
        }
        page.paragraph(Paint::Plain, "  ", &title(stack, &totals));
        frames(&stack.kernel, page);
        if !stack.user.is_empty() {
            page.line(Paint::Dim, &format!("{INDENT}-- user space --"));
            frames(&stack.user, page);
        }
        if stack.kernel.is_empty() && stack.user.is_empty() {
            page.line(Paint::Dim, &format!("{INDENT}[unknown]"));
        }
    }
    let rest = report.stacks.get(shown.len()..).unwrap_or_default();
    if !rest.is_empty() {
        let bytes = ledger::sums(rest.iter().map(|row| (&*row.cache, row.outstanding_bytes)));
        let stacks = if rest.len() == 1 { "stack holds" } else { "stacks hold" };
        let about = if rest.iter().any(|stack| stack.estimated) { "~" } else { "" };
        page.line(Paint::Plain, "");
        let line = format!("  … {} more {stacks} {about}{}", rest.len(), ledger::words(&bytes));
        page.line(Paint::Dim, &line);
    }
}

/// All that was left behind, which shares are of, in each ledger.
fn totals(report: &Report) -> BTreeMap<Ledger, u64> {
    let owners = report.owners.iter().map(|row| (&*row.cache, row.outstanding_bytes));
    let stacks = report.stacks.iter().map(|row| (&*row.cache, row.outstanding_bytes));
    let mut totals = ledger::sums(stacks);
    totals.extend(ledger::sums(owners).into_iter().filter(|(_, bytes)| *bytes > 0));
    totals
}

fn title(stack: &StackRow, totals: &BTreeMap<Ledger, u64>) -> String {
    let about = if stack.estimated { "~" } else { "" };
    let mut parts = vec![
        format!("{about}{}", human::counted(stack.outstanding_objects, "object")),
        format!("{about}{}", human::bytes(stack.outstanding_bytes)),
    ];
    let total = totals.get(&Ledger::of_cache(&stack.cache)).copied().unwrap_or(0) as f64;
    if total > 0.0 {
        parts.push(format!("{about}{}", human::percent(stack.outstanding_bytes as f64 / total)));
    }
    parts.push(names::who(&stack.owner));
    parts.push(terminal(&stack.cache).into_owned());
    if stack.estimated {
        parts.push("estimated".into());
    }
    parts.join(" · ")
}

fn frames(frames: &[std::sync::Arc<str>], page: &mut Page) {
    // A line that says "1 more" takes as much room as the frame.
    let shown = if frames.len() == FRAMES + 1 { frames.len() } else { FRAMES };
    let room = page.width() - INDENT.len();
    for frame in frames.iter().take(shown) {
        let name = if frame.is_empty() { "[unknown]".into() } else { terminal(frame) };
        page.line(Paint::Plain, &format!("{INDENT}{}", shorten(&name, room)));
    }
    let more = frames.len().saturating_sub(shown);
    if more > 0 {
        page.line(Paint::Dim, &format!("{INDENT}… {more} more"));
    }
}
