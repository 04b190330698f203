//! A comparison as text: the verdict first, then who, then how, then what to know of it.

use std::io;

use super::report::{Change, Diff, Difference, Row, Stack};
use super::sentence::per_minute;
use crate::report::{
    human, names,
    sanitize::terminal,
    text::{
        Style,
        layout::{Page, Paint, shorten},
        table::{Column, lay_out, squeeze, taken},
    },
};

/// Columns of the names before each line.
const LABEL: usize = 10;
/// Widest that a name is shown in.
const WIDEST: usize = 48;
/// Functions of a stack that are shown.
const FRAMES: usize = 8;

/// Writes `diff` for people, by the rules of [`crate::report::text::render`].
pub fn render(diff: &Diff, style: &Style, w: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
    let mut page = Page::new(*style);
    let paint = if diff.verdict.worse { Paint::Alarm } else { Paint::Bold };
    page.paragraph(paint, "", &terminal(&diff.verdict.summary));
    totals(diff, &mut page);
    owners(diff, style.top.max(1), &mut page);
    stacks(diff, style.top.div_ceil(2).max(1), &mut page);
    trust(diff, &mut page);
    w.write_all(page.text().as_bytes())
}

fn totals(diff: &Diff, page: &mut Page) {
    if diff.totals.is_empty() {
        return;
    }
    page.line(Paint::Plain, "");
    for total in &diff.totals {
        let bytes = |bytes: u64| format!("{}{}", about(total.estimated), human::bytes(bytes));
        let text = format!(
            "{}: {} in {} before, {} in {} after",
            total.of,
            bytes(total.before.bytes),
            human::seconds(diff.before.window_s),
            bytes(total.after.bytes),
            human::seconds(diff.after.window_s),
        );
        page.paragraph(Paint::Plain, "  ", &text);
    }
}

fn owners(diff: &Diff, top: usize, page: &mut Page) {
    let changed = |row: &&Row| row.difference.change != Change::Unchanged;
    let rows: Vec<&Row> = diff.owners.iter().filter(changed).collect();
    let shown = rows.get(..top).unwrap_or(&rows);
    if !shown.is_empty() {
        page.line(Paint::Plain, "");
        let mut lines = lay_out(&columns(diff, shown, page.width()), shown.len()).into_iter();
        page.line(Paint::Bold, &lines.next().unwrap_or_default());
        for (line, row) in lines.zip(shown) {
            let paint = if row.difference.change.is_worse() { Paint::Plain } else { Paint::Dim };
            page.line(paint, &line);
        }
    }
    let mut rest = Vec::new();
    if rows.len() > shown.len() {
        rest.push(format!("{} more changed (--top)", rows.len() - shown.len()));
    }
    let unchanged = diff.owners.len() - rows.len();
    if unchanged > 0 {
        let noise = diff.owners.iter().filter(|row| {
            row.difference.within_noise == Some(true) && row.difference.change_bytes_per_s != 0.0
        });
        let noise = match noise.count() {
            0 => String::new(),
            noise => format!(", {noise} of them by less than chance explains"),
        };
        rest.push(format!("{unchanged} unchanged{noise}"));
    }
    if !rest.is_empty() {
        page.paragraph(Paint::Dim, "… ", &rest.join("; "));
    }
    if shown.iter().any(|row| row.difference.unfollowed) {
        page.line(Paint::Dim, "‡ freed unseen, by RCU or in bulk: no sign of a leak");
    }
}

fn columns(diff: &Diff, rows: &[&Row], width: usize) -> Vec<Column> {
    let column = |heading: &str, name: bool, cell: &dyn Fn(&Row) -> String| Column {
        cells: std::iter::once(heading.to_owned())
            .chain(rows.iter().map(|row| cell(row)))
            .collect(),
        name,
    };
    let heading = if diff.by == "process" { "OWNER".to_owned() } else { diff.by.to_uppercase() };
    let rate = |rate: f64, difference: &Difference| {
        format!("{}{}", about(difference.estimated), human::size(rate * 60.0))
    };
    let mut names = vec![
        column("CHANGE", true, &|row| mark(&row.difference)),
        column(&heading, true, &|row| shorten(&terminal(&row.name), WIDEST)),
    ];
    let place = |row: &Row| row.owner.as_ref().and_then(|owner| names::place(&owner.owner()));
    if rows.iter().any(|row| place(row).is_some()) {
        names.push(column("UNIT/POD", true, &|row| {
            place(row).map_or_else(|| "-".into(), |place| shorten(&place, WIDEST))
        }));
    }
    if diff.by != "cache" {
        names.push(column("CACHE", true, &|row| shorten(&terminal(&row.cache), WIDEST)));
    }
    let numbers = [
        column("WAS/MIN", false, &|row| rate(row.difference.before.bytes_per_s, &row.difference)),
        column("NOW/MIN", false, &|row| rate(row.difference.after.bytes_per_s, &row.difference)),
        column("MORE/MIN", false, &|row| signed(&row.difference)),
    ];
    squeeze(&mut names, width.saturating_sub(taken(&numbers)));
    names.into_iter().chain(numbers).collect()
}

fn mark(difference: &Difference) -> String {
    let mark = if difference.unfollowed { " ‡" } else { "" };
    format!("{}{mark}", difference.change.as_str())
}

/// Before what is scaled up.
const fn about(estimated: bool) -> &'static str {
    if estimated { "~" } else { "" }
}

fn signed(difference: &Difference) -> String {
    let about = about(difference.estimated);
    let size = human::size(difference.change_bytes_per_s * 60.0);
    let plus = if difference.change_bytes_per_s > 0.0 { "+" } else { "" };
    format!("{about}{plus}{size}")
}

fn stacks(diff: &Diff, top: usize, page: &mut Page) {
    let changed = |stack: &&Stack| stack.difference.change != Change::Unchanged;
    let rows: Vec<&Stack> = diff.stacks.iter().filter(changed).collect();
    if rows.is_empty() {
        return;
    }
    page.heading("Code paths");
    for (number, stack) in rows.iter().take(top).enumerate() {
        let difference = &stack.difference;
        let about = about(difference.estimated);
        let line = format!(
            "  {} {}, {} in {}: {about}{} before, {about}{} after",
            mark(difference),
            signed(difference) + "/min",
            names::who(&stack.owner.owner()),
            terminal(&stack.cache),
            per_minute(difference.before.bytes_per_s),
            per_minute(difference.after.bytes_per_s),
        );
        if number > 0 {
            page.line(Paint::Plain, "");
        }
        page.paragraph(Paint::Bold, "", &line);
        let frames = stack.kernel.iter().chain(stack.user.iter());
        let frames = frames.filter(|frame| !frame.trim().is_empty());
        for frame in frames.clone().take(FRAMES) {
            page.line(
                Paint::Plain,
                &format!("    {}", shorten(&terminal(frame), page.width() - 4)),
            );
        }
        if let more @ 1.. = frames.count().saturating_sub(FRAMES) {
            page.line(Paint::Dim, &format!("    … {more} more"));
        }
    }
    if rows.len() > top {
        page.line(Paint::Dim, "");
        page.line(Paint::Dim, &format!("… {} more changed (--top)", rows.len() - top));
    }
    if rows.iter().take(top).any(|stack| stack.difference.estimated) {
        let text = "estimated: divided among the stacks of a function by a sample of them, or scaled up from \
                    a part of the objects; see the notes";
        page.paragraph(Paint::Dim, "~ ", text);
    }
}

fn trust(diff: &Diff, page: &mut Page) {
    page.heading("What was compared");
    for (name, run) in [("before", &diff.before), ("after", &diff.after)] {
        let text = format!(
            "{}; {}, Linux {} {}",
            human::seconds(run.window_s),
            terminal(&run.host.hostname),
            terminal(&run.host.kernel),
            terminal(&run.host.machine)
        );
        entry(page, Paint::Plain, name, &text);
    }
    entry(
        page,
        Paint::Plain,
        "matched",
        "programs by name and unit, pod or cgroup, never by pid; paths by functions; what is left behind by \
         the minute of window; a change is one of more than a tenth and three standard errors, by the \
         minute and in sum",
    );
    for note in &diff.notes {
        entry(page, Paint::Warn, "note", &terminal(note));
    }
}

fn entry(page: &mut Page, paint: Paint, label: &str, text: &str) {
    page.paragraph(paint, &format!("  {label:LABEL$}"), text);
}
