//! From two recordings to what changed between them.
//!
//! Windows differ in length, so residues are compared by the second of window; and as what is only in flight does
//! not grow with a window, what is claimed must hold of the sums too. What differs by chance is told from what
//! does not by the standard error of the difference, were there none: a count of objects is taken to vary by
//! its root, as independent events do, and what is scaled up from a fraction by more.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::common::Common;
use super::path::Path;
use super::report::{Change, Diff, Difference, Residue, Row, Run, SCHEMA, Stack, Total};
use super::sentence;
use crate::analyse::By;
use crate::export::{Exhibit, caption};
use crate::report::{
    ledger::Ledger,
    names,
    profile::Sample,
    program::{self, Program},
};

/// Why two recordings cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomparable {
    /// They have nothing in common.
    #[error(
        "nothing to compare: BEFORE followed {before}, AFTER {after}; trace both with the same --size, \
         --cache and --kind"
    )]
    Nothing {
        /// What the first followed, in words.
        before: String,
        /// What the second followed.
        after: String,
    },
    /// One was over at once.
    #[error(
        "nothing to compare: {0} has no window, so that nothing can be said by the minute; trace again"
    )]
    Instant(&'static str),
    /// One is of a process, the other of all that have its name.
    #[error(
        "nothing to compare: {0} is of one process (--pid), the other of all of them, and more than one may \
         have its name; trace both with --pid or both without, or select it in both: kleak diff --pid"
    )]
    Process(&'static str),
}

/// Standard errors that a difference is larger than before it is claimed.
const CLAIMED: f64 = 3.0;
/// Part of the larger of both by which a difference is one.
const ALIKE: f64 = 0.1;

/// What changed from `before` to `after`, in rows of `by`.
///
/// Errors: they followed nothing in common, or one has no window.
pub fn compare(before: &Exhibit<'_>, after: &Exhibit<'_>, by: By) -> Result<Diff, Incomparable> {
    for (name, side) in [("BEFORE", before), ("AFTER", after)] {
        if side.report.window_s.is_nan() || side.report.window_s <= 0.0 {
            return Err(Incomparable::Instant(name));
        }
    }
    let common = Common::of(before, after)?;
    let sides = [Side::of(before), Side::of(after)];
    let mut stacks: BTreeMap<Place, Pair> = BTreeMap::new();
    let mut owners: BTreeMap<(Key, Arc<str>), Pair> = BTreeMap::new();
    let mut programs: BTreeMap<(Key, Arc<str>), Pair> = BTreeMap::new();
    let mut totals: BTreeMap<Ledger, [Sum; 2]> = BTreeMap::new();
    for (number, side) in sides.iter().enumerate() {
        let held = side.what.profile.samples.iter();
        for sample in held.filter(|s| s.outstanding_objects > 0 && common.has(s)) {
            let program = Program::of(&sample.owner);
            let path = Path::of(sample, common.detail);
            let place = (program.clone(), Arc::clone(&sample.cache), path.clone());
            let key = Key::of(sample, &program, &path, by);
            let own = (Key::Program(program), Arc::clone(&sample.cache));
            let pair = owners.entry((key, Arc::clone(&sample.cache))).or_default();
            pair.sums[number].add(side, sample, by == By::Stack);
            pair.paths.push(place.clone());
            let pair = programs.entry(own).or_default();
            pair.sums[number].add(side, sample, false);
            pair.paths.push(place.clone());
            stacks.entry(place).or_default().sums[number].add(side, sample, true);
            let book = Ledger::of_cache(&sample.cache);
            totals.entry(book).or_default()[number].add(side, sample, false);
        }
    }
    let windows = sides.each_ref().map(Window::of);
    let stacks = stack_rows(stacks, windows);
    let rows = owner_rows(owners, windows, &stacks);
    let of_programs =
        if by == By::Process { rows.clone() } else { owner_rows(programs, windows, &stacks) };
    let verdict = sentence::verdict(&of_programs, &stacks, [before, after]);
    Ok(Diff {
        schema: SCHEMA,
        before: run(before),
        after: run(after),
        by: by.as_str().to_owned(),
        verdict,
        totals: totals
            .into_iter()
            .map(|(book, [before, after])| Total {
                of: book.as_str(),
                before: before.residue(windows[0].seconds),
                after: after.residue(windows[1].seconds),
                estimated: before.estimated || after.estimated,
            })
            .collect(),
        owners: rows,
        stacks: stacks.into_iter().map(|(stack, _)| stack).collect(),
        notes: notes(common, [before, after]),
        doubts: doubts([before, after]),
    })
}

/// A program's path into a slab cache.
pub(super) type Place = (Program, Arc<str>, Path);

/// One of the recordings.
#[derive(Debug)]
struct Side<'a> {
    what: &'a Exhibit<'a>,
    window: Window,
    /// Whether what one site holds is divided among its stacks by a sample.
    sampled_stacks: bool,
}

impl<'a> Side<'a> {
    fn of(what: &'a Exhibit<'a>) -> Self {
        let fraction = what.report.sampling.as_ref().map_or(1.0, |sampling| sampling.fraction);
        Self {
            what,
            window: Window {
                seconds: what.report.window_s,
                fraction: if fraction > 0.0 { fraction.min(1.0) } else { 1.0 },
            },
            sampled_stacks: what.report.filter.stacks != "all",
        }
    }
}

/// How long and how closely a recording looked.
#[derive(Clone, Copy, Debug)]
struct Window {
    seconds: f64,
    /// Part of the objects that was followed.
    fraction: f64,
}

impl Window {
    const fn of(side: &Side<'_>) -> Self {
        side.window
    }
}

/// What a row stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Program(Program),
    Name(String),
    Path(Path),
}

impl Key {
    fn of(sample: &Sample, program: &Program, path: &Path, by: By) -> Self {
        let owner = &sample.owner;
        let named = |name: Option<String>| match name {
            Some(name) => Self::Name(name),
            // Interrupts and kernel threads live nowhere.
            None => Self::Program(program.clone()),
        };
        let cgroup = || owner.cgroup.as_deref().map(program::cgroup);
        match by {
            By::Process => Self::Program(program.clone()),
            By::Pod if owner.pod.is_some() || owner.pod_uid.is_some() => {
                let pod = program::pod(owner);
                Self::Name(match &owner.namespace {
                    Some(namespace) => format!("{namespace}/{pod}"),
                    None => pod,
                })
            }
            // What runs outside pods is shown by cgroup.
            By::Cgroup | By::Pod => named(cgroup()),
            By::Cache => Self::Name(sample.cache.to_string()),
            By::Site => Self::Name(path.site().to_owned()),
            By::Stack => Self::Path(path.clone()),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Program(program) => names::who(&program.owner()),
            Self::Name(name) => name.clone(),
            Self::Path(path) => sentence::path(&path.kernel),
        }
    }
}

/// What one recording has of something.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    objects: u64,
    bytes: u64,
    /// Of the bytes: the square of their standard error, had all been followed.
    variance: f64,
    /// Whether there is an error that nobody knows.
    unknown: bool,
    unfollowed: u64,
    estimated: bool,
}

impl Sum {
    fn add(&mut self, side: &Side<'_>, sample: &Sample, of_stack: bool) {
        self.objects = self.objects.saturating_add(sample.outstanding_objects);
        self.bytes = self.bytes.saturating_add(sample.outstanding_bytes);
        self.unfollowed = self.unfollowed.saturating_add(sample.unfollowed_objects);
        let size = sample.outstanding_bytes as f64 / sample.outstanding_objects.max(1) as f64;
        // A count has the variance of itself.
        self.variance += sample.outstanding_bytes as f64 * size;
        let divided = of_stack && sample.estimated && side.sampled_stacks;
        self.unknown |= divided;
        self.estimated |= divided || side.window.fraction < 1.0;
        // Pages are followed or not by blocks of many.
        self.unknown |=
            side.window.fraction < 1.0 && Ledger::of_cache(&sample.cache) == Ledger::Pages;
    }

    fn residue(&self, seconds: f64) -> Residue {
        Residue {
            objects: self.objects,
            bytes: self.bytes,
            bytes_per_s: self.bytes as f64 / seconds,
        }
    }
}

/// What both recordings have of something.
#[derive(Clone, Debug, Default)]
struct Pair {
    sums: [Sum; 2],
    paths: Vec<Place>,
}

impl Pair {
    fn difference(&self, windows: [Window; 2]) -> Difference {
        let seconds = windows.map(|window| window.seconds);
        let [before, after] = [0, 1].map(|side| self.sums[side].residue(seconds[side]));
        let change_bytes_per_s = after.bytes_per_s - before.bytes_per_s;
        let unknown = self.sums.iter().any(|sum| sum.unknown);
        let error = (!unknown).then(|| self.error_by_rate(windows));
        let within_noise = error.map(|error| change_bytes_per_s.abs() <= CLAIMED * error);
        let larger = before.bytes_per_s.max(after.bytes_per_s);
        let alike = change_bytes_per_s.abs() <= ALIKE * larger;
        let change = if within_noise == Some(true) || alike || self.is_of_windows(windows) {
            Change::Unchanged
        } else if before.objects == 0 {
            Change::Appeared
        } else if after.objects == 0 {
            Change::Went
        } else if change_bytes_per_s > 0.0 {
            Change::Grew
        } else {
            Change::Shrank
        };
        Difference {
            change,
            before,
            after,
            change_bytes_per_s,
            standard_error_bytes_per_s: error,
            within_noise,
            estimated: self.sums.iter().any(|sum| sum.estimated),
            unfollowed: self.is_unfollowed(seconds),
        }
    }

    /// Standard error of the difference in bytes a second, were the rate one and the same: by its own count, a
    /// side that has nothing would be certain, however short it looked.
    fn error_by_rate(&self, windows: [Window; 2]) -> f64 {
        let both = self.sums.iter().map(|sum| sum.variance).sum::<f64>();
        let pooled = both / windows.iter().map(|window| window.seconds).sum::<f64>();
        let variances = windows.iter().map(|window| pooled / (window.seconds * window.fraction));
        variances.sum::<f64>().sqrt()
    }

    /// Whether windows of unlike length explain the difference by the second: by their sums, in which what is
    /// always in flight is as much in a short window as in a long one, there is none or the opposite.
    fn is_of_windows(&self, windows: [Window; 2]) -> bool {
        let [before, after] = [0, 1].map(|side| self.sums[side].bytes as f64);
        let by_rate = after / windows[1].seconds - before / windows[0].seconds;
        let by_sum = after - before;
        let variance = |side: usize| self.sums[side].variance / windows[side].fraction;
        let unknown = self.sums.iter().any(|sum| sum.unknown);
        let error = if unknown { 0.0 } else { (variance(0) + variance(1)).sqrt() };
        by_sum * by_rate <= 0.0 || by_sum.abs() <= (ALIKE * before.max(after)).max(CLAIMED * error)
    }

    /// Whether most of what changed is freed by paths that cannot be followed.
    fn is_unfollowed(&self, seconds: [f64; 2]) -> bool {
        let change = |of: fn(&Sum) -> u64| {
            of(&self.sums[1]) as f64 / seconds[1] - of(&self.sums[0]) as f64 / seconds[0]
        };
        let (held, doubtful) = (change(|sum| sum.objects), change(|sum| sum.unfollowed));
        held * doubtful > 0.0 && doubtful.abs() >= held.abs() / 2.0
    }
}

/// For the better comes after for the worse, and within each the largest first.
fn order(difference: &Difference) -> (u8, Reverse<u64>) {
    let group = match difference.change {
        Change::Grew | Change::Appeared => 0,
        Change::Went | Change::Shrank => 1,
        Change::Unchanged => 2,
    };
    (group, Reverse(difference.change_bytes_per_s.abs().to_bits()))
}

fn stack_rows(stacks: BTreeMap<Place, Pair>, windows: [Window; 2]) -> Vec<(Stack, Place)> {
    let mut rows: Vec<_> = stacks
        .into_iter()
        .map(|(place, pair)| {
            let (owner, cache, path) = place.clone();
            let stack = Stack {
                id: 0,
                owner,
                cache: cache.to_string(),
                kernel: path.kernel,
                user: path.user,
                difference: pair.difference(windows),
            };
            (stack, place)
        })
        .collect();
    // Stable: they come in a fixed order.
    rows.sort_by_key(|(stack, _)| order(&stack.difference));
    for (id, (stack, _)) in (0..).zip(&mut rows) {
        stack.id = id;
    }
    rows
}

fn owner_rows(
    owners: BTreeMap<(Key, Arc<str>), Pair>,
    windows: [Window; 2],
    stacks: &[(Stack, Place)],
) -> Vec<Row> {
    let ids: BTreeMap<_, u32> = stacks.iter().map(|(stack, place)| (place, stack.id)).collect();
    let mut rows: Vec<Row> = owners
        .into_iter()
        .map(|((key, cache), mut pair)| {
            pair.paths.sort_unstable();
            pair.paths.dedup();
            let mut own: Vec<u32> =
                pair.paths.iter().filter_map(|path| ids.get(path).copied()).collect();
            // Their ids are their order.
            own.sort_unstable();
            let name = key.name();
            let owner = if let Key::Program(program) = key { Some(program) } else { None };
            let difference = pair.difference(windows);
            Row { name, owner, cache: cache.to_string(), difference, stacks: own }
        })
        .collect();
    rows.sort_by_key(|row| order(&row.difference));
    rows
}

fn run(what: &Exhibit<'_>) -> Run {
    let report = what.report;
    Run { host: report.host.clone(), window_s: report.window_s, filter: report.filter.clone() }
}

fn doubts(sides: [&Exhibit<'_>; 2]) -> Vec<String> {
    let of = ["BEFORE", "AFTER"].into_iter().zip(sides).map(|(name, side)| {
        let doubts = caption::doubts(side);
        (!doubts.is_empty()).then(|| format!("{name} is not exact: {}", doubts.join("; ")))
    });
    of.flatten().collect()
}

fn notes(common: Common, sides: [&Exhibit<'_>; 2]) -> Vec<String> {
    let mut notes = common.notes;
    notes.extend(doubts(sides).into_iter().map(|doubt| format!("{doubt}.")));
    for (name, side) in ["BEFORE", "AFTER"].into_iter().zip(sides) {
        notes.extend(side.report.notes.iter().map(|note| format!("{name}: {note}")));
    }
    notes
}
