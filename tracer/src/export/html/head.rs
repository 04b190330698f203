//! What can be read without a script: the verdict, how far it goes, the owners.

use std::fmt::Write as _;

use super::escape::text;
use crate::report::{
    OwnerRow, Report, followed, human,
    ledger::Ledger,
    names, sanitize,
    text::{layout::Paint, trust, verdict},
};

/// Rows of the table that is there without a script.
const OWNERS: usize = 200;
/// Warnings before the picture; all of them are below it.
const WARNINGS: usize = 3;

/// Where and of what, in a line.
pub(super) fn place(report: &Report) -> String {
    let mut parts = vec![human::seconds(report.window_s)];
    parts.extend(followed::words(&report.filter));
    let host = &report.host;
    parts.push(format!("{}, Linux {} {}", host.hostname, host.kernel, host.machine));
    parts.join(" · ")
}

/// What to act on.
pub(super) fn facts(report: &Report) -> String {
    let mut facts = verdict::facts(report);
    facts.push(("confidence", verdict::confidence(report).1));
    list(facts.iter().map(|(label, fact)| (*label, fact.as_str(), false)), true)
}

/// What weakens the answer, where nobody overlooks it.
pub(super) fn warnings(report: &Report) -> String {
    let entries = trust::entries(report);
    let all: Vec<_> = entries.iter().filter(|entry| entry.paint == Paint::Warn).collect();
    if all.is_empty() {
        return String::new();
    }
    let mut out = "<ul class=\"warnings\">".to_owned();
    for entry in all.iter().take(WARNINGS) {
        push(&mut out, format_args!("<li>{}</li>", text(&entry.text)));
    }
    let more = all.len().saturating_sub(WARNINGS);
    if more > 0 {
        let more = human::counted(more as u64, "more warning");
        push(&mut out, format_args!("<li><a href=\"#h-trust\">{more}, below</a></li>"));
    }
    out.push_str("</ul>\n");
    out
}

/// In the place of everything else.
pub(super) fn nothing(report: &Report) -> String {
    format!(
        "<p class=\"nothing\">Nothing was left: of what was followed in these {}, no memory is still \
         held.</p>\n",
        text(&human::seconds(report.window_s))
    )
}

/// How far to trust it.
pub(super) fn trust(report: &Report) -> String {
    let entries = trust::entries(report);
    list(entries.iter().map(|e| (e.label, e.text.as_str(), e.paint == Paint::Warn)), false)
}

/// Terms and what they are; a term may be empty.
fn list<'a>(rows: impl Iterator<Item = (&'a str, &'a str, bool)>, boxed: bool) -> String {
    let mut out = String::new();
    let (open, close) = if boxed { ("<div>", "</div>") } else { ("", "") };
    for (label, fact, warn) in rows {
        let class = if warn { " class=\"warn\"" } else { "" };
        let (label, fact) = (text(label), text(fact));
        push(&mut out, format_args!("{open}<dt>{label}</dt><dd{class}>{fact}</dd>{close}"));
    }
    out
}

/// The owners, as far as they go into a page that is read from top to bottom.
pub(super) struct Owners {
    /// How many, in words.
    pub(super) count: String,
    /// The inside of a table.
    pub(super) table: String,
    /// What is not in it.
    pub(super) more: String,
}

/// The table, by whatever the report is grouped by.
pub(super) fn owners(report: &Report) -> Owners {
    let mut table = String::from(
        "<thead><tr><th scope=\"col\">Owner</th><th scope=\"col\">Cache</th>\
         <th scope=\"col\" class=\"number\">Objects</th><th scope=\"col\" class=\"number\">Bytes</th>\
         <th scope=\"col\" class=\"number\">Growth</th><th scope=\"col\" class=\"number\">Share</th>\
         </tr></thead><tbody>",
    );
    for row in report.owners.iter().take(OWNERS) {
        table.push_str(&line(row));
    }
    table.push_str("</tbody>");
    let rest = report.owners.get(OWNERS..).unwrap_or_default();
    let more = if rest.is_empty() {
        String::new()
    } else {
        let rows = human::counted(rest.len() as u64, "smaller row");
        format!("<p class=\"dim without-script\">{rows} not shown.</p>\n")
    };
    Owners { count: human::counted(report.owners.len() as u64, "row"), table, more }
}

fn line(row: &OwnerRow) -> String {
    let about = if row.estimated { "~" } else { "" };
    let gone = if row.owner.exited == Some(true) { "†" } else { "" };
    let place = names::place(&row.owner).filter(|place| *place != names::who(&row.owner));
    let place = place
        .map_or_else(String::new, |place| format!("<small class=\"dim\">{}</small>", text(&place)));
    let growth = row
        .growth_bytes_per_s
        .map_or_else(|| "unknown".into(), |growth| format!("{about}{}/s", human::size(growth)));
    let of = Ledger::of_cache(&row.cache);
    let mut out = String::new();
    push(
        &mut out,
        format_args!(
            "<tr><td><span class=\"name\">{who}{gone}{place}</span></td><td>{cache}</td>\
             <td class=\"number\">{about}{objects}</td>\
             <td class=\"number\" title=\"{about}{exact} bytes\">{about}{bytes}</td>\
             <td class=\"number\">{growth}</td>\
             <td class=\"number\" title=\"of {of}\">{about}{share}</td></tr>",
            who = text(&names::who(&row.owner)),
            cache = text(&sanitize::terminal(&row.cache)),
            objects = human::count(row.outstanding_objects),
            exact = human::count(row.outstanding_bytes),
            bytes = human::bytes(row.outstanding_bytes),
            share = human::percent(row.share),
        ),
    );
    out
}

fn push(out: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = out.write_fmt(what);
}
