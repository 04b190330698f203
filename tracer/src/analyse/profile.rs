//! Everything selected, path by path.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use super::facts::{Series, SiteView, Timeline};
use super::group::{Part, parts};
use super::{By, Evidence, growth};
use crate::report::{
    self, Owner,
    profile::{Profile, Sample},
};

/// The profile of the sites shown.
pub(super) fn profile(evidence: &Evidence, shown: &[&SiteView], timeline: &Timeline) -> Profile {
    let mut samples = Vec::new();
    // Of one site there may be thousands of paths.
    let names: HashMap<u64, Names> = shown.iter().map(|site| (site.key, Names::of(site))).collect();
    // By stack, each part of a site is one path.
    let parts = parts(evidence, shown, By::Stack);
    let mut of_site: BTreeMap<u64, usize> = BTreeMap::new();
    for part in &parts {
        *of_site.entry(part.site.key).or_default() += 1;
    }
    for part in &parts {
        let divided = of_site.get(&part.site.key).is_some_and(|paths| *paths > 1);
        let names = names.get(&part.site.key);
        samples.extend(names.and_then(|names| sample(part, names, timeline, divided)));
    }
    samples.extend(shown.iter().filter_map(|site| rest(site, names.get(&site.key)?)));
    // A stable sort: sites come in a fixed order.
    samples.sort_by_key(|sample| Reverse((sample.outstanding_bytes, sample.outstanding_objects)));
    Profile { samples, step_s: timeline.steps.clone(), taken_unix_ns: None }
}

/// What samples of a site share.
struct Names {
    owner: Arc<Owner>,
    cache: Arc<str>,
}

impl Names {
    fn of(site: &SiteView) -> Self {
        Self { owner: Arc::new(site.owner.clone()), cache: site.cache.as_str().into() }
    }
}

/// What is outstanding by one path; `divided` where its site has others, as only the site's history is kept.
fn sample(part: &Part<'_>, names: &Names, timeline: &Timeline, divided: bool) -> Option<Sample> {
    let piece = part.pieces.first()?;
    let series = &part.series;
    Some(Sample {
        owner: Arc::clone(&names.owner),
        cache: Arc::clone(&names.cache),
        kernel: Arc::clone(&piece.frames.kernel),
        user: Arc::clone(&piece.frames.user),
        outstanding_objects: series.objects,
        outstanding_bytes: series.bytes,
        requested_bytes: series.requested,
        allocated_objects: series.objects,
        allocated_bytes: series.bytes,
        unfollowed_objects: series.doubtful,
        growth_bytes_per_s: growth::bytes_slope(timeline, &series.history, series.size),
        trend: timeline.trend(&series.history),
        estimated: piece.estimated,
        growth_estimated: divided || piece.estimated,
        rest: false,
    })
}

/// What was allocated at a site and is not outstanding.
fn rest(site: &SiteView, names: &Names) -> Option<Sample> {
    let Series { objects, allocated, size, .. } = site.series;
    let others = allocated.saturating_sub(objects);
    (others > 0).then(|| Sample {
        owner: Arc::clone(&names.owner),
        cache: Arc::clone(&names.cache),
        kernel: report::frames([&site.frame]),
        allocated_objects: others,
        allocated_bytes: others.saturating_mul(size),
        estimated: site.series.estimated(),
        rest: true,
        ..Sample::default()
    })
}
