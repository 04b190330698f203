//! Code paths of a site's residue. Objects are counted exactly; stacks are taken of a sample, and
//! every sampled object carries the number of objects that it stands for.

use std::collections::BTreeMap;

use super::Evidence;
use super::facts::SiteView;
use crate::{report, snapshot::Group};

/// A call path, leaf first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Frames {
    /// Kernel functions.
    pub kernel: report::Frames,
    /// User functions.
    pub user: report::Frames,
}

impl Frames {
    /// All that is known without a stack.
    pub(super) fn of_call_site(site: &SiteView) -> Self {
        Self { kernel: report::frames([&site.frame]), user: report::Frames::default() }
    }
}

/// A part of a site's residue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    /// Through which path.
    pub frames: Frames,
    /// How many objects.
    pub objects: u64,
    /// Birth of the oldest seen with this path, nanoseconds.
    pub oldest_ns: Option<u64>,
    /// Scaled up from a sample.
    pub estimated: bool,
}

/// A site's residue by path; the parts add up to the site's exact total. When stacks were sampled
/// and none of the sampled objects survives, the path is the call site, which is exact.
pub(super) fn divide(evidence: &Evidence, site: &SiteView) -> Vec<Piece> {
    let total = site.series.objects;
    if total == 0 {
        return Vec::new();
    }
    let has_stack = |key: &crate::snapshot::GroupKey| key.kernel_stack >= 0 || key.user_stack >= 0;
    let with_stack: u64 = site
        .groups
        .iter()
        .filter(|(key, _)| has_stack(key))
        .fold(0, |sum, (_, group)| sum.saturating_add(group.objects));
    let every_object = with_stack == total;

    let mut paths: BTreeMap<Frames, (u64, Option<u64>)> = BTreeMap::new();
    for (key, group) in &site.groups {
        let stands_for = weight_of(group, every_object);
        if stands_for == 0 || (every_object && !has_stack(key)) {
            continue;
        }
        let (weight, oldest) = paths.entry(frames(evidence, site, *key)).or_default();
        *weight = weight.saturating_add(stands_for);
        *oldest = (*oldest).into_iter().chain([group.oldest_ns]).min();
    }
    let call_site = Frames::of_call_site(site);
    if paths.is_empty() {
        let oldest_ns = site.series.oldest_ns;
        let estimated = site.series.estimated();
        return vec![Piece { frames: call_site, objects: total, oldest_ns, estimated }];
    }
    let weights: Vec<u64> = paths.values().map(|(weight, _)| *weight).collect();
    let only_call_site = paths.len() == 1 && paths.contains_key(&call_site);
    let parts = apportion(total, &weights);
    paths
        .into_iter()
        .zip(parts)
        .filter(|(_, objects)| *objects > 0)
        .map(|((frames, (_, oldest_ns)), objects)| Piece {
            frames,
            objects,
            oldest_ns,
            estimated: site.series.estimated() || !every_object && !only_call_site,
        })
        .collect()
}

fn weight_of(group: &Group, every_object: bool) -> u64 {
    match (group.objects, every_object) {
        (0, _) => 0,
        (objects, true) => objects,
        (_, false) => group.weight,
    }
}

fn frames(evidence: &Evidence, site: &SiteView, key: crate::snapshot::GroupKey) -> Frames {
    let kernel = Some(key.kernel_stack)
        .filter(|id| *id >= 0)
        .and_then(|id| evidence.kernel_stacks.get(&id))
        .filter(|frames| !frames.is_empty())
        .cloned()
        .unwrap_or_else(|| report::frames([&site.frame]));
    let user = Some(key.user_stack)
        .filter(|id| *id >= 0)
        .and_then(|id| evidence.user_stacks.get(&(site.key, id)))
        .cloned()
        .unwrap_or_default();
    Frames { kernel, user }
}

/// Divides `total` in proportion to `weights` by largest remainder; the parts add up to it. With
/// no weight at all everything goes to the first.
pub(super) fn apportion(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 {
        let mut parts = vec![0; weights.len()];
        if let Some(first) = parts.first_mut() {
            *first = total;
        }
        return parts;
    }
    let exact = |weight: u64| u128::from(total) * u128::from(weight);
    let mut parts: Vec<u64> = weights
        .iter()
        // At most `total`, as no weight is above their sum.
        .map(|weight| u64::try_from(exact(*weight) / sum).unwrap_or(u64::MAX))
        .collect();
    let given: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|index| {
        let remainder = weights.get(*index).map_or(0, |weight| exact(*weight) % sum);
        (std::cmp::Reverse(remainder), *index)
    });
    // Fewer than one for each part is left over.
    let left = usize::try_from(u128::from(total).saturating_sub(given)).unwrap_or(usize::MAX);
    for index in order.into_iter().take(left) {
        if let Some(part) = parts.get_mut(index) {
            *part += 1;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::apportion;

    #[test]
    fn parts_add_up_and_the_largest_remainders_get_the_rest() {
        assert_eq!(apportion(10, &[7, 2, 1]), [7, 2, 1]);
        assert_eq!(apportion(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(apportion(1, &[1, 2]), [0, 1]);
        assert_eq!(apportion(5, &[0, 0]), [5, 0]);
        assert_eq!(apportion(5, &[]), [0_u64; 0]);
        assert_eq!(
            apportion(u64::MAX, &[u64::MAX, u64::MAX]).iter().map(|p| u128::from(*p)).sum::<u128>(),
            u128::from(u64::MAX)
        );
    }
}
