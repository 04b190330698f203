//! Rows: sites, or their parts by stack, added up by what the reader asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::facts::{Series, SiteView, Timeline, UNKNOWN};
use super::stacks::{Frames, Piece, apportion, divide};
use super::{By, Evidence, growth};
use crate::report::{Owner, OwnerRow, StackRow, ledger::Ledger};

/// A site, or its part with one stack.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub site: &'a SiteView,
    pub series: Series,
    /// Its residue by path.
    pub pieces: Vec<Piece>,
    /// Set with `--by stack`.
    frames: Option<Frames>,
}

/// What to add up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// As the reader asked.
    By(By),
    /// Processes of one name together: a program that is run again and again leaks a little each
    /// time, and no single process grows.
    Program,
}

/// What a row stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// A process or kernel thread: kind, thread-group id, start.
    Process(String, u32, u64),
    /// Interrupts of a kind, or nobody known.
    Kind(String),
    /// Kind and name.
    Program(String, String),
    Cgroup(String),
    Pod(String),
    Label(String),
    Frames(Frames),
}

/// All that belongs to a key.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    pub owner: Owner,
    /// Different processes (or kinds of interrupt) among it.
    pub members: usize,
    /// By cache.
    pub caches: BTreeMap<String, Share>,
}

/// What belongs to a key in one cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Share {
    /// Whose books it is in.
    pub ledger: Ledger,
    pub series: Series,
    /// Function that called the allocator for most of it.
    pub function: String,
    /// Most of it was allocated where frees are not seen.
    pub unfollowed: bool,
    /// Indexes of its parts.
    parts: Vec<usize>,
}

/// The sites, divided by stack where rows are by stack.
pub(super) fn parts<'a>(evidence: &Evidence, sites: &[&'a SiteView], by: By) -> Vec<Part<'a>> {
    let mut parts = Vec::with_capacity(sites.len());
    for site in sites {
        let pieces = divide(evidence, site);
        if by != By::Stack {
            parts.push(Part { site, series: site.series.clone(), pieces, frames: None });
        } else if pieces.is_empty() {
            let frames = Frames::of_call_site(site);
            parts.push(Part { site, series: site.series.clone(), pieces, frames: Some(frames) });
        } else {
            let series = divide_series(&site.series, &pieces);
            parts.extend(pieces.into_iter().zip(series).map(|(piece, series)| Part {
                site,
                series,
                frames: Some(piece.frames.clone()),
                pieces: vec![piece],
            }));
        }
    }
    parts
}

/// The sites as they are, for sums by owner alone.
pub(super) fn whole<'a>(sites: &[&'a SiteView]) -> Vec<Part<'a>> {
    let part = |site: &&'a SiteView| Part {
        site,
        series: site.series.clone(),
        pieces: Vec::new(),
        frames: None,
    };
    sites.iter().map(part).collect()
}

/// A site's counts in proportion to the residue of its pieces; every sum is kept.
fn divide_series(series: &Series, pieces: &[Piece]) -> Vec<Series> {
    let weights: Vec<u64> = pieces.iter().map(|piece| piece.objects).collect();
    let split = |total: u64| apportion(total, &weights);
    let (bytes, requested) = (split(series.bytes), split(series.requested));
    let (held, allocated) = (split(series.held), split(series.allocated));
    let untracked = split(series.untracked);
    let births: Vec<Vec<u64>> = series.births.iter().map(|count| split(*count)).collect();
    let history: Vec<Vec<u64>> = series.history.iter().map(|count| split(*count)).collect();
    let at = |parts: &[u64], index: usize| parts.get(index).copied().unwrap_or(0);
    pieces
        .iter()
        .enumerate()
        .map(|(index, piece)| {
            let mut part = Series {
                objects: piece.objects,
                bytes: if series.bytes == series.objects.saturating_mul(series.size) {
                    piece.objects.saturating_mul(series.size)
                } else {
                    at(&bytes, index)
                },
                requested: at(&requested, index),
                held: at(&held, index).max(piece.objects),
                allocated: at(&allocated, index),
                untracked: at(&untracked, index),
                // A site is doubtful whole or not at all.
                doubtful: if series.doubtful > 0 { piece.objects } else { 0 },
                size: series.size,
                scale: series.scale,
                by_block: series.by_block,
                oldest_ns: piece.oldest_ns,
                births: Default::default(),
                history: history.iter().map(|parts| at(parts, index)).collect(),
            };
            for (birth, parts) in part.births.iter_mut().zip(&births) {
                *birth = at(parts, index);
            }
            part.allocated = part.allocated.max(part.held);
            part
        })
        .collect()
}

fn process_key(site: &SiteView) -> Key {
    match (site.process, &site.owner.comm) {
        (Some((tgid, start_ns)), _) => Key::Process(site.owner.kind.clone(), tgid, start_ns),
        // The slab allocator.
        (None, Some(name)) => Key::Program(site.owner.kind.clone(), name.clone()),
        (None, None) => Key::Kind(site.owner.kind.clone()),
    }
}

/// Interrupts belong to no cgroup; a task whose cgroup could not be read belongs to none we know.
fn cgroup_key(site: &SiteView) -> Key {
    match (&site.owner.cgroup, site.owner.kind.as_str()) {
        (Some(cgroup), _) => Key::Cgroup(cgroup.clone()),
        (None, "process" | "kthread") => Key::Kind(UNKNOWN.to_owned()),
        (None, kind) => Key::Kind(kind.to_owned()),
    }
}

fn key(part: &Part<'_>, level: Level) -> Key {
    let (site, owner) = (part.site, &part.site.owner);
    match level {
        Level::By(By::Process) => process_key(site),
        Level::Program => match (&owner.comm, owner.kind.as_str()) {
            (Some(comm), "process") => Key::Program(owner.kind.clone(), comm.clone()),
            _ => process_key(site),
        },
        Level::By(By::Cgroup) => cgroup_key(site),
        Level::By(By::Pod) => match (&owner.pod_uid, &owner.pod) {
            (Some(uid), _) => Key::Pod(uid.clone()),
            (None, Some(pod)) => {
                let namespace = owner.namespace.as_deref().unwrap_or_default();
                Key::Pod(format!("{namespace}/{pod}"))
            }
            (None, None) => cgroup_key(site),
        },
        Level::By(By::Cache) => Key::Label(site.cache.clone()),
        Level::By(By::Site) => Key::Label(site.function.clone()),
        Level::By(By::Stack) => {
            part.frames.clone().map_or_else(|| Key::Label(site.function.clone()), Key::Frames)
        }
    }
}

/// Adds the parts up.
pub(super) fn merge(parts: &[Part<'_>], level: Level) -> BTreeMap<Key, Merged> {
    let mut keyed: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for (index, part) in parts.iter().enumerate() {
        keyed.entry(key(part, level)).or_default().push(index);
    }
    keyed
        .into_iter()
        .map(|(key, indexes)| {
            let members: Vec<(usize, &Part<'_>)> =
                indexes.into_iter().filter_map(|index| Some((index, parts.get(index)?))).collect();
            let merged = merge_one(&key, &members);
            (key, merged)
        })
        .collect()
}

fn merge_one(key: &Key, members: &[(usize, &Part<'_>)]) -> Merged {
    let mut caches: BTreeMap<String, Share> = BTreeMap::new();
    let mut functions: BTreeMap<(&str, &str), (u64, bool)> = BTreeMap::new();
    let mut processes = BTreeSet::new();
    for (index, part) in members {
        let share = caches.entry(part.site.cache.clone()).or_default();
        share.ledger = part.site.ledger;
        share.series.add(&part.series);
        share.parts.push(*index);
        let (held, unfollowed) =
            functions.entry((&part.site.cache, &part.site.function)).or_default();
        *held = held.saturating_add(part.series.objects);
        *unfollowed |= part.site.unfollowed.is_some();
        processes.insert(process_key(part.site));
    }
    for (cache, share) in &mut caches {
        let of_cache = functions.iter().filter(|((name, _), _)| name == cache);
        // Of equals the first by name, so that the answer does not change from run to run.
        let most = of_cache.max_by(|a, b| a.1.0.cmp(&b.1.0).then(b.0.cmp(a.0)));
        share.unfollowed = most.is_some_and(|(_, (_, unfollowed))| *unfollowed);
        share.function = most.map_or_else(String::new, |((_, function), _)| (*function).to_owned());
    }
    Merged { owner: owner(key, members), members: processes.len(), caches }
}

fn owner(key: &Key, members: &[(usize, &Part<'_>)]) -> Owner {
    if matches!(key, Key::Process(..)) {
        // One process: where it holds most, should it have moved between cgroups.
        let most = members.iter().rev().max_by(|(_, a), (_, b)| {
            let size = |part: &Part<'_>| (part.series.bytes, part.series.allocated);
            size(a).cmp(&size(b))
        });
        return most.map(|(_, part)| part.site.owner.clone()).unwrap_or_default();
    }
    let mut owners = members.iter().map(|(_, part)| &part.site.owner);
    let first = owners.next().cloned().unwrap_or_default();
    let mut owner = owners.fold(first, common);
    match key {
        Key::Process(..) | Key::Program(..) => {}
        // Whatever interrupts and strangers have in common says nothing about who they are.
        Key::Kind(kind) => owner = Owner { kind: kind.clone(), ..Owner::default() },
        Key::Cgroup(_) => "cgroup".clone_into(&mut owner.kind),
        Key::Pod(_) => "pod".clone_into(&mut owner.kind),
        Key::Label(_) | Key::Frames(_) => {
            owner.pid = None;
            owner.exited = None;
        }
    }
    owner
}

/// The fields in which two owners agree.
fn common(mut owner: Owner, other: &Owner) -> Owner {
    fn agree<T: PartialEq>(field: &mut Option<T>, other: Option<&T>) {
        if field.as_ref() != other {
            *field = None;
        }
    }
    agree(&mut owner.pid, other.pid.as_ref());
    agree(&mut owner.comm, other.comm.as_ref());
    agree(&mut owner.exited, other.exited.as_ref());
    agree(&mut owner.cgroup, other.cgroup.as_ref());
    agree(&mut owner.cgroup_removed, other.cgroup_removed.as_ref());
    agree(&mut owner.unit, other.unit.as_ref());
    agree(&mut owner.pod, other.pod.as_ref());
    agree(&mut owner.namespace, other.namespace.as_ref());
    agree(&mut owner.container, other.container.as_ref());
    agree(&mut owner.pod_uid, other.pod_uid.as_ref());
    agree(&mut owner.container_id, other.container_id.as_ref());
    owner
}

/// What a row by cache, site or stack stands for.
fn label(key: &Key, owner: &mut Owner, by: By) {
    let comm = match key {
        Key::Label(label) => label.clone(),
        Key::Frames(frames) => {
            let leaves: Vec<&str> = frames.kernel.iter().take(4).map(AsRef::as_ref).collect();
            leaves.join(" < ")
        }
        _ => return,
    };
    by.as_str().clone_into(&mut owner.kind);
    owner.comm = Some(comm);
}

/// Rows of owners and of stacks, largest residue first.
pub(super) fn rows(
    merged: &BTreeMap<Key, Merged>,
    parts: &[Part<'_>],
    timeline: &Timeline,
    by: By,
) -> (Vec<OwnerRow>, Vec<StackRow>) {
    let mut totals: BTreeMap<Ledger, u64> = BTreeMap::new();
    for part in parts {
        let total = totals.entry(part.site.ledger).or_default();
        *total = total.saturating_add(part.series.bytes);
    }
    let mut owners = Vec::new();
    let mut stacks: Vec<(usize, StackRow)> = Vec::new();
    for (key, group) in merged {
        let mut owner = group.owner.clone();
        label(key, &mut owner, by);
        for (cache, share) in &group.caches {
            let one_process = matches!(key, Key::Process(..)).then_some(&owner);
            let of_row = stack_rows(share, cache, parts, one_process);
            stacks.extend(of_row.into_iter().map(|row| (owners.len(), row)));
            let total = totals.get(&share.ledger).copied().unwrap_or(0);
            owners.push(owner_row(&owner, cache, &share.series, timeline, total));
        }
    }
    // Stable sorts: equals stay in the order of their keys.
    stacks.sort_by(|(_, a), (_, b)| {
        (b.outstanding_bytes, b.outstanding_objects)
            .cmp(&(a.outstanding_bytes, a.outstanding_objects))
    });
    let mut ids = 0;
    let stacks = stacks
        .into_iter()
        .map(|(index, mut row)| {
            ids += 1;
            row.id = ids;
            if let Some(owner) = owners.get_mut(index) {
                let owner: &mut OwnerRow = owner;
                owner.stacks.push(ids);
            }
            row
        })
        .collect();
    owners.sort_by(|a, b| {
        let size = |row: &OwnerRow| {
            (row.outstanding_bytes, row.outstanding_objects, row.allocated_objects)
        };
        size(b).cmp(&size(a))
    });
    (owners, stacks)
}

fn owner_row(
    owner: &Owner,
    cache: &str,
    series: &Series,
    timeline: &Timeline,
    total: u64,
) -> OwnerRow {
    let age = |oldest: u64| {
        let start = timeline.end_ns.saturating_sub(oldest.max(timeline.start_ns));
        start as f64 / 1e9
    };
    OwnerRow {
        owner: owner.clone(),
        cache: cache.to_owned(),
        allocated_objects: series.allocated,
        freed_objects: series.freed(),
        outstanding_objects: series.objects,
        outstanding_bytes: series.bytes,
        requested_bytes: series.requested,
        unfollowed_objects: series.doubtful,
        standard_error_objects: series.standard_error().map(growth::whole),
        estimated: series.estimated(),
        share: growth::ratio(series.bytes as f64, total as f64),
        growth_bytes_per_s: growth::bytes_slope(timeline, &series.history, series.size),
        oldest_s: series.oldest_ns.map(age),
        trend: timeline.trend(&series.history),
        stacks: Vec::new(),
    }
}

/// Paths of a row, those of the same process and frames together.
fn stack_rows(
    share: &Share,
    cache: &str,
    parts: &[Part<'_>],
    one_process: Option<&Owner>,
) -> Vec<StackRow> {
    let mut rows: BTreeMap<(Key, &Frames), (StackRow, u64)> = BTreeMap::new();
    for part in share.parts.iter().filter_map(|index| parts.get(*index)) {
        let weights: Vec<u64> = part.pieces.iter().map(|piece| piece.objects).collect();
        let bytes = apportion(part.series.bytes, &weights);
        let owner = Arc::new(one_process.unwrap_or(&part.site.owner).clone());
        for (piece, bytes) in part.pieces.iter().zip(bytes) {
            let (row, largest) = rows
                .entry((process_key(part.site), &piece.frames))
                .or_insert_with(|| (empty_stack(cache, &piece.frames), 0));
            row.outstanding_objects = row.outstanding_objects.saturating_add(piece.objects);
            row.outstanding_bytes = row.outstanding_bytes.saturating_add(bytes);
            row.estimated |= piece.estimated;
            if piece.objects > *largest {
                *largest = piece.objects;
                row.owner = Arc::clone(&owner);
            }
        }
    }
    rows.into_values().map(|(row, _)| row).collect()
}

fn empty_stack(cache: &str, frames: &Frames) -> StackRow {
    StackRow {
        id: 0,
        kernel: Arc::clone(&frames.kernel),
        user: Arc::clone(&frames.user),
        outstanding_objects: 0,
        outstanding_bytes: 0,
        estimated: false,
        cache: cache.to_owned(),
        owner: Arc::default(),
    }
}

/// Keeps the first `top` rows and the stacks that belong to them, numbered anew.
pub(super) fn keep(top: usize, owners: &mut Vec<OwnerRow>, stacks: &mut Vec<StackRow>) {
    owners.truncate(top);
    let kept: BTreeSet<u32> = owners.iter().flat_map(|row| row.stacks.iter().copied()).collect();
    stacks.retain(|row| kept.contains(&row.id));
    let renumbered: BTreeMap<u32, u32> = kept.into_iter().zip(1..).collect();
    for row in stacks {
        row.id = renumbered.get(&row.id).copied().unwrap_or(row.id);
    }
    for id in owners.iter_mut().flat_map(|row| row.stacks.iter_mut()) {
        *id = renumbered.get(id).copied().unwrap_or(*id);
    }
}
