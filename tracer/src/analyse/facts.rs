//! What is known of each site: names, counts, and how the count came about over time.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use kleak_common::{Site, context, kind};

use super::Evidence;
use super::unfollowed::{self, Why};
use crate::report::{Owner, ledger::Ledger};
use crate::snapshot::{BIRTH_SLICES, Group, GroupKey};

/// Functions that allocate for the slab allocator itself: arrays that it keeps a CPU's free objects in
/// (sheaves, mm/slub.c, 6.18 to 7.2), and those that say whom a slab's objects are charged to (mm/slub.c,
/// mm/memcontrol.c, 5.9 to 7.2). They stay when the process that happened to need one has long gone.
const ALLOCATOR: [&str; 12] = [
    "__pcs_replace_empty_main",
    "__pcs_replace_full_main",
    "alloc_empty_sheaf",
    "__alloc_empty_sheaf",
    "alloc_full_sheaf",
    "__kfree_rcu_sheaf",
    "kmem_cache_prefill_sheaf",
    "kmem_cache_prefill_sheaf_noprof",
    "kmem_cache_refill_sheaf",
    "alloc_slab_obj_exts",
    "memcg_alloc_slab_cgroups",
    "memcg_alloc_page_obj_cgroups",
];

/// Stands for a cache or function without a name.
pub(super) const UNKNOWN: &str = "unknown";

/// The window and the instants at which the outstanding objects were counted.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    /// When counting began, nanoseconds.
    pub start_ns: u64,
    /// When the snapshot was taken, nanoseconds.
    pub end_ns: u64,
    /// Length of the window, seconds.
    pub length_s: f64,
    /// Instants after the start, seconds since then, ascending.
    pub seconds: Vec<f64>,
    /// Age below which objects were left out of the groups, seconds.
    pub min_age_s: f64,
    /// Index into `Evidence::history` of each instant; `None` is the snapshot.
    sources: Vec<Option<usize>>,
    /// Steps of a trend: seconds since the start.
    pub steps: Vec<f64>,
}

/// Points of [`crate::report::OwnerRow::trend`].
const TREND_STEPS: u32 = 10;

impl Timeline {
    pub(super) fn new(evidence: &Evidence) -> Self {
        let start = evidence.snapshot.start_ns;
        let seconds_since = |at: u64| at.saturating_sub(start) as f64 / 1e9;
        let end = evidence.snapshot.at_ns;
        let length_s = seconds_since(end);
        let min_age_s = evidence.filter.min_age_s;
        let min_age_s = if min_age_s.is_finite() { min_age_s.max(0.0) } else { 0.0 };

        let mut points: Vec<(u64, Option<usize>)> = evidence
            .history
            .iter()
            .enumerate()
            .filter(|(_, point)| point.at_ns > start)
            .map(|(index, point)| (point.at_ns, Some(index)))
            .collect();
        points.sort_unstable();
        // With a minimum age the snapshot lacks the young, and is no later point of the same
        // series.
        let last = points.last().map_or(start, |(at, _)| *at);
        if last < end && (min_age_s == 0.0 || points.is_empty()) {
            points.push((end, None));
        }
        Self {
            start_ns: start,
            end_ns: end,
            length_s,
            seconds: points.iter().map(|(at, _)| seconds_since(*at)).collect(),
            min_age_s,
            sources: points.into_iter().map(|(_, source)| source).collect(),
            steps: (1..=TREND_STEPS)
                .map(|step| length_s * f64::from(step) / f64::from(TREND_STEPS))
                .collect(),
        }
    }

    /// Length of a birth slice, seconds.
    pub(super) fn slice_s(&self) -> f64 {
        self.length_s / BIRTH_SLICES as f64
    }

    /// The last value known at `at_s`, of values that belong to `self.seconds`; 0 before the
    /// first.
    pub(super) fn value_at(&self, history: &[u64], at_s: f64) -> u64 {
        let known = self.seconds.iter().zip(history);
        known
            .take_while(|(second, _)| **second <= at_s + 1e-9)
            .last()
            .map_or(0, |(_, count)| *count)
    }

    /// `history` at equal steps of the window.
    pub(super) fn trend(&self, history: &[u64]) -> Vec<u64> {
        let mut trend: Vec<u64> =
            self.steps.iter().map(|step| self.value_at(history, *step)).collect();
        // The last count is taken a moment after the snapshot's time stamp, or before.
        if let (Some(last), Some(count)) = (trend.last_mut(), history.last()) {
            *last = *count;
        }
        trend
    }
}

/// Counts that can be added up over sites.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Series {
    /// Outstanding, and older than the minimum age.
    pub objects: u64,
    /// The same, bytes of slab.
    pub bytes: u64,
    /// The same, bytes asked for.
    pub requested: u64,
    /// Outstanding at any age.
    pub held: u64,
    /// Allocated in the window: at least `held`.
    pub allocated: u64,
    /// Of those, not tracked, so that nobody knows whether they were freed.
    pub untracked: u64,
    /// Of `objects`, freed by a path that is not followed, and not confirmed by slabinfo.
    pub doubtful: u64,
    /// Bytes an object occupies (the largest, where sites differ).
    pub size: u64,
    /// How many objects each that was followed stands for (the most, where sites differ); 0 or 1 when all
    /// were.
    pub scale: u64,
    /// Whether they are in the fraction that is followed one by one, and not by blocks.
    pub by_block: bool,
    /// Birth of the oldest, nanoseconds; `None` without objects.
    pub oldest_ns: Option<u64>,
    /// `objects` by birth.
    pub births: [u64; BIRTH_SLICES],
    /// Outstanding at any age, at [`Timeline::seconds`].
    pub history: Vec<u64>,
}

impl Series {
    pub(super) fn freed(&self) -> u64 {
        self.allocated.saturating_sub(self.untracked).saturating_sub(self.held)
    }

    /// How many objects each that was followed stands for.
    pub(super) fn each(&self) -> u64 {
        self.scale.max(1)
    }

    /// Whether the counts are scaled up.
    pub(super) fn estimated(&self) -> bool {
        self.scale > 1
    }

    /// Standard error of `objects`: of a fraction `f` of them, chosen at random, `m` were seen, and `m / f`
    /// is off by `sqrt(m (1 - f)) / f`. `None` where whole blocks of them are chosen.
    pub(super) fn standard_error(&self) -> Option<f64> {
        let each = self.each() as f64;
        if !self.estimated() {
            return Some(0.0);
        }
        // That none was seen does not say that there is none.
        let seen = (self.objects as f64 / each).max(1.0);
        (!self.by_block).then(|| each * (seen * (1.0 - 1.0 / each)).sqrt())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects == 0 && self.allocated == 0
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.objects = self.objects.saturating_add(other.objects);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.requested = self.requested.saturating_add(other.requested);
        self.held = self.held.saturating_add(other.held);
        self.allocated = self.allocated.saturating_add(other.allocated);
        self.untracked = self.untracked.saturating_add(other.untracked);
        self.doubtful = self.doubtful.saturating_add(other.doubtful);
        self.size = self.size.max(other.size);
        self.scale = self.scale.max(other.scale);
        self.by_block |= other.by_block;
        self.oldest_ns = self.oldest_ns.into_iter().chain(other.oldest_ns).min();
        for (sum, count) in self.births.iter_mut().zip(other.births) {
            *sum = sum.saturating_add(count);
        }
        self.history.resize(self.history.len().max(other.history.len()), 0);
        for (sum, count) in self.history.iter_mut().zip(&other.history) {
            *sum = sum.saturating_add(*count);
        }
    }

    fn add_group(&mut self, group: &Group) {
        self.objects = self.objects.saturating_add(group.objects);
        self.requested = self.requested.saturating_add(group.requested);
        if group.objects > 0 {
            self.oldest_ns = self.oldest_ns.into_iter().chain([group.oldest_ns]).min();
        }
        for (sum, count) in self.births.iter_mut().zip(group.births) {
            *sum = sum.saturating_add(count);
        }
    }
}

/// A site with its names.
#[derive(Clone, Debug)]
pub(super) struct SiteView {
    /// As in the evidence.
    pub key: u64,
    /// Who: process, kthread, softirq, hardirq or unknown.
    pub owner: Owner,
    /// What tells this process from another that had its pid; `None` in interrupts and when
    /// unknown.
    pub process: Option<(u32, u64)>,
    /// Whose books it is in.
    pub ledger: Ledger,
    /// Slab cache, or what stands in its place.
    pub cache: String,
    /// Function that called the allocator.
    pub function: String,
    /// The same as a frame of a stack: with the module where it is one's.
    pub frame: String,
    /// Whether it descends from the command that kleak runs, and acts on its own behalf.
    pub family: bool,
    /// Why its frees are not seen, if they are not.
    pub unfollowed: Option<Why>,
    /// Its counts.
    pub series: Series,
    /// Its groups, in the order of their keys.
    pub groups: Vec<(GroupKey, Group)>,
}

/// Every site that allocated or holds something, in a fixed order.
pub(super) fn sites(evidence: &Evidence, timeline: &Timeline) -> Vec<SiteView> {
    let snapshot = &evidence.snapshot;
    let mut groups: HashMap<u64, Vec<(GroupKey, Group)>> = HashMap::new();
    for (key, group) in &snapshot.groups {
        groups.entry(key.site).or_default().push((*key, *group));
    }
    let mut keys: BTreeSet<u64> = snapshot.sites.keys().copied().collect();
    keys.extend(groups.keys());
    keys.extend(evidence.history.last().into_iter().flat_map(|point| point.outstanding.keys()));

    let mut views: Vec<SiteView> = keys
        .into_iter()
        .map(|key| {
            let mut groups = groups.remove(&key).unwrap_or_default();
            groups.sort_unstable_by_key(|(key, _)| *key);
            view(evidence, timeline, key, groups)
        })
        .filter(|view| !view.series.is_empty())
        .collect();
    // Keys are seeded hashes: order by what stays the same from run to run.
    views.sort_by(|a, b| {
        let rank = |view: &SiteView| (view.owner.kind.clone(), view.process, view.cache.clone());
        rank(a)
            .cmp(&rank(b))
            .then_with(|| a.function.cmp(&b.function))
            .then_with(|| a.owner.cgroup.cmp(&b.owner.cgroup))
            .then_with(|| a.key.cmp(&b.key))
    });
    views
}

fn view(
    evidence: &Evidence,
    timeline: &Timeline,
    key: u64,
    groups: Vec<(GroupKey, Group)>,
) -> SiteView {
    let facts = evidence.snapshot.sites.get(&key).filter(|_| key != 0);
    let mut series = Series::default();
    for (_, group) in &groups {
        series.add_group(group);
    }
    series.history = timeline
        .sources
        .iter()
        .map(|source| match source.and_then(|index| evidence.history.get(index)) {
            Some(point) => point.outstanding.get(&key).copied().unwrap_or(0),
            None => series.objects,
        })
        .collect();
    // A minimum age hides the young from the groups; they are outstanding all the same.
    let last = evidence.history.last().filter(|_| timeline.min_age_s > 0.0);
    let last = last.and_then(|point| point.outstanding.get(&key)).copied().unwrap_or(0);
    series.held = series.objects.max(last);
    // Counts are read before objects: one allocated in between is in the latter only.
    series.allocated = facts.map_or(0, |facts| facts.allocated).max(series.held);
    series.untracked = facts.map_or(0, |facts| facts.untracked);

    let site = facts.map(|facts| facts.site);
    series.scale = facts.map_or(evidence.snapshot.scale, |facts| facts.scale);
    series.by_block = site.is_some_and(|site| site.kind == kind::PAGE);
    let only_class = match evidence.filter.size_classes.as_slice() {
        // Where anything else is followed too, it may be that.
        [class] if evidence.filter.caches.is_empty() && evidence.filter.kinds == ["kmalloc"] => {
            *class
        }
        _ => 0,
    };
    series.size = site.map_or(only_class, |site| u64::from(site.size));
    // What is left of blocks of pages that were freed in part is known to the byte.
    let by_byte = series.size == 0 || site.is_some_and(|site| site.kind == kind::PAGE);
    series.bytes =
        if by_byte { series.requested } else { series.objects.saturating_mul(series.size) };

    let owner = site.map_or_else(nobody, |site| {
        evidence.owners.get(&key).cloned().unwrap_or_else(|| owner_by_context(&site))
    });
    let frame: String = site.map_or_else(
        || UNKNOWN.to_owned(),
        |site| {
            let name = evidence.call_sites.get(&site.call_site).cloned();
            name.unwrap_or_else(|| format!("{:#x}", site.call_site))
        },
    );
    // What is known of functions is known by their names alone.
    let function = frame.split_once(" [").map_or(frame.as_str(), |(name, _)| name).to_owned();
    let own = function.split(['.', '+', ' ']).next().is_some_and(|name| ALLOCATOR.contains(&name));
    let owner = if own { allocator() } else { owner };
    SiteView {
        key,
        unfollowed: facts
            .filter(|facts| facts.site.kind <= kind::CACHE)
            .and_then(|facts| unfollowed::why(&evidence.mode, &function, facts)),
        process: site
            .filter(|_| matches!(owner.kind.as_str(), "process" | "kthread"))
            .map(|site| (site.tgid, site.start_ns)),
        owner,
        ledger: site.map_or_else(Ledger::default, |site| Ledger::of_kind(site.kind)),
        cache: site.map_or_else(
            || UNKNOWN.to_owned(),
            |site| {
                let name = evidence.cache_names.get(&key).cloned();
                name.unwrap_or_else(|| format!("kmalloc-{}", class_name(u64::from(site.size))))
            },
        ),
        function,
        frame,
        family: !own && site.is_some_and(|site| site.family == 1),
        series,
        groups,
    }
}

/// How the kernel writes the size of a kmalloc class: `512`, `1k`.
fn class_name(size: u64) -> String {
    if size >= 1024 && size.is_multiple_of(1024) {
        format!("{}k", size / 1024)
    } else {
        size.to_string()
    }
}

/// The slab allocator, which allocates for itself whoever happens to call it.
fn allocator() -> Owner {
    Owner { comm: Some("slab allocator".to_owned()), ..nobody() }
}

fn nobody() -> Owner {
    Owner { kind: UNKNOWN.to_owned(), ..Owner::default() }
}

/// An owner without a name: what the site itself says.
fn owner_by_context(site: &Site) -> Owner {
    let kind = match site.context {
        context::TASK if site.tgid != 0 => "process",
        context::KTHREAD if site.tgid != 0 => "kthread",
        context::SOFTIRQ => "softirq",
        context::HARDIRQ => "hardirq",
        _ => return nobody(),
    };
    let pid = matches!(kind, "process" | "kthread").then_some(site.tgid);
    Owner { kind: kind.to_owned(), pid, ..Owner::default() }
}
