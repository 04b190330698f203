//! Reading the kernel side: snapshots, stacks, cgroup events, slab caches.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, Map, PerCpuArray, Queue},
};
use hashbrown::{HashMap, HashSet};
use kleak_common::{
    COMM_LEN, Cache, CgroupEvent, CpuState, DeferredFree, LONG_FRAMES, PATH_LEN, Process,
    ProcessKey, Queued, SHORT_FRAMES, Site, SiteCounts, Stack, Tally, UNKNOWN_PAGES, cgroup_event,
    in_fraction, kind, largest_block, page_of_key, stack_place,
};

use super::{
    BYTES_IN_HASH, BYTES_PER_STACK, CGROUP_EVENT_BYTES, Config, Error, MAX_SITES, Probe, Stacks,
    sys,
};
use crate::snapshot::{BIRTH_SLICES, GroupKey, SiteFacts, Snapshot};

/// How long RCU may take to free what it was handed: a batch is begun every five seconds at the least
/// (`KFREE_DRAIN_JIFFIES`, `kernel/rcu/tree.c` and `mm/slab_common.c`), and a grace period passes.
const RCU_NS: u64 = 6_000_000_000;

/// What happened to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Its directory was made.
    Created,
    /// Its directory was removed.
    Removed,
    /// The kernel let go of it.
    Released,
}

/// One event of a cgroup's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupChange {
    /// Kernfs node id.
    pub id: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Path below the mount of the hierarchy; lossily decoded, and cut at 511 bytes.
    pub path: String,
    /// Whether it was cut.
    pub path_cut: bool,
    /// Whether counting was on: then it is one of [`Snapshot::cgroup_events`] too.
    pub counted: bool,
    /// Who did it; a release is done by a kernel worker.
    pub actor: Actor,
    /// Pages charged to it at that moment, with those of cgroups below it.
    pub charged_pages: Option<u64>,
}

/// A process that made or removed a cgroup, as it was at that moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actor {
    /// Which.
    pub process: ProcessKey,
    /// Its name, lossily decoded; empty when unknown.
    pub comm: String,
    /// Id of its own cgroup; 0 when unknown.
    pub cgroup: u64,
}

/// `CLOCK_MONOTONIC`, which `bpf_ktime_get_ns()` reads too. Nanoseconds.
#[must_use]
pub(crate) fn now_ns() -> u64 {
    // It cannot fail on Linux with this clock.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
        seconds * 1_000_000_000 + nanos
    })
}

/// Kernel memory of all maps, bytes, as the kernel says; from 5.11 to 6.3 it leaves out what each
/// entry of a hash costs (`bpf_map_memory_footprint`), so that the largest are reckoned.
pub(super) fn map_memory(ebpf: &Ebpf, config: &Config) -> u64 {
    let hashed = ebpf.map("BUCKETS").is_none();
    let objects = if hashed { u64::from(config.max_objects) * BYTES_IN_HASH } else { 0 };
    let stacks = if config.stacks == Stacks::Off { 1 } else { u64::from(config.max_stacks) };
    let of = |(name, map): (&str, &Map)| {
        let said = fd(map).and_then(|map| sys::map_memory(map, &config.host)).unwrap_or(0);
        match name {
            "OBJECTS" => said.max(objects),
            "STACKS" => said.max(stacks * BYTES_PER_STACK.0),
            "LONG_STACKS" => said.max(stacks * BYTES_PER_STACK.1),
            // It says 0 for a ring buffer.
            "CGROUP_EVENTS" => said.max(u64::from(CGROUP_EVENT_BYTES)),
            _ => said,
        }
    };
    ebpf.maps().map(of).sum()
}

/// Entries of an array map.
pub(super) fn entries(map: &Map) -> Option<usize> {
    let Map::Array(data) = map else { return None };
    let info = data.info().ok()?;
    usize::try_from(info.max_entries()).ok()
}

/// A map's descriptor, by its name.
pub(super) fn fd_of<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, Error> {
    ebpf.map(name).and_then(fd).ok_or_else(|| missing(name))
}

/// A map's descriptor, whatever its type.
pub(super) fn fd(map: &Map) -> Option<BorrowedFd<'_>> {
    let (Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::PerCpuHashMap(data)
    | Map::PerCpuArray(data)
    | Map::Array(data)
    | Map::Queue(data)
    | Map::RingBuf(data)) = map
    else {
        return None;
    };
    Some(data.fd().as_fd())
}

impl Probe {
    pub(super) fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        fd_of(&self.ebpf, name)
    }

    /// Takes everything the kernel side holds. Objects younger than `min_age_ns` are left out.
    ///
    /// Errors: a map cannot be read.
    pub fn snapshot(&mut self, min_age_ns: u64) -> Result<Snapshot, Error> {
        self.take_deferred();
        let at_ns = now_ns();
        let scale = self.scale(kind::KMALLOC);
        let mut snapshot =
            Snapshot { start_ns: self.start_ns, at_ns, scale, ..Snapshot::default() };
        self.walk_objects(&mut snapshot, min_age_ns)?;
        self.read_sites(&mut snapshot)?;
        self.note_found_freed(&mut snapshot);
        self.read_processes(&mut snapshot)?;
        if self.caches || self.knows_caches() {
            snapshot.caches = self.read_caches()?;
            snapshot.older_frees = self.read_older()?;
            for (address, count) in &snapshot.older_frees {
                if let Some(cache) = snapshot.caches.get(address).filter(|_| *count > 0) {
                    tracing::debug!(cache = cache_name(cache), count, "frees of objects not held");
                }
            }
            snapshot.queued = self.read_queued()?;
        }
        self.read_tally(&mut snapshot)?;
        self.read_programs(&mut snapshot);
        self.prune(&snapshot)?;
        Ok(snapshot)
    }

    /// Adds up the outstanding objects.
    fn walk_objects(&self, snapshot: &mut Snapshot, min_age_ns: u64) -> Result<(), Error> {
        let (start, end) = (snapshot.start_ns, snapshot.at_ns);
        let slice = (end.saturating_sub(start) / BIRTH_SLICES as u64).max(1);
        let youngest = end.saturating_sub(min_age_ns);
        let pages = self.sites_of_pages()?;
        self.objects.each(&self.ebpf, |address, object| {
            if self.deferred.get(&address).is_some_and(|&freed| object.born_ns < freed) {
                return;
            }
            // What was entered before the fraction was narrowed and lies outside it has been freed unseen
            // for all we know.
            let kind = if pages.contains(&object.site) { kind::PAGE } else { kind::KMALLOC };
            if !self.follows(address, kind) {
                return;
            }
            let each = self.scale(kind);
            *snapshot.outstanding.entry(object.site).or_insert(0) += each;
            if min_age_ns > 0 && object.born_ns > youngest {
                return;
            }
            let group = snapshot
                .groups
                .entry(GroupKey {
                    site: object.site,
                    kernel_stack: object.kernel_stack,
                    user_stack: object.user_stack,
                })
                .or_default();
            group.objects += each;
            group.requested += u64::from(object.requested) * each;
            group.weight += u64::from(object.weight);
            group.oldest_ns = group.oldest_ns.min(object.born_ns.max(start));
            let born = usize::try_from(object.born_ns.saturating_sub(start) / slice);
            let last = BIRTH_SLICES - 1;
            if let Some(births) = group.births.get_mut(born.unwrap_or(last).min(last)) {
                *births += each;
            }
        })
    }

    /// Whether what is held under a key is followed with what is held back now.
    pub(super) fn follows(&self, key: u64, of: u8) -> bool {
        let shift = self.tuning.fraction_shift;
        let settings = &self.settings;
        if of == kind::PAGE {
            let page = page_of_key(key);
            largest_block(page, settings.page_shift, settings.struct_page_shift)
                .is_none_or(|block| in_fraction(block, settings.seed, shift))
        } else {
            in_fraction(key, settings.seed, shift)
        }
    }

    /// How many objects one stands for that is followed.
    pub(super) fn scale(&self, of: u8) -> u64 {
        let thinned = of != kind::PAGE || self.settings.struct_page_shift != 0;
        if thinned { 1 << self.tuning.fraction_shift } else { 1 }
    }

    /// Sites whose objects are pages: those are in the fraction or out of it by blocks. None while
    /// everything is followed, when it makes no difference.
    fn sites_of_pages(&self) -> Result<HashSet<u64>, Error> {
        let mut pages = HashSet::new();
        if self.tuning.fraction_shift == 0 {
            return Ok(pages);
        }
        sys::walk(self.fd("SITES")?, 8, size_of::<Site>(), |key, value| {
            if let (Some(key), Some(site)) = (sys::record::<u64>(key), sys::record::<Site>(value))
                && site.kind == kind::PAGE
            {
                pages.insert(key);
            }
        })
        .map_err(|error| map_error("SITES", &error))?;
        Ok(pages)
    }

    fn read_sites(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        let sites = &mut snapshot.sites;
        sys::walk(self.fd("SITES")?, 8, size_of::<Site>(), |key, value| {
            if let (Some(key), Some(site)) = (sys::record::<u64>(key), sys::record::<Site>(value)) {
                let scale = self.scale(site.kind);
                sites.insert(key, SiteFacts { site, scale, ..SiteFacts::default() });
            }
        })
        .map_err(|error| map_error("SITES", &error))?;
        let each = size_of::<SiteCounts>();
        sys::walk(self.fd("COUNTS")?, 8, each * self.cpus, |key, value| {
            let Some(facts) = sys::record::<u64>(key).and_then(|key| sites.get_mut(&key)) else {
                return;
            };
            for counts in value.chunks_exact(each).filter_map(sys::record::<SiteCounts>) {
                // One CPU's may be below zero: see `reported_again` of the kernel side.
                facts.allocated = facts.allocated.wrapping_add(counts.allocated);
                facts.untracked += counts.untracked;
                facts.reused += counts.reused;
            }
        })
        .map_err(|error| map_error("COUNTS", &error))
    }

    fn note_found_freed(&self, snapshot: &mut Snapshot) {
        for (site, count) in &self.found_freed {
            snapshot.found_freed += count;
            if let Some(facts) = snapshot.sites.get_mut(site) {
                facts.reused += count;
            }
        }
    }

    fn read_processes(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        let processes = &mut snapshot.processes;
        let key_size = size_of::<ProcessKey>();
        sys::walk(self.fd("PROCESSES")?, key_size, size_of::<Process>(), |key, value| {
            if let (Some(key), Some(process)) = (sys::record(key), sys::record(value)) {
                processes.insert(key, process);
            }
        })
        .map_err(|error| map_error("PROCESSES", &error))
    }

    /// Frees of objects not in the table, by the address of their slab cache.
    fn read_older(&self) -> Result<HashMap<u64, u64>, Error> {
        let mut older = HashMap::new();
        sys::walk(self.fd("OLDER")?, 8, 8 * self.cpus, |key, value| {
            let Some(cache) = sys::record::<u64>(key) else { return };
            let count: u64 = value.chunks_exact(8).filter_map(sys::record::<u64>).sum();
            older.insert(cache, count);
        })
        .map_err(|error| map_error("OLDER", &error))?;
        Ok(older)
    }

    /// Objects handed to RCU a moment ago and not seen freed, by the address of their slab cache.
    fn read_queued(&self) -> Result<HashMap<u64, u64>, Error> {
        let mut queued = HashMap::new();
        let since = now_ns().saturating_sub(RCU_NS);
        sys::walk(self.fd("QUEUED")?, 8, size_of::<Queued>(), |key, entry| {
            let recent = sys::record::<Queued>(entry).filter(|entry| entry.at_ns > since);
            if let (Some(address), Some(entry)) = (sys::record::<u64>(key), recent)
                && self.follows(address, kind::KMALLOC)
            {
                *queued.entry(entry.cache).or_insert(0) += self.scale(kind::KMALLOC);
            }
        })
        .map_err(|error| map_error("QUEUED", &error))?;
        Ok(queued)
    }

    fn read_tally(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        let states = states(&self.ebpf)?;
        let mut total = Tally::default();
        for state in states.iter() {
            state.tally.iter().for_each(|row| total.add(row));
            for (sum, count) in snapshot.cgroup_events.iter_mut().zip(state.cgroup_events) {
                *sum += count;
            }
        }
        snapshot.tally = total;
        Ok(())
    }

    fn read_programs(&self, snapshot: &mut Snapshot) {
        let (mut by_first, mut by_others, mut read) = (0, 0, 0);
        for (name, program) in self.ebpf.programs() {
            let Ok(fd) = program.fd() else { continue };
            let Ok((_, _, misses)) = sys::program_info(fd.as_fd()) else { continue };
            if misses > 0 {
                tracing::debug!(program = name, misses, "the kernel skipped a program that ran");
            }
            if super::attach::has_second(&self.ebpf, name) {
                by_first += misses;
            } else if !super::attach::is_later(name) {
                by_others += misses;
            }
            read += 1;
        }
        // What the first of a chain was skipped for, a later one has dealt with, unless they ran too.
        let lost = by_first.saturating_sub(snapshot.tally.rescued) + by_others;
        tracing::debug!(by_first, by_others, lost, "events that programs missed");
        snapshot.missed_events = (read > 0).then_some(lost);
    }

    /// Takes the frees that the map refused. They are applied when objects are read: an address
    /// may have been allocated anew meanwhile, and only its birth tells.
    fn take_deferred(&mut self) {
        let Some(map) = self.ebpf.map_mut("DEFERRED") else { return };
        let Ok(mut queue) = Queue::<_, DeferredFree>::try_from(map) else { return };
        while let Ok(free) = queue.pop(0) {
            self.deferred.insert(free.address, free.at_ns);
        }
    }

    /// Makes room: sites of processes that have exited and own nothing any more will never be used
    /// again. Done only when the table is half full.
    fn prune(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        if snapshot.sites.len() < MAX_SITES as usize / 2
            && snapshot.processes.len() < MAX_SITES as usize / 2
        {
            return Ok(());
        }
        let owning: HashSet<ProcessKey> = snapshot
            .sites
            .iter()
            .filter(|(key, _)| snapshot.outstanding.contains_key(*key))
            .map(|(_, facts)| process_of(&facts.site))
            .collect();
        let done = |key: &ProcessKey| {
            snapshot.processes.get(key).is_some_and(|process| process.exited != 0)
                && !owning.contains(key)
        };
        let keys: Vec<u64> = snapshot
            .sites
            .iter()
            .filter(|(_, facts)| facts.site.tgid != 0 && done(&process_of(&facts.site)))
            .map(|(key, _)| *key)
            .collect();
        for key in &keys {
            // Counts first: a site without counts is introduced anew, the reverse is not.
            remove(&mut self.ebpf, "COUNTS", key)?;
            remove(&mut self.ebpf, "SITES", key)?;
        }
        self.retired_sites += keys.len() as u64;
        for key in snapshot.processes.keys().filter(|key| done(key)) {
            remove(&mut self.ebpf, "PROCESSES", key)?;
        }
        Ok(())
    }

    /// How many sites were removed to make room: their owners left nothing, and are not listed.
    #[must_use]
    pub const fn retired_sites(&self) -> u64 {
        self.retired_sites
    }

    /// Return addresses of a kernel or user stack, leaf first.
    #[must_use]
    pub fn stack(&self, id: i32) -> Option<Vec<u64>> {
        let (id, long) = stack_place(id)?;
        if long {
            stack_of::<LONG_FRAMES>(self.ebpf.map("LONG_STACKS")?, id)
        } else {
            stack_of::<SHORT_FRAMES>(self.ebpf.map("STACKS")?, id)
        }
    }

    /// Takes the cgroup events that wait.
    pub fn cgroup_changes(&mut self) -> Vec<CgroupChange> {
        let mut changes = Vec::new();
        while let Some(item) = self.cgroup_events.next() {
            changes.extend(change(&item));
        }
        changes
    }

    /// Removes from the family those that `gone` says have ended, when the table fills up.
    ///
    /// Errors: the map cannot be read or written.
    pub fn prune_family(&mut self, gone: impl Fn(ProcessKey) -> bool) -> Result<(), Error> {
        if !self.follow_family {
            return Ok(());
        }
        let mut members = Vec::new();
        sys::walk(self.fd("FAMILY")?, size_of::<ProcessKey>(), 8, |key, _| {
            members.extend(sys::record::<ProcessKey>(key));
        })
        .map_err(|error| map_error("FAMILY", &error))?;
        if members.len() < 32_768 {
            return Ok(());
        }
        for key in members.into_iter().filter(|key| gone(*key)) {
            remove_from::<_, u8>(&mut self.ebpf, "FAMILY", &key)?;
        }
        Ok(())
    }
}

/// The frames of a stack in one of the two maps.
fn stack_of<const FRAMES: usize>(map: &Map, id: u32) -> Option<Vec<u64>>
where
    Stack<FRAMES>: aya::Pod,
{
    let map: BpfHashMap<_, u32, Stack<FRAMES>> = BpfHashMap::try_from(map).ok()?;
    let stack = map.get(&id, 0).ok()?;
    Some(stack.frames.into_iter().take_while(|&frame| frame != 0).collect())
}

/// What each CPU has counted.
fn states(ebpf: &Ebpf) -> Result<aya::maps::PerCpuValues<CpuState>, Error> {
    let map = ebpf.map("CPU").ok_or_else(|| missing("CPU"))?;
    let states: PerCpuArray<_, CpuState> =
        PerCpuArray::try_from(map).map_err(|error| map_error("CPU", &error))?;
    states.get(&0, 0).map_err(|error| map_error("CPU", &error))
}

/// All counters added up.
///
/// Errors: the map cannot be read.
pub(super) fn tally(ebpf: &Ebpf) -> Result<Tally, Error> {
    let mut total = Tally::default();
    states(ebpf)?.iter().for_each(|state| state.tally.iter().for_each(|row| total.add(row)));
    Ok(total)
}

/// The process of a site.
#[must_use]
pub(crate) fn process_of(site: &Site) -> ProcessKey {
    ProcessKey { start_ns: site.start_ns, tgid: site.tgid, _pad: 0 }
}

/// A cache's name, lossily decoded.
#[must_use]
pub(crate) fn cache_name(cache: &Cache) -> String {
    until_nul(&cache.name)
}

/// A comm, lossily decoded.
#[must_use]
pub(crate) fn comm_text(comm: &[u8; COMM_LEN]) -> String {
    until_nul(comm)
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn change(bytes: &[u8]) -> Option<CgroupChange> {
    if bytes.len() < size_of::<CgroupEvent>() {
        return None;
    }
    // SAFETY: long enough (checked), any alignment (unaligned read), plain integers and bytes.
    let event = unsafe { bytes.as_ptr().cast::<CgroupEvent>().read_unaligned() };
    let path = event.path.get(..event.path_len as usize).unwrap_or_default();
    Some(CgroupChange {
        id: event.id,
        kind: match event.what {
            cgroup_event::MKDIR => ChangeKind::Created,
            cgroup_event::RMDIR => ChangeKind::Removed,
            _ => ChangeKind::Released,
        },
        at_ns: event.at_ns,
        path_cut: path.len() + 1 >= PATH_LEN,
        path: String::from_utf8_lossy(path).into_owned(),
        counted: event.counted != 0,
        actor: Actor {
            process: ProcessKey { start_ns: event.start_ns, tgid: event.tgid, _pad: 0 },
            comm: until_nul(&event.comm),
            cgroup: event.actor_cgroup,
        },
        charged_pages: (event.charged_pages != UNKNOWN_PAGES).then_some(event.charged_pages),
    })
}

pub(super) fn missing(map: &'static str) -> Error {
    Error::Map { map, cause: "it is missing".to_owned() }
}

pub(super) fn map_error(map: &'static str, error: &dyn std::error::Error) -> Error {
    Error::Map { map, cause: error.to_string() }
}

fn remove<K: aya::Pod>(ebpf: &mut Ebpf, name: &'static str, key: &K) -> Result<(), Error> {
    match name {
        "COUNTS" => remove_per_cpu(ebpf, name, key),
        "SITES" => remove_from::<K, Site>(ebpf, name, key),
        _ => remove_from::<K, Process>(ebpf, name, key),
    }
}

fn remove_from<K: aya::Pod, V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    key: &K,
) -> Result<(), Error> {
    let map = ebpf.map_mut(name).ok_or_else(|| missing(name))?;
    let mut map: BpfHashMap<_, K, V> =
        BpfHashMap::try_from(map).map_err(|error| map_error(name, &error))?;
    // One that is gone is what was wanted.
    drop(map.remove(key));
    Ok(())
}

fn remove_per_cpu<K: aya::Pod>(ebpf: &mut Ebpf, name: &'static str, key: &K) -> Result<(), Error> {
    let map = ebpf.map_mut(name).ok_or_else(|| missing(name))?;
    let mut map: aya::maps::PerCpuHashMap<_, K, SiteCounts> =
        aya::maps::PerCpuHashMap::try_from(map).map_err(|error| map_error(name, &error))?;
    drop(map.remove(key));
    Ok(())
}
