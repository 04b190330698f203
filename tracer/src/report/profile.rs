//! What was found, path by path: what exporters draw, `diff` compares and `--fail-on` judges. Unlike the
//! rows of a [`super::Report`] it has everything that was selected, whatever `--by` and `--top` show.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Frames, Owner};

/// Everything selected, by owner, slab cache and call path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// In a fixed order: what is outstanding, largest first, then the rest.
    pub samples: Vec<Sample>,
    /// The instants of [`Sample::trend`], seconds since counting began.
    pub step_s: Vec<f64>,
    /// When it was taken: at the end of the window, nanoseconds since the epoch; `None` when nobody knows.
    pub taken_unix_ns: Option<u64>,
}

/// For [`Profile::taken_unix_ns`]; `None` before 1970 and after 2554.
#[must_use]
pub fn unix_ns(time: SystemTime) -> Option<u64> {
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// What one owner made of one slab cache by one path.
///
/// Slab memory, pages and per-CPU memory ([`super::ledger::Ledger::of_cache`]) are never to be added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// `process`, `kthread`, `softirq`, `hardirq` or `unknown`.
    pub owner: Arc<Owner>,
    /// Slab cache, or what stands in its place, as [`super::CacheRow::name`].
    pub cache: Arc<str>,
    /// Kernel functions, leaf first.
    pub kernel: Frames,
    /// User functions, leaf first.
    pub user: Frames,
    /// Allocated in the window, not freed, and older than `--min-age`.
    pub outstanding_objects: u64,
    /// The same in bytes of slab.
    pub outstanding_bytes: u64,
    /// The same in bytes asked for.
    pub requested_bytes: u64,
    /// Allocated in the window.
    pub allocated_objects: u64,
    /// The same in bytes of slab.
    pub allocated_bytes: u64,
    /// As [`super::OwnerRow::unfollowed_objects`].
    pub unfollowed_objects: u64,
    /// Slope of what is outstanding over the window; `null` with fewer than two points in time.
    pub growth_bytes_per_s: Option<f64>,
    /// Outstanding objects at [`Profile::step_s`].
    pub trend: Vec<u64>,
    /// Scaled up from a sample of the stacks, or from a fraction of the objects.
    pub estimated: bool,
    /// Whether growth and trend are: as `estimated`, or divided in proportion to what is outstanding among the
    /// paths of one call site, whose sum is exact.
    pub growth_estimated: bool,
    /// It is what is *not* outstanding of a call site (freed, younger than `--min-age`, or not tracked): its
    /// path is not kept, so that `kernel` holds the call site alone, and nothing of it is outstanding.
    pub rest: bool,
}
