//! What is embedded in the page for its script: the profile, each name once, call paths as a tree, and no
//! more of it than a browser opens at once.

use std::sync::Arc;

use hashbrown::HashMap;
use serde::Serialize;

use super::intern::{Interned, Names};
use crate::report::{
    Owner, Report,
    ledger::Ledger,
    profile::{Profile, Sample},
};

/// How much is embedded. What is beyond is folded together by owner and cache, which the page says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Samples, the largest first.
    pub(super) samples: usize,
    /// Owners that are told apart among what is folded.
    pub(super) owners: usize,
    /// Bytes of JSON, about.
    pub(super) bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { samples: 20_000, owners: 5_000, bytes: 7 << 20 }
    }
}

/// Everything, as model.js reads it. Numbers refer to rows of the other fields.
#[derive(Debug, Serialize)]
pub(super) struct Data {
    window_s: f64,
    /// Only a fraction of the objects was followed, so that every figure is estimated.
    sampled: bool,
    /// Books by number, and the one to begin with.
    books: [&'static str; 3],
    book: usize,
    /// The instants of each trend, seconds since counting began.
    step_s: Vec<f64>,
    #[serde(flatten)]
    names: Names,
    samples: Vec<Row>,
    /// Stacks that are not here one by one.
    folded_stacks: u64,
}

/// A path: owner, cache, node, objects, bytes, growth in bytes a second, objects that are freed by paths
/// that cannot be followed, 1 if it is estimated and 2 if its growth is; of what is folded, how many and the frame in the place
/// of their paths; objects over time.
#[derive(Debug, Serialize)]
struct Row(u32, u32, u32, u64, u64, Option<f64>, u64, u8, Option<(u64, u32)>, Vec<u64>);

/// Gathers it.
pub(super) fn gather(report: &Report, profile: &Profile, bounds: Bounds) -> Data {
    let mut names = Interned::default();
    let mut samples = Vec::new();
    let mut spent = 0;
    let mut folded = Folded::default();
    for sample in profile.samples.iter().filter(|sample| is_held(sample)) {
        if !folded.0.is_empty() || samples.len() >= bounds.samples || spent >= bounds.bytes {
            folded.add(names.owner_within(&sample.owner, bounds.owners), sample);
            continue;
        }
        let before = names.bytes();
        let node = names.path(&sample.user, &sample.kernel);
        let (owner, cache) = (names.owner(&sample.owner), names.cache(sample));
        samples.push(row(sample, (owner, cache, node), None));
        // The other numbers of a row take some 40 characters.
        let trend = sample.trend.iter().map(|n| digits(*n) + 1).sum::<usize>();
        spent += names.bytes() - before + 40 + trend;
    }
    let folded_stacks = folded.0.iter().map(|group| group.stacks).sum();
    for group in folded.0 {
        let frame = names.more(&more(group.stacks));
        let owner = group.owner.unwrap_or_else(|| names.owner(&others()));
        let ids = (owner, names.cache(&group.sum), 0);
        samples.push(row(&group.sum, ids, Some((group.stacks, frame))));
    }
    let books = [Ledger::Slab, Ledger::Pages, Ledger::PerCpu];
    Data {
        window_s: report.window_s,
        sampled: report.sampling.is_some(),
        books: books.map(Ledger::as_str),
        book: names.first_book(report, samples.first().map(|row| row.1)),
        step_s: profile.step_s.clone(),
        samples,
        folded_stacks,
        names: names.finish(),
    }
}

/// Whether it is still held: of what is not, no path is known.
fn is_held(sample: &Sample) -> bool {
    !sample.rest && sample.outstanding_objects > 0
}

/// In the place of owners that are too many to be told apart.
fn others() -> Owner {
    Owner { kind: "unknown".into(), comm: Some("more owners".into()), ..Owner::default() }
}

fn more(stacks: u64) -> String {
    format!("[{stacks} more stack{}]", if stacks == 1 { "" } else { "s" })
}

/// Samples that are folded together, in the order of the largest of each group.
#[derive(Default)]
struct Folded(Vec<Group>, HashMap<(Option<u32>, Arc<str>), usize>);

struct Group {
    owner: Option<u32>,
    stacks: u64,
    sum: Sample,
}

impl Folded {
    fn add(&mut self, owner: Option<u32>, sample: &Sample) {
        let Self(groups, places) = self;
        let place = *places.entry((owner, Arc::clone(&sample.cache))).or_insert_with(|| {
            let sum = Sample {
                cache: Arc::clone(&sample.cache),
                growth_bytes_per_s: Some(0.0),
                ..Sample::default()
            };
            groups.push(Group { owner, stacks: 0, sum });
            groups.len() - 1
        });
        let Some(group) = groups.get_mut(place) else { return };
        group.stacks += 1;
        add(&mut group.sum, sample);
    }
}

fn add(sums: &mut Sample, sample: &Sample) {
    let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
    add(&mut sums.outstanding_objects, sample.outstanding_objects);
    add(&mut sums.outstanding_bytes, sample.outstanding_bytes);
    add(&mut sums.allocated_objects, sample.allocated_objects);
    add(&mut sums.allocated_bytes, sample.allocated_bytes);
    add(&mut sums.unfollowed_objects, sample.unfollowed_objects);
    // Of a sum that has an unknown part, nothing is known.
    let growth = sums.growth_bytes_per_s.zip(sample.growth_bytes_per_s);
    sums.growth_bytes_per_s = growth.map(|(sum, growth)| sum + growth);
    if sums.trend.len() < sample.trend.len() {
        sums.trend.resize(sample.trend.len(), 0);
    }
    for (sum, n) in sums.trend.iter_mut().zip(&sample.trend) {
        add(sum, *n);
    }
    sums.estimated |= sample.estimated;
    sums.growth_estimated |= sample.growth_estimated;
}

fn row(sample: &Sample, (owner, cache, node): (u32, u32, u32), more: Option<(u64, u32)>) -> Row {
    Row(
        owner,
        cache,
        node,
        sample.outstanding_objects,
        sample.outstanding_bytes,
        // A fitted slope has no worth beyond a thousandth of a byte.
        sample.growth_bytes_per_s.map(|growth| (growth * 1000.0).round() / 1000.0),
        sample.unfollowed_objects,
        u8::from(sample.estimated) | u8::from(sample.growth_estimated) << 1,
        more,
        sample.trend.clone(),
    )
}

const fn digits(n: u64) -> usize {
    match n.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}
