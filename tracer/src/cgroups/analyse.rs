//! From raw facts to the report: pure.

use std::cmp::Reverse;

use hashbrown::HashMap;

use super::{
    life::{Born, Dying, Life},
    limit::{self, ids_outlived},
    places,
    report::{CgroupsReport, CreatorRow, DyingRow, Hierarchy, Lives, Loss, Population, SCHEMA},
    sentence,
    snapshot::{CgroupsSnapshot, Watched},
};
use crate::{host::cgroup::MemoryVersion, report::Owner};

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
    let limit = limit::of(snapshot, window_s);
    let (parents, held) = places::of(snapshot);
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
        let lost = watched.lost_events.saturating_add(watched.life.untracked);
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
