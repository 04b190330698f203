//! Ids of memory cgroups: how many are in use, and how long they last. Pure.

use super::{census::Census, report::Limit, snapshot::CgroupsSnapshot};
use crate::host::cgroup::MemoryVersion;

/// `MEM_CGROUP_ID_MAX` (`include/linux/memcontrol.h`, 5.10 to 7.2): 16 bits, and 0 is none. Up to
/// 5.17 the last one is never given out.
pub(crate) const MAX_IDS: u64 = 65_535;

/// Fewest ids by which the use must have grown for a rate to be worth extrapolating.
const LEAST_GROWTH: u64 = 5;

/// Ids in use, at least and at most.
///
/// A cgroup that is there has one. A dying one gives its id back when it goes offline, unless swap
/// entries are recorded under it (`mem_cgroup_id_put()` in `mem_cgroup_css_offline()`,
/// `mem_cgroup_swapout()`; since 4.8, before which it kept the id until its end).
pub(crate) fn used(
    census: &Census,
    version: MemoryVersion,
    release: &str,
    swap_used_bytes: Option<u64>,
) -> (u64, Option<u64>) {
    let v2 = version == MemoryVersion::V2;
    // On version 2 the controller may be on without its files being there, as another one needs it
    // (`depends_on` of the io controller); from 6.12 the kernel counts.
    let least = census.memory.unwrap_or_else(|| census.with_memory());
    let most = if v2 { census.memory.unwrap_or(census.groups.len() as u64) } else { least };
    let keep = !ids_outlived(release) || swap_used_bytes != Some(0);
    let dying = if keep { census.dying_memory.or(census.dying) } else { Some(0) };
    let least = least.min(MAX_IDS);
    (
        least,
        dying.map(|dying| most.saturating_add(dying).min(MAX_IDS)).filter(|_| !census.incomplete),
    )
}

/// Whether a cgroup's id is given back before its end: from 4.8 on (see [`used`]). Where the
/// version cannot be read, it is not relied on.
pub(crate) fn ids_outlived(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (4, 8),
        _ => false,
    }
}

/// How many are in use, and when none is left.
pub(super) fn of(snapshot: &CgroupsSnapshot, window_s: f64) -> Limit {
    let used =
        |census| used(census, snapshot.version, &snapshot.host.kernel, snapshot.swap_used_bytes);
    let (least_before, most_before) = used(&snapshot.before);
    let (least, most) = used(&snapshot.after);
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
