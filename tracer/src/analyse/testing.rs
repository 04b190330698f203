//! Synthetic evidence.

use hashbrown::HashMap;
use kleak_common::{Site, context};

use super::{Evidence, Point, SlabCount};
use crate::report::{Cgroups, Cost, Filter, Host, Loss, Mode, Owner, Sampling};
use crate::snapshot::{BIRTH_SLICES, Group, GroupKey, SiteFacts, Snapshot};

pub(crate) type Births = [u64; BIRTH_SLICES];

pub(crate) const START: u64 = 1_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// A window in the making.
pub(crate) struct World {
    pub evidence: Evidence,
    sites: u64,
}

/// A process of that name.
pub(crate) fn process(pid: u32, comm: &str) -> Owner {
    Owner {
        kind: "process".to_owned(),
        pid: Some(pid),
        comm: Some(comm.to_owned()),
        exited: Some(false),
        cgroup: Some(format!("/system.slice/{comm}.service")),
        unit: Some(format!("{comm}.service")),
        ..Owner::default()
    }
}

/// An owner that is no process.
pub(crate) fn kind(kind: &str) -> Owner {
    Owner { kind: kind.to_owned(), ..Owner::default() }
}

/// As many in every slice from `begin` up to `end`.
pub(crate) fn even(each: u64, slices: std::ops::Range<usize>) -> Births {
    std::array::from_fn(|slice| if slices.contains(&slice) { each } else { 0 })
}

pub(crate) fn total(births: Births) -> u64 {
    births.iter().sum()
}

impl World {
    /// A window with 20 counts, 8 GiB available, two CPUs.
    pub(crate) fn new(seconds: u64) -> Self {
        let at_ns = START + seconds * SECOND;
        let point = |slice| Point {
            at_ns: START + seconds * SECOND * slice / BIRTH_SLICES as u64,
            outstanding: HashMap::new(),
        };
        let evidence = Evidence {
            host: Host {
                kernel: "6.12.0".to_owned(),
                machine: "x86_64".to_owned(),
                cgroup: Some("v2".to_owned()),
                hostname: "node7".to_owned(),
            },
            filter: Filter {
                size_classes: vec![512],
                kinds: vec!["kmalloc".to_owned()],
                ..Filter::default()
            },
            snapshot: Snapshot {
                start_ns: START,
                at_ns,
                missed_events: Some(0),
                ..Snapshot::default()
            },
            history: (1..=BIRTH_SLICES as u64).map(point).collect(),
            owners: HashMap::new(),
            cache_names: HashMap::new(),
            kernel_stacks: HashMap::new(),
            user_stacks: HashMap::new(),
            call_sites: HashMap::from([(0xff10, "load_msg".to_owned())]),
            aliases: HashMap::new(),
            slab_before: HashMap::new(),
            slab_after: HashMap::new(),
            percpu_growth_bytes: Some(0),
            mem_available_bytes: Some(8 << 30),
            cpus: 2,
            cgroups: Cgroups::default(),
            mode: Mode {
                frees: "trampolines".to_owned(),
                obstacle: None,
                caches: "flags".to_owned(),
            },
            older_frees: None,
            queued: HashMap::new(),
            loss: Loss { missed_events: Some(0), ..Loss::default() },
            cost: Cost::default(),
            sampling: None,
            command: None,
            notes: Vec::new(),
        };
        Self { evidence, sites: 0 }
    }

    /// A site of 512-byte objects, called from `load_msg`.
    pub(crate) fn site(&mut self, owner: Owner) -> u64 {
        let start_ns = u64::from(owner.pid.unwrap_or(0)) * SECOND;
        self.site_of(owner, start_ns, 512, "kmalloc-512")
    }

    pub(crate) fn site_of(&mut self, owner: Owner, start_ns: u64, size: u32, cache: &str) -> u64 {
        self.sites += 1;
        let key = self.sites;
        let site = Site {
            start_ns,
            cgroup: key,
            call_site: 0xff10,
            tgid: owner.pid.unwrap_or(0),
            size,
            context: match owner.kind.as_str() {
                "kthread" => context::KTHREAD,
                "softirq" => context::SOFTIRQ,
                "hardirq" => context::HARDIRQ,
                _ => context::TASK,
            },
            ..Site::default()
        };
        self.evidence.snapshot.sites.insert(key, SiteFacts { site, ..SiteFacts::default() });
        self.evidence.owners.insert(key, owner);
        self.evidence.cache_names.insert(key, cache.to_owned());
        key
    }

    /// What `site` left behind, by birth; `freed` besides, with `pool` of them in use at any
    /// moment.
    pub(crate) fn left(&mut self, site: u64, births: Births, freed: u64, pool: u64) -> &mut Self {
        self.left_by(site, (-1, 0), births);
        if let Some(facts) = self.evidence.snapshot.sites.get_mut(&site) {
            facts.allocated += freed;
        }
        let last = self.evidence.history.len().saturating_sub(1);
        for (index, point) in self.evidence.history.iter_mut().enumerate() {
            if index != last {
                *point.outstanding.entry(site).or_default() += pool;
            }
        }
        self
    }

    /// What `site` left behind through a stack, whose samples stand for `weight` objects.
    pub(crate) fn left_by(&mut self, site: u64, stack: (i32, u64), births: Births) -> &mut Self {
        let objects = total(births);
        let snapshot = &mut self.evidence.snapshot;
        let slice = (snapshot.at_ns - snapshot.start_ns) / BIRTH_SLICES as u64;
        let first = births.iter().position(|count| *count > 0).unwrap_or(0) as u64;
        let key = GroupKey { site, kernel_stack: stack.0, user_stack: -1 };
        if objects > 0 {
            let group = Group {
                objects,
                requested: objects * 464,
                weight: stack.1,
                oldest_ns: START + first * slice,
                births,
            };
            assert!(snapshot.groups.insert(key, group).is_none());
        }
        if let Some(facts) = snapshot.sites.get_mut(&site) {
            facts.allocated += objects;
        }
        for point in &mut self.evidence.history {
            let slices = (point.at_ns - START) / slice.max(1);
            let born = (1..).zip(births).take_while(|(index, _)| *index <= slices);
            let so_far: u64 = born.map(|(_, count)| count).sum();
            *point.outstanding.entry(site).or_default() += so_far;
        }
        self
    }

    /// All of it is scaled up from one object in `each`.
    pub(crate) fn sampled(&mut self, each: u64) -> &mut Self {
        let snapshot = &mut self.evidence.snapshot;
        snapshot.scale = each;
        snapshot.sites.values_mut().for_each(|facts| facts.scale = each);
        self.evidence.sampling = Some(Sampling {
            fraction: 1.0 / each as f64,
            since_s: 1.0,
            reason: "it cost too much".to_owned(),
        });
        self
    }

    /// By slabinfo a cache grew by so many.
    pub(crate) fn slab(&mut self, cache: &str, growth: i64) -> &mut Self {
        let count = |active_objects| SlabCount { active_objects, objects_per_slab: 16 };
        let before = 1_000_000_u64;
        self.evidence.slab_before.insert(cache.to_owned(), count(before));
        let after = before.saturating_add_signed(growth);
        self.evidence.slab_after.insert(cache.to_owned(), count(after));
        self
    }
}
