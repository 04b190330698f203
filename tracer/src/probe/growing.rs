//! Which sites' objects become more: the kernel side takes more stacks of those.

use aya::maps::HashMap as BpfHashMap;
use hashbrown::{HashMap, HashSet};

use super::{
    Error, Probe,
    read::{map_error, missing},
};
use crate::snapshot::Snapshot;

/// Sites marked at a time.
const MOST: usize = 64;
/// Objects by which a site has to have grown past the most that it had: fewer are taken whole.
const LEAST: u64 = 64;
/// Outstanding objects with a stack that are enough to tell a site's paths apart: a share of 70 % then has a
/// standard error of 0.7 points.
const ENOUGH: u64 = 4_000;

/// What a site holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    objects: u64,
    /// Of those, with a stack.
    walked: u64,
}

impl Probe {
    /// Marks the sites that hold more objects than ever, with few stacks among them. A site that only gives
    /// out and takes back costs fewer stacks so, and one that leaks gets enough to tell its paths apart.
    ///
    /// Errors: a map cannot be written.
    pub fn mark_growing(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let growing = growing(&mut self.most_held, &held(snapshot));
        // What a site held counts while there is such a site, also when it holds nothing for a moment.
        self.most_held.retain(|site, _| snapshot.sites.contains_key(site));
        let map = self.ebpf.map_mut("GROWING").ok_or_else(|| missing("GROWING"))?;
        let mut map: BpfHashMap<_, u64, u8> =
            BpfHashMap::try_from(map).map_err(|error| map_error("GROWING", &error))?;
        for site in self.growing.difference(&growing) {
            // One that is gone is what was wanted.
            drop(map.remove(site));
        }
        for site in growing.difference(&self.growing) {
            map.insert(site, 1, 0).map_err(|error| map_error("GROWING", &error))?;
        }
        self.growing = growing;
        Ok(())
    }
}

fn held(snapshot: &Snapshot) -> HashMap<u64, Held> {
    let mut all: HashMap<u64, Held> = HashMap::new();
    for (key, group) in &snapshot.groups {
        let held = all.entry(key.site).or_default();
        held.objects += group.objects;
        if key.kernel_stack >= 0 {
            // With a fraction of the addresses followed, each stands for several.
            held.walked += group.objects / snapshot.scale.max(1);
        }
    }
    all
}

/// The sites that have grown most past the most that they held, which is raised.
fn growing(most: &mut HashMap<u64, u64>, now: &HashMap<u64, Held>) -> HashSet<u64> {
    let mut grown: Vec<(u64, u64)> = Vec::new();
    for (&site, held) in now {
        let most = most.entry(site).or_insert(0);
        let more = held.objects.saturating_sub(*most);
        // Less counts together with what comes next: a site may grow slowly.
        if more >= LEAST {
            *most = held.objects;
            if held.walked < ENOUGH {
                grown.push((more, site));
            }
        }
    }
    grown.sort_unstable_by(|a, b| b.cmp(a));
    grown.into_iter().take(MOST).map(|(_, site)| site).collect()
}

#[cfg(test)]
mod tests {
    use hashbrown::{HashMap, HashSet};

    use super::{ENOUGH, Held, LEAST, MOST, growing};

    fn all(sites: impl IntoIterator<Item = (u64, u64)>) -> HashMap<u64, Held> {
        let held = |(site, objects)| (site, Held { objects, walked: 0 });
        sites.into_iter().map(held).collect()
    }

    #[test]
    fn those_that_grew_most_are_marked() {
        let mut most = HashMap::from([(1, 1_000), (2, 1_000), (3, 5_000)]);
        let now = all([(1, 1_000 + LEAST), (2, 1_000 + LEAST - 1), (3, 10), (4, LEAST)]);
        assert_eq!(growing(&mut most, &now), HashSet::from([1, 4]));
        let marked =
            growing(&mut HashMap::new(), &all((0..1_000).map(|site| (site, LEAST + site))));
        assert_eq!(marked.len(), MOST);
        assert!(marked.contains(&999) && !marked.contains(&0));
    }

    #[test]
    fn up_and_down_is_no_growth_and_slow_growth_is() {
        let mut most = HashMap::new();
        assert_eq!(growing(&mut most, &all([(1, 5_000)])), HashSet::from([1]));
        for objects in [100, 4_000, 300, 5_000] {
            assert!(growing(&mut most, &all([(1, objects)])).is_empty(), "{objects}");
        }
        assert!(growing(&mut most, &all([])).is_empty());
        assert!(growing(&mut most, &all([(1, 5_000)])).is_empty(), "it held nothing for a moment");
        let marks = (1..=20).filter(|look| {
            let now = all([(1, 5_000 + look * LEAST / 4)]);
            !growing(&mut most, &now).is_empty()
        });
        assert_eq!(marks.count(), 5);
    }

    #[test]
    fn enough_stacks_are_enough() {
        let now = |walked| HashMap::from([(1, Held { objects: 100_000, walked })]);
        assert_eq!(growing(&mut HashMap::new(), &now(ENOUGH - 1)).len(), 1);
        assert_eq!(growing(&mut HashMap::new(), &now(ENOUGH)).len(), 0);
    }
}
