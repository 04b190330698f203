//! From a snapshot to evidence: names for everything that the report may show.

use hashbrown::{HashMap, HashSet};
use kleak_common::{Site, cache_state, kind, role};

use super::plan::Plan;
use crate::{
    analyse::{Evidence, Point, SlabCount},
    host::{
        meminfo::{self, MemInfo},
        slabinfo, system,
    },
    probe::{self, CgroupChange, ChangeKind, Probe},
    report::{
        Cgroups as CgroupCounts, Cost, Frames, Host as HostFacts, Loss, Mode, Sampling,
        ledger::{page_cache, percpu_cache},
    },
    resolve::{
        cgroup_path,
        cgroups::Cgroups,
        containers::Containers,
        machine, owners,
        symbols::{KernelSymbols, Leaf, UserSymbols, number},
    },
    snapshot::Snapshot,
};

/// What a run cost, and what was held back for that.
pub(super) struct Spent {
    pub(super) cost: Cost,
    pub(super) sampling: Option<Sampling>,
    pub(super) notes: Vec<String>,
}

/// What names are made from, kept over the intervals of a run.
pub(super) struct Resolver {
    cgroups: Cgroups,
    containers: Containers,
    kernel: KernelSymbols,
    user: UserSymbols,
    /// User stacks by site and id, looked up while the process lived.
    user_stacks: HashMap<(u64, i32), Frames>,
    slab_before: HashMap<String, SlabCount>,
    slab_after: HashMap<String, SlabCount>,
    meminfo: MemInfo,
    percpu_before: Option<u64>,
    host: HostFacts,
    cpus: u32,
}

impl Resolver {
    /// Reads what has to be known before anything is traced.
    pub(super) fn new(plan: &Plan) -> Self {
        let cgroups = Cgroups::scan(&plan.host, &plan.layout);
        let mut containers = Containers::scan(&plan.host);
        for path in cgroups.paths() {
            containers.want(&cgroup_path::parse(path));
        }
        Self {
            cgroups,
            containers,
            kernel: KernelSymbols::of(&plan.host),
            user: UserSymbols::of(&plan.host),
            user_stacks: HashMap::new(),
            slab_before: HashMap::new(),
            slab_after: HashMap::new(),
            meminfo: MemInfo::default(),
            percpu_before: None,
            host: machine::of(&plan.host, &plan.layout),
            cpus: system::possible_cpus(&plan.host).unwrap_or(1),
        }
    }

    /// Reads the slab allocator's own counts, right before counting starts.
    pub(super) fn read_slab_before(&mut self, plan: &Plan) {
        self.slab_before = slab_counts(plan);
        self.percpu_before = meminfo::read(&plan.host).ok().and_then(|info| info.percpu);
    }

    /// The same and what memory there is, at the instant of a snapshot: looking up names afterwards takes
    /// time, and memory goes on growing.
    pub(super) fn read_books(&mut self, plan: &Plan) {
        self.slab_after = slab_counts(plan);
        self.meminfo = meminfo::read(&plan.host).unwrap_or_default();
    }

    /// Takes note of what became of a cgroup.
    pub(super) fn apply(&mut self, change: CgroupChange) {
        if change.kind == ChangeKind::Created && !change.path_cut {
            self.containers.want(&cgroup_path::parse(&change.path));
        }
        self.cgroups.apply(change);
    }

    /// Looks up names of pods and containers while these are there.
    pub(super) fn learn_names(&mut self, plan: &Plan) {
        self.containers.chores(&plan.host);
    }

    /// Looks up user stacks whose process still lives.
    pub(super) fn learn_user_stacks(&mut self, snapshot: &Snapshot, probe: &Probe) {
        for key in snapshot.groups.keys().filter(|key| key.user_stack >= 0) {
            let place = (key.site, key.user_stack);
            if self.user_stacks.contains_key(&place) {
                continue;
            }
            let Some(facts) = snapshot.sites.get(&key.site) else { continue };
            let Some(addresses) = probe.stack(key.user_stack) else { continue };
            if let Some(frames) = self.user.frames(probe::process_of(&facts.site), &addresses) {
                self.user_stacks.insert(place, frames);
            }
        }
    }

    /// Puts everything together.
    pub(super) fn evidence(
        &mut self,
        plan: &Plan,
        mut snapshot: Snapshot,
        history: &[Point],
        probe: &Probe,
        spent: Spent,
    ) -> Evidence {
        let Spent { cost, sampling, mut notes } = spent;
        let cache_names = self.cache_names(plan, &mut snapshot);
        let owners = owners::of_sites(
            &snapshot,
            &plan.host,
            &plan.layout,
            &mut self.cgroups,
            &mut self.containers,
        );
        let kernel_stacks = self.kernel_stacks(&snapshot, probe);
        self.learn_user_stacks(&snapshot, probe);
        let user_stacks = self.user_stacks(&snapshot, probe);
        let call_sites = self.call_sites(&snapshot, &mut notes);
        let (slab_after, meminfo) = (self.slab_after.clone(), self.meminfo);
        if slab_after.is_empty() && plan.config.slab() {
            notes.push(
                "/proc/slabinfo cannot be read, so nothing confirms or contradicts these counts"
                    .to_owned(),
            );
        }
        add_notes(&snapshot, probe, &mut notes);
        let older_frees =
            probe.counts_older_frees().then(|| by_cache_name(&snapshot, &snapshot.older_frees));
        Evidence {
            host: self.host.clone(),
            filter: plan.filter.clone(),
            history: points_of(history, &snapshot),
            owners,
            aliases: plan.caches.aliases().clone(),
            cache_names,
            kernel_stacks,
            user_stacks,
            call_sites,
            slab_before: self.slab_before.clone(),
            slab_after,
            percpu_growth_bytes: growth(self.percpu_before, meminfo.percpu),
            mem_available_bytes: meminfo.mem_available,
            cpus: self.cpus,
            mode: mode(probe),
            loss: loss(&snapshot, plan, older_frees.as_ref()),
            older_frees,
            queued: by_cache_name(&snapshot, &snapshot.queued),
            cgroups: CgroupCounts {
                created: snapshot.cgroup_events[0],
                removed: snapshot.cgroup_events[1],
                released: snapshot.cgroup_events[2],
                dying: plan.layout.dying(&plan.host),
                oldest_dying_s: self
                    .cgroups
                    .oldest_dying_ns()
                    .map(|removed| snapshot.at_ns.saturating_sub(removed) as f64 / 1e9),
            },
            cost,
            sampling,
            command: None,
            notes,
            snapshot,
        }
    }

    /// The slab cache of each site; sites of caches that were not asked for are dropped.
    fn cache_names(&mut self, plan: &Plan, snapshot: &mut Snapshot) -> HashMap<u64, String> {
        let mut names = HashMap::new();
        let mut unwanted = HashSet::new();
        for (&key, facts) in &snapshot.sites {
            let site = &facts.site;
            let (name, wanted) = if site.kind > kind::CACHE {
                (self.name_of_memory(site), true)
            } else if site.cache == 0 {
                let size = u64::from(site.size);
                // Its own name is exact; flags and call site tell as much as they can.
                let name = snapshot.caches.get(&site.slab).map_or_else(
                    || {
                        let caller = self.kernel.lookup(site.call_site);
                        plan.classes.name_of(size, site.flavour, caller.as_deref())
                    },
                    probe::cache_name,
                );
                let wanted = plan.caches.wants_kmalloc(size, &name);
                (name, wanted)
            } else {
                match snapshot.caches.get(&site.cache) {
                    Some(cache) => {
                        let name = probe::cache_name(cache);
                        let wanted =
                            cache.state != cache_state::REJECTED && plan.caches.wants(&name);
                        (name, wanted)
                    }
                    None => ("unknown".to_owned(), true),
                }
            };
            if !wanted {
                unwanted.insert(key);
            }
            names.insert(key, name);
        }
        if !unwanted.is_empty() {
            snapshot.sites.retain(|key, _| !unwanted.contains(key));
            snapshot.groups.retain(|key, _| !unwanted.contains(&key.site));
            snapshot.outstanding.retain(|key, _| !unwanted.contains(key));
        }
        names
    }

    /// What pages and per-CPU memory are called.
    fn name_of_memory(&self, site: &Site) -> String {
        if site.kind == kind::PAGE {
            let order = site.size.trailing_zeros().saturating_sub(probe::page_shift());
            page_cache(order, site.flavour, site.origin)
        } else {
            percpu_cache(u64::from(site.size / self.cpus.max(1)))
        }
    }

    fn kernel_stacks(&mut self, snapshot: &Snapshot, probe: &Probe) -> HashMap<i32, Frames> {
        let mut stacks = HashMap::new();
        for key in snapshot.groups.keys().filter(|key| key.kernel_stack >= 0) {
            if stacks.contains_key(&key.kernel_stack) {
                continue;
            }
            let Some(addresses) = probe.stack(key.kernel_stack) else { continue };
            let site = snapshot.sites.get(&key.site).map(|facts| facts.site).unwrap_or_default();
            let leaf = match site.kind {
                kind::PAGE => Leaf::Role(role::PAGES),
                kind::PERCPU => Leaf::Role(role::PERCPU),
                _ => Leaf::Caller(site.call_site),
            };
            let frames = self.kernel.frames(&addresses, leaf, site.context);
            stacks.insert(key.kernel_stack, frames);
        }
        stacks
    }

    fn user_stacks(&self, snapshot: &Snapshot, probe: &Probe) -> HashMap<(u64, i32), Frames> {
        let mut stacks = HashMap::new();
        for key in snapshot.groups.keys().filter(|key| key.user_stack >= 0) {
            let place = (key.site, key.user_stack);
            let frames = self.user_stacks.get(&place).cloned().or_else(|| {
                // The process ended before its names could be looked up.
                let addresses = probe.stack(key.user_stack)?;
                Some(addresses.iter().copied().map(number).collect())
            });
            stacks.extend(frames.map(|frames| (place, frames)));
        }
        stacks
    }

    fn call_sites(&mut self, snapshot: &Snapshot, notes: &mut Vec<String>) -> HashMap<u64, String> {
        let mut names = HashMap::new();
        let mut nameless = 0_usize;
        for facts in snapshot.sites.values() {
            let address = facts.site.call_site;
            if address == 0 {
                names.insert(0, "unknown".to_owned());
                continue;
            }
            nameless += usize::from(self.kernel.lookup(address).is_none());
            names.insert(address, self.kernel.frame(address).to_string());
        }
        if nameless > 0 && nameless == snapshot.sites.len() {
            notes.push(
                "kernel functions have no names: /proc/kallsyms hides addresses; run as root, or: \
                 sysctl kernel.kptr_restrict=1"
                    .to_owned(),
            );
        }
        names
    }
}

/// How much more there is than before; `None` when one of them is not known.
fn growth(before: Option<u64>, after: Option<u64>) -> Option<i64> {
    let growth = i128::from(after?) - i128::from(before?);
    i64::try_from(growth).ok()
}

/// What a reader has to know about this kernel and these tables.
fn add_notes(snapshot: &Snapshot, probe: &Probe, notes: &mut Vec<String>) {
    if !probe.layout().btf {
        notes.push(
            "this kernel has no BTF: processes are told apart by pid alone, their cgroups only \
             on cgroup v2, and interrupts only by their tracepoints"
                .to_owned(),
        );
    }
    if probe.retired_sites() > 0 {
        notes.push(format!(
            "{} origins whose process has exited and left nothing are not listed",
            probe.retired_sites()
        ));
    }
    let tally = &snapshot.tally;
    for (count, what) in [
        (tally.lost_processes, "processes have no name: the table of names was full"),
        (tally.lost_family, "descendants of the command are missing: the table was full"),
        (tally.lost_caches, "allocations of named caches were not followed: too many caches"),
    ] {
        if count > 0 {
            notes.push(format!("{count} {what}"));
        }
    }
}

/// The history, the snapshot at its end.
fn points_of(history: &[Point], snapshot: &Snapshot) -> Vec<Point> {
    let mut points = history.to_vec();
    if points.last().is_none_or(|point| point.at_ns != snapshot.at_ns) {
        points.push(Point { at_ns: snapshot.at_ns, outstanding: snapshot.outstanding.clone() });
    }
    points
}

fn slab_counts(plan: &Plan) -> HashMap<String, SlabCount> {
    slabinfo::read(&plan.host).map(|info| info.counts()).unwrap_or_default()
}

/// By which means the kernel is traced.
fn mode(probe: &Probe) -> Mode {
    let frees = probe.free_mode();
    Mode {
        frees: frees.following.as_str().to_owned(),
        obstacle: frees.obstacle.clone(),
        caches: if probe.knows_caches() { "address" } else { "flags" }.to_owned(),
    }
}

/// Counts by the address of a slab cache as counts by its name.
fn by_cache_name(snapshot: &Snapshot, by_address: &HashMap<u64, u64>) -> HashMap<String, u64> {
    let mut by_name = HashMap::new();
    for (address, count) in by_address {
        if let Some(cache) = snapshot.caches.get(address) {
            *by_name.entry(probe::cache_name(cache)).or_insert(0) += count;
        }
    }
    by_name
}

fn loss(snapshot: &Snapshot, plan: &Plan, older: Option<&HashMap<String, u64>>) -> Loss {
    let tally = &snapshot.tally;
    // Of the caches that are shown. What was not tracked would count among them.
    let known = older.filter(|_| tally.untracked == 0);
    let of_shown = known.map(|older| {
        older.iter().filter(|(name, _)| plan.wants_cache(name)).map(|(_, count)| count).sum()
    });
    Loss {
        untracked_objects: tally.untracked,
        missed_events: snapshot.missed_events,
        failed_updates: tally.failed_inserts + tally.lost_deletes + tally.lost_bulk_frees,
        missed_frees_detected: tally.implied_frees + snapshot.found_freed,
        frees_of_older_objects: of_shown,
        unmatched_frees: tally.unknown_frees,
        lost_stacks: tally.lost_kernel_stacks + tally.lost_user_stacks,
        lost_owners: tally.lost_sites,
        lost_cgroup_events: tally.lost_cgroup_events,
        failed_reads: tally.failed_reads,
    }
}
