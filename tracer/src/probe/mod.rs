//! The kernel side, seen from user space: what this kernel can do, loading, attaching, reading and
//! detaching. The only module that knows aya.
//!
//! Nothing is pinned: programs and maps live as long as this process holds them, so that even
//! kill -9 leaves nothing behind.

mod attach;
mod bases;
mod caches;
mod cost;
mod error;
mod functions;
mod growing;
pub mod layout;
mod objects;
mod read;
mod revalidate;
mod rights;
mod sys;
mod types;

use std::path::{Path, PathBuf};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
};
use hashbrown::{HashMap, HashSet};
use kleak_common::{
    CallPath, SIZE_SLOTS, Settings, Tuning, buckets_for, cgroup_source, places_in, size_slot,
    stacks,
};

use self::{bases::Bases, objects::Objects};
use crate::host::{
    Host,
    cgroup::{CgroupLayout, MemoryVersion},
    system,
};

pub(crate) use self::read::{cache_name, comm_text, now_ns, process_of};
pub use self::{
    attach::EmptyPrograms,
    cost::{Measuring, RunTime},
    error::Error,
    functions::{Following, FreeMode},
    layout::Layout,
    read::{Actor, CgroupChange, ChangeKind},
};

/// The BPF object; empty in a build without the BPF tool chain. Aligned, as its parser casts.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kleak.bpf.o"));
/// The same for kernels before 5.17.
static OBJECT_BEFORE_5_17: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kleak-before-5.17.bpf.o"));

/// Sites the kernel side holds at once.
pub const MAX_SITES: u32 = 16_384;

/// Size of the ring buffer of cgroup events, 1,700 of them: emptied ten times a second, so that
/// 17,000 a second can pass.
const CGROUP_EVENT_BYTES: u32 = 1 << 20;

/// Bytes of maps that an object costs in the table ([`kleak_common::buckets_for`]).
const BYTES_IN_TABLE: u64 = 64;
/// Fewest that it costs in the kernel's own hash: entry, key, value and its share of the buckets.
const BYTES_IN_HASH: u64 = 48 + 8 + 32 + 16;
/// Most places in the table that a CPU takes leave for at a time.
const LARGEST_LOT: u32 = 256;

/// Room for how many short stacks comes with that for a long one.
const SHORT_PER_LONG: u32 = 8;

/// Fewest bytes of maps that a stack of `max_stacks` costs, reckoned likewise: a short one, and the
/// share of a long one that comes with it.
pub const BYTES_PER_STACK: (u64, u64) =
    (48 + 8 + 256 + 16, (48 + 8 + 1024 + 16) / SHORT_PER_LONG as u64);

/// When kernel stacks are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stacks {
    /// For the first objects of a site, then at a falling rate.
    #[default]
    Auto,
    /// For every object.
    All,
    /// Never.
    Off,
}

/// Where a task's cgroup comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupSource {
    /// There are no cgroups.
    None,
    /// The default (v2) hierarchy.
    Unified,
    /// The memory controller's v1 hierarchy, by its number in `/proc/cgroups`.
    MemoryV1(u32),
}

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Allocations, frees, and all that tells whose they are.
    Allocations,
    /// Creation, removal and release of cgroups alone.
    Cgroups,
}

/// What to trace, and how.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each switches one thing on, in any combination")]
pub struct Config {
    /// Where the files of the running system are.
    pub host: Host,
    /// kmalloc sizes to follow, bytes as the kernel rounds them; empty for no kmalloc at all.
    pub sizes: Vec<u64>,
    /// Follow named caches.
    pub caches: bool,
    /// What is attached at all.
    pub scope: Scope,
    /// Follow pages.
    pub pages: bool,
    /// Follow per-CPU memory.
    pub percpu: bool,
    /// Which functions are which allocator's, for the callers of the latter two.
    pub call_path: Box<CallPath>,
    /// Possible CPUs.
    pub possible_cpus: u32,
    /// Kernel stacks.
    pub stacks: Stacks,
    /// User stacks too.
    pub user_stacks: bool,
    /// Outstanding objects that fit the kernel side.
    pub max_objects: u32,
    /// Every event counts from the first on, whatever it costs: see [`Probe::stand_in`].
    pub exact: bool,
    /// Different short stacks that do, and eight times as many as long ones.
    pub max_stacks: u32,
    /// Mark the descendants of kleak's own children.
    pub follow_family: bool,
    /// Where cgroups come from.
    pub cgroups: CgroupSource,
    /// Size of a kernel stack in bytes, if BTF does not tell.
    pub stack_size: Option<u64>,
    /// The kernel's BTF.
    pub btf: PathBuf,
    /// Where tracefs may be mounted.
    pub tracefs: Vec<PathBuf>,
}

impl CgroupSource {
    /// The source on a machine with these hierarchies.
    #[must_use]
    pub fn of(layout: &CgroupLayout) -> Self {
        match layout.memory_version() {
            None => Self::None,
            Some(MemoryVersion::V2) => Self::Unified,
            Some(MemoryVersion::V1) => Self::MemoryV1(layout.memory_hierarchy),
        }
    }
}

impl Config {
    /// Nothing but the life of cgroups.
    #[must_use]
    pub fn of_cgroups(host: &Host, cgroups: CgroupSource) -> Self {
        let (btf, tracefs) = Self::usual_places(host);
        Self {
            host: host.clone(),
            sizes: Vec::new(),
            caches: false,
            scope: Scope::Cgroups,
            stacks: Stacks::Off,
            user_stacks: false,
            max_objects: 1,
            max_stacks: 1,
            pages: false,
            percpu: false,
            call_path: Box::new(CallPath::NONE),
            possible_cpus: 1,
            exact: false,
            follow_family: false,
            cgroups,
            stack_size: None,
            btf,
            tracefs,
        }
    }

    /// Whether memory of the slab allocator is followed.
    #[must_use]
    pub fn slab(&self) -> bool {
        !self.sizes.is_empty() || self.caches
    }

    /// Usual places of BTF and tracefs.
    #[must_use]
    pub fn usual_places(host: &Host) -> (PathBuf, Vec<PathBuf>) {
        let tracefs = ["kernel/tracing", "kernel/debug/tracing"].map(|path| host.sys(path));
        (host.sys("kernel/btf/vmlinux"), tracefs.to_vec())
    }
}

/// The kernel side, loaded and (after [`Probe::attach`]) attached.
pub struct Probe {
    ebpf: Ebpf,
    objects: Objects,
    cgroup_events: RingBuf<MapData>,
    layout: Layout,
    links: attach::Links,
    cpus: usize,
    start_ns: u64,
    map_bytes: u64,
    max_objects: u32,
    caches: bool,
    /// Address of the kernel's list of slab caches, where the kernel side can tell an object's slab
    /// cache by its address.
    slab_caches: Option<u64>,
    /// Whether it has been walked to its end.
    caches_known: bool,
    free_mode: FreeMode,
    /// Most objects that sites were seen to hold, and which of them hold more than ever.
    most_held: HashMap<u64, u64>,
    growing: HashSet<u64>,
    /// Objects by site that were found freed when asked about.
    found_freed: HashMap<u64, u64>,
    follow_family: bool,
    /// Frees that the kernel's map refused: time by address.
    deferred: HashMap<u64, u64>,
    /// Counts of sites that were removed from the tables because their process is gone.
    retired_sites: u64,
    /// What the programs were loaded with.
    settings: Settings,
    /// How far they are held back.
    tuning: Tuning,
}

impl Probe {
    /// Loads programs and maps; nothing is attached yet.
    ///
    /// Errors: what is missing on this system and how to mend it.
    pub fn load(config: &Config) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        rights::check(&config.host)?;
        // Of an unknown release the worst is assumed.
        let release = system::uname(&config.host).map(|uname| uname.release).unwrap_or_default();
        let layout = layout::find(&config.btf, &config.tracefs, &release)?;
        if config.scope == Scope::Cgroups && !layout.btf {
            return Err(Error::NoCgroupEvents { btf: config.btf.clone() });
        }
        // What follows no slab cache need not know them.
        let bases = if config.slab() { bases::find(&layout, &config.host) } else { None };
        let by_address = bases.is_some();
        let settings = settings(config, &layout, bases);
        if config.caches && (layout.cache_events.is_empty() || !(layout.named || by_address)) {
            return Err(Error::NoCacheNames);
        }
        if config.follow_family && !layout.btf {
            return Err(Error::NoFamily);
        }
        if config.percpu && layout.percpu.is_none() {
            return Err(Error::NoPerCpuEvents);
        }
        sys::lift_memlock();
        let mut sizes = [0_u8; SIZE_SLOTS];
        for &size in &config.sizes {
            if let Some(slot) = sizes.get_mut(size_slot(size)) {
                *slot = 1;
            }
        }
        let allocations = config.scope == Scope::Allocations;
        let few = |wanted: bool, entries: u32| if wanted { entries } else { 1 };
        let table = has_table(&release);
        let object = if table { OBJECT } else { OBJECT_BEFORE_5_17 };
        let buckets = buckets_for(config.max_objects);
        let objects = if table { places_in(buckets) } else { config.max_objects };
        let mut ebpf = EbpfLoader::new()
            // Nothing is relocated against kernel types, so the kernel's BTF need not be parsed.
            .btf(None)
            .override_global("SETTINGS", &settings, true)
            .override_global("OFFSETS", &layout.offsets, true)
            .override_global("SIZES", sizes.as_slice(), true)
            .override_global("CALL_PATH", config.call_path.as_ref(), true)
            .map_max_entries("BUCKETS", buckets)
            .map_max_entries("OBJECTS", objects)
            .map_max_entries("SITES", few(allocations, MAX_SITES))
            .map_max_entries("COUNTS", few(allocations, MAX_SITES))
            .map_max_entries("PROCESSES", few(allocations, MAX_SITES))
            .map_max_entries("DEFERRED", few(allocations, 65_536))
            .map_max_entries("CGROUP_EVENTS", CGROUP_EVENT_BYTES)
            .map_max_entries("FAMILY", few(config.follow_family, 65_536))
            .map_max_entries("CACHES", few(config.caches || by_address, 1_024))
            .map_max_entries("QUEUED", few(by_address, 16_384))
            .map_max_entries("OLDER", few(config.caches || by_address, 1_024))
            .map_max_entries(
                "STACKS",
                few(config.stacks != Stacks::Off || config.user_stacks, config.max_stacks),
            )
            .map_max_entries(
                "LONG_STACKS",
                few(config.stacks != Stacks::Off, config.max_stacks.div_ceil(SHORT_PER_LONG)),
            )
            .map_max_entries("WALKED", few(config.stacks != Stacks::Off, kleak_common::WALKED))
            .load(object)
            .map_err(|error| refused("kleak's maps", &error))?;
        attach::load_programs(&mut ebpf, config, &layout)?;
        let map_bytes = read::map_memory(&ebpf, config);
        let objects = Objects::open(&ebpf)?;
        let cgroup_events =
            ebpf.take_map("CGROUP_EVENTS").ok_or_else(|| read::missing("CGROUP_EVENTS"))?;
        let cgroup_events = RingBuf::try_from(cgroup_events)
            .map_err(|error| read::map_error("CGROUP_EVENTS", &error))?;
        let cpus = aya::util::nr_cpus().map_or(1, |count| count.max(1));
        Ok(Self {
            ebpf,
            objects,
            cgroup_events,
            layout,
            links: attach::Links::default(),
            cpus,
            start_ns: 0,
            map_bytes,
            max_objects: config.max_objects,
            caches: config.caches,
            slab_caches: bases.map(|bases| bases.caches),
            caches_known: false,
            free_mode: FreeMode { following: Following::Tracepoints, obstacle: None },
            most_held: HashMap::new(),
            growing: HashSet::new(),
            found_freed: HashMap::new(),
            follow_family: config.follow_family,
            deferred: HashMap::new(),
            retired_sites: 0,
            settings,
            tuning: Tuning::FULL,
        })
    }

    /// What this kernel's events and structs look like.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How frees that no tracepoint shows are followed; known once attached.
    #[must_use]
    pub const fn free_mode(&self) -> &FreeMode {
        &self.free_mode
    }

    /// Whether the slab cache of every object can be told.
    #[must_use]
    pub const fn knows_caches(&self) -> bool {
        self.slab_caches.is_some()
    }

    /// Whether every free of an older object of a followed cache is counted.
    #[must_use]
    pub const fn counts_older_frees(&self) -> bool {
        self.caches_known
    }

    /// Kernel memory of all maps, bytes.
    #[must_use]
    pub const fn map_bytes(&self) -> u64 {
        self.map_bytes
    }

    /// When counting began, `CLOCK_MONOTONIC` nanoseconds.
    #[must_use]
    pub const fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Possible CPUs.
    #[must_use]
    pub const fn cpus(&self) -> usize {
        self.cpus
    }
}

/// Whether this kernel has compare-and-exchange (5.12, `kernel/bpf/verifier.c`) and `bpf_loop()` (5.17,
/// `kernel/bpf/bpf_iter.c`), which the table takes. Of an unknown release the worst is assumed.
fn has_table(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version| version >= (5, 17))
}

/// Bytes of kernel memory that an outstanding object takes on this kernel. Used to choose
/// `--max-objects`; what is printed is what the kernel says.
#[must_use]
pub fn bytes_per_object(release: &str) -> u64 {
    if has_table(release) { BYTES_IN_TABLE } else { BYTES_IN_HASH }
}

fn settings(config: &Config, layout: &Layout, bases: Option<Bases>) -> Settings {
    let (source, hierarchy) = match config.cgroups {
        CgroupSource::None => (cgroup_source::NONE, u32::MAX),
        CgroupSource::Unified => (cgroup_source::DEFAULT_HIERARCHY, 0),
        // Without offsets the v1 hierarchy cannot be reached.
        CgroupSource::MemoryV1(_) if !layout.btf => (cgroup_source::NONE, u32::MAX),
        CgroupSource::MemoryV1(number) => (cgroup_source::MEMORY_V1, number),
    };
    Settings {
        seed: seed(),
        free_mask: free_mask(config),
        stack_size: layout.stack_size.or(config.stack_size).unwrap_or(0),
        page_offset: bases.map_or(0, |bases| bases.page_offset),
        vmemmap: bases.map_or(0, |bases| bases.vmemmap),
        gfp_dma: layout.gfp[0],
        gfp_reclaimable: layout.gfp[1],
        gfp_account: layout.gfp[2],
        self_tgid: system::own_pid(&config.host).unwrap_or(0),
        stacks: match config.stacks {
            Stacks::Off => stacks::OFF,
            Stacks::Auto => stacks::AUTO,
            Stacks::All => stacks::ALL,
        },
        user_stacks: u32::from(config.user_stacks),
        follow_family: u32::from(config.follow_family),
        cgroup_source: source,
        memory_hierarchy: hierarchy,
        page_struct: layout.page_struct.unwrap_or(0),
        page_shift: page_shift(),
        struct_page_shift: layout
            .page_struct
            .filter(|size| size.is_power_of_two())
            .map_or(0, u32::trailing_zeros),
        possible_cpus: config.possible_cpus,
        preemptible: u32::from(layout.preemptible),
        buckets: buckets_for(config.max_objects),
        credit_lot: (config.max_objects / config.possible_cpus.max(1) / 128).clamp(1, LARGEST_LOT),
    }
}

/// Address bits that are zero in every object of the followed sizes: kmalloc objects of a
/// power-of-two class are naturally aligned since 5.4 (`kmem_cache_create` of `kmalloc-N` with
/// `align = size`, `mm/slab_common.c`); of the odd classes (96, 192) nothing more than the smallest
/// alignment is relied on. The kernel side checks each object against it, and stops using it at
/// the first exception.
fn free_mask(config: &Config) -> u64 {
    if config.caches {
        return 7;
    }
    let align = config
        .sizes
        .iter()
        .map(|&size| if size.is_power_of_two() { size.min(4096) } else { 8 })
        .min();
    align.unwrap_or(8).max(8) - 1
}

/// log2 of the bytes of a page.
#[must_use]
pub(crate) fn page_shift() -> u32 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.filter(|&bytes| bytes > 0).map_or(12, i64::trailing_zeros)
}

/// Not secret, but not to be guessed from outside either.
fn seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish() | 1
}

fn refused(what: &str, error: &dyn std::error::Error) -> Error {
    let mut cause = error.to_string();
    let mut source = error.source();
    let mut errno = None;
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            errno = io.raw_os_error();
        }
        cause = format!("{cause}: {inner}");
        source = inner.source();
    }
    let advice = match errno {
        Some(libc::EPERM) => rights::explain_eperm(),
        Some(libc::ENOMEM) => {
            "\nthere is not enough memory for the maps; try a smaller --max-objects".to_owned()
        }
        _ => String::new(),
    };
    // The verifier's log can be a megabyte; its last lines say what it did not like.
    if cause.len() > 4_000 {
        let cut = cause.char_indices().rev().nth(3_999).map_or(0, |(at, _)| at);
        cause = format!("...{}", &cause[cut..]);
    }
    Error::Refused { what: what.to_owned(), cause, advice }
}

/// Whether the BPF object is in this build.
#[must_use]
pub fn has_object() -> bool {
    !OBJECT.is_empty()
}

/// Whether a path exists, for messages.
fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

#[cfg(test)]
mod tests {
    use super::{CgroupSource, Config, Host, Scope, Stacks, free_mask};

    fn config(sizes: &[u64], caches: bool) -> Config {
        Config {
            host: Host::default(),
            sizes: sizes.to_vec(),
            caches,
            scope: Scope::Allocations,
            pages: false,
            percpu: false,
            call_path: Box::new(kleak_common::CallPath::NONE),
            possible_cpus: 1,
            stacks: Stacks::Auto,
            user_stacks: false,
            max_objects: 1,
            exact: false,
            max_stacks: 1,
            follow_family: false,
            cgroups: CgroupSource::None,
            stack_size: None,
            btf: "/nonexistent".into(),
            tracefs: Vec::new(),
        }
    }

    #[test]
    fn frees_are_rejected_by_the_loosest_alignment() {
        assert_eq!(free_mask(&config(&[512], false)), 511);
        assert_eq!(free_mask(&config(&[512, 64], false)), 63);
        assert_eq!(free_mask(&config(&[512, 192], false)), 7);
        assert_eq!(free_mask(&config(&[8], false)), 7);
        assert_eq!(free_mask(&config(&[1 << 20], false)), 4095);
        assert_eq!(free_mask(&config(&[512], true)), 7);
    }
}
