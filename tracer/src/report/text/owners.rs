//! The table of owners.

use super::super::sanitize::terminal;
use super::super::{OwnerRow, Report, human, ledger, names};
use super::layout::{Page, Paint, shorten, sparkline};
use super::table::{Column, GAP, lay_out, squeeze, taken};

/// Widest that it is shown in, however wide the terminal: the eye loses the row.
const WIDEST: usize = 48;
/// Columns that a place is worth having one for; with fewer it gets a line of its own.
const PLACE: usize = 16;
/// Cells of a trend, at least and at most.
const TREND: (usize, usize) = (5, 10);
/// Marks a process that has ended.
const EXITED: char = '†';
/// Marks objects whose frees are not seen.
const UNFOLLOWED: char = '‡';

pub(super) fn render(report: &Report, top: usize, page: &mut Page) {
    // Who left nothing is of no interest to somebody who looks for memory; rows come largest first.
    let holders = report.owners.iter().take_while(|row| row.outstanding_objects > 0).count();
    let holders = report.owners.get(..holders).unwrap_or(&report.owners);
    if holders.is_empty() {
        return;
    }
    let rows = holders.get(..top).unwrap_or(holders);
    page.line(Paint::Plain, "");
    let (columns, placed) = fit(report, rows, page.width());
    let mut lines = lay_out(&columns, rows.len()).into_iter();
    page.line(Paint::Bold, &lines.next().unwrap_or_default());
    for (line, row) in lines.zip(rows) {
        page.line(if has_exited(row) { Paint::Dim } else { Paint::Plain }, &line);
        if let Some(place) = place(report, row).filter(|_| !placed) {
            let room = page.width() - GAP;
            page.line(Paint::Dim, &format!("{:GAP$}{}", "", shorten(&place, room)));
        }
    }
    if let Some(rest) = holders.get(rows.len()..).filter(|rest| !rest.is_empty()) {
        let bytes = ledger::sums(rest.iter().map(|row| (&*row.cache, row.outstanding_bytes)));
        let hold = if rest.len() == 1 { "holds" } else { "hold" };
        let line = format!("… {} more {hold} {} (--top)", rest.len(), ledger::words(&bytes));
        page.line(Paint::Dim, &line);
    }
    if rows.iter().any(has_exited) {
        let line = format!("{EXITED} has exited");
        page.line(Paint::Dim, &line);
    }
    if rows.iter().any(is_unfollowed) {
        let line = format!("{UNFOLLOWED} freed unseen, by RCU or in bulk: no sign of a leak");
        page.line(Paint::Dim, &line);
    }
}

fn has_exited(row: &OwnerRow) -> bool {
    row.owner.exited == Some(true)
}

/// Whether most of what a row holds cannot be followed.
fn is_unfollowed(row: &OwnerRow) -> bool {
    row.unfollowed_objects > 0 && row.unfollowed_objects >= row.outstanding_objects / 2
}

/// The columns, made to fit, and whether the place is among them. What does not fit gives way in
/// this order: cells of the trend, the column of the place, then the widest of the names.
fn fit(report: &Report, rows: &[OwnerRow], width: usize) -> (Vec<Column>, bool) {
    let numbers = numbers(rows);
    let room = width.saturating_sub(taken(&numbers) + TREND.0);
    let mut names = name_columns(report, rows);
    let mut placed = false;
    if rows.iter().any(|row| place(report, row).is_some()) {
        let mut column = column("UNIT/POD", true, rows, |row| {
            let Some(place) = place(report, row) else { return "-".into() };
            // A pod's whole name is worth more than half of that and half of the container's.
            if shorten(&place, WIDEST) == place {
                place
            } else {
                shorten(&names::wider_place(&row.owner).unwrap_or(place), WIDEST)
            }
        });
        let left = room.saturating_sub(taken(&names) + GAP);
        placed = left >= column.width().min(PLACE);
        if placed {
            column.narrow(left);
            names.insert(1, column);
        }
    }
    squeeze(&mut names, room);
    let cells = width.saturating_sub(taken(&numbers) + taken(&names)).clamp(TREND.0, TREND.1);
    let trend = column("TREND", true, rows, |row| sparkline(&row.trend, cells));
    (names.into_iter().chain(numbers).chain([trend]).collect(), placed)
}

fn column(
    heading: &str,
    name: bool,
    rows: &[OwnerRow],
    cell: impl Fn(&OwnerRow) -> String,
) -> Column {
    let cells = std::iter::once(heading.to_owned()).chain(rows.iter().map(cell)).collect();
    Column { cells, name }
}

/// What a row stands for, and the cache.
fn name_columns(report: &Report, rows: &[OwnerRow]) -> Vec<Column> {
    let by = report.filter.by.as_str();
    let heading = match by {
        "" | "process" => "OWNER".to_owned(),
        other => terminal(other).to_uppercase(),
    };
    let mut columns = vec![column(&heading, true, rows, |row| {
        let who = names::who(&row.owner);
        let who = if has_exited(row) { format!("{who} {EXITED}") } else { who };
        shorten(&if is_unfollowed(row) { format!("{who} {UNFOLLOWED}") } else { who }, WIDEST)
    })];
    if by != "cache" {
        columns.push(column("CACHE", true, rows, |row| shorten(&terminal(&row.cache), WIDEST)));
    }
    columns
}

/// Where a process lives; what other rows stand for lives nowhere else.
fn place(report: &Report, row: &OwnerRow) -> Option<String> {
    matches!(report.filter.by.as_str(), "" | "process").then(|| names::place(&row.owner))?
}

fn numbers(rows: &[OwnerRow]) -> [Column; 4] {
    [
        column("OBJECTS", false, rows, |row| about(row, &human::count(row.outstanding_objects))),
        column("BYTES", false, rows, |row| about(row, &human::bytes(row.outstanding_bytes))),
        column("GROWTH/S", false, rows, |row| {
            row.growth_bytes_per_s.map_or("-".into(), human::size)
        }),
        column("SHARE", false, rows, |row| human::percent(row.share)),
    ]
}

/// Marks what is scaled up from a fraction of the objects.
fn about(row: &OwnerRow, figure: &str) -> String {
    if row.estimated { format!("~{figure}") } else { figure.to_owned() }
}
