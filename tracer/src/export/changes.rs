//! What changed, in the colours and titles of a flame graph. inferno gives a change to the frame at the tip of
//! a stack alone, which is the cache here: whatever grew, every function of it would be white and `0.00%`.

use hashbrown::HashMap;

/// A stack as it is drawn, in the order of the drawing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Frames, root first, with `;` between them.
    pub(super) stack: &'a str,
    /// Its width.
    pub(super) bytes: u64,
    /// How much more it is than it was.
    pub(super) change: i64,
}

/// A frame by its depth and by where it begins, in the units of widths.
type Place = (u64, u64);

/// `svg` as inferno draws `lines`, with the change of each frame: the sum of what is above it.
pub(super) fn coloured(svg: &str, lines: &[Line<'_>], frame_height: u64) -> String {
    let changes = changes(lines);
    let most = changes.values().map(|change| change.unsigned_abs()).max().unwrap_or(0);
    let total: f64 = lines.iter().map(|line| line.bytes as f64).sum();
    let mut pieces = svg.split("<title>");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    let pieces: Vec<&str> = pieces.collect();
    // Below all others is the frame of all.
    let lowest = pieces.iter().filter_map(|piece| number(rectangle(piece)?, "y")).max();
    for piece in pieces {
        out.push_str("<title>");
        let change = rectangle(piece).zip(lowest).and_then(|(rectangle, lowest)| {
            let up = lowest.checked_sub(number(rectangle, "y")?)?;
            let depth = up.checked_div(frame_height)?;
            changes.get(&(depth, number(rectangle, "fg:x")?)).copied()
        });
        match change.and_then(|change| with_change(piece, change, most, total)) {
            Some(changed) => out.push_str(&changed),
            None => out.push_str(piece),
        }
    }
    out
}

/// Sums of changes by frame, laid out as inferno does: what neighbours have in common is one frame.
fn changes(lines: &[Line<'_>]) -> HashMap<Place, i128> {
    let mut changes = HashMap::new();
    let mut open: Vec<(&str, u64)> = Vec::new();
    let mut at = 0_u64;
    for line in lines {
        let names = || std::iter::once("").chain(line.stack.split(';'));
        let common = open.iter().zip(names()).take_while(|((open, _), name)| open == name).count();
        open.truncate(common);
        open.extend(names().skip(common).map(|name| (name, at)));
        for (depth, (_, begin)) in (0..).zip(&open) {
            *changes.entry((depth, *begin)).or_insert(0) += i128::from(line.change);
        }
        at = at.saturating_add(line.bytes);
    }
    changes
}

/// The tag after a title.
fn rectangle(piece: &str) -> Option<&str> {
    let (_, after) = piece.split_once("</title>")?;
    let (tag, _) = after.split_once("/>")?;
    tag.trim_start().strip_prefix("<rect ")
}

fn number(tag: &str, name: &str) -> Option<u64> {
    let mut attributes = tag.split('"');
    while let (Some(key), Some(value)) = (attributes.next(), attributes.next()) {
        if key.trim_start().trim_end_matches('=') == name {
            return value.parse().ok();
        }
    }
    None
}

/// A title and what follows it, with the change in both.
fn with_change(piece: &str, change: i128, most: u128, total: f64) -> Option<String> {
    let (title, after) = piece.split_once("</title>")?;
    let (before, fill) = after.split_once(" fill=\"")?;
    let (_, rest) = fill.split_once('"')?;
    let share = 100.0 * change as f64 / total;
    let title = match (change, title.strip_suffix(')')) {
        (0, _) | (_, None) => title.to_owned(),
        (_, Some(title)) => format!("{title}; {share:+.2}%)"),
    };
    Some(format!("{title}</title>{before} fill=\"{}\"{rest}", colour(change, most)))
}

/// As differential flame graphs have it: red is more, blue less, and the paler, the less of either.
fn colour(change: i128, most: u128) -> String {
    let part = change.unsigned_abs().saturating_mul(150).checked_div(most).unwrap_or(0);
    let pale = 250 - part.min(150);
    match change {
        0 => "rgb(250,250,250)".to_owned(),
        1.. => format!("rgb(255,{pale},{pale})"),
        _ => format!("rgb({pale},{pale},255)"),
    }
}
