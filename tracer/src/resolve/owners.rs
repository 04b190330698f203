//! From a site to its owner: a live process by /proc, one that has exited by what the kernel side
//! remembered, an interrupt by its kind.

use hashbrown::HashMap;
use kleak_common::{Process, ProcessKey, Site, context};

use super::{
    cgroup_path::{self, CgroupNames},
    cgroups::Cgroups,
    containers::Containers,
};
use crate::{
    host::{Host, cgroup::CgroupLayout, process},
    report::Owner,
    snapshot::Snapshot,
};

/// The owner of each site of a snapshot.
pub fn of_sites(
    snapshot: &Snapshot,
    host: &Host,
    layout: &CgroupLayout,
    cgroups: &mut Cgroups,
    containers: &mut Containers,
) -> HashMap<u64, Owner> {
    let mut seen: HashMap<ProcessKey, Identity> = HashMap::new();
    let homes = homes(snapshot, host, layout, cgroups);
    containers.make_sure(host, homes.values().map(|home| &home.names));
    snapshot
        .sites
        .iter()
        .map(|(&key, facts)| {
            let site = &facts.site;
            let owner = match site.context {
                context::SOFTIRQ => nobody("softirq"),
                context::HARDIRQ => nobody("hardirq"),
                _ => {
                    let process = ProcessKey { start_ns: site.start_ns, tgid: site.tgid, _pad: 0 };
                    let identity = seen.entry(process).or_insert_with(|| {
                        identify(process, snapshot.processes.get(&process), host)
                    });
                    let removed = cgroups.removed(site.cgroup, host, layout);
                    let home = homes.get(&site.cgroup);
                    let owner = home.map(|home| owner_in(home, containers)).unwrap_or_default();
                    of_process(site, identity, owner, removed)
                }
            };
            (key, owner)
        })
        .collect()
}

/// The owner of memory that nobody can be named for.
fn nobody(kind: &str) -> Owner {
    Owner { kind: kind.to_owned(), ..Owner::default() }
}

/// A cgroup, and what its path says.
pub(crate) struct Home {
    path: String,
    pub(crate) names: CgroupNames,
}

impl Home {
    pub(crate) fn of(path: String) -> Self {
        Self { names: cgroup_path::parse(&path), path }
    }
}

/// The cgroups of all processes of a snapshot, by id.
fn homes(
    snapshot: &Snapshot,
    host: &Host,
    layout: &CgroupLayout,
    cgroups: &mut Cgroups,
) -> HashMap<u64, Home> {
    let mut homes = HashMap::new();
    for facts in snapshot.sites.values() {
        let (id, context) = (facts.site.cgroup, facts.site.context);
        if matches!(context, context::SOFTIRQ | context::HARDIRQ) || homes.contains_key(&id) {
            continue;
        }
        if let Some(path) = cgroups.path(id, host, layout) {
            homes.insert(id, Home::of(path));
        }
    }
    homes
}

/// What is known of an owner by its cgroup. A name that is not known is the id's.
pub(crate) fn owner_in(home: &Home, containers: &Containers) -> Owner {
    let Home { path, names } = home;
    let called = containers.names(names);
    let (namespace, pod) = called.pod.map(|pod| (pod.namespace, pod.name)).unzip();
    Owner {
        cgroup: Some(path.clone()),
        unit: names.unit.clone(),
        pod: pod.or_else(|| names.pod_uid.clone()),
        namespace,
        container: called.container.or_else(|| names.container_id.clone()),
        pod_uid: names.pod_uid.clone(),
        container_id: names.container_id.clone(),
        ..Owner::default()
    }
}

fn of_process(
    site: &Site,
    identity: &Identity,
    owner: Owner,
    cgroup_removed: Option<bool>,
) -> Owner {
    Owner {
        kind: if site.context == context::KTHREAD { "kthread" } else { "process" }.to_owned(),
        pid: Some(site.tgid),
        comm: identity.comm.clone(),
        exited: identity.exited,
        cgroup_removed,
        ..owner
    }
}

/// What a process is called, and whether it still runs.
struct Identity {
    comm: Option<String>,
    exited: Option<bool>,
}

fn identify(key: ProcessKey, remembered: Option<&Process>, host: &Host) -> Identity {
    let recalled = remembered
        .map(|process| crate::probe::comm_text(&process.comm))
        .filter(|comm| !comm.is_empty());
    if remembered.is_some_and(|process| process.exited != 0) {
        return Identity { comm: recalled, exited: Some(true) };
    }
    // Without BTF there is no start time, and a pid alone does not tell who it was.
    if key.start_ns == 0 {
        return Identity { comm: recalled, exited: None };
    }
    match process::live(host, key.tgid, key.start_ns) {
        Ok(true) => {
            // A name set after the first allocation is only in /proc.
            let now = process::comm(host, key.tgid)
                .ok()
                .map(|comm| String::from_utf8_lossy(&comm).into_owned())
                .filter(|comm| !comm.is_empty());
            Identity { comm: now.or(recalled), exited: Some(false) }
        }
        Ok(false) => Identity { comm: recalled, exited: Some(true) },
        Err(_) => Identity { comm: recalled, exited: None },
    }
}
