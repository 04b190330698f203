//! From findings to a profile.

use std::collections::BTreeSet;

use super::proto::{Label, Profile, Sample, ValueType};
use super::tables::Tables;
use crate::export::frames::{self, Frame, Kind};
use crate::export::{Exhibit, caption, held};
use crate::report::{Owner, ledger::Ledger, names, profile, sanitize::terminal};

/// The root of what has no stack.
pub(super) const REST: &str = "[freed or too young: stacks not kept]";
/// Values a book has: objects and bytes, of all allocations and of those outstanding.
pub(super) const VALUES: usize = 4;

/// The profile of all that was found.
pub(super) fn profile(what: &Exhibit<'_>) -> Profile {
    let samples = &what.profile.samples;
    let books: BTreeSet<Ledger> = samples.iter().map(held::book).collect();
    let mut books: Vec<Ledger> = books.into_iter().collect();
    if books.is_empty() {
        books.push(Ledger::Slab);
    }
    let mut tables = Tables::default();
    let mut sample_type = Vec::new();
    for book in &books {
        for (name, unit) in types(*book) {
            sample_type.push(ValueType { name: tables.string(&name), unit: tables.string(unit) });
        }
    }
    // What is shown when nothing is asked for is in use, in the books of the verdict.
    let verdict = what.report.verdict.cache.as_deref().map(Ledger::of_cache);
    let shown = books.iter().position(|book| Some(*book) == verdict).unwrap_or(0);
    let shown = sample_type.get(shown * VALUES + VALUES - 1);
    let default_sample_type = shown.map_or(0, |shown| shown.name);
    let sample = samples.iter().map(|one| sample(one, &books, &mut tables)).collect();
    let mut notes = caption::notes(what);
    if books.len() > 1 {
        notes.push(types_note(&books));
    }
    let comment = notes.iter().map(|note| tables.string(note)).collect();
    let period_type = ValueType { name: tables.string("space"), unit: tables.string("bytes") };
    let duration_nanos = nanoseconds(what.report.window_s);
    Profile {
        sample_type,
        sample,
        mapping: tables.mappings,
        location: tables.locations,
        function: tables.functions,
        string_table: tables.strings,
        time_nanos: what.profile.taken_unix_ns.map_or(0, |end| began(end, duration_nanos)),
        duration_nanos,
        period_type: Some(period_type),
        period: 1,
        comment,
        default_sample_type,
    }
}

/// Names as Go's heap profiles have them, in their order, for slab memory; those of other books say whose they
/// are, whatever else there is, so that profiles of two runs can be compared by them.
fn types(book: Ledger) -> [(String, &'static str); VALUES] {
    let prefix = prefix(book);
    [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ]
    .map(|(name, unit)| (format!("{prefix}{name}"), unit))
}

const fn prefix(book: Ledger) -> &'static str {
    match book {
        Ledger::Slab => "",
        Ledger::Pages => "pages_",
        Ledger::PerCpu => "percpu_",
    }
}

fn types_note(books: &[Ledger]) -> String {
    let each: Vec<String> =
        books.iter().map(|book| format!("{}inuse_space is {book}", prefix(*book))).collect();
    format!("{}: one is made of the other, so never add them up.", each.join(", "))
}

fn sample(sample: &profile::Sample, books: &[Ledger], tables: &mut Tables) -> Sample {
    let location_id = stack(sample).iter().map(|frame| tables.location(frame)).collect();
    let mut value = vec![0; books.len() * VALUES];
    let own = books.iter().position(|book| *book == held::book(sample)).unwrap_or(0) * VALUES;
    let values = [
        sample.allocated_objects,
        sample.allocated_bytes,
        sample.outstanding_objects,
        sample.outstanding_bytes,
    ];
    for (place, number) in value.iter_mut().skip(own).zip(values) {
        *place = i64::try_from(number).unwrap_or(i64::MAX);
    }
    Sample { location_id, value, label: labels(sample, tables) }
}

/// Functions, leaf first, from the one that called the allocator.
fn stack(sample: &profile::Sample) -> Vec<Frame> {
    let kernel =
        names::past_allocator(&sample.kernel).iter().map(|frame| frames::kernel_function(frame));
    let user = sample.user.iter().map(|frame| frames::user_function(frame));
    let mut stack: Vec<Frame> = kernel.chain(user).collect();
    let pseudo = |name: &str| Frame { kind: Kind::Kernel, name: name.to_owned() };
    if stack.is_empty() {
        stack.push(pseudo("[unknown]"));
    }
    if sample.rest {
        stack.push(pseudo(REST));
    }
    stack
}

fn labels(sample: &profile::Sample, tables: &mut Tables) -> Vec<Label> {
    let Owner { kind, pid, comm, cgroup, unit, pod, namespace, container, .. } = &*sample.owner;
    let texts = [
        ("kind", Some(kind.as_str())),
        ("comm", comm.as_deref()),
        ("cgroup", cgroup.as_deref()),
        ("unit", unit.as_deref()),
        ("pod", pod.as_deref()),
        ("namespace", namespace.as_deref()),
        ("container", container.as_deref()),
        ("cache", Some(&*sample.cache)),
        ("estimated", sample.estimated.then_some("yes")),
    ];
    let mut labels = Vec::new();
    for (key, text) in texts {
        let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
        let (key, str) = (tables.string(key), tables.string(&terminal(text)));
        labels.push(Label { key, str, num: 0 });
    }
    if let Some(pid) = pid {
        labels.push(Label { key: tables.string("pid"), str: 0, num: i64::from(*pid) });
    }
    labels
}

/// The beginning of a window; 0, which tools take for unknown, where it makes no sense.
fn began(end: u64, duration_nanos: i64) -> i64 {
    i64::try_from(end).map_or(0, |end| end.saturating_sub(duration_nanos).max(0))
}

fn nanoseconds(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates; NaN is 0")]
    let nanoseconds = (seconds * 1e9) as i64;
    nanoseconds.max(0)
}
