//! What two recordings have in common, so that only that is compared.

use globset::{Glob, GlobMatcher};

use super::compare::Incomparable;
use super::path::Detail;
use crate::export::Exhibit;
use crate::host::classes;
use crate::report::{Filter, human, ledger::Ledger, profile::Sample};

/// What to compare of two recordings.
#[derive(Debug)]
pub(super) struct Common {
    sides: [Selection; 2],
    pub(super) detail: Detail,
    /// What a reader has to know of it.
    pub(super) notes: Vec<String>,
}

impl Common {
    /// Looks at both.
    ///
    /// Errors: there is nothing that both followed, or one is of a process only.
    pub(super) fn of(before: &Exhibit<'_>, after: &Exhibit<'_>) -> Result<Self, Incomparable> {
        let sides = [before, after];
        let filters = sides.map(|side| &side.report.filter);
        if !overlap(filters) {
            let [before, after] = filters.map(followed);
            return Err(Incomparable::Nothing { before, after });
        }
        let mut notes = Vec::new();
        processes(filters, &mut notes)?;
        whereabouts(sides, &mut notes);
        let followed = filters.map(followed);
        if let [before, after] = &followed
            && before != after
        {
            notes.push(format!(
                "BEFORE followed {before}, AFTER {after}: only what both followed is compared."
            ));
        }
        selected(filters, &mut notes);
        let detail = detail(sides, &mut notes);
        Ok(Self { sides: filters.map(Selection::of), detail, notes })
    }

    /// Whether both recordings would have it, if it was there.
    pub(super) fn has(&self, sample: &Sample) -> bool {
        self.sides.iter().all(|side| side.follows(sample) && side.selects(sample))
    }
}

/// Whether these are of one machine and of like length.
fn whereabouts(sides: [&Exhibit<'_>; 2], notes: &mut Vec<String>) {
    let [before, after] = sides.map(|side| &side.report.host);
    if before.hostname != after.hostname {
        notes.push(format!("These are two machines: {} and {}.", before.hostname, after.hostname));
    }
    if before.kernel != after.kernel {
        notes.push(format!(
            "These are two kernels, {} and {}: what moved from one function to another looks like one path \
             that went and one that appeared.",
            before.kernel, after.kernel
        ));
    }
    let [before, after] = sides.map(|side| side.report.window_s);
    if before > after * 2.0 || after > before * 2.0 {
        notes.push(format!(
            "The windows are {} and {}: as what is only held for a while does not grow with them, what did not \
             change the same way in sum counts as unchanged.",
            human::seconds(before),
            human::seconds(after)
        ));
    }
}

/// Errors: one is of a process, which is told from others of its name by nothing that lasts, and the other
/// of all.
fn processes(filters: [&Filter; 2], notes: &mut Vec<String>) -> Result<(), Incomparable> {
    match filters.map(|filter| filter.pid) {
        [Some(_), None] => return Err(Incomparable::Process("BEFORE")),
        [None, Some(_)] => return Err(Incomparable::Process("AFTER")),
        [Some(before), Some(after)] if before != after => {
            notes.push(format!("BEFORE is of process {before}, AFTER of process {after}."));
        }
        _ => (),
    }
    Ok(())
}

fn detail(sides: [&Exhibit<'_>; 2], notes: &mut Vec<String>) -> Detail {
    let stacks = sides.map(|side| side.report.filter.stacks != "off");
    let users = sides.map(|side| side.profile.samples.iter().any(|sample| !sample.user.is_empty()));
    let detail = Detail { sites: stacks != [true; 2], kernel_only: users != [true; 2] };
    if stacks[0] != stacks[1] {
        notes.push(
            "One of the recordings has no stacks (--stacks off): paths are compared by the function that \
             called the allocator."
                .to_owned(),
        );
    } else if users[0] != users[1] {
        notes.push(
            "One of the recordings has no stacks of processes (--user-stacks): only kernel functions are \
             compared."
                .to_owned(),
        );
    }
    detail
}

/// Notes on owners and ages that only one side asked for.
fn selected(filters: [&Filter; 2], notes: &mut Vec<String>) {
    let [before, after] = filters;
    let or_all = |value: &Option<String>| value.clone().unwrap_or_else(|| "all".into());
    for (option, of) in [
        ("comm", (&before.comm, &after.comm)),
        ("cgroup", (&before.cgroup, &after.cgroup)),
        ("pod", (&before.pod, &after.pod)),
    ] {
        if of.0 != of.1 {
            notes.push(format!(
                "BEFORE is of --{option} {}, AFTER of {}: only what both are of is compared.",
                or_all(of.0),
                or_all(of.1)
            ));
        }
    }
    if (before.min_age_s - after.min_age_s).abs() > f64::EPSILON {
        notes.push(format!(
            "BEFORE counts what is older than {}, AFTER what is older than {}: take the same --min-age for \
             both.",
            human::seconds(before.min_age_s),
            human::seconds(after.min_age_s)
        ));
    }
}

/// Whether there can be memory that both followed.
fn overlap([before, after]: [&Filter; 2]) -> bool {
    let both = before.kinds.iter().filter(|kind| after.kinds.contains(kind));
    let (one, other) = (&before.size_classes, &after.size_classes);
    let classes =
        one.is_empty() || other.is_empty() || one.iter().any(|class| other.contains(class));
    both.into_iter().any(|kind| kind != "kmalloc" || classes)
}

/// What a recording followed, in words.
fn followed(filter: &Filter) -> String {
    let mut parts = filter.kinds.clone();
    parts.sort_unstable();
    if !filter.size_classes.is_empty() {
        let mut sizes = filter.size_classes.clone();
        sizes.sort_unstable();
        let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
        parts.push(format!("of {}", sizes.join(" ")));
    }
    parts.extend(filter.caches.iter().map(|cache| format!("cache {cache}")));
    parts.join(" ")
}

/// What one of the recordings has.
#[derive(Debug)]
struct Selection {
    kinds: Vec<String>,
    size_classes: Vec<u64>,
    caches: Vec<Pattern>,
    comm: Option<Pattern>,
    cgroup: Option<Pattern>,
    pod: Option<Pattern>,
}

impl Selection {
    fn of(filter: &Filter) -> Self {
        let pattern = |text: &Option<String>| text.as_deref().map(Pattern::of);
        Self {
            kinds: filter.kinds.clone(),
            size_classes: filter.size_classes.clone(),
            caches: filter.caches.iter().map(|glob| Pattern::of(glob)).collect(),
            comm: pattern(&filter.comm),
            cgroup: pattern(&filter.cgroup),
            pod: pattern(&filter.pod),
        }
    }

    fn follows(&self, sample: &Sample) -> bool {
        let kind = |name: &str| self.kinds.iter().any(|kind| kind == name);
        match Ledger::of_cache(&sample.cache) {
            Ledger::Pages => kind("page"),
            Ledger::PerCpu => kind("percpu"),
            Ledger::Slab => {
                let all = self.caches.is_empty();
                let named = self.caches.iter().any(|cache| cache.matches(&[&sample.cache]));
                let sized = match classes::size_in_name(&sample.cache) {
                    Some(size) => {
                        let sizes = &self.size_classes;
                        // With a cache asked for by name and no size, no class is followed for its size.
                        sizes.contains(&size) || (sizes.is_empty() && all)
                    }
                    // Where no named caches are followed, it is one whose class is not known.
                    None => !kind("cache"),
                };
                (kind("kmalloc") && (sized || named)) || (kind("cache") && (all || named))
            }
        }
    }

    fn selects(&self, sample: &Sample) -> bool {
        let owner = &sample.owner;
        let of = |pattern: &Option<Pattern>, names: &[Option<&str>]| {
            let names: Vec<&str> = names.iter().flatten().copied().collect();
            pattern.as_ref().is_none_or(|pattern| pattern.matches(&names))
        };
        let cgroup = owner.cgroup.as_deref();
        let full = owner.namespace.as_ref().zip(owner.pod.as_ref()).filter(|_| self.pod.is_some());
        let full = full.map(|(namespace, pod)| format!("{namespace}/{pod}"));
        of(&self.comm, &[owner.comm.as_deref()])
            && of(&self.cgroup, &[cgroup, cgroup.map(|path| path.trim_start_matches('/'))])
            && of(&self.pod, &[full.as_deref(), owner.pod.as_deref(), owner.pod_uid.as_deref()])
    }
}

/// As `kleak trace` matches; what is no pattern matches itself.
#[derive(Debug)]
enum Pattern {
    Glob(GlobMatcher),
    Name(String),
}

impl Pattern {
    fn of(text: &str) -> Self {
        match Glob::new(text) {
            Ok(glob) => Self::Glob(glob.compile_matcher()),
            Err(_) => Self::Name(text.to_owned()),
        }
    }

    fn matches(&self, names: &[&str]) -> bool {
        names.iter().any(|name| match self {
            Self::Glob(glob) => glob.is_match(name),
            Self::Name(own) => own == name,
        })
    }
}
