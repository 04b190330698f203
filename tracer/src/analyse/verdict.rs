//! The answer: who grows, how fast, and how far that can be trusted.

use std::collections::BTreeMap;

use hashbrown::HashSet;

use super::confidence::{Doubt, Error, error, error_doubt, loss_doubts, slab_doubt, window_doubt};
use super::facts::{Series, SiteView, Timeline, UNKNOWN};
use super::group::{self, Key, Level, Merged, Share};
use super::growth::{self, Growth, Pattern, ratio};
use super::reconcile::{Agreement, Check};
use super::{By, Evidence, sentence};
use crate::report::ledger::{self, Ledger};
use crate::report::{Confidence, Verdict};

/// Counts over time that a sure verdict needs.
const SURE_POINTS: usize = 3;
/// Share of the growth that makes an owner the owner.
const SURE_SHARE: f64 = 0.5;
/// Owners that growth has to be spread over before it is called spread.
const MANY_OWNERS: usize = 3;

/// What a verdict is made from.
pub(super) struct Case<'a> {
    pub evidence: &'a Evidence,
    pub timeline: &'a Timeline,
    /// By cache, all owners.
    pub checks: &'a BTreeMap<String, Check>,
    /// Sites as selected.
    pub shown: &'a [&'a SiteView],
    /// Keys of all sites whose frees are not seen.
    pub unfollowed: &'a HashSet<u64>,
    pub by: By,
    /// Only what a command and its descendants did is shown.
    pub family: bool,
}

/// A verdict, and what it could not say in a sentence.
pub(super) struct Judgement {
    pub verdict: Verdict,
    pub notes: Vec<String>,
}

/// The verdict.
///
/// Each ledger is judged by itself: what one allocator makes of its memory is memory of the other.
pub(super) fn judge(case: &Case<'_>) -> Judgement {
    let mut books: BTreeMap<Ledger, Vec<&SiteView>> = BTreeMap::new();
    for site in case.shown {
        books.entry(site.ledger).or_default().push(site);
    }
    let held: BTreeMap<Ledger, u64> =
        books.iter().map(|(ledger, shown)| (*ledger, held(shown, &books))).collect();
    let mut judgements: BTreeMap<Ledger, Judgement> = books
        .iter()
        .map(|(&ledger, shown)| {
            let checks = case.checks.iter().filter(|(_, check)| check.ledger == ledger);
            let checks = checks.map(|(name, check)| (name.clone(), check.clone())).collect();
            (ledger, judge_one(&Case { checks: &checks, shown, ..*case }, ledger))
        })
        .collect();
    match choose(&judgements, &held) {
        Some(ledger) => judgements.remove(&ledger),
        None => None,
    }
    .unwrap_or_else(|| judge_one(case, Ledger::default()))
}

/// Bytes that sites hold, without pages on which another ledger that was followed says more.
fn held(shown: &[&SiteView], books: &BTreeMap<Ledger, Vec<&SiteView>>) -> u64 {
    shown
        .iter()
        .filter(|site| {
            ledger::made_into(&site.cache).is_none_or(|better| !books.contains_key(&better))
        })
        .fold(0, |sum, site| sum.saturating_add(site.series.bytes))
}

/// The ledger whose judgement says most: what grows fastest, or else most of what is held. Pages
/// that grow because objects in them do are the business of those objects' ledger.
fn choose(
    judgements: &BTreeMap<Ledger, Judgement>,
    held: &BTreeMap<Ledger, u64>,
) -> Option<Ledger> {
    let growing =
        |ledger: &Ledger| judgements.get(ledger).is_some_and(|judgement| judgement.verdict.growing);
    let rate = |ledger: &Ledger| {
        let verdict = judgements.get(ledger).map(|judgement| &judgement.verdict);
        verdict.and_then(|verdict| verdict.growth_bytes_per_s).unwrap_or(0.0)
    };
    let fastest = judgements.keys().filter(|ledger| growing(ledger));
    let Some(fastest) = fastest.max_by(|a, b| rate(a).total_cmp(&rate(b))) else {
        return judgements.keys().rev().max_by_key(|ledger| held.get(*ledger)).copied();
    };
    let cache = judgements.get(fastest).and_then(|judgement| judgement.verdict.cache.as_deref());
    let better = cache.and_then(ledger::made_into).filter(growing);
    Some(better.unwrap_or(*fastest))
}

fn judge_one(case: &Case<'_>, ledger: Ledger) -> Judgement {
    // What is freed unseen is nobody's fault by itself: only where the kernel's own count says that it
    // is there.
    let followed: Vec<&SiteView> =
        case.shown.iter().copied().filter(|site| site.series.doubtful == 0).collect();
    let parts = group::whole(&followed);
    let level = match case.by {
        By::Cgroup | By::Pod => Level::By(case.by),
        By::Process | By::Cache | By::Stack | By::Site => Level::By(By::Process),
    };
    let owners = group::merge(&parts, level);
    let mut growing = Candidates::new(case, &owners);
    let programs;
    if level == Level::By(By::Process) && growing.best_share() < SURE_SHARE {
        programs = group::merge(&parts, Level::Program);
        let by_program = Candidates::new(case, &programs);
        // One process has to be far from explaining it before a name is blamed for it.
        if by_program.best_share() >= SURE_SHARE.min(2.0 * growing.best_share().max(0.01)) {
            growing = by_program;
        }
    }
    let found = growing.found.first().map(|best| grows(case, ledger, best, growing.total));
    let found = found.or_else(|| spread(case, &owners)).unwrap_or_else(|| {
        // What stands still may have been freed unseen all the more.
        let sure: Vec<&SiteView> =
            followed.iter().copied().filter(|site| site.unfollowed.is_none()).collect();
        stands(case, &group::merge(&group::whole(&sure), level))
    });
    let Finding { mut verdict, mut doubts } = found;
    if let Some(remark) = verdict.cache.as_deref().and_then(ledger::remark) {
        verdict.summary = format!("{}; {remark}", verdict.summary);
    }

    let error = error(case, &verdict, &owners);
    if let Error::Relative(by) = error {
        verdict.summary = format!(
            "{}; estimated from 1 in {} addresses, ±{}",
            verdict.summary,
            sentence::count(case.evidence.snapshot.scale),
            sentence::percent(by)
        );
    }
    doubts.extend(error_doubt(case, error));
    doubts.extend(loss_doubts(case, &verdict, &owners));
    doubts.sort_by_key(|doubt| doubt.0);
    verdict.confidence = doubts.first().map_or(Confidence::High, |doubt| doubt.0);
    let reasons: Vec<String> =
        doubts.into_iter().map(|doubt| doubt.1).filter(|reason| !reason.is_empty()).collect();
    verdict.summary = if reasons.is_empty() {
        format!("{}.", verdict.summary)
    } else {
        sentence::with_doubts(&verdict.summary, verdict.confidence, &reasons)
    };
    let notes = reasons.into_iter().skip(2).map(|reason| sentence::capitalise(&reason)).collect();
    Judgement { verdict, notes }
}

/// A verdict whose confidence and summary are not final.
struct Finding {
    verdict: Verdict,
    doubts: Vec<Doubt>,
}

/// An owner that grows.
struct Candidate<'a> {
    merged: &'a Merged,
    /// Caches it grows in, fastest first.
    caches: Vec<(&'a str, &'a Share, Growth)>,
    /// Settled bytes a second, all those caches.
    rate: f64,
}

/// Owners that grow, fastest first.
struct Candidates<'a> {
    found: Vec<Candidate<'a>>,
    /// Settled bytes a second of all owners.
    total: f64,
}

impl<'a> Candidates<'a> {
    fn new(case: &Case<'_>, owners: &'a BTreeMap<Key, Merged>) -> Self {
        let mut found = Vec::new();
        let mut rest: BTreeMap<&str, Series> = BTreeMap::new();
        for merged in owners.values() {
            let mut caches = Vec::new();
            for (cache, share) in &merged.caches {
                if refuted(case, cache) {
                    continue;
                }
                match growth::pattern(case.timeline, &share.series) {
                    Pattern::Growing(growth) => caches.push((cache.as_str(), share, growth)),
                    _ => rest.entry(cache).or_default().add(&share.series),
                }
            }
            let speed = |share: &Share, growth: &Growth| growth.objects_per_s * unit(&share.series);
            caches.sort_by(|a, b| speed(b.1, &b.2).total_cmp(&speed(a.1, &a.2)));
            let rate = caches.iter().map(|(_, share, growth)| speed(share, growth)).sum();
            if !caches.is_empty() {
                found.push(Candidate { merged, caches, rate });
            }
        }
        found.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        let spread: f64 =
            rest.values().map(|series| growth::diffuse(case.timeline, series) * unit(series)).sum();
        let total = found.iter().map(|candidate| candidate.rate).sum::<f64>() + spread;
        Self { found, total }
    }

    fn best_share(&self) -> f64 {
        self.found.first().map_or(0.0, |best| ratio(best.rate, self.total))
    }
}

/// Bytes of an object.
fn unit(series: &Series) -> f64 {
    if series.size > 0 {
        series.size as f64
    } else {
        series.bytes as f64 / series.objects.max(1) as f64
    }
}

/// Whether slabinfo says that a cache did not grow, whatever was traced.
fn refuted(case: &Case<'_>, cache: &str) -> bool {
    case.checks
        .get(cache)
        .is_some_and(|check| check.agreement == Agreement::Refuted { significant: false })
}

/// An owner grows.
fn grows(case: &Case<'_>, ledger: Ledger, best: &Candidate<'_>, total: f64) -> Finding {
    let mut doubts = Vec::new();
    let mut growth = 0.0;
    let mut agree = true;
    for (_, share, settled) in &best.caches {
        let settled = settled.objects_per_s;
        let slope = growth::slope(case.timeline, &share.series.history).unwrap_or(0.0);
        let close = slope >= 0.5 * settled && slope <= 2.0 * settled;
        agree &= close;
        growth += if close { slope } else { settled } * unit(&share.series);
    }
    let share_of_growth = ratio(best.rate, total);
    let owner = &best.merged.owner;
    let unknown = owner.kind == UNKNOWN;
    let Some((cache, share, settled)) = best.caches.first() else {
        return nothing(case);
    };

    let known = if share.function == UNKNOWN || share.function.starts_with("0x") {
        String::new()
    } else {
        format!(", through {}", share.function)
    };
    let more = match best.caches.len() {
        0 | 1 => String::new(),
        2 => " and another cache".to_owned(),
        caches => format!(" and {} more caches", caches - 1),
    };
    let of = match ledger {
        _ if case.checks.len() <= 1 => "its growth".to_owned(),
        Ledger::Slab => "all growth".to_owned(),
        Ledger::Pages | Ledger::PerCpu => format!("all growth of {ledger}"),
    };
    let rate = format!("{}/s", sentence::bytes(growth));
    let mut text = if unknown {
        format!("{cache}{more} grows by {rate}, owner unknown{known}")
    } else {
        format!(
            "{} is growing {cache}{more} by {rate}, {} of {of}{known}",
            sentence::owner(owner, best.merged.members),
            sentence::percent(share_of_growth),
        )
    };
    let exhausts = exhausts(case, growth);
    if let Some(seconds) = exhausts {
        text = format!("{text}; memory is gone in {}", sentence::duration(seconds));
    }

    if unknown {
        doubts.push((Confidence::Low, "nobody can be blamed".to_owned()));
    }
    if share_of_growth < SURE_SHARE {
        doubts.push((Confidence::Medium, "others grow more, taken together".to_owned()));
    }
    if !settled.steady {
        doubts.push((Confidence::Medium, "growth is uneven over the window".to_owned()));
    } else if !agree {
        let text = "counts over time and ages of what is left disagree on the rate";
        doubts.push((Confidence::Medium, text.to_owned()));
    }
    doubts.extend(window_doubt(case));
    if case.timeline.seconds.len() < SURE_POINTS {
        let text = match case.timeline.seconds.len() {
            1 => "counted only once".to_owned(),
            points => format!("counted only {points} times"),
        };
        doubts.push((Confidence::Medium, text));
    }
    doubts.extend(slab_doubt(case, cache, true));
    if share.unfollowed {
        let text = "its frees cannot be followed here, and slabinfo alone says that it grows";
        doubts.push((Confidence::Medium, text.to_owned()));
    }
    Finding {
        verdict: Verdict {
            growing: true,
            cache: Some((*cache).to_owned()),
            owner: Some(owner.clone()),
            share: Some(share_of_growth),
            growth_bytes_per_s: Some(growth),
            exhausts_memory_in_s: exhausts,
            confidence: Confidence::High,
            summary: text,
        },
        doubts,
    }
}

fn exhausts(case: &Case<'_>, growth: f64) -> Option<u64> {
    let seconds = case.evidence.mem_available_bytes? as f64 / growth;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole seconds are meant, and a cast from float keeps within the bounds of u64"
    )]
    (growth > 0.0 && seconds.is_finite()).then_some(seconds as u64)
}

/// Something grows, spread over so many owners that none of them does by itself.
fn spread(case: &Case<'_>, owners: &BTreeMap<Key, Merged>) -> Option<Finding> {
    let mut caches: BTreeMap<&str, (Series, usize)> = BTreeMap::new();
    for merged in owners.values() {
        for (cache, share) in &merged.caches {
            let (series, count) = caches.entry(cache).or_default();
            series.add(&share.series);
            *count += usize::from(share.series.objects > 0);
        }
    }
    let growing = caches.iter().filter(|(cache, _)| !refuted(case, cache)).filter_map(
        |(cache, (series, count))| match growth::pattern(case.timeline, series) {
            Pattern::Growing(growth) if *count >= MANY_OWNERS => {
                Some((*cache, series, *count, growth.objects_per_s * unit(series)))
            }
            _ => None,
        },
    );
    let (cache, series, count, rate) = growing.max_by(|a, b| a.3.total_cmp(&b.3))?;
    let largest = owners
        .values()
        .rev()
        .max_by_key(|merged| merged.caches.get(cache).map_or(0, |share| share.series.objects))?;
    let held = largest.caches.get(cache).map_or(0, |share| share.series.objects);
    let share = ratio(held as f64, series.objects as f64);
    let text = format!(
        "{cache} grows by {}/s, spread over {} owners, of which {} has most, {}",
        sentence::bytes(rate),
        sentence::count(count as u64),
        sentence::owner(&largest.owner, largest.members),
        sentence::percent(share),
    );
    let mut doubts = vec![(Confidence::Low, "no owner grows by itself".to_owned())];
    doubts.extend(slab_doubt(case, cache, true));
    Some(Finding {
        verdict: Verdict {
            growing: true,
            cache: Some(cache.to_owned()),
            owner: Some(largest.owner.clone()),
            share: Some(share),
            growth_bytes_per_s: Some(rate),
            exhausts_memory_in_s: exhausts(case, rate),
            confidence: Confidence::High,
            summary: text,
        },
        doubts,
    })
}

/// Nothing grows: who holds most of what is left, and what that looks like.
fn stands(case: &Case<'_>, owners: &BTreeMap<Key, Merged>) -> Finding {
    let size = |merged: &Merged| {
        let caches = merged.caches.values().map(|share| &share.series);
        caches.fold((0_u64, 0_u64), |(bytes, objects), series| {
            (bytes.saturating_add(series.bytes), objects.saturating_add(series.objects))
        })
    };
    let total = owners.values().map(size).fold(0_u64, |sum, (bytes, _)| sum.saturating_add(bytes));
    let Some(holder) = owners.values().rev().max_by_key(|merged| size(merged)) else {
        return nothing(case);
    };
    let largest = holder
        .caches
        .iter()
        .rev()
        .max_by_key(|(_, share)| (share.series.bytes, share.series.objects));
    let Some((cache, share)) = largest.filter(|(_, share)| share.series.objects > 0) else {
        return nothing(case);
    };
    let pattern = growth::pattern(case.timeline, &share.series);
    let (summary, mut doubts) = residue(case, holder, cache, share, pattern);
    if matches!(pattern, Pattern::Churn | Pattern::Burst { .. } | Pattern::WarmUp { .. }) {
        doubts.extend(window_doubt(case));
    }
    // That a cache stands still is no argument against objects that come and go.
    if !matches!(pattern, Pattern::Churn | Pattern::Growing(_)) || !is_refuted(case, cache) {
        doubts.extend(slab_doubt(case, cache, false));
    }
    if holder.owner.kind == UNKNOWN {
        doubts.push((Confidence::Low, "the owner is unknown".to_owned()));
    }
    Finding {
        verdict: Verdict {
            growing: false,
            cache: Some(cache.clone()),
            owner: Some(holder.owner.clone()),
            share: Some(ratio(size(holder).0 as f64, total as f64)),
            growth_bytes_per_s: None,
            exhausts_memory_in_s: None,
            confidence: Confidence::High,
            summary,
        },
        doubts,
    }
}

fn is_refuted(case: &Case<'_>, cache: &str) -> bool {
    let check = case.checks.get(cache);
    check.is_some_and(|check| matches!(check.agreement, Agreement::Refuted { .. }))
}

/// What a residue that does not grow is.
fn residue(
    case: &Case<'_>,
    holder: &Merged,
    cache: &str,
    share: &Share,
    pattern: Pattern,
) -> (String, Vec<Doubt>) {
    let who = sentence::owner(&holder.owner, holder.members);
    let objects = sentence::objects(share.series.objects);
    let size = sentence::bytes(share.series.bytes as f64);
    let held = format!("{objects} ({size}) of {cache}");
    let window = sentence::seconds(case.timeline.length_s);
    let unsure = || vec![(Confidence::Low, String::new())];
    match pattern {
        Pattern::TooShort if case.timeline.length_s >= growth::MIN_WINDOW_S => (
            format!(
                "too little evidence: a minimum age of {} leaves too little of a window of \
                 {window}, run longer; {who} holds {held}",
                sentence::seconds(case.timeline.min_age_s)
            ),
            unsure(),
        ),
        Pattern::TooShort if case.family => (
            format!("the command left {held} behind, most of it by {who}; too short to see growth"),
            unsure(),
        ),
        Pattern::TooShort => (
            format!("too little evidence: window of {window}, run longer; {who} holds {held}"),
            unsure(),
        ),
        Pattern::Nothing | Pattern::Few => {
            (format!("no growth: {held} left, held by {who}"), Vec::new())
        }
        Pattern::Burst { at_s, recent: false } => (
            format!("a burst of {held} by {who} at {}, not growing since", sentence::seconds(at_s)),
            Vec::new(),
        ),
        Pattern::Burst { at_s, recent: true } => (
            format!(
                "a burst of {held} by {who} at {}, at the end of the window: run longer to see \
                 what follows",
                sentence::seconds(at_s)
            ),
            unsure(),
        ),
        Pattern::Scattered => (
            format!("{who} took {held} in a few bursts: run longer to see whether they go on"),
            unsure(),
        ),
        Pattern::WarmUp { until_s } => (
            format!(
                "warm-up: {who} took {held}, nearly all in the first {}, and is not growing since",
                sentence::seconds(until_s)
            ),
            Vec::new(),
        ),
        Pattern::Recent { since_s } => (
            format!(
                "too little evidence: {who} took {held}, most of it after {} of a window of \
                 {window}, run longer",
                sentence::seconds(since_s)
            ),
            unsure(),
        ),
        Pattern::Churn => (
            format!("churn: {who} allocates and frees, and had {held} in use at the end"),
            Vec::new(),
        ),
        Pattern::Growing(_) => {
            let text = format!(
                "not growing: {held} by {who} look left behind, but by slabinfo the cache grew by \
                 {}",
                sentence::signed(case.checks.get(cache).and_then(|check| check.growth)),
            );
            (text, vec![(Confidence::Low, why_refuted(case, cache).to_owned())])
        }
    }
}

/// Nothing is outstanding.
fn nothing(case: &Case<'_>) -> Finding {
    let allocated =
        case.shown.iter().fold(0_u64, |sum, site| sum.saturating_add(site.series.allocated));
    let subject =
        if case.family { "the command left nothing behind" } else { "nothing left behind" };
    let min_age = case.timeline.min_age_s;
    let unseen = case
        .shown
        .iter()
        .filter(|site| site.unfollowed.is_some())
        .fold(0_u64, |sum, site| sum.saturating_add(site.series.objects));
    let mut doubts = Vec::new();
    let text = if unseen > 0 {
        doubts.push((Confidence::Medium, String::new()));
        let verb = if unseen == 1 { "is" } else { "are" };
        format!(
            "{subject} that can be followed; {} more look outstanding, which {verb} freed unseen, by \
             RCU or in bulk",
            sentence::objects(unseen)
        )
    } else if allocated == 0 {
        format!("{subject}: nothing was allocated")
    } else if min_age > 0.0 {
        format!(
            "{subject} that is older than {}, of {} allocated",
            sentence::seconds(min_age),
            sentence::objects(allocated)
        )
    } else {
        format!("{subject}: {} allocated, all freed", sentence::objects(allocated))
    };
    let unexplained = case.checks.iter().filter(|(_, check)| {
        check.agreement == Agreement::Short && check.explained.is_some_and(|share| share < 0.5)
    });
    // The largest, in bytes.
    let worst = unexplained.max_by_key(|(_, check)| {
        u64::try_from(check.growth.unwrap_or(0)).unwrap_or(0).saturating_mul(check.size)
    });
    if let Some((name, check)) = worst {
        let growth = sentence::signed(check.growth);
        let text = format!("by slabinfo {name} grew by {growth} objects that were not traced");
        doubts.push((Confidence::Low, text));
    }
    if case.timeline.length_s < growth::MIN_WINDOW_S {
        let window = sentence::seconds(case.timeline.length_s);
        doubts.push((Confidence::Low, format!("the window was only {window}")));
    } else {
        doubts.extend(window_doubt(case));
    }
    Finding {
        verdict: Verdict {
            growing: false,
            cache: None,
            owner: None,
            share: None,
            growth_bytes_per_s: None,
            exhausts_memory_in_s: None,
            confidence: Confidence::High,
            summary: text,
        },
        doubts,
    }
}

/// Why fewer objects are there than look outstanding.
pub(super) fn why_refuted(case: &Case<'_>, cache: &str) -> &'static str {
    let older = case.evidence.loss.frees_of_older_objects;
    let excess = case
        .checks
        .get(cache)
        .map_or(0, |check| i128::from(check.held) - i128::from(check.growth.unwrap_or(0)));
    if older.is_some_and(|older| i128::from(older) * 2 >= excess) {
        "as many older objects were freed, so this may be turnover"
    } else {
        "frees were missed, as RCU and bulk frees are"
    }
}
