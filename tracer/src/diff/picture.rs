//! A comparison for flame-graph tools.

use std::collections::BTreeMap;
use std::io;

use super::report::{Change, Diff, Stack};
use crate::export::{
    caption, folded,
    frames::{self, Frame},
    svg::{Caption, Drawing},
};
use crate::report::{human, ledger::Ledger, sanitize::terminal};

/// Writes `stack BEFORE AFTER` lines in bytes, as `difffolded.pl` does and `flamegraph.pl` and
/// `inferno-flamegraph` read: BEFORE as it would be in a window as long as AFTER's.
pub fn folded(diff: &Diff, w: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
    let mut lines: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for (path, [before, after]) in paths(diff) {
        let sums = lines.entry(folded::stack(&path)).or_default();
        sums[0] = sums[0].saturating_add(before);
        sums[1] = sums[1].saturating_add(after);
    }
    let mut text = String::new();
    for (stack, [before, after]) in lines {
        text.extend([&*stack, " ", &before.to_string(), " ", &after.to_string(), "\n"]);
    }
    w.write_all(text.as_bytes())
}

/// Draws a flame graph of both: red what grew, blue what shrank.
pub fn svg(diff: &Diff, w: &mut dyn io::Write) -> io::Result<()> {
    let mut drawing = Drawing::default();
    for ((path, [before, after]), stack) in paths(diff).zip(&diff.stacks) {
        // What differs by chance has no colour.
        let unchanged = stack.difference.change == Change::Unchanged;
        drawing.compare(&path, if unchanged { after } else { before }, after);
    }
    let (before, after) = (&diff.before, &diff.after);
    let title = format!(
        "What changed: {}, {} before, {} after",
        terminal(&after.host.hostname),
        human::seconds(before.window_s),
        human::seconds(after.window_s)
    );
    let mut subtitle = format!(
        "red grew, blue shrank or went; as wide as the larger of both, in bytes of {}",
        human::seconds(after.window_s),
    );
    if diff.totals.len() > 1 {
        subtitle.push_str("; percentages are of all books together");
    }
    for doubt in &diff.doubts {
        subtitle.extend(["; ", &terminal(doubt)]);
    }
    let subtitle = caption::fitting(subtitle);
    let mut notes = vec![terminal(&diff.verdict.summary).into_owned()];
    notes.extend(diff.notes.iter().map(|note| terminal(note).into_owned()));
    let nothing = terminal(&diff.verdict.summary).into_owned();
    drawing.draw(&Caption { title, subtitle, notes, nothing }, w)
}

/// Paths, root first, with the bytes of both.
fn paths(diff: &Diff) -> impl Iterator<Item = (Vec<Frame>, [u64; 2])> {
    let scale = diff.after.window_s / diff.before.window_s;
    let several = diff.totals.len() > 1;
    diff.stacks.iter().map(move |stack| {
        let Stack { owner, cache, kernel, user, difference, .. } = stack;
        let mut path = Vec::new();
        if several {
            path.push(frames::book(Ledger::of_cache(cache)));
        }
        path.extend(frames::path(&owner.owner(), user, kernel, cache));
        let scaled = difference.before.bytes as f64 * scale;
        #[expect(clippy::cast_possible_truncation, reason = "saturates; NaN is 0")]
        #[expect(clippy::cast_sign_loss, reason = "neither factor is negative")]
        let before = scaled.round() as u64;
        (path, [before, difference.after.bytes])
    })
}
