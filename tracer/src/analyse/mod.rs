//! From evidence to a report: pure functions.
//!
//! [`analyse`] gathers what is known by site (`facts`), divides it by stack (`stacks`), adds it up
//! by owner (`group`), tells growth from churn and warm-up (`growth`), asks the slab allocator
//! whether the counts are right (`reconcile`), and says what follows (`verdict`, `sentence`).

mod confidence;
mod facts;
mod group;
mod growth;
mod profile;
mod reconcile;
mod sentence;
mod stacks;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::too_many_lines,
    reason = "small numbers, and generators of evidence that read best in one piece"
)]
mod tests;
mod unfollowed;
mod verdict;

use std::collections::BTreeMap;

use globset::GlobMatcher;
use hashbrown::HashMap;

use crate::report::{
    Cgroups, Command, Cost, Filter, Frames, Host, Loss, Mode, Owner, Report, SCHEMA, Sampling,
    profile::Profile, sanitize,
};
use crate::snapshot::Snapshot;

/// Everything known when a window (or an interval of it) ends, names included.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Where.
    pub host: Host,
    /// What was followed, and how to show it.
    pub filter: Filter,
    /// The facts.
    pub snapshot: Snapshot,
    /// Outstanding objects at points in time after the start, oldest first, the snapshot last.
    pub history: Vec<Point>,
    /// Owner by site key (`process`, `kthread`, `softirq`, `hardirq`, `unknown`).
    pub owners: HashMap<u64, Owner>,
    /// Slab cache by site key.
    pub cache_names: HashMap<u64, String>,
    /// Other names of merged slab caches, by each of their names.
    pub aliases: HashMap<String, Vec<String>>,
    /// Kernel frames by kernel stack id, leaf first; frames of the tracing itself are gone.
    pub kernel_stacks: HashMap<i32, Frames>,
    /// User frames by site key and user stack id, leaf first.
    pub user_stacks: HashMap<(u64, i32), Frames>,
    /// Function that called the allocator, by return address.
    pub call_sites: HashMap<u64, String>,
    /// `active_objs` of `/proc/slabinfo` by cache when counting began; empty when unreadable.
    pub slab_before: HashMap<String, SlabCount>,
    /// The same at the snapshot.
    pub slab_after: HashMap<String, SlabCount>,
    /// By how much `Percpu` of `/proc/meminfo` grew in the window, bytes; `None` when unknown.
    pub percpu_growth_bytes: Option<i64>,
    /// `MemAvailable`, bytes.
    pub mem_available_bytes: Option<u64>,
    /// Possible CPUs: slabinfo counts what lies in their private lists as in use.
    pub cpus: u32,
    /// Cgroup life.
    pub cgroups: Cgroups,
    /// By which means this kernel was traced.
    pub mode: Mode,
    /// Frees of objects older than the window, by slab cache; `None` where the kernel side cannot tell
    /// of which cache a freed object was.
    pub older_frees: Option<HashMap<String, u64>>,
    /// Objects handed to RCU and perhaps not freed yet, by slab cache; at most so many.
    pub queued: HashMap<String, u64>,
    /// Losses.
    pub loss: Loss,
    /// Cost.
    pub cost: Cost,
    /// Which fraction of the objects was followed, when not all were.
    pub sampling: Option<Sampling>,
    /// With `-- COMMAND`.
    pub command: Option<Command>,
    /// Notes gathered on the way (what could not be read, and so on).
    pub notes: Vec<String>,
}

/// A row of `/proc/slabinfo`, as far as the analysis needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabCount {
    /// `<active_objs>`.
    pub active_objects: u64,
    /// `<objperslab>`.
    pub objects_per_slab: u64,
}

/// Outstanding objects by site key at one instant.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Objects by site key.
    pub outstanding: HashMap<u64, u64>,
}

/// What a row of the report stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum By {
    /// A process, kernel thread, or kind of interrupt.
    #[default]
    Process,
    /// A cgroup; interrupts have none and keep their own rows.
    Cgroup,
    /// A pod; what runs outside pods is shown by cgroup.
    Pod,
    /// A slab cache.
    Cache,
    /// A call stack.
    Stack,
    /// A function that calls the allocator.
    Site,
}

impl By {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Cgroup => "cgroup",
            Self::Pod => "pod",
            Self::Cache => "cache",
            Self::Stack => "stack",
            Self::Site => "site",
        }
    }
}

/// How to look at the evidence.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What a row stands for.
    pub by: By,
    /// Rows of owners to keep; all of them when `None`.
    pub top: Option<usize>,
    /// Whose memory to show.
    pub select: Select,
}

/// Whose memory to show; every condition that is set has to hold. Memory whose owner is unknown
/// meets none.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// Thread-group id.
    pub pid: Option<u32>,
    /// Name of the process.
    pub comm: Option<GlobMatcher>,
    /// Path of the cgroup, with or without its leading `/`.
    pub cgroup: Option<GlobMatcher>,
    /// Name, `namespace/name` or UID of the pod.
    pub pod: Option<GlobMatcher>,
    /// Only descendants of the command that kleak runs.
    pub family_only: bool,
}

impl Select {
    /// Whether every owner is shown.
    pub fn is_all(&self) -> bool {
        self.pid.is_none()
            && self.comm.is_none()
            && self.cgroup.is_none()
            && self.pod.is_none()
            && !self.family_only
    }

    fn takes(&self, owner: &Owner, family: bool) -> bool {
        let matches = |glob: &Option<GlobMatcher>, names: &[Option<&str>]| {
            glob.as_ref().is_none_or(|glob| names.iter().flatten().any(|name| glob.is_match(name)))
        };
        let cgroup = owner.cgroup.as_deref();
        let full_name = owner.namespace.as_ref().zip(owner.pod.as_ref());
        let full_name = full_name.map(|(namespace, pod)| format!("{namespace}/{pod}"));
        let pod = [full_name.as_deref(), owner.pod.as_deref(), owner.pod_uid.as_deref()];
        self.pid.is_none_or(|pid| owner.pid == Some(pid))
            && matches(&self.comm, &[owner.comm.as_deref()])
            && matches(&self.cgroup, &[cgroup, cgroup.map(|path| path.trim_start_matches('/'))])
            && matches(&self.pod, &pod)
            && (family || !self.family_only)
    }
}

/// The report that the evidence supports.
pub fn analyse(evidence: &Evidence, options: &Options) -> Report {
    Known::of(evidence).report(evidence, options)
}

/// Everything that `options` select, path by path, whatever they group by.
pub fn profile(evidence: &Evidence, options: &Options) -> Profile {
    Known::of(evidence).profile(evidence, options)
}

/// [`analyse`] and [`profile`], which begin alike.
pub fn both(evidence: &Evidence, options: &Options) -> (Report, Profile) {
    let known = Known::of(evidence);
    (known.report(evidence, options), known.profile(evidence, options))
}

/// What does not depend on how it is looked at.
struct Known {
    timeline: facts::Timeline,
    /// Every site.
    all: Vec<facts::SiteView>,
    /// What the slab allocator says of the counts.
    checks: BTreeMap<String, reconcile::Check>,
}

impl Known {
    fn of(evidence: &Evidence) -> Self {
        let timeline = facts::Timeline::new(evidence);
        let mut all = facts::sites(evidence, &timeline);
        let checks = reconcile::check(evidence, &all);
        for site in &mut all {
            if site.unfollowed.is_some() && !unfollowed::confirmed(&checks, &site.cache) {
                site.series.doubtful = site.series.objects;
            }
        }
        Self { timeline, all, checks }
    }

    fn profile(&self, evidence: &Evidence, options: &Options) -> Profile {
        profile::profile(evidence, &selected(&self.all, options), &self.timeline)
    }

    fn report(&self, evidence: &Evidence, options: &Options) -> Report {
        report(evidence, options, self)
    }
}

fn report(evidence: &Evidence, options: &Options, known: &Known) -> Report {
    let Known { timeline, all, checks } = known;
    let shown = selected(all, options);

    let parts = group::parts(evidence, &shown, options.by);
    let merged = group::merge(&parts, group::Level::By(options.by));
    let (mut owners, mut stacks) = group::rows(&merged, &parts, timeline, options.by);
    if let Some(top) = options.top {
        group::keep(top, &mut owners, &mut stacks);
    }

    let unfollowed_keys =
        all.iter().filter(|site| site.unfollowed.is_some()).map(|site| site.key).collect();
    let case = verdict::Case {
        evidence,
        timeline,
        checks,
        shown: &shown,
        unfollowed: &unfollowed_keys,
        by: options.by,
        family: options.select.family_only,
    };
    let verdict::Judgement { mut verdict, notes: judged } = verdict::judge(&case);
    // A sentence is for printing, whichever way it is read; names keep their bytes in `owner`.
    verdict.summary = sanitize::terminal(&verdict.summary).into_owned();
    let mut notes = evidence.notes.clone();
    notes.extend(judged);
    notes.extend(unfollowed::notes(&evidence.mode, all, checks));
    notes.extend(reconcile::notes(checks));
    notes.extend(general_notes(evidence, options));
    for note in &mut notes {
        *note = sanitize::terminal(note).into_owned();
    }
    let mut seen = hashbrown::HashSet::new();
    notes.retain(|note| seen.insert(note.clone()));

    Report {
        schema: SCHEMA.to_owned(),
        host: evidence.host.clone(),
        window_s: timeline.length_s,
        filter: evidence.filter.clone(),
        verdict,
        caches: reconcile::rows(evidence, checks, &shown),
        owners,
        stacks,
        cgroups: evidence.cgroups,
        mode: evidence.mode.clone(),
        loss: evidence.loss,
        cost: evidence.cost,
        sampling: evidence.sampling.clone(),
        command: evidence.command.clone(),
        notes,
        judgement: None,
    }
}

fn selected<'a>(all: &'a [facts::SiteView], options: &Options) -> Vec<&'a facts::SiteView> {
    all.iter().filter(|site| options.select.takes(&site.owner, site.family)).collect()
}

/// What a reader of the tables has to know.
fn general_notes(evidence: &Evidence, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    if evidence.loss.untracked_objects > 0 {
        notes.push(format!(
            "{} allocations were not tracked (--max-objects): they count as allocated, and neither \
             as outstanding nor as freed, since nobody knows.",
            sentence::count(evidence.loss.untracked_objects)
        ));
    }
    if evidence.sampling.is_some() {
        notes.push(
            "Of what is estimated, allocated and freed are rough: an address that is used again and \
             again is followed each time or never."
                .to_owned(),
        );
    }
    if evidence.loss.missed_events.is_none() {
        notes.push(
            "This kernel does not count the events that its recursion guard skips: a few \
             allocations or frees may be missing."
                .to_owned(),
        );
    }
    if !options.select.is_all() {
        notes.push(
            "Only the selected owners are shown; how far slabinfo is explained is by all of them."
                .to_owned(),
        );
    }
    if options.by == By::Stack {
        notes.push(
            "By stack, allocated, freed and growth of a call site are divided in proportion to \
             what each of its stacks left behind."
                .to_owned(),
        );
    }
    notes
}
