//! Snapshots to test with: a version 1 hierarchy with two pods, of which kubelet's runtime makes
//! and leaves containers.

use hashbrown::HashMap;
use kleak_common::ProcessKey;

use super::{
    census::{Census, Group},
    life::Life,
    snapshot::{CgroupsSnapshot, Watched},
};
use crate::{
    host::{
        cgroup::MemoryVersion,
        memcg::{Charges, MemoryStat},
    },
    probe::{Actor, CgroupChange, ChangeKind},
    report::{Host, Owner},
};

pub(crate) const SECOND: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

pub(crate) fn event(kind: ChangeKind, id: u64, path: &str, at_s: u64, tgid: u32) -> CgroupChange {
    CgroupChange {
        id,
        kind,
        at_ns: at_s * SECOND,
        path: path.to_owned(),
        path_cut: false,
        counted: true,
        actor: Actor {
            process: ProcessKey { start_ns: u64::from(tgid), tgid, _pad: 0 },
            comm: "runc".to_owned(),
            cgroup: 2,
        },
        charged_pages: Some(256),
    }
}

fn charges(own: u64, all: u64) -> MemoryStat {
    let of = |mib: u64| Charges {
        anon_bytes: Some(0),
        file_bytes: Some(mib * MIB / 4),
        shmem_bytes: Some(mib * MIB),
        swap_bytes: Some(0),
        kernel_bytes: None,
    };
    MemoryStat { with_descendants: of(all), own: Some(of(own)) }
}

pub(crate) fn census(dying: u64) -> Census {
    let group = |id, stat| Group { id, memory: true, dying_below: None, charges: Some(stat) };
    Census {
        groups: HashMap::from([
            ("/".to_owned(), group(1, charges(1, 111))),
            ("/system.slice".to_owned(), group(2, charges(2, 2))),
            ("/pods".to_owned(), group(3, charges(0, 108))),
            ("/pods/a".to_owned(), group(4, charges(8, 8))),
        ]),
        dying: Some(dying),
        ..Census::default()
    }
}

/// 40 containers made below `/pods`, 30 of them removed, 10 of these gone.
pub(crate) fn piling_up() -> CgroupsSnapshot {
    let mut life = Life::default();
    for id in 100..140 {
        life.apply(&event(ChangeKind::Created, id, &format!("/pods/p{id}/c"), 10, 50));
    }
    for id in 100..130 {
        life.apply(&event(ChangeKind::Removed, id, &format!("/pods/p{id}/c"), 12, 51));
    }
    for id in 100..110 {
        life.apply(&event(ChangeKind::Released, id, &format!("/pods/p{id}/c"), 13, 2));
    }
    let runc = Owner {
        kind: "process".into(),
        comm: Some("runc".into()),
        cgroup: Some("/system.slice/containerd.service".into()),
        cgroup_removed: Some(false),
        unit: Some("containerd.service".into()),
        ..Owner::default()
    };
    CgroupsSnapshot {
        host: Host {
            kernel: "6.12.107".into(),
            machine: "x86_64".into(),
            cgroup: Some("v1".into()),
            hostname: "node7".into(),
        },
        version: MemoryVersion::V1,
        mount: "/sys/fs/cgroup/memory".into(),
        start_ns: 5 * SECOND,
        at_ns: 25 * SECOND,
        before: census(5),
        after: census(25),
        charges_read: true,
        watched: Ok(Watched {
            counts: [40, 30, 10],
            owners: vec![runc],
            missed_events: Some(0),
            map_bytes: 1 << 20,
            life,
            ..Watched::default()
        }),
        swap_used_bytes: Some(0),
        page_bytes: 4096,
    }
}

/// Nothing happens, and nobody may look.
pub(crate) fn without_bpf() -> CgroupsSnapshot {
    let mut snapshot = piling_up();
    snapshot.before = census(0);
    snapshot.after = census(0);
    snapshot.watched = Err("loading BPF programs needs root".into());
    snapshot.at_ns = snapshot.start_ns;
    snapshot
}

/// Names that try to break the output, numbers that know no bounds.
pub(crate) fn hostile() -> CgroupsSnapshot {
    let nasty = "a\n;\u{1b}[31mx\u{202e}";
    let mut snapshot = piling_up();
    snapshot.mount = nasty.into();
    snapshot.host.hostname = nasty.into();
    snapshot.after.groups.insert(format!("/{}", nasty.repeat(30)), Group::default());
    snapshot.after.dying = Some(u64::MAX);
    snapshot.swap_used_bytes = None;
    if let Ok(watched) = &mut snapshot.watched {
        for id in 200..220 {
            let path = format!("/{nasty}/{}", "x".repeat(100));
            let mut made = event(ChangeKind::Created, id, &path, 6, u32::try_from(id).unwrap());
            made.actor.comm = format!("{nasty}{id}");
            made.charged_pages = Some(u64::MAX - 1);
            watched.life.apply(&made);
            watched.life.apply(&CgroupChange { kind: ChangeKind::Removed, ..made });
            watched.owners.push(Owner {
                kind: "process".into(),
                pid: Some(u32::MAX),
                comm: Some(nasty.into()),
                cgroup: Some(nasty.repeat(30)),
                exited: Some(true),
                ..Owner::default()
            });
        }
        watched.counts = [u64::MAX; 3];
        watched.lost_events = u64::MAX;
        watched.missed_events = None;
        watched.failed_reads = 1;
    }
    snapshot
}

pub(crate) fn all() -> [CgroupsSnapshot; 3] {
    [piling_up(), without_bpf(), hostile()]
}
