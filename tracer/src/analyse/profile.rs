//! Everything selected, path by path.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::facts::{Series, SiteView, Timeline};
use super::group::{Part, parts};
use super::{By, Evidence, growth};
use crate::report::{
    self,
    profile::{Profile, Sample},
};

/// The profile of the sites shown.
pub(super) fn profile(evidence: &Evidence, shown: &[&SiteView], timeline: &Timeline) -> Profile {
    let mut samples = Vec::new();
    // By stack, each part of a site is one path.
    let parts = parts(evidence, shown, By::Stack);
    let mut of_site: BTreeMap<u64, usize> = BTreeMap::new();
    for part in &parts {
        *of_site.entry(part.site.key).or_default() += 1;
    }
    for part in &parts {
        let divided = of_site.get(&part.site.key).is_some_and(|paths| *paths > 1);
        samples.extend(sample(part, timeline, divided));
    }
    samples.extend(shown.iter().filter_map(|site| rest(site)));
    // A stable sort: sites come in a fixed order.
    samples.sort_by_key(|sample| Reverse((sample.outstanding_bytes, sample.outstanding_objects)));
    Profile { samples, step_s: timeline.steps.clone(), taken_unix_ns: None }
}

/// What is outstanding by one path; `divided` where its site has others, as only the site's history is kept.
fn sample(part: &Part<'_>, timeline: &Timeline, divided: bool) -> Option<Sample> {
    let piece = part.pieces.first()?;
    let series = &part.series;
    Some(Sample {
        owner: Arc::new(part.site.owner.clone()),
        cache: part.site.cache.as_str().into(),
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
fn rest(site: &SiteView) -> Option<Sample> {
    let Series { objects, allocated, size, .. } = site.series;
    let others = allocated.saturating_sub(objects);
    (others > 0).then(|| Sample {
        owner: Arc::new(site.owner.clone()),
        cache: site.cache.as_str().into(),
        kernel: report::frames([&site.frame]),
        allocated_objects: others,
        allocated_bytes: others.saturating_mul(size),
        estimated: site.series.estimated(),
        rest: true,
        ..Sample::default()
    })
}
