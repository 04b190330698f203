//! What speaks against an answer, and how much: the window, the slab allocator's own count, losses.

use std::collections::BTreeMap;

use super::facts::{Series, UNKNOWN};
use super::group::{Key, Merged};
use super::growth::ratio;
use super::reconcile::Agreement;
use super::sentence;
use super::verdict::{Case, why_refuted};
use crate::report::{Confidence, Owner, Verdict, ledger::Ledger};

/// Windows from here on are long enough to be sure.
const SURE_WINDOW_S: f64 = 10.0;
/// Losses below this part of the residue are negligible.
const NEGLIGIBLE: f64 = 0.05;
/// Losses from this part of the residue on could change the answer.
const GRAVE: f64 = 0.2;

/// Relative standard error from which an estimate leaves something to be desired.
const SURE_ERROR: f64 = 0.02;

/// A reason why an answer could be wrong, and how much it weighs.
pub(super) type Doubt = (Confidence, String);

pub(super) fn window_doubt(case: &Case<'_>) -> Option<Doubt> {
    // Timers are late, never early; half a second of slack is for clocks that are not ours.
    (case.timeline.length_s < SURE_WINDOW_S - 0.5).then(|| {
        let window = sentence::seconds(case.timeline.length_s);
        (Confidence::Medium, format!("a window of {window} is short"))
    })
}

/// What slabinfo has against it.
pub(super) fn slab_doubt(case: &Case<'_>, cache: &str, growing: bool) -> Option<Doubt> {
    let check = case.checks.get(cache)?;
    let books = match check.ledger {
        Ledger::Slab => "slabinfo",
        Ledger::Pages => {
            let text = "the kernel counts pages by no use that this could be compared with";
            return Some((Confidence::Medium, text.to_owned()));
        }
        Ledger::PerCpu => "Percpu of /proc/meminfo",
    };
    match check.agreement {
        Agreement::Agrees => None,
        Agreement::TooSmall => growing
            .then(|| (Confidence::Medium, format!("too few objects for {books} to confirm it"))),
        Agreement::Unknown => {
            let readable =
                !case.evidence.slab_before.is_empty() && !case.evidence.slab_after.is_empty();
            let text = if check.ledger == Ledger::PerCpu {
                format!("{books} could not be read to compare with")
            } else if readable {
                format!("slabinfo has no count of {cache} to compare with")
            } else {
                "slabinfo could not be read to compare with".to_owned()
            };
            Some((Confidence::Medium, text))
        }
        Agreement::Short => {
            let explained = check.explained.unwrap_or(0.0);
            let level = if explained < 0.5 { Confidence::Low } else { Confidence::Medium };
            let percent = sentence::percent(explained);
            Some((level, format!("it explains only {percent} of the growth by {books}")))
        }
        Agreement::Over => {
            Some((Confidence::Medium, format!("{books} shows less growth than was traced")))
        }
        Agreement::Refuted { .. } => Some((
            Confidence::Low,
            format!("slabinfo shows less than half of it: {}", why_refuted(case, cache)),
        )),
    }
}

/// What losses have against it.
pub(super) fn loss_doubts(
    case: &Case<'_>,
    verdict: &Verdict,
    owners: &BTreeMap<Key, Merged>,
) -> Vec<Doubt> {
    let loss = &case.evidence.loss;
    let objects = |merged: &Merged| -> u64 {
        merged.caches.values().fold(0, |sum, share| sum.saturating_add(share.series.objects))
    };
    let all = owners.values().fold(0_u64, |sum, merged| sum.saturating_add(objects(merged)));
    // A handful of events lost matters little to who holds nothing.
    let base = match &verdict.owner {
        Some(owner) if verdict.growing => {
            let own = owners.values().filter(|merged| same(&merged.owner, owner)).map(objects);
            own.max().filter(|own| *own > 0).unwrap_or(all)
        }
        _ => all.max(100),
    };
    let part = |lost: u64| lost as f64 / base.max(1) as f64;
    let mut doubts = Vec::new();
    if loss.untracked_objects > 0 {
        let level = if part(loss.untracked_objects) >= GRAVE {
            Confidence::Low
        } else {
            Confidence::Medium
        };
        let lost = sentence::objects(loss.untracked_objects);
        let verb = if loss.untracked_objects == 1 { "was" } else { "were" };
        doubts.push((level, format!("{lost} {verb} not tracked")));
    }
    // Where all frees of a site go unseen, those found out say nothing of the others.
    let habitual: u64 = case
        .evidence
        .snapshot
        .sites
        .iter()
        .filter(|(key, _)| case.unfollowed.contains(*key))
        .fold(0, |sum, (_, facts)| sum.saturating_add(facts.reused));
    let missed = loss
        .failed_updates
        .saturating_add(loss.missed_events.unwrap_or(0))
        .saturating_add(loss.missed_frees_detected.saturating_sub(habitual));
    if part(missed) >= NEGLIGIBLE {
        let level = if part(missed) >= GRAVE { Confidence::Low } else { Confidence::Medium };
        doubts.push((level, format!("{} events were missed", sentence::count(missed))));
    }
    let unknown = case
        .shown
        .iter()
        .filter(|site| site.owner.kind == UNKNOWN && site.owner.comm.is_none())
        .fold(0_u64, |sum, site| sum.saturating_add(site.series.objects));
    let blamed = verdict.owner.as_ref().is_some_and(|owner| owner.kind == UNKNOWN);
    let share = ratio(unknown as f64, all as f64);
    if share >= NEGLIGIBLE && !blamed {
        let text = format!("{} of what is left has no known owner", sentence::percent(share));
        doubts.push((Confidence::Medium, text));
    }
    doubts
}

/// How far what a verdict is about is off by chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Error {
    /// By nothing: every object was followed.
    None,
    /// Estimated from a fraction of the objects, with this standard error, relative to it.
    Relative(f64),
    /// Estimated, and the error is not known.
    Unknown,
}

/// How far the owner's count in the cache that a verdict names is off by chance.
pub(super) fn error(case: &Case<'_>, verdict: &Verdict, owners: &BTreeMap<Key, Merged>) -> Error {
    if case.evidence.sampling.is_none() {
        return Error::None;
    }
    let Some(cache) = &verdict.cache else { return Error::Unknown };
    // Processes of one name that are blamed together are none of the owners: then all of the cache.
    let own = verdict.owner.as_ref();
    let is_own = |merged: &Merged| own.is_some_and(|owner| same(&merged.owner, owner));
    let found = owners.values().any(is_own);
    let mut series = Series::default();
    for merged in owners.values().filter(|merged| !found || is_own(merged)) {
        merged.caches.get(cache).into_iter().for_each(|share| series.add(&share.series));
    }
    match series.standard_error() {
        _ if !series.estimated() => Error::None,
        Some(error) => Error::Relative(error / series.objects.max(series.each()) as f64),
        None => Error::Unknown,
    }
}

/// What an estimate has against it.
pub(super) fn error_doubt(case: &Case<'_>, error: Error) -> Option<Doubt> {
    let why = match error {
        Error::Relative(error) if error >= SURE_ERROR => ", too few to be sure how many",
        Error::None | Error::Relative(_) => return None,
        Error::Unknown => "",
    };
    let each = sentence::count(case.evidence.snapshot.scale);
    Some((Confidence::Medium, format!("objects at only 1 in {each} addresses were followed{why}")))
}

fn same(a: &Owner, b: &Owner) -> bool {
    a.kind == b.kind && a.pid == b.pid && a.comm == b.comm && a.cgroup == b.cgroup
}
