//! What all forms of a judgement say in the same words. Names in them are safe to print.

use crate::report::judgement::{Amount, Guilty, Judgement};
use crate::report::sanitize::terminal;
use crate::report::{human, names};

/// Functions that are shown of a path.
const FRAMES: usize = 6;
/// Of its user half.
const USER_FRAMES: usize = 3;

/// `kubelet[1165] (kubelet.service)`.
pub(super) fn owner(guilty: &Guilty) -> String {
    let who = names::who(&guilty.owner);
    match names::place(&guilty.owner) {
        Some(place) if place != who => format!("{who} ({place})"),
        _ => who,
    }
}

/// `~2,000 objects, 1.0 MiB, growing by 12 KiB/s`.
pub(super) fn left(guilty: &Guilty) -> String {
    let mark = if guilty.estimated { "~" } else { "" };
    let growth = match guilty.growth_bytes_per_s {
        Some(rate) => format!("growth {}/s", human::size(rate)),
        None => "growth unknown".to_owned(),
    };
    format!(
        "{mark}{}, {mark}{}; {growth}",
        human::counted(guilty.outstanding_objects, "object"),
        human::bytes(guilty.outstanding_bytes)
    )
}

/// The functions that say most, past the allocator, leaf first.
pub(super) fn frames(guilty: &Guilty) -> Vec<String> {
    let mut frames = names::path(&guilty.kernel, FRAMES);
    if frames.is_empty() {
        frames.push("[stack unknown]".to_owned());
    }
    frames.extend(guilty.user.iter().take(USER_FRAMES).map(|frame| terminal(frame).into_owned()));
    frames
}

/// `3 objects, 1.5 KiB`, or of each kind of memory.
pub(super) fn amounts(amounts: &[Amount]) -> String {
    let alone = amounts.len() == 1;
    let one = |amount: &Amount| {
        let mark = if amount.estimated { "~" } else { "" };
        let of = if alone { String::new() } else { format!(" of {}", terminal(&amount.memory)) };
        format!(
            "{mark}{}, {mark}{}{of}",
            human::counted(amount.outstanding_objects, "object"),
            human::bytes(amount.outstanding_bytes)
        )
    };
    if amounts.is_empty() {
        return "nothing".to_owned();
    }
    amounts.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// One line of what suppressions took out, and how many there are; `None` when there are none.
pub(super) fn suppressed(judgement: &Judgement) -> Option<String> {
    let (used, unused) = (judgement.suppressed.len(), judgement.unused_suppressions.len());
    if used + unused == 0 {
        return None;
    }
    let all = human::counted((used + unused) as u64, "suppression");
    if used == 0 {
        return Some(format!("nothing, by {all}"));
    }
    let taken = sum(judgement.suppressed.iter().flat_map(|one| &one.amounts));
    let by = if unused == 0 { all } else { format!("{used} of {all}") };
    Some(format!("{} by {by}", amounts(&taken)))
}

/// What the baseline excused, in a line.
pub(super) fn baseline(judgement: &Judgement) -> Option<String> {
    let used = judgement.baseline.as_ref()?;
    let per = if used.per == "run" { "run by run" } else { "by time" };
    Some(format!(
        "{} excused, compared {per}: {} of Linux {}, {}",
        amounts(&used.amounts),
        terminal(&used.file),
        terminal(&used.kernel),
        human::seconds(used.window_s)
    ))
}

/// `kleak.toml:3 (reason)`.
pub(super) fn place(file: &str, line: u64, reason: &str) -> String {
    format!("{}:{line} ({})", terminal(file), terminal(reason))
}

/// Adds up, each kind of memory by itself.
fn sum<'a>(amounts: impl Iterator<Item = &'a Amount>) -> Vec<Amount> {
    let mut sums: Vec<Amount> = Vec::new();
    for amount in amounts {
        match sums.iter_mut().find(|sum| sum.memory == amount.memory) {
            Some(sum) => {
                sum.outstanding_objects =
                    sum.outstanding_objects.saturating_add(amount.outstanding_objects);
                sum.outstanding_bytes =
                    sum.outstanding_bytes.saturating_add(amount.outstanding_bytes);
                sum.estimated |= amount.estimated;
            }
            None => sums.push(amount.clone()),
        }
    }
    sums
}
