//! What is in a frame, as data: types of the file's own, so that the report's may change and old files stay
//! readable. A field that is missing has its default; one that is not known is passed over.

use serde::{Deserialize, Serialize};

use super::{Kind, bounded::Bounded};
use crate::{report, snapshot::BIRTH_SLICES};

/// Value of [`Head::schema`].
pub(super) const SCHEMA: &str = "kleak.recording/1";

/// What no recording holds more of. The kernel side holds 16,384 sites and 131,072 stacks, and as many groups
/// as there are combinations of the two among outstanding objects.
pub(super) mod most {
    /// Names of functions and caches; owners.
    pub(in super::super) const NAMES: usize = 1 << 20;
    /// Bytes of one name, of a function, slab cache or owner.
    pub(in super::super) const NAME: usize = 64 << 10;
    /// Sites.
    pub(in super::super) const SITES: usize = 1 << 18;
    /// Stacks of one kind.
    pub(in super::super) const STACKS: usize = 1 << 20;
    /// Frames of one stack. The kernel side takes 127, and inlined functions may be among them.
    pub(in super::super) const DEPTH: usize = 1 << 10;
    /// Frames of all stacks of one kind together: 131,072 of 127 fit.
    pub(in super::super) const FRAMES: usize = 1 << 24;
    /// Groups.
    pub(in super::super) const GROUPS: usize = 1 << 20;
    /// Points in time; a run keeps fewer than 64.
    pub(in super::super) const POINTS: usize = 1 << 7;
    /// Counts of sites at points in time.
    pub(in super::super) const COUNTS: usize = 1 << 23;
    /// Bytes of the names of all sites, each of its owner, slab cache and function.
    pub(in super::super) const SITE_NAMES: usize = 1 << 28;
    /// The same of the sites of all groups, with the functions that a row of a stack is called by.
    pub(in super::super) const GROUP_NAMES: usize = 1 << 29;
    /// Arguments of the command: what execve takes, 2 MiB, and what else of a list it never is.
    pub(in super::super) const ARGUMENTS: usize = 1 << 18;
    /// Slab caches, and other short lists.
    pub(in super::super) const CACHES: usize = 1 << 16;
}

/// The first line of a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    /// [`SCHEMA`].
    pub(super) schema: String,
    /// 1 for the first frame of a file, one more for each that follows.
    pub(super) sequence: u64,
    pub(super) kind: Kind,
    /// How much of the window it covers, seconds.
    pub(super) window_s: f64,
    /// When, by the clock of the machine: RFC 3339, UTC.
    #[serde(default)]
    pub(super) taken: String,
    /// Version of kleak that wrote it.
    #[serde(default)]
    pub(super) kleak: String,
}

/// A type of the report as the file has it, with the same fields.
macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident of $source:path { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            $(#[serde(skip_serializing_if = "is_default")] pub(super) $field: $type,)*
        }

        // Lists are bounded in the file only.
        #[allow(clippy::useless_conversion, reason = "of most fields the type is the same")]
        impl From<&$source> for $name {
            fn from(source: &$source) -> Self {
                // By its fields, so that a new one of the report is not forgotten here.
                let $source { $($field,)* } = source;
                Self { $($field: $field.clone().into(),)* }
            }
        }

        #[allow(clippy::useless_conversion, reason = "of most fields the type is the same")]
        impl From<$name> for $source {
            fn from(stored: $name) -> Self {
                Self { $($field: stored.$field.into(),)* }
            }
        }
    };
}

/// Frames of a stack, leaf first: places in [`Body::names`].
pub(super) type Stack = Bounded<u32, { most::DEPTH }>;
/// A short list of names.
pub(super) type Names = Bounded<String, { most::CACHES }>;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

mirror! {
    /// The machine.
    Host of report::Host {
        kernel: String,
        machine: String,
        cgroup: Option<String>,
        hostname: String,
    }
}

mirror! {
    /// What was followed, and how the run showed it.
    Filter of report::Filter {
        size_classes: Bounded<u64, { most::CACHES }>,
        kinds: Names,
        caches: Names,
        pid: Option<u32>,
        comm: Option<String>,
        cgroup: Option<String>,
        pod: Option<String>,
        min_age_s: f64,
        by: String,
        stacks: String,
    }
}

mirror! {
    /// Who owns memory.
    Owner of report::Owner {
        kind: String,
        pid: Option<u32>,
        comm: Option<String>,
        exited: Option<bool>,
        cgroup: Option<String>,
        cgroup_removed: Option<bool>,
        unit: Option<String>,
        pod: Option<String>,
        namespace: Option<String>,
        container: Option<String>,
        pod_uid: Option<String>,
        container_id: Option<String>,
    }
}

mirror! {
    /// Cgroup life.
    Cgroups of report::Cgroups {
        created: u64,
        removed: u64,
        released: u64,
        dying: Option<u64>,
        oldest_dying_s: Option<f64>,
    }
}

mirror! {
    /// What was lost.
    Loss of report::Loss {
        untracked_objects: u64,
        missed_events: Option<u64>,
        failed_updates: u64,
        missed_frees_detected: u64,
        frees_of_older_objects: Option<u64>,
        unmatched_frees: u64,
        lost_stacks: u64,
        lost_owners: u64,
        lost_cgroup_events: u64,
        failed_reads: u64,
    }
}

mirror! {
    /// By which means the kernel was traced.
    Mode of report::Mode {
        frees: String,
        obstacle: Option<String>,
        caches: String,
    }
}

mirror! {
    /// What the tracing cost.
    Cost of report::Cost {
        events: u64,
        bpf_ns_per_event: Option<f64>,
        bpf_runs: Option<u64>,
        bpf_cpu_share: Option<f64>,
        user_cpu_share: Option<f64>,
        recent_cpu_share: Option<f64>,
        measured_s: f64,
        user_rss_bytes: Option<u64>,
        map_bytes: u64,
    }
}

mirror! {
    /// Which fraction was followed.
    Sampling of report::Sampling {
        fraction: f64,
        since_s: f64,
        reason: String,
    }
}

mirror! {
    /// The command.
    Command of report::Command {
        argv: Bounded<String, { most::ARGUMENTS }>,
        pid: u32,
        exit_status: Option<i32>,
        signal: Option<i32>,
    }
}

/// The second line of a frame.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Body {
    pub(super) settings: Settings,
    pub(super) host: Host,
    pub(super) filter: Filter,
    pub(super) mode: Mode,
    pub(super) command: Option<Command>,
    pub(super) cpus: u32,
    /// When counting began, `CLOCK_MONOTONIC` nanoseconds. What else is a time counts from here.
    pub(super) start_ns: u64,
    /// Length of the window.
    pub(super) length_ns: u64,
    /// How many objects each that was followed stands for, by default.
    pub(super) scale: u64,
    pub(super) loss: Loss,
    pub(super) cost: Cost,
    pub(super) sampling: Option<Sampling>,
    pub(super) cgroups: Cgroups,
    pub(super) percpu_growth_bytes: Option<i64>,
    pub(super) mem_available_bytes: Option<u64>,
    pub(super) notes: Bounded<String, { most::CACHES }>,
    /// Slab caches as the allocator itself counts them.
    pub(super) slabinfo: Bounded<Slab, { most::CACHES }>,
    /// Frees of objects older than the window; `null` where nobody can tell of which cache they were.
    pub(super) older_frees: Option<Bounded<Count, { most::CACHES }>>,
    /// Objects that wait for RCU, at most.
    pub(super) queued: Bounded<Count, { most::CACHES }>,
    /// Other names of merged caches.
    pub(super) aliases: Bounded<Alias, { most::CACHES }>,
    /// Points in time at which sites were counted, oldest first.
    pub(super) points_ns: Bounded<u64, { most::POINTS }>,
    /// Functions and slab caches.
    pub(super) names: Bounded<String, { most::NAMES }>,
    pub(super) owners: Bounded<Owner, { most::NAMES }>,
    /// Kernel stacks, leaf first: places in `names`.
    pub(super) stacks: Bounded<Stack, { most::STACKS }>,
    /// User stacks likewise.
    pub(super) user_stacks: Bounded<Stack, { most::STACKS }>,
    pub(super) sites: Bounded<Site, { most::SITES }>,
    pub(super) groups: Bounded<Group, { most::GROUPS }>,
}

/// [`super::Settings`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    pub(super) top: Option<u64>,
    pub(super) family_only: bool,
}

/// A row of `/proc/slabinfo` at the beginning and at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Slab {
    pub(super) name: String,
    pub(super) before: Option<SlabCount>,
    pub(super) after: Option<SlabCount>,
}

/// `<active_objs>` and `<objperslab>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SlabCount {
    pub(super) active: u64,
    pub(super) per_slab: u64,
}

/// A count of a slab cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Count {
    pub(super) cache: String,
    pub(super) objects: u64,
}

/// Other names of a slab cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Alias {
    pub(super) cache: String,
    pub(super) others: Names,
}

/// Allocators ([`kleak_common::kind`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Allocator {
    #[default]
    Kmalloc,
    Cache,
    Page,
    Percpu,
}

/// What ran ([`kleak_common::context`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Context {
    #[default]
    Task,
    Kthread,
    Softirq,
    Hardirq,
}

/// Where memory comes from, and what was counted there. Groups refer to it by its place, from 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Site {
    /// Nothing but its counts is known: objects whose site did not fit the table, or is no longer in it.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) lost: bool,
    /// Place in `owners`.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) owner: Option<u32>,
    /// Place in `names` of its slab cache, or of what stands in its place.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) cache: Option<u32>,
    /// Place in `names` of the function that called the allocator.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) function: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) kind: Allocator,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) context: Context,
    /// Bytes that an object occupies.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) size: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) pid: u32,
    /// Start of the process since boot.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) process_start_ns: u64,
    /// Whether it descends from the command.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) family: bool,
    /// Objects allocated since the start.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) allocated: u64,
    /// Of those, not tracked.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) untracked: u64,
    /// Of those, found freed without an event.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) reused: u64,
    /// How many objects each of its own stands for.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) scale: u64,
    /// Outstanding of any age at `points_ns`; zeros at the end are left out.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) held: Bounded<u64, { most::POINTS }>,
}

/// Outstanding objects of one site and stack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Group {
    /// Place in `sites`, from 1.
    pub(super) site: u32,
    /// Place in `stacks`; none, or below 0, without a stack.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) stack: Option<i32>,
    /// Place in `user_stacks` likewise.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) user: Option<i32>,
    pub(super) objects: u64,
    /// Bytes asked for.
    pub(super) requested: u64,
    /// Objects that the stacks that were taken stand for.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) weight: u64,
    /// Birth of the oldest.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) oldest_ns: Option<u64>,
    /// Objects by birth in equal slices of the window; zeros at the end are left out.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) births: Bounded<u64, BIRTH_SLICES>,
}
