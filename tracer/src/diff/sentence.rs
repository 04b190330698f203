//! The verdict of a comparison.

use super::compare::Place;
use super::report::{Change, Difference, Row, Stack, Verdict};
use crate::export::Exhibit;
use crate::report::{
    Confidence, human,
    ledger::{self, Ledger},
    names,
    sanitize::terminal,
};
use std::sync::Arc;

/// Functions that say what a path is about.
const FUNCTIONS: usize = 3;

/// What rows by program say.
pub(super) fn verdict(
    rows: &[Row],
    stacks: &[(Stack, Place)],
    sides: [&Exhibit<'_>; 2],
) -> Verdict {
    let claimed = |row: &&Row| row.difference.is_known_worse() && !row.difference.unfollowed;
    // What slab memory is made of grows with it, so pages only answer where they are all there is.
    let of = |book: Ledger| rows.iter().filter(move |row| Ledger::of_cache(&row.cache) == book);
    let books = [Ledger::Slab, Ledger::PerCpu, Ledger::Pages];
    let worst = books.into_iter().find_map(|book| Some((of(book).find(claimed)?, book)));
    let Some((row, book)) = worst else {
        return Verdict {
            worse: false,
            owner: None,
            cache: None,
            change_bytes_per_s: None,
            share: None,
            summary: better(rows),
        };
    };
    let difference = &row.difference;
    let all: f64 = of(book).filter(claimed).map(|row| row.difference.change_bytes_per_s).sum();
    let share = difference.change_bytes_per_s / all;
    let through = through(row, stacks);
    let cache = terminal(&row.cache);
    let more = per_minute(difference.change_bytes_per_s);
    let mut parts = vec![match difference.change {
        Change::Appeared => {
            format!("{} now leaves {more} behind in {cache}, where it left nothing", who(row))
        }
        _ => format!("{} leaves {more} more behind in {cache}", who(row)),
    }];
    parts.extend(through);
    if difference.change != Change::Appeared {
        parts.push(format!(
            ": {}, before {}",
            per_minute(difference.after.bytes_per_s),
            per_minute(difference.before.bytes_per_s)
        ));
    }
    if share < 0.995 {
        parts.push(format!("; {} of all that grew", human::percent(share)));
    }
    if let Some(remark) = ledger::remark(&row.cache) {
        parts.push(format!("; {remark}"));
    }
    parts.push(".".into());
    let mut summary = parts.concat();
    if let Some(why) = unsure(sides) {
        summary = format!("Perhaps, as {why}: {summary}");
    }
    Verdict {
        worse: true,
        owner: row.owner.clone(),
        cache: Some(row.cache.clone()),
        change_bytes_per_s: Some(difference.change_bytes_per_s),
        share: Some(share),
        summary,
    }
}

/// What makes a difference between the recordings one that may not be of the programs.
fn unsure(sides: [&Exhibit<'_>; 2]) -> Option<&'static str> {
    let [before, after] = sides.map(|side| side.report);
    if [before, after].iter().any(|report| report.verdict.confidence == Confidence::Low) {
        return Some("one of the recordings can hardly be trusted");
    }
    ((before.filter.min_age_s - after.filter.min_age_s).abs() > f64::EPSILON)
        .then_some("the recordings count from different ages (--min-age)")
}

/// The path by which it grew, with the word before it: the first that is known to, else the first that seems to.
fn through(row: &Row, stacks: &[(Stack, Place)]) -> Option<String> {
    // Ids are positions.
    let own = || row.stacks.iter().filter_map(|id| stacks.get(*id as usize));
    let first = |worse: fn(&Difference) -> bool| {
        let (stack, _) = own().find(|(stack, _)| worse(&stack.difference))?;
        Some(path(&stack.kernel)).filter(|path| !path.is_empty())
    };
    first(Difference::is_known_worse).map(|path| format!(", through {path}")).or_else(|| {
        first(|difference| difference.change.is_worse())
            .map(|path| format!(", perhaps through {path}"))
    })
}

/// Where nothing grew that can be claimed.
fn better(rows: &[Row]) -> String {
    let of = |wanted: fn(&&Row) -> bool| rows.iter().find(wanted);
    if rows.is_empty() {
        return "Nothing that both recordings followed was left behind in either of them.".into();
    }
    // Only pages that were followed by a fraction have an error that nobody knows.
    let unknown = |row: &&Row| {
        let Difference { change, within_noise, unfollowed, .. } = &row.difference;
        change.is_worse() && within_noise.is_none() && !unfollowed
    };
    if let Some(row) = of(unknown) {
        return format!(
            "Nothing is known to grow: {} seems to leave {} more behind in {}, but that is scaled up from a \
             part of the pages, and may be far off.",
            who(row),
            per_minute(row.difference.change_bytes_per_s),
            terminal(&row.cache)
        );
    }
    if let Some(row) = of(|row| row.difference.change.is_worse()) {
        return format!(
            "Nothing is known to grow: {} leaves {} more behind in {}, but by paths whose frees cannot be \
             followed.",
            who(row),
            per_minute(row.difference.change_bytes_per_s),
            terminal(&row.cache)
        );
    }
    if let Some(row) = of(|row| row.difference.change != Change::Unchanged) {
        return format!(
            "Nothing grew: {} leaves {} less behind in {}, which is the largest change.",
            who(row),
            per_minute(-row.difference.change_bytes_per_s),
            terminal(&row.cache)
        );
    }
    "Nothing changed by more than a tenth, or by more than chance explains.".into()
}

/// The program and where it lives: `kubelet (kubelet.service)`.
fn who(row: &Row) -> String {
    let place = row.owner.as_ref().and_then(|program| names::place(&program.owner()));
    let name = terminal(&row.name);
    match place {
        Some(place) => format!("{name} ({place})"),
        None => name.into_owned(),
    }
}

/// The functions that say what a path is about, nearest to the allocator first.
pub(super) fn path(kernel: &[Arc<str>]) -> String {
    let names: Vec<_> = kernel.iter().take(FUNCTIONS).map(|name| terminal(name)).collect();
    names.join(" < ")
}

/// `1.2 MiB/min`.
pub(super) fn per_minute(bytes_per_s: f64) -> String {
    format!("{}/min", human::size(bytes_per_s * 60.0))
}
