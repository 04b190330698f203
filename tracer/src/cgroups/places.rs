//! Where cgroups live and die, and what the dying ones hold there. Pure.

use std::cmp::Reverse;

use hashbrown::HashMap;

use super::{
    census::parent,
    report::{Held, ParentRow},
    snapshot::CgroupsSnapshot,
};
use crate::host::{cgroup::MemoryVersion, memcg::Charges};

/// Rows of cgroups that have, or had in the window, others below them; and what all dying ones
/// together hold.
pub(super) fn of(snapshot: &CgroupsSnapshot) -> (Vec<ParentRow>, Option<Held>) {
    let census = &snapshot.after;
    let v2 = snapshot.version == MemoryVersion::V2;
    let life = snapshot.watched.as_ref().ok().map(|watched| &watched.life);
    let children = census.children();
    let by_kernel = census.dying_by_parent();
    let mut rows: HashMap<&str, ParentRow> = HashMap::new();
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
            let above = parent(&dying.path).unwrap_or("/");
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

/// The row of a cgroup, empty at first.
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
