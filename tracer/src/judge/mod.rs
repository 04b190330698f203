//! `--fail-on`: whether a run passes, so that a build fails when the kernel leaks, with the guilty stack
//! in the message.
//!
//! Judging starts from a [`Profile`], which has everything that was selected, so that `--by` and `--top`
//! do not change what is judged. What cannot be followed is taken out first, then what is suppressed
//! ([`Suppressions`]), then what a baseline had too ([`Baseline`]); `growth`, `objects`, rates and
//! `owner.share` are of what remains. All of it is pure; [`files`] reads and writes what belongs to it.

pub mod baseline;
pub mod condition;
mod evaluate;
pub mod file;
pub mod files;
pub mod github;
pub mod junit;
pub mod markdown;
mod remains;
mod reproduce;
pub mod suppress;
#[cfg(test)]
mod tests;
pub mod text;
mod words;

use crate::report::judgement::Judgement;
use crate::report::profile::Profile;
use crate::report::{Report, human};

pub use baseline::Baseline;
pub use condition::Condition;
pub use suppress::{Day, Suppressions};

/// Owners that are listed with a judgement.
const LISTED: usize = 10;

/// By what a run is judged.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What makes it fail.
    pub conditions: &'a [Condition],
    /// What is known, and has a reason.
    pub suppressions: &'a Suppressions,
    /// What was there before.
    pub baseline: Option<&'a Baseline>,
    /// Suppressions may end.
    pub today: &'a Day,
}

/// The judgement.
///
/// `profile` is what `report` was made from.
pub fn judge(report: &Report, profile: &Profile, rules: &Rules<'_>) -> Judgement {
    let mut remains = remains::Remains::new(profile);
    let applied = rules.suppressions.apply(&mut remains, rules.today);
    let mut notes = Vec::new();
    if applied.by_estimate {
        notes.push(
            "Stacks were sampled, so what suppressions of functions took out is an estimate: \
             --stacks all makes it exact."
                .to_owned(),
        );
    }
    let baseline = rules.baseline.map(|baseline| {
        let (used, more) = baseline.apply(report, &mut remains);
        notes.extend(more);
        used
    });
    let excused = !applied.suppressed.is_empty()
        || baseline.as_ref().is_some_and(|baseline| !baseline.amounts.is_empty());
    let lost = report.loss.untracked_objects;
    if lost > 0 && !rules.conditions.iter().any(Condition::is_of_untracked) {
        notes.push(format!(
            "{} not followed, and what became of them is not judged: raise --max-objects, or fail by it \
             with --fail-on 'untracked>0'.",
            if lost == 1 {
                "1 allocation was".to_owned()
            } else {
                format!("{} allocations were", human::count(lost))
            }
        ));
    }
    let books = remains.books();
    let conditions = rules
        .conditions
        .iter()
        .map(|condition| evaluate::evaluate(condition, report, &books, excused))
        .collect();
    let mut judged: Vec<_> =
        books.values().flatten().filter(|row| row.objects > 0 || row.bytes > 0).collect();
    judged.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    Judgement {
        conditions,
        judged: judged.into_iter().take(LISTED).map(remains::Row::guilty).collect(),
        suppressed: applied.suppressed,
        unused_suppressions: applied.unused,
        baseline,
        notes,
        reproduce: reproduce::command_line(report, profile, rules),
    }
}
