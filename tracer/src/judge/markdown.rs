//! A judgement as Markdown, for the summary of a job or a comment.
//!
//! Everything that may have come from outside is inside `<code>` or a fence, where GitHub notifies nobody
//! who is mentioned and links nothing, and each of its characters that could mean something to Markdown is
//! a reference by number.

use std::fmt::Write as _;
use std::io;

use super::{text, words};
use crate::report::judgement::{Guilty, Judgement};
use crate::report::sanitize::terminal;
use crate::report::{Report, human, names, text as report_text};

/// Characters that are shown of one name or message: a job's summary may hold 1 MiB.
const LONGEST: usize = 400;
/// The same of a line in a fence, which may be a command line to be copied.
const LONGEST_LINE: usize = 8000;

/// Writes the summary.
pub fn write(
    report: &Report,
    judgement: Option<&Judgement>,
    w: &mut dyn io::Write,
) -> io::Result<()> {
    w.write_all(summary(report, judgement).as_bytes())
}

/// The summary.
pub fn summary(report: &Report, judgement: Option<&Judgement>) -> String {
    let mut out = String::new();
    let held = judgement.is_some_and(|judgement| judgement.held().next().is_some());
    let judged = judgement.filter(|judgement| !judgement.conditions.is_empty());
    let title = match (held, judged) {
        (true, _) => "kleak: failed",
        (false, Some(_)) => "kleak: passed",
        (false, None) => "kleak",
    };
    line(&mut out, &format!("## {title}\n\n{}\n", code(&report.verdict.summary)));
    if let Some(judgement) = judged {
        conditions(&mut out, judgement);
    }
    if let Some(judgement) = judgement {
        if held {
            guilty(&mut out, judgement);
            fence(&mut out, "Reproduce:", std::slice::from_ref(&judgement.reproduce));
        }
        excused(&mut out, judgement);
    }
    let losses = report_text::losses(report);
    let remarks = judgement.map(text::remarks).unwrap_or_default();
    for text in remarks.iter().chain(&losses).chain(&report.notes) {
        line(&mut out, &format!("- {}", code(text)));
    }
    let host = &report.host;
    line(
        &mut out,
        &format!(
            "\n{} of {}, Linux {} {}, kleak {}",
            human::seconds(report.window_s),
            code(&host.hostname),
            code(&host.kernel),
            code(&host.machine),
            env!("CARGO_PKG_VERSION")
        ),
    );
    out
}

fn conditions(out: &mut String, judgement: &Judgement) {
    line(out, "| condition | | |\n| --- | --- | --- |");
    for outcome in &judgement.conditions {
        let result = if outcome.held { "**fails**" } else { "passes" };
        // It begins with the expression, which has a cell of its own.
        let message = outcome.message.as_deref().map(|message| {
            let rest = message.strip_prefix(&outcome.expression).unwrap_or(message);
            code(rest.trim_start_matches(": "))
        });
        let message = message.unwrap_or_default();
        line(out, &format!("| {} | {result} | {message} |", code(&outcome.expression)));
    }
    line(out, "");
}

fn guilty(out: &mut String, judgement: &Judgement) {
    line(out, "| owner | where | cache | objects | bytes | growth |");
    line(out, "| --- | --- | --- | ---: | ---: | ---: |");
    for row in &judgement.judged {
        let mark = if row.estimated { "~" } else { "" };
        let growth = row.growth_bytes_per_s;
        let cells = [
            code(&names::who(&row.owner)),
            names::place(&row.owner).map(|place| code(&place)).unwrap_or_default(),
            code(&row.cache),
            format!("{mark}{}", human::count(row.outstanding_objects)),
            format!("{mark}{}", human::bytes(row.outstanding_bytes)),
            growth.map_or_else(|| "unknown".into(), |rate| format!("{}/s", human::size(rate))),
        ];
        line(out, &format!("| {} |", cells.join(" | ")));
    }
    line(out, "");
    let mut seen: Vec<&Guilty> = Vec::new();
    for guilty in judgement.held().filter_map(|outcome| outcome.guilty.as_ref()) {
        if !seen.contains(&guilty) {
            seen.push(guilty);
            let title = format!("{}, leaf first:", code(&words::owner(guilty)));
            fence(out, &title, &words::frames(guilty));
        }
    }
}

fn excused(out: &mut String, judgement: &Judgement) {
    if !judgement.suppressed.is_empty() {
        line(out, "| suppressed | reason | by |\n| --- | --- | --- |");
        for one in &judgement.suppressed {
            let place = format!("{}:{}", one.file, one.line);
            let cells = [words::amounts(&one.amounts), code(&one.reason), code(&place)];
            line(out, &format!("| {} |", cells.join(" | ")));
        }
        line(out, "");
    }
    if let Some(text) = words::baseline(judgement) {
        line(out, &format!("Baseline: {}\n", code(&text)));
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Lines as they are, in a fence that none of them can end.
fn fence(out: &mut String, title: &str, lines: &[String]) {
    let lines: Vec<String> = lines.iter().map(|line| shortened(line, LONGEST_LINE)).collect();
    let runs = lines.iter().flat_map(|line| line.split(|c| c != '`')).map(str::len);
    let ticks = "`".repeat(runs.max().unwrap_or(0).max(2) + 1);
    line(out, &format!("{title}\n\n{ticks}text\n{}\n{ticks}\n", lines.join("\n")));
}

/// Text of whatever origin, as it is.
fn code(text: &str) -> String {
    let mut out = String::from("<code>");
    let text = shortened(text, LONGEST);
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        // Within a word an underscore means nothing, and most functions have some.
        let inside = c == '_'
            && before.is_ascii_alphanumeric()
            && rest.peek().is_some_and(char::is_ascii_alphanumeric);
        if c.is_ascii_punctuation() && !inside && !matches!(c, '-' | '/' | ',' | ';' | '%') {
            // Writing to a String cannot fail.
            let _ = write!(out, "&#{};", u32::from(c));
        } else {
            out.push(c);
        }
        before = c;
    }
    out.push_str("</code>");
    out
}

fn shortened(text: &str, longest: usize) -> String {
    let text = terminal(text);
    if text.chars().count() <= longest {
        return text.into_owned();
    }
    text.chars().take(longest).chain(['…']).collect()
}
