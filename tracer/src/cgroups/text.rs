//! The report as text: the answer first, then how many, who makes them, where, and which are dying.

use std::io;

use super::report::{CgroupsReport, CreatorRow, DyingRow, Held, ParentRow};
use crate::{
    host::memcg::Charges,
    report::{
        Owner, human, names,
        sanitize::terminal,
        text::{
            Style,
            layout::{Page, Paint, shorten},
            table::{Column, GAP, lay_out, squeeze},
        },
    },
};

/// Columns of the names before each line.
const LABEL: usize = 12;
/// Marks a process that has ended.
const EXITED: char = '†';

/// Writes `report` for people. No line is wider than `style.width`, and no name in it can steer the
/// terminal.
pub fn render(
    report: &CgroupsReport,
    style: &Style,
    w: &mut (impl io::Write + ?Sized),
) -> io::Result<()> {
    let mut page = Page::new(*style);
    let paint = if report.alarm { Paint::Alarm } else { Paint::Bold };
    page.paragraph(paint, "", &terminal(&report.summary));
    page.line(Paint::Plain, "");
    facts(report, &mut page);
    let top = style.top.max(1);
    creators(report, top, &mut page);
    parents(report, top, &mut page);
    dying(report, top, &mut page);
    trust(report, &mut page);
    w.write_all(page.text().as_bytes())
}

fn entry(page: &mut Page, paint: Paint, label: &str, text: &str) {
    page.paragraph(paint, &format!("  {label:LABEL$}"), text);
}

fn facts(report: &CgroupsReport, page: &mut Page) {
    let cgroups = &report.cgroups;
    let watched = report.window_s > 0.0;
    let since = |before: Option<u64>| match before {
        Some(before) if watched => {
            format!(" ({} when the window began)", human::count(before))
        }
        _ => String::new(),
    };
    let live = format!("{}{}", human::count(cgroups.live), since(Some(cgroups.live_at_start)));
    entry(page, Paint::Plain, "live", &live);
    let dying = cgroups.dying.map_or_else(
        || "unknown".to_owned(),
        |dying| format!("{}{}", human::count(dying), since(cgroups.dying_at_start)),
    );
    entry(page, Paint::Plain, "dying", &dying);
    if let Some(seen) = cgroups.dying_seen.filter(|seen| *seen > 0) {
        let oldest = cgroups.oldest_dying_s.map_or_else(String::new, |age| {
            format!(", the first of them {} ago", human::seconds(age))
        });
        let text = format!("{} removed in the window{oldest}", human::count(seen));
        entry(page, Paint::Plain, "", &text);
    }
    let limit = &report.limit;
    let ids = match limit.used_at_most {
        Some(most) if most == limit.used_at_least => {
            format!("{} ({})", human::count(most), human::percent(limit.share_at_least))
        }
        Some(most) => format!(
            "{} to {} (at most {})",
            human::count(limit.used_at_least),
            human::count(most),
            human::percent(limit.share_at_most.unwrap_or(1.0))
        ),
        None => format!("at least {}", human::count(limit.used_at_least)),
    };
    let paint = if report.alarm { Paint::Warn } else { Paint::Plain };
    entry(page, paint, "ids used", &format!("{ids} of {}", human::count(limit.ids)));
    if let Some(left) = limit.reached_in_s {
        let text = format!("mkdir fails in {} at this rate", human::duration(left));
        entry(page, Paint::Bold, "time left", &text);
    }
    if let Some(life) = &report.life {
        let rate = |count: u64, per_s: f64| format!("{} ({per_s:.1}/s)", human::count(count));
        let text = format!(
            "{} made, {} removed, {} released in {}",
            rate(life.created, life.created_per_s),
            rate(life.removed, life.removed_per_s),
            rate(life.released, life.released_per_s),
            human::seconds(report.window_s)
        );
        entry(page, Paint::Plain, "life", &text);
        if let (Some(mean), Some(longest)) = (life.dying_mean_s, life.dying_longest_s) {
            let text = format!("{} on average, {} at most", age(mean), age(longest));
            entry(page, Paint::Plain, "dying time", &text);
        }
    }
    if let Some(held) = &report.held {
        held_by(held, page);
    } else if cgroups.dying.is_some_and(|dying| dying > 0) {
        entry(page, Paint::Plain, "held by", "unknown");
    }
}

/// A time that may be far below a second.
fn age(seconds: f64) -> String {
    if (0.0..0.95).contains(&seconds) {
        return format!("{:.0} ms", seconds * 1e3);
    }
    human::seconds(seconds)
}

/// What is charged to dying cgroups, largest first, and what lets go of it.
fn held_by(held: &Held, page: &mut Page) {
    let Charges { anon_bytes, file_bytes, shmem_bytes, swap_bytes, kernel_bytes } = held.charges;
    let mut kinds = [
        (shmem_bytes, "tmpfs and shared memory", "until the files or segments are deleted"),
        (file_bytes, "page cache", "until it is reclaimed; at once with: sysctl vm.drop_caches=1"),
        (anon_bytes, "memory of processes", "until they, now in other cgroups, let go of it"),
        (swap_bytes, "swapped out", "until it is swapped in or freed"),
        (kernel_bytes, "kernel memory", "until it is freed"),
    ];
    kinds.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
    let mut label = "held by";
    for (bytes, what, until) in kinds {
        let Some(bytes) = bytes.filter(|bytes| *bytes > 0) else { continue };
        entry(page, Paint::Plain, label, &format!("~{} of {what}, {until}", human::bytes(bytes)));
        label = "";
    }
    if label == "held by" {
        entry(page, Paint::Plain, label, "nothing that is charged to them");
    } else if held.with_parents_own {
        let text = "(what their parents hold themselves is in it: version 2 does not part them)";
        entry(page, Paint::Dim, "", text);
    }
}

fn table<T>(
    page: &mut Page,
    columns: Vec<Column>,
    rows: &[T],
    below: impl Fn(&T) -> Option<String>,
) {
    let mut columns = columns;
    squeeze(&mut columns, page.width() + GAP);
    let mut lines = lay_out(&columns, rows.len()).into_iter();
    page.line(Paint::Plain, "");
    page.line(Paint::Bold, &lines.next().unwrap_or_default());
    for (line, row) in lines.zip(rows) {
        page.line(Paint::Plain, &line);
        if let Some(text) = below(row) {
            let room = page.width() - GAP;
            page.line(Paint::Dim, &format!("{:GAP$}{}", "", shorten(&text, room)));
        }
    }
}

fn column<T>(heading: &str, name: bool, rows: &[T], cell: impl Fn(&T) -> String) -> Column {
    let cells = std::iter::once(heading.to_owned()).chain(rows.iter().map(cell)).collect();
    Column { cells, name }
}

fn more(page: &mut Page, all: usize, shown: usize) {
    if all > shown {
        page.line(Paint::Dim, &format!("… {} more (--top)", human::count((all - shown) as u64)));
    }
}

fn count(value: Option<u64>) -> String {
    value.map_or_else(|| "?".to_owned(), human::count)
}

fn who(owner: &Owner) -> String {
    let exited = if owner.exited == Some(true) { format!(" {EXITED}") } else { String::new() };
    format!("{}{exited}", names::who(owner))
}

fn maker(row: &CreatorRow) -> String {
    match row.processes {
        _ if row.owner.pid.is_some() => who(&row.owner),
        Some(processes) => format!("{} ({processes} processes)", names::who(&row.owner)),
        None => format!("{} (many processes)", names::who(&row.owner)),
    }
}

fn creators(report: &CgroupsReport, top: usize, page: &mut Page) {
    if report.creators.is_empty() {
        return;
    }
    let rows = report.creators.get(..top).unwrap_or(&report.creators);
    let columns = vec![
        column("MADE BY", true, rows, maker),
        column("MADE", false, rows, |row| human::count(row.created)),
        column("LIVE", false, rows, |row| human::count(row.live)),
        column("DYING", false, rows, |row| human::count(row.dying)),
        column("GONE", false, rows, |row| human::count(row.released)),
        column("REMOVED", false, rows, |row| human::count(row.removed)),
    ];
    table(page, columns, rows, |row| names::place(&row.owner));
    more(page, report.creators.len(), rows.len());
    if rows.iter().any(|row| row.owner.exited == Some(true)) {
        page.line(Paint::Dim, &format!("{EXITED} has exited"));
    }
}

fn parents(report: &CgroupsReport, top: usize, page: &mut Page) {
    let counts = |row: &ParentRow| {
        [row.dying, row.dying_seen, row.created, row.removed].into_iter().flatten().any(|n| n > 0)
    };
    let held = |row: &ParentRow| row.held.is_some_and(|held| held.total() > 0);
    let all: Vec<&ParentRow> =
        report.parents.iter().filter(|row| counts(row) || held(row)).collect();
    if all.is_empty() {
        return;
    }
    let rows = all.get(..top).unwrap_or(&all);
    let columns = vec![
        column("UNDER", true, rows, |row| terminal(&row.path).into_owned()),
        column("LIVE", false, rows, |row| human::count(row.live)),
        column("DYING", false, rows, |row| match (row.dying, row.dying_seen) {
            (Some(dying), _) => human::count(dying),
            // Those from before the window come on top.
            (None, Some(seen)) if seen > 0 => format!("≥{}", human::count(seen)),
            (None, _) => "?".to_owned(),
        }),
        column("MADE", false, rows, |row| count(row.created)),
        column("REMOVED", false, rows, |row| count(row.removed)),
        column("HELD", false, rows, |row| match row.held {
            Some(held) => format!("~{}", human::bytes(held.total())),
            None if row.dying == Some(0) || report.cgroups.dying == Some(0) => "-".to_owned(),
            None => "?".to_owned(),
        }),
    ];
    table(page, columns, rows, |_| None);
    more(page, all.len(), rows.len());
}

fn dying(report: &CgroupsReport, top: usize, page: &mut Page) {
    if report.dying.is_empty() {
        return;
    }
    let rows = report.dying.get(..top).unwrap_or(&report.dying);
    let name = |owner: Option<&Owner>| owner.map_or_else(|| "?".to_owned(), names::who);
    let columns = vec![
        column("DYING", true, rows, |row: &DyingRow| terminal(&row.path).into_owned()),
        column("FOR", false, rows, |row| human::seconds(row.dying_s)),
        column("LIVED", false, rows, |row| row.lived_s.map_or_else(|| "?".to_owned(), age)),
        column("CHARGED", false, rows, |row| {
            row.charged_bytes.map_or_else(|| "?".to_owned(), human::bytes)
        }),
        column("MADE BY", true, rows, |row| name(row.creator.as_ref())),
    ];
    table(page, columns, rows, |_| None);
    more(page, report.dying.len(), rows.len());
}

fn trust(report: &CgroupsReport, page: &mut Page) {
    page.heading("Trust");
    if let Some(loss) = &report.loss {
        let losses = [
            (loss.lost_events, "did not fit kleak's buffer: counted, but not whose they were"),
            (loss.untracked_events, "found no room: in the sums, and in few of the rows"),
            (loss.missed_events.unwrap_or(0), "skipped by the kernel: in no count"),
            (loss.failed_reads, "could not be read whole: a name may be missing"),
        ];
        let mut label = "losses";
        for (count, effect) in losses.into_iter().filter(|(count, _)| *count > 0) {
            entry(
                page,
                Paint::Warn,
                label,
                &format!("{} {effect}", human::counted(count, "event")),
            );
            label = "";
        }
        if label == "losses" {
            let unknown = if loss.missed_events.is_none() {
                "nothing known to be lost; missed events: unknown on this kernel"
            } else {
                "nothing lost"
            };
            entry(page, Paint::Plain, label, unknown);
        }
    }
    for note in &report.notes {
        entry(page, Paint::Warn, "note", &terminal(note));
    }
    let host = &report.host;
    let watched = format!(
        "{}; {} at {}; {}, Linux {} {}",
        if report.window_s > 0.0 { human::seconds(report.window_s) } else { "once".to_owned() },
        report.hierarchy.version,
        terminal(&report.hierarchy.mount),
        terminal(&host.hostname),
        terminal(&host.kernel),
        terminal(&host.machine)
    );
    entry(page, Paint::Dim, "watched", &watched);
    if let Some(bytes) = report.map_bytes {
        entry(page, Paint::Dim, "cost", &format!("{} of maps", human::bytes(bytes)));
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
