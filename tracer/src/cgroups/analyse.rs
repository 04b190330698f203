//! From raw facts to the report: pure.

use std::cmp::Reverse;

use hashbrown::HashMap;

use super::{
    census::Census,
    life::{Born, Dying, Life},
    report::{
        CgroupsReport, CreatorRow, DyingRow, Held, Hierarchy, Limit, Lives, Loss, ParentRow,
        Population, SCHEMA,
    },
    sentence,
    snapshot::{CgroupsSnapshot, Watched},
};
use crate::{
    host::{cgroup::MemoryVersion, memcg::Charges},
    report::Owner,
};

/// `MEM_CGROUP_ID_MAX` (`include/linux/memcontrol.h`, 5.10 to 7.2): 16 bits, and 0 is none. Up to
/// 5.17 the last one is never given out.
pub const MAX_IDS: u64 = 65_535;

/// Fewest ids by which the use must have grown for a rate to be worth extrapolating.
const LEAST_GROWTH: u64 = 5;
/// Growth of the dying in a window that is worth an alarm.
const PILING_UP: u64 = 20;
/// Share of the ids in use that is worth one.
const CROWDED: f64 = 0.8;
/// Time until the last id that is worth one, seconds.
const SOON: u64 = 7 * 86_400;

/// Draws the conclusions; `top` bounds the rows of each table.
#[must_use]
pub fn analyse(snapshot: &CgroupsSnapshot, top: Option<usize>) -> CgroupsReport {
    let window_s = seconds(snapshot.at_ns.saturating_sub(snapshot.start_ns));
    let watched = snapshot.watched.as_ref().ok();
    let limit = limit(snapshot, window_s);
    let (parents, held) = parents(snapshot);
    let mut report = CgroupsReport {
        schema: SCHEMA.to_owned(),
        host: snapshot.host.clone(),
        window_s,
        hierarchy: Hierarchy {
            version: match snapshot.version {
                MemoryVersion::V1 => "v1",
                MemoryVersion::V2 => "v2",
            }
            .to_owned(),
            mount: snapshot.mount.clone(),
        },
        summary: String::new(),
        alarm: false,
        cgroups: population(snapshot),
        limit,
        life: watched.map(|watched| lives(watched, window_s)),
        creators: watched.map(creators).unwrap_or_default(),
        parents,
        dying: watched.map(|watched| dying(watched, snapshot)).unwrap_or_default(),
        held,
        loss: watched.map(loss),
        map_bytes: watched.map(|watched| watched.map_bytes),
        notes: notes(snapshot),
    };
    report.alarm = alarm(&report);
    report.summary = sentence::summary(&report);
    if let Some(top) = top {
        report.creators.truncate(top);
        report.parents.truncate(top);
        report.dying.truncate(top);
    }
    report
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn population(snapshot: &CgroupsSnapshot) -> Population {
    let life = snapshot.watched.as_ref().ok().map(|watched| &watched.life);
    let oldest = life.and_then(|life| life.dying.values().map(|dying| dying.removed_ns).min());
    Population {
        live: snapshot.after.groups.len() as u64,
        live_at_start: snapshot.before.groups.len() as u64,
        dying: snapshot.after.dying,
        dying_at_start: snapshot.before.dying,
        dying_seen: life.map(|life| life.dying.len() as u64),
        oldest_dying_s: oldest.map(|removed| seconds(snapshot.at_ns.saturating_sub(removed))),
    }
}

/// Ids in use, at least and at most.
///
/// A cgroup that is there has one. A dying one gives its id back when it goes offline, unless swap
/// entries are recorded under it (`mem_cgroup_id_put()` in `mem_cgroup_css_offline()`,
/// `mem_cgroup_swapout()`; since 4.8, before which it kept the id until its end).
fn used(census: &Census, snapshot: &CgroupsSnapshot) -> (u64, Option<u64>) {
    let v2 = snapshot.version == MemoryVersion::V2;
    // On version 2 the controller may be on without its files being there, as another one needs it
    // (`depends_on` of the io controller); from 6.12 the kernel counts.
    let least = census.memory.unwrap_or_else(|| census.with_memory());
    let most = if v2 { census.memory.unwrap_or(census.groups.len() as u64) } else { least };
    let keep = !ids_outlived(&snapshot.host.kernel) || snapshot.swap_used_bytes != Some(0);
    let dying = if keep { census.dying_memory.or(census.dying) } else { Some(0) };
    (least, dying.map(|dying| most + dying).filter(|_| !census.incomplete))
}

/// Whether a cgroup's id is given back before its end: from 4.8 on (see [`used`]). Where the
/// version cannot be read, it is not relied on.
fn ids_outlived(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (4, 8),
        _ => false,
    }
}

fn limit(snapshot: &CgroupsSnapshot, window_s: f64) -> Limit {
    let (least_before, most_before) = used(&snapshot.before, snapshot);
    let (least, most) = used(&snapshot.after, snapshot);
    let before = most_before.unwrap_or(least_before);
    let now = most.unwrap_or(least);
    let rate = (window_s > 0.0).then(|| (now as f64 - before as f64) / window_s);
    let growing = now.saturating_sub(before) >= LEAST_GROWTH;
    let left = MAX_IDS.saturating_sub(now) as f64;
    let share = |ids: u64| ids as f64 / MAX_IDS as f64;
    Limit {
        ids: MAX_IDS,
        used_at_least: least,
        used_at_most: most,
        share_at_least: share(least),
        share_at_most: most.map(share),
        growth_per_s: rate,
        reached_in_s: rate.filter(|_| growing).map(|rate| whole(left / rate)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "saturates")]
#[expect(clippy::cast_sign_loss, reason = "a quotient of what is not negative")]
fn whole(seconds: f64) -> u64 {
    seconds.max(0.0) as u64
}

fn lives(watched: &Watched, window_s: f64) -> Lives {
    let [created, removed, released] = watched.counts;
    let per_s = |count: u64| if window_s > 0.0 { count as f64 / window_s } else { 0.0 };
    let deaths = watched.life.deaths;
    Lives {
        created,
        removed,
        released,
        created_per_s: per_s(created),
        removed_per_s: per_s(removed),
        released_per_s: per_s(released),
        dying_mean_s: (deaths.count > 0).then(|| seconds(deaths.total_ns) / deaths.count as f64),
        dying_longest_s: (deaths.count > 0).then(|| seconds(deaths.longest_ns)),
    }
}

fn creators(watched: &Watched) -> Vec<CreatorRow> {
    let life = &watched.life;
    let count = |of: &dyn Fn(&Life) -> Vec<Option<usize>>| {
        let mut by: HashMap<usize, u64> = HashMap::new();
        for maker in of(life).into_iter().flatten() {
            *by.entry(maker).or_insert(0) += 1;
        }
        by
    };
    let live = count(&|life| life.born.values().map(|born: &Born| born.maker).collect());
    let dying = count(&|life| life.dying.values().map(|dying: &Dying| dying.maker).collect());
    let mut rows: Vec<CreatorRow> = life
        .makers
        .iter()
        .enumerate()
        .map(|(index, maker)| CreatorRow {
            owner: watched.owners.get(index).cloned().unwrap_or_default(),
            processes: (!maker.more_processes).then_some(maker.processes.len() as u64),
            created: maker.deeds.created,
            removed: maker.deeds.removed,
            live: live.get(&index).copied().unwrap_or(0),
            dying: dying.get(&index).copied().unwrap_or(0),
            released: maker.deeds.released,
        })
        .collect();
    rows.sort_by_cached_key(|row| {
        (
            Reverse(row.created),
            Reverse(row.removed),
            row.owner.comm.clone(),
            row.owner.cgroup.clone(),
        )
    });
    rows
}

fn dying(watched: &Watched, snapshot: &CgroupsSnapshot) -> Vec<DyingRow> {
    let owner = |index: Option<usize>| -> Option<Owner> {
        watched.owners.get(index?).cloned().filter(|owner| owner != &Owner::default())
    };
    let mut rows: Vec<(&u64, &Dying)> = watched.life.dying.iter().collect();
    rows.sort_by_key(|(id, dying)| (dying.removed_ns, **id));
    rows.into_iter()
        .map(|(id, dying)| DyingRow {
            path: dying.path.clone(),
            id: *id,
            dying_s: seconds(snapshot.at_ns.saturating_sub(dying.removed_ns)),
            lived_s: dying.made_ns.map(|made| seconds(dying.removed_ns.saturating_sub(made))),
            creator: owner(dying.maker),
            remover: owner(dying.remover),
            charged_bytes: dying
                .charged_pages
                .map(|pages| pages.saturating_mul(snapshot.page_bytes)),
        })
        .collect()
}

/// Rows of cgroups that have, or had in the window, others below them; and what all dying ones
/// together hold.
fn parents(snapshot: &CgroupsSnapshot) -> (Vec<ParentRow>, Option<Held>) {
    let census = &snapshot.after;
    let v2 = snapshot.version == MemoryVersion::V2;
    let life = snapshot.watched.as_ref().ok().map(|watched| &watched.life);
    let children = census.children();
    let by_kernel = census.dying_by_parent();
    let mut rows: HashMap<&str, ParentRow> = HashMap::new();
    fn entry<'a, 'b>(
        rows: &'b mut HashMap<&'a str, ParentRow>,
        path: &'a str,
        watched: bool,
        v2: bool,
    ) -> &'b mut ParentRow {
        let none = watched.then_some(0);
        rows.entry(path).or_insert_with(|| ParentRow {
            path: path.to_owned(),
            live: 0,
            dying: v2.then_some(0),
            dying_seen: none,
            created: none,
            removed: none,
            held: None,
        })
    }
    let watched = life.is_some();
    for (path, below) in &children {
        entry(&mut rows, path, watched, v2).live = below.len() as u64;
    }
    for (path, count) in by_kernel {
        entry(&mut rows, path, watched, v2).dying = Some(count);
    }
    if let Some(life) = life {
        for (path, deeds) in &life.parents {
            let row = entry(&mut rows, census.nearest(path), watched, v2);
            row.created = row.created.map(|count| count + deeds.created);
            row.removed = row.removed.map(|count| count + deeds.removed);
        }
        for dying in life.dying.values() {
            let above = super::census::parent(&dying.path).unwrap_or("/");
            let row = entry(&mut rows, census.nearest(above), watched, v2);
            row.dying_seen = row.dying_seen.map(|count| count + 1);
        }
    }
    let mut all = None;
    if snapshot.charges_read && census.dying.is_some_and(|dying| dying > 0) && !census.incomplete {
        let held = |path: &str| {
            // The root of version 2 is charged for much of the machine itself.
            if v2 && path == "/" {
                return None;
            }
            census.beside_children(path, children.get(path).map_or(&[], Vec::as_slice))
        };
        if v2 {
            for row in rows.values_mut().filter(|row| row.dying.is_some_and(|count| count > 0)) {
                row.held = held(&row.path);
                add(&mut all, row.held);
            }
        } else {
            // Nothing says below which there are dying ones, so each that holds more than is
            // charged to it and its children counts.
            let each: Option<Vec<(&str, Charges)>> = census
                .groups
                .iter()
                .filter(|(_, group)| group.memory)
                .map(|(path, _)| held(path).map(|charges| (path.as_str(), charges)))
                .collect();
            for (path, charges) in each.unwrap_or_default() {
                add(&mut all, Some(charges));
                if rows.contains_key(path) || charges.total() > 0 {
                    entry(&mut rows, path, watched, v2).held = Some(charges);
                }
            }
        }
    }
    let mut rows: Vec<ParentRow> = rows.into_values().collect();
    rows.sort_by_cached_key(|row| {
        let held = row.held.map_or(0, |held| held.total());
        let dying = row.dying.or(row.dying_seen);
        (Reverse(dying), Reverse(held), Reverse(row.created), Reverse(row.live), row.path.clone())
    });
    (rows, all.map(|charges| Held { charges, with_parents_own: v2 }))
}

fn add(sum: &mut Option<Charges>, more: Option<Charges>) {
    let Some(more) = more else { return };
    *sum = Some(sum.map_or(more, |sum| sum.combine(more, u64::saturating_add)));
}

fn loss(watched: &Watched) -> Loss {
    Loss {
        lost_events: watched.lost_events,
        untracked_events: watched.life.untracked,
        missed_events: watched.missed_events,
        failed_reads: watched.failed_reads,
    }
}

fn alarm(report: &CgroupsReport) -> bool {
    let cgroups = &report.cgroups;
    let limit = &report.limit;
    let piled_up = match (cgroups.dying_at_start, cgroups.dying) {
        (Some(before), Some(now)) => now.saturating_sub(before) >= PILING_UP,
        _ => false,
    };
    limit.share_at_least >= CROWDED
        || limit.reached_in_s.is_some_and(|left| left < SOON)
        || piled_up
}

fn notes(snapshot: &CgroupsSnapshot) -> Vec<String> {
    let mut notes = Vec::new();
    let census = &snapshot.after;
    if let Err(why) = &snapshot.watched {
        notes
            .push(format!("who makes cgroups is unknown, as their life cannot be followed: {why}"));
    }
    if census.incomplete {
        notes.push("not every directory could be read, so counts are too low".to_owned());
    }
    if census.dying.is_none() {
        notes.push(
            "how many are dying is unknown: this kernel does not say, or only a part of the \
             hierarchy is mounted here"
                .to_owned(),
        );
    }
    if !snapshot.charges_read {
        notes.push(
            "what dying cgroups hold is unknown: too many cgroups to read the charges of"
                .to_owned(),
        );
    }
    if ids_outlived(&snapshot.host.kernel)
        && snapshot.swap_used_bytes == Some(0)
        && census.dying.is_some_and(|dying| dying > 0)
    {
        notes.push(
            "dying cgroups use no ids here: they keep theirs only for memory that is swapped \
             out, and no swap is in use"
                .to_owned(),
        );
    }
    if let Ok(watched) = &snapshot.watched {
        let lost = watched.lost_events + watched.life.untracked;
        if lost > 0 {
            notes.push(format!(
                "{lost} events are counted, but whose they were is lost; rows are too low by as many"
            ));
        }
    }
    notes
}

#[cfg(test)]
#[path = "analyse_tests.rs"]
mod tests;
