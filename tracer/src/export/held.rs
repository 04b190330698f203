//! What is still held, as every export shows it.

use std::collections::BTreeSet;

use super::frames::{self, Frame};
use crate::report::{
    ledger::Ledger,
    profile::{Profile, Sample},
};

/// Paths of what is outstanding, root first. Where there is memory of several books, a root for each comes
/// first: [`frames::book`].
pub(crate) fn paths(profile: &Profile) -> impl Iterator<Item = (Vec<Frame>, &Sample)> {
    let held = || profile.samples.iter().filter(|sample| sample.outstanding_bytes > 0);
    let books: BTreeSet<Ledger> = held().map(book).collect();
    held().map(move |sample| {
        let mut path = Vec::new();
        if books.len() > 1 {
            path.push(frames::book(book(sample)));
        }
        path.extend(frames::path(&sample.owner, &sample.user, &sample.kernel, &sample.cache));
        (path, sample)
    })
}

/// Whose books a sample is in.
pub(crate) fn book(sample: &Sample) -> Ledger {
    Ledger::of_cache(&sample.cache)
}
