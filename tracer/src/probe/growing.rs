//! Which sites' objects become more: the kernel side takes more stacks of those.

use aya::maps::HashMap as BpfHashMap;
use hashbrown::{HashMap, HashSet};

use super::{
    Error, Probe,
    read::{map_error, missing},
};

/// Sites marked at a time.
const MOST: usize = 64;
/// Objects by which a site has to have grown: fewer are taken whole.
const LEAST: u64 = 64;

impl Probe {
    /// Marks the sites that have grown since the last time, by their outstanding objects now. A site that
    /// only gives out and takes back costs fewer stacks so, and one that leaks gets enough to tell its
    /// paths apart.
    ///
    /// Errors: a map cannot be written.
    pub fn mark_growing(&mut self, now: &HashMap<u64, u64>) -> Result<(), Error> {
        let growing = growing(&self.outstanding, now);
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
        self.outstanding.clone_from(now);
        Ok(())
    }
}

/// The sites that have grown most from one look to the next.
fn growing(before: &HashMap<u64, u64>, now: &HashMap<u64, u64>) -> HashSet<u64> {
    let mut grown: Vec<(u64, u64)> = now
        .iter()
        .map(|(&site, &count)| {
            (count.saturating_sub(before.get(&site).copied().unwrap_or(0)), site)
        })
        .filter(|(more, _)| *more >= LEAST)
        .collect();
    grown.sort_unstable_by(|a, b| b.cmp(a));
    grown.into_iter().take(MOST).map(|(_, site)| site).collect()
}

#[cfg(test)]
mod tests {
    use hashbrown::{HashMap, HashSet};

    use super::{LEAST, MOST, growing};

    #[test]
    fn those_that_grew_most_are_marked() {
        let before = HashMap::from([(1, 1_000), (2, 1_000), (3, 5_000)]);
        let now = HashMap::from([(1, 1_000 + LEAST), (2, 1_000 + LEAST - 1), (3, 10), (4, LEAST)]);
        assert_eq!(growing(&before, &now), HashSet::from([1, 4]));
        let many: HashMap<u64, u64> = (0..1_000).map(|site| (site, LEAST + site)).collect();
        let marked = growing(&HashMap::new(), &many);
        assert_eq!(marked.len(), MOST);
        assert!(marked.contains(&999) && !marked.contains(&0));
    }
}
