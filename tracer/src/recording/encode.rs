//! From evidence to what a frame holds.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use kleak_common::{context, kind};

use super::{
    Settings,
    format::{self, Allocator, Body, Context, Stack, most},
    limits,
};
use crate::{
    analyse::{Evidence, SlabCount},
    report::{Frames, Owner},
};

/// Why evidence does not fit a recording. No run of this version comes to it.
#[derive(Debug, thiserror::Error)]
#[error("a recording cannot hold this: {0}")]
pub(super) struct Unfit(String);

/// Everything that reports are made from.
///
/// Errors: more of something than a reader would take.
pub(super) fn body(evidence: &Evidence, settings: &Settings) -> Result<Body, Unfit> {
    let snapshot = &evidence.snapshot;
    let since_start = |at_ns: u64| at_ns.saturating_sub(snapshot.start_ns);
    let mut tables = Tables::default();
    let keys = site_keys(evidence);
    let sites: format_sites::Sites =
        keys.iter().map(|key| site(evidence, *key, &mut tables)).collect::<Result<_, _>>()?;
    let groups = groups(evidence, &keys, &mut tables)?;
    let body = Body {
        settings: format::Settings {
            top: settings.top.and_then(|top| u64::try_from(top).ok()),
            family_only: settings.family_only,
        },
        host: (&evidence.host).into(),
        filter: (&evidence.filter).into(),
        mode: (&evidence.mode).into(),
        command: evidence.command.as_ref().map(Into::into),
        cpus: evidence.cpus,
        start_ns: snapshot.start_ns,
        length_ns: since_start(snapshot.at_ns),
        scale: snapshot.scale,
        loss: (&evidence.loss).into(),
        cost: (&evidence.cost).into(),
        sampling: evidence.sampling.as_ref().map(Into::into),
        cgroups: (&evidence.cgroups).into(),
        percpu_growth_bytes: evidence.percpu_growth_bytes,
        mem_available_bytes: evidence.mem_available_bytes,
        notes: evidence.notes.iter().cloned().collect(),
        slabinfo: slabs(evidence),
        older_frees: evidence.older_frees.as_ref().map(counts),
        queued: counts(&evidence.queued),
        aliases: aliases(evidence),
        points_ns: evidence.history.iter().map(|point| since_start(point.at_ns)).collect(),
        names: tables.names.items.into_iter().collect(),
        owners: tables.owners.items.iter().map(Into::into).collect(),
        stacks: tables.stacks.into(),
        user_stacks: tables.user_stacks.into(),
        sites,
        groups,
    };
    check(&body)?;
    Ok(body)
}

/// Shorter names of long types.
mod format_sites {
    use super::super::{
        bounded::Bounded,
        format::{Group, Site, most},
    };

    pub(super) type Sites = Bounded<Site, { most::SITES }>;
    pub(super) type Groups = Bounded<Group, { most::GROUPS }>;
}

/// Keys of sites in their order, which decides between equals.
fn site_keys(evidence: &Evidence) -> Vec<u64> {
    let snapshot = &evidence.snapshot;
    let mut keys: BTreeSet<u64> = snapshot.sites.keys().copied().collect();
    keys.extend(snapshot.groups.keys().map(|key| key.site));
    // What was held before and is not any more has no row.
    keys.extend(evidence.history.last().into_iter().flat_map(|point| point.outstanding.keys()));
    keys.into_iter().collect()
}

fn site(evidence: &Evidence, key: u64, tables: &mut Tables) -> Result<format::Site, Unfit> {
    let held = evidence.history.iter();
    let held = held.map(|point| point.outstanding.get(&key).copied().unwrap_or(0)).collect();
    let held = without_zeros(held).into();
    let Some(facts) = evidence.snapshot.sites.get(&key).filter(|_| key != 0) else {
        return Ok(format::Site { lost: true, held, ..format::Site::default() });
    };
    let site = &facts.site;
    let function = match evidence.call_sites.get(&site.call_site) {
        Some(name) => tables.names.place(name.clone()),
        None => tables.names.place(format!("{:#x}", site.call_site)),
    };
    Ok(format::Site {
        lost: false,
        owner: evidence.owners.get(&key).map(|owner| tables.owners.place(owner.clone())),
        cache: evidence.cache_names.get(&key).map(|name| tables.names.place(name.clone())),
        function: Some(function),
        kind: match site.kind {
            kind::KMALLOC => Allocator::Kmalloc,
            kind::CACHE => Allocator::Cache,
            kind::PAGE => Allocator::Page,
            kind::PERCPU => Allocator::Percpu,
            other => return Err(Unfit(format!("allocator {other}"))),
        },
        context: match site.context {
            context::TASK => Context::Task,
            context::KTHREAD => Context::Kthread,
            context::SOFTIRQ => Context::Softirq,
            context::HARDIRQ => Context::Hardirq,
            other => return Err(Unfit(format!("context {other}"))),
        },
        size: site.size,
        pid: site.tgid,
        process_start_ns: site.start_ns,
        family: site.family == 1,
        allocated: facts.allocated,
        untracked: facts.untracked,
        reused: facts.reused,
        scale: facts.scale,
        held,
    })
}

fn groups(
    evidence: &Evidence,
    keys: &[u64],
    tables: &mut Tables,
) -> Result<format_sites::Groups, Unfit> {
    let places: HashMap<u64, u32> = keys.iter().copied().zip(1..).collect();
    // In the order of their keys, so that what is written follows from what is known.
    let mut groups: Vec<_> = evidence.snapshot.groups.iter().collect();
    groups.sort_unstable_by_key(|(key, _)| **key);
    let mut kernel: BTreeMap<i32, i32> = BTreeMap::new();
    let mut user: BTreeMap<(u64, i32), i32> = BTreeMap::new();
    let mut rows = Vec::with_capacity(groups.len());
    for (key, group) in groups {
        let stack = match key.kernel_stack {
            ..0 => key.kernel_stack,
            id => *kernel.entry(id).or_insert_with(|| {
                let frames = tables.frames(evidence.kernel_stacks.get(&id));
                place(&mut tables.stacks, frames)
            }),
        };
        let user_stack = match key.user_stack {
            ..0 => key.user_stack,
            id => *user.entry((key.site, id)).or_insert_with(|| {
                let frames = tables.frames(evidence.user_stacks.get(&(key.site, id)));
                place(&mut tables.user_stacks, frames)
            }),
        };
        let site = places.get(&key.site).copied();
        let oldest = Some(group.oldest_ns).filter(|oldest| *oldest != u64::MAX);
        rows.push(format::Group {
            site: site.ok_or_else(|| Unfit("a group of no site".to_owned()))?,
            stack: Some(stack).filter(|stack| *stack != -1),
            user: Some(user_stack).filter(|stack| *stack != -1),
            objects: group.objects,
            requested: group.requested,
            weight: group.weight,
            oldest_ns: oldest.map(|at| at.saturating_sub(evidence.snapshot.start_ns)),
            births: without_zeros(group.births.to_vec()).into_iter().collect(),
        });
    }
    Ok(rows.into_iter().collect())
}

/// Adds an entry; its place. Stacks have as many different ids, which are not negative.
fn place<T>(table: &mut Vec<T>, item: T) -> i32 {
    table.push(item);
    i32::try_from(table.len() - 1).unwrap_or(i32::MAX)
}

fn without_zeros(mut counts: Vec<u64>) -> Vec<u64> {
    let end = counts.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1);
    counts.truncate(end);
    counts
}

/// Each thing once, and its place.
struct Table<T> {
    places: HashMap<T, u32>,
    items: Vec<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { places: HashMap::new(), items: Vec::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Table<T> {
    fn place(&mut self, item: T) -> u32 {
        if let Some(place) = self.places.get(&item) {
            return *place;
        }
        // `check` refuses what is longer.
        let place = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.items.push(item.clone());
        self.places.insert(item, place);
        place
    }
}

/// What rows refer to.
#[derive(Default)]
struct Tables {
    names: Table<String>,
    owners: Table<Owner>,
    stacks: Vec<Stack>,
    user_stacks: Vec<Stack>,
}

impl Tables {
    fn frames(&mut self, frames: Option<&Frames>) -> Stack {
        let names = frames.into_iter().flat_map(|frames| frames.iter());
        names
            .map(|name| {
                let name = name.get(..name.floor_char_boundary(most::NAME)).unwrap_or_default();
                match self.names.places.get(name) {
                    Some(place) => *place,
                    None => self.names.place(name.to_owned()),
                }
            })
            .collect()
    }
}

fn slabs(evidence: &Evidence) -> super::bounded::Bounded<format::Slab, { most::CACHES }> {
    let mut rows: BTreeMap<&str, format::Slab> = BTreeMap::new();
    let count = |count: &SlabCount| format::SlabCount {
        active: count.active_objects,
        per_slab: count.objects_per_slab,
    };
    for (name, before) in &evidence.slab_before {
        rows.entry(name).or_default().before = Some(count(before));
    }
    for (name, after) in &evidence.slab_after {
        rows.entry(name).or_default().after = Some(count(after));
    }
    rows.into_iter().map(|(name, row)| format::Slab { name: name.to_owned(), ..row }).collect()
}

fn counts<const MOST: usize>(
    by_cache: &HashMap<String, u64>,
) -> super::bounded::Bounded<format::Count, MOST> {
    let sorted: BTreeMap<&String, &u64> = by_cache.iter().collect();
    let count = |(cache, objects): (&String, &u64)| format::Count {
        cache: cache.clone(),
        objects: *objects,
    };
    sorted.into_iter().map(count).collect()
}

/// Other names of the caches that a report may name. Of a cache without a name, the report makes one up from
/// its size.
fn aliases(evidence: &Evidence) -> super::bounded::Bounded<format::Alias, { most::CACHES }> {
    let named: BTreeSet<&str> = evidence.cache_names.values().map(String::as_str).collect();
    let mut rows: Vec<format::Alias> = evidence
        .aliases
        .iter()
        .filter(|(name, _)| {
            named.contains(name.as_str()) || name.starts_with("kmalloc-") || *name == "unknown"
        })
        .map(|(name, others)| format::Alias { cache: name.clone(), others: others.clone().into() })
        .collect();
    rows.sort_unstable_by(|a, b| a.cache.cmp(&b.cache));
    rows.into_iter().collect()
}

/// Whether a reader will take it.
fn check(body: &Body) -> Result<(), Unfit> {
    limits::check(body).map_err(|excess| Unfit(excess.to_string()))?;
    let deep = |stacks: &[Stack]| stacks.iter().all(Stack::fits);
    let filter = &body.filter;
    for (fits, what) in [
        (body.names.fits(), "names"),
        (body.owners.fits(), "owners"),
        (body.sites.fits(), "sites"),
        (body.groups.fits(), "groups"),
        (body.stacks.fits() && body.user_stacks.fits(), "stacks"),
        (deep(&body.stacks) && deep(&body.user_stacks), "functions in a stack"),
        (body.points_ns.fits(), "points in time"),
        (body.sites.iter().all(|site| site.held.fits()), "points in time"),
        (body.aliases.iter().all(|alias| alias.others.fits()), "names of a slab cache"),
        (filter.kinds.fits() && filter.caches.fits(), "slab caches asked for"),
        (filter.size_classes.fits(), "size classes"),
        (body.command.as_ref().is_none_or(|command| command.argv.fits()), "arguments"),
        (body.notes.fits() && body.slabinfo.fits() && body.aliases.fits(), "slab caches"),
        (body.queued.fits(), "slab caches"),
        (body.older_frees.as_ref().is_none_or(super::bounded::Bounded::fits), "slab caches"),
    ] {
        if !fits {
            return Err(Unfit(format!("too many {what}")));
        }
    }
    let floats = [body.filter.min_age_s, body.cost.measured_s]
        .into_iter()
        .chain(body.sampling.iter().flat_map(|sampling| [sampling.fraction, sampling.since_s]));
    if floats.into_iter().any(|number| !number.is_finite()) {
        return Err(Unfit("a number that is none".to_owned()));
    }
    Ok(())
}
