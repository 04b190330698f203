//! What is left to be judged: what could be followed, without what suppressions and a baseline excuse.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::report::Owner;
use crate::report::judgement::{Amount, Guilty};
use crate::report::ledger::Ledger;
use crate::report::profile::{Profile, Sample};

/// A sample, and what of it is left.
pub(super) struct Part<'a> {
    pub(super) sample: &'a Sample,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// Of which that is what is left: objects that could be followed.
    followed_objects: u64,
}

impl<'a> Part<'a> {
    fn new(sample: &'a Sample) -> Self {
        // Objects that are freed unseen are no evidence of a leak, and fail no build.
        let objects = sample.outstanding_objects.saturating_sub(sample.unfollowed_objects);
        let bytes = part_of(sample.outstanding_bytes, objects, sample.outstanding_objects);
        Self { sample, objects, bytes, followed_objects: objects }
    }

    /// Takes out at most so many objects; what was taken.
    pub(super) fn excuse(&mut self, objects: u64) -> (u64, u64) {
        let objects = objects.min(self.objects);
        let bytes = part_of(self.bytes, objects, self.objects);
        self.objects -= objects;
        self.bytes -= bytes;
        (objects, bytes)
    }

    /// How many of its objects are at most so many bytes.
    pub(super) fn objects_in(&self, bytes: u64) -> u64 {
        if bytes >= self.bytes { self.objects } else { part_of(self.objects, bytes, self.bytes) }
    }

    /// Growth of what is left; `None` when it is unknown, or nothing of it counts.
    fn rate(&self) -> Option<f64> {
        let sample = self.sample;
        if self.followed_objects == 0 {
            // Of a path whose objects are all freed, what they grow by is known; of one whose frees are
            // not seen, it is not.
            return sample.growth_bytes_per_s.filter(|_| sample.unfollowed_objects == 0);
        }
        let left = self.objects as f64 / self.followed_objects as f64;
        sample.growth_bytes_per_s.map(|rate| rate * left)
    }
}

/// `whole` × `part` / `of`, rounded down; all of it when the part is all, or of nothing.
fn part_of(whole: u64, part: u64, of: u64) -> u64 {
    if part >= of {
        return if of == 0 { 0 } else { whole };
    }
    let share = u128::from(whole) * u128::from(part) / u128::from(of);
    u64::try_from(share).unwrap_or(whole)
}

/// Everything that is left.
pub(super) struct Remains<'a> {
    pub(super) parts: Vec<Part<'a>>,
}

impl<'a> Remains<'a> {
    /// All that could be followed.
    pub(super) fn new(profile: &'a Profile) -> Self {
        Self { parts: profile.samples.iter().map(Part::new).collect() }
    }

    /// Rows by owner and slab cache, largest first, by what kind of memory they are of. There is always
    /// a list: nothing left behind is judged too.
    pub(super) fn books(&self) -> BTreeMap<Ledger, Vec<Row<'_>>> {
        let mut rows: HashMap<(&Owner, &str), Row<'_>> = HashMap::new();
        for part in &self.parts {
            let key = (&*part.sample.owner, &*part.sample.cache);
            rows.entry(key).or_insert_with(|| Row::new(part.sample)).add(part);
        }
        let mut books: BTreeMap<Ledger, Vec<Row<'_>>> = BTreeMap::new();
        books.entry(Ledger::default()).or_default();
        for row in rows.into_values() {
            books.entry(Ledger::of_cache(row.cache)).or_default().push(row);
        }
        for rows in books.values_mut() {
            // The names make the order one, whatever the table's was.
            rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name().cmp(&b.name())));
        }
        books
    }
}

/// What is left of an owner's in a slab cache.
pub(super) struct Row<'a> {
    pub(super) owner: &'a Owner,
    pub(super) cache: &'a str,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) rate: Option<f64>,
    estimated: bool,
    /// The path that most of it came by, and how much.
    main: (u64, &'a Sample),
}

impl<'a> Row<'a> {
    fn new(sample: &'a Sample) -> Self {
        Self {
            owner: &sample.owner,
            cache: &sample.cache,
            objects: 0,
            bytes: 0,
            rate: None,
            estimated: false,
            main: (0, sample),
        }
    }

    fn add(&mut self, part: &Part<'a>) {
        self.objects = self.objects.saturating_add(part.objects);
        self.bytes = self.bytes.saturating_add(part.bytes);
        self.estimated |= part.sample.estimated && part.objects > 0;
        if let Some(rate) = part.rate() {
            self.rate = Some(self.rate.unwrap_or(0.0) + rate);
        }
        if part.bytes > self.main.0 {
            self.main = (part.bytes, part.sample);
        }
    }

    fn name(&self) -> (Option<&str>, Option<u32>, &str, Option<&str>, &str) {
        let owner = self.owner;
        (owner.comm.as_deref(), owner.pid, self.cache, owner.cgroup.as_deref(), &owner.kind)
    }

    /// The path that most of it came by.
    pub(super) fn path(&self) -> &'a Sample {
        self.main.1
    }

    pub(super) fn guilty(&self) -> Guilty {
        Guilty {
            owner: self.owner.clone(),
            cache: self.cache.to_owned(),
            outstanding_objects: self.objects,
            outstanding_bytes: self.bytes,
            growth_bytes_per_s: self.rate,
            estimated: self.estimated,
            kernel: Arc::clone(&self.path().kernel),
            user: Arc::clone(&self.path().user),
        }
    }
}

/// Adds up what was excused, each kind of memory by itself.
#[derive(Default)]
pub(super) struct Amounts(BTreeMap<Ledger, Amount>);

impl Amounts {
    pub(super) fn add(&mut self, sample: &Sample, (objects, bytes): (u64, u64)) {
        if objects == 0 {
            return;
        }
        let ledger = Ledger::of_cache(&sample.cache);
        let amount = self.0.entry(ledger).or_insert_with(|| Amount {
            memory: ledger.to_string(),
            outstanding_objects: 0,
            outstanding_bytes: 0,
            estimated: false,
        });
        amount.outstanding_objects = amount.outstanding_objects.saturating_add(objects);
        amount.outstanding_bytes = amount.outstanding_bytes.saturating_add(bytes);
        amount.estimated |= sample.estimated;
    }

    pub(super) fn into_vec(self) -> Vec<Amount> {
        self.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_excused_and_what_is_left_are_all_there_is(
            objects in 0_u64..1_000_000, each in 1_u64..10_000, unfollowed in 0_u64..1000,
            takes in prop::collection::vec(0_u64..300_000, 0..5),
        ) {
            let sample = Sample {
                outstanding_objects: objects,
                outstanding_bytes: objects * each,
                unfollowed_objects: unfollowed,
                ..Sample::default()
            };
            let mut part = Part::new(&sample);
            prop_assert_eq!(part.objects, objects.saturating_sub(unfollowed));
            prop_assert_eq!(part.bytes, part.objects * each);
            let whole = (part.objects, part.bytes);
            let mut taken = (0, 0);
            for take in takes {
                let (n, b) = part.excuse(take);
                prop_assert!(n <= take);
                prop_assert_eq!(b, n * each);
                taken = (taken.0 + n, taken.1 + b);
            }
            prop_assert_eq!((part.objects + taken.0, part.bytes + taken.1), whole);
        }

        #[test]
        fn no_more_objects_than_fit(objects in 1_u64..100_000, each in 1_u64..9000, room: u32) {
            let sample = Sample {
                outstanding_objects: objects,
                outstanding_bytes: objects * each,
                ..Sample::default()
            };
            let fit = Part::new(&sample).objects_in(u64::from(room));
            prop_assert_eq!(fit, objects.min(u64::from(room) / each));
        }
    }

    #[test]
    fn extremes_are_no_problem() {
        let sample = Sample {
            outstanding_objects: u64::MAX,
            outstanding_bytes: u64::MAX,
            ..Sample::default()
        };
        let mut part = Part::new(&sample);
        assert_eq!(part.excuse(1), (1, 1));
        assert_eq!(part.objects_in(17), 17);
    }
}
