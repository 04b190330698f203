//! Evidence to record, and files made of it.

use std::{io::Cursor, path::Path};

use hashbrown::HashMap;
use kleak_common::{Site, kind};
use proptest::prelude::{Just, Strategy, any, prop};

use super::{
    Frame, Kind, ReadError, Recording, Settings, encode,
    format::{Body, Head, SCHEMA},
    frame,
};
use crate::{
    analyse::{
        Evidence, Point, SlabCount,
        testing::{START, World, even, kind as owner_kind, process},
    },
    report::{Cgroups, Command, Cost, Frames, Loss, Mode, Owner, Sampling, frames},
    snapshot::{Group, GroupKey, SiteFacts},
};

/// The instant at which a window of so many seconds ends, and what is there then: kubelet leaks messages,
/// coredns holds some, softirqs and pages are about, and so is a hostile name.
pub(super) fn incident(seconds: u64) -> Evidence {
    let mut world = World::new(seconds);
    let kubelet = world.site(process(1165, "kubelet"));
    world.left_by(kubelet, (3, 800), even(50, 0..20)).left_by(kubelet, (-1, 0), even(450, 0..20));
    let pod = Owner {
        cgroup: Some("/kubepods.slice/pod1".to_owned()),
        unit: None,
        pod: Some("coredns-5d78c9869d-x2x7k".to_owned()),
        namespace: Some("kube-system".to_owned()),
        pod_uid: Some("0d9f".to_owned()),
        container: Some("coredns".to_owned()),
        ..process(20417, "coredns")
    };
    let coredns = world.site_of(pod, 5_000_000_000, 1024, "kmalloc-1k");
    world.left(coredns, even(20, 18..20), 9000, 40);
    let softirq = world.site(owner_kind("softirq"));
    world.left(softirq, even(3, 0..4), 100, 0);
    let hostile = world.site(process(7, "\u{1b}[31m<b>\n\"x\""));
    world.left(hostile, even(1, 0..20), 0, 0);
    let pages = world.site_of(process(30, "pipes"), 30, 4096, "page order-0 unmovable (slab)");
    world.left(pages, even(2, 0..10), 5, 0).slab("kmalloc-512", 10_072).slab("kmalloc-1k", 40);
    let mut evidence = world.evidence;
    let snapshot = &mut evidence.snapshot;
    if let Some(facts) = snapshot.sites.get_mut(&pages) {
        facts.site.kind = kind::PAGE;
        facts.site.call_site = 0xff40;
    }
    // Two user stacks with the frames of one.
    let group =
        Group { objects: 7, requested: 7 * 900, births: even(7, 9..10), ..Group::default() };
    for user_stack in [4, 9] {
        let key = GroupKey { site: coredns, kernel_stack: 8, user_stack };
        snapshot.groups.insert(key, Group { oldest_ns: START + 9 * seconds * 50_000_000, ..group });
        evidence
            .user_stacks
            .insert((coredns, user_stack), frames(["os.(*File).Open", "main.main"]));
    }
    snapshot.groups.insert(
        GroupKey { site: 0, kernel_stack: -14, user_stack: -1 },
        Group { objects: 2, requested: 99, births: even(1, 0..2), ..Group::default() },
    );
    evidence.kernel_stacks.insert(3, frames(["__kmalloc_noprof", "load_msg", "do_msgsnd"]));
    evidence.kernel_stacks.insert(8, frames(["kernfs_fop_open", "do_dentry_open"]));
    evidence.kernel_stacks.insert(77, frames(["of no group"]));
    evidence.call_sites.insert(0xff40, "alloc_pages_noprof".to_owned());
    evidence.filter.size_classes = vec![512, 1024];
    evidence.filter.kinds = vec!["kmalloc".to_owned(), "page".to_owned()];
    evidence.filter.by = "process".to_owned();
    evidence.filter.stacks = "auto".to_owned();
    evidence.aliases.insert("kmalloc-512".to_owned(), vec!["pool_workqueue".to_owned()]);
    evidence.aliases.insert("biovec-max".to_owned(), vec!["not named here".to_owned()]);
    evidence.queued.insert("kmalloc-512".to_owned(), 12);
    evidence.older_frees = Some(HashMap::from([("kmalloc-512".to_owned(), 3)]));
    evidence.cost = Cost {
        events: 123_456,
        bpf_ns_per_event: Some(301.1),
        measured_s: 0.123_456_789,
        map_bytes: 1 << 26,
        ..Cost::default()
    };
    evidence.notes.push("a note of the run".to_owned());
    evidence
}

/// What analysing is to be shown to give the same of.
pub(super) fn arbitrary() -> impl Strategy<Value = Evidence> {
    let counts = || any::<u64>().prop_map(|count| count >> (count % 64));
    let birth = prop::array::uniform20(prop::sample::select(vec![0_u64, 0, 1, 5, 100, 1 << 40]));
    let group = (0..9_u64, -20..5_i32, -2..3_i32, birth, counts(), counts(), any::<Option<u32>>());
    let groups = prop::collection::vec(group, 0..16);
    let site =
        (0..9_u64, (0..4_u8, 0..4_u8, 0..2_u8), 0..4_u32, 0..5_u64, counts(), counts(), 0..8_u8);
    let sites = prop::collection::vec(site, 0..10);
    let points = prop::collection::vec(
        (any::<u32>(), prop::collection::vec((0..11_u64, counts()), 0..8)),
        0..8,
    );
    let name = || "(kmalloc-(512|1k|cg-2k)|dentry|[a-z\u{1b}\"<;]{0,4})";
    let names = prop::collection::vec(name(), 8);
    let slabs = prop::collection::vec((name(), counts(), counts(), 0..3_u8), 0..5);
    let owners = prop::collection::vec(owner(), 6);
    let stacks =
        prop::collection::vec(prop::collection::vec("[a-c]{1,2}|0xffff8[0-9]{2}", 0..4), 6);
    let window = prop::sample::select(vec![0_u64, 1, 3, 20, 3600, 1 << 25]);
    let rest = (extras(), any::<u64>(), window, slabs);
    (groups, sites, points, names, owners, stacks, rest).prop_map(
        |(groups, sites, points, names, owners, stacks, (extras, seed, window, slabs))| {
            let mut evidence = World::new(window).evidence;
            let key = |place: u64| if place == 0 { 0 } else { place.wrapping_mul(seed | 1) };
            let at = |place: u64| usize::try_from(place).unwrap();
            for (place, (context, kind, family), tgid, function, allocated, reused, named) in sites
            {
                let site = Site {
                    context,
                    kind,
                    family,
                    tgid,
                    call_site: function.wrapping_mul(0xffff_8000_0000_1234),
                    start_ns: u64::from(tgid) * 7,
                    size: [0, 8, 512, 8192][at(allocated % 4)],
                    ..Site::default()
                };
                let facts =
                    SiteFacts { site, allocated, untracked: reused / 3, reused, scale: reused % 5 };
                evidence.snapshot.sites.insert(key(place), facts);
                if named & 1 > 0 {
                    evidence.owners.insert(key(place), owners[at(place % 6)].clone());
                }
                if named & 2 > 0 {
                    evidence.cache_names.insert(key(place), names[at(place % 8)].clone());
                }
                if named & 4 > 0 {
                    evidence.call_sites.insert(site.call_site, names[at(function)].clone());
                }
            }
            for (place, kernel_stack, user_stack, births, requested, weight, oldest) in groups {
                let group = GroupKey { site: key(place), kernel_stack, user_stack };
                let oldest_ns = oldest.map_or(u64::MAX, |at| START - 1000 + u64::from(at));
                let objects = births.iter().sum();
                let counts = Group { objects, requested, weight, oldest_ns, births };
                evidence.snapshot.groups.insert(group, counts);
                let frames: Frames =
                    frames(&stacks[at(u64::from(kernel_stack.unsigned_abs()) % 6)]);
                if kernel_stack > 0 {
                    evidence.kernel_stacks.insert(kernel_stack, frames);
                } else if user_stack > 0 {
                    evidence.user_stacks.insert((key(place), user_stack), frames);
                }
            }
            for (after, counts) in points {
                let outstanding =
                    counts.into_iter().map(|(place, count)| (key(place), count)).collect();
                evidence
                    .history
                    .push(Point { at_ns: START - 1000 + u64::from(after), outstanding });
            }
            for (name, active_objects, objects_per_slab, when) in slabs {
                let count = SlabCount { active_objects, objects_per_slab };
                if when != 1 {
                    evidence.slab_before.insert(name.clone(), count);
                }
                if when != 2 {
                    evidence.slab_after.insert(name.clone(), count);
                }
                evidence.aliases.insert(name.clone(), names.clone());
                evidence.queued.insert(name, active_objects / 7);
            }
            evidence.older_frees = (seed % 2 == 0).then(|| evidence.queued.clone());
            let (loss, cost, mode, cgroups, sampling, command, min_age, figures) = extras;
            evidence.loss = loss;
            evidence.cost = cost;
            evidence.mode = mode;
            evidence.cgroups = cgroups;
            evidence.sampling = sampling;
            evidence.command = command;
            evidence.filter.min_age_s = min_age;
            (evidence.percpu_growth_bytes, evidence.mem_available_bytes, evidence.cpus) = figures;
            evidence.snapshot.scale = seed % 9;
            evidence.notes = names;
            evidence
        },
    )
}

type Extras = (
    Loss,
    Cost,
    Mode,
    Cgroups,
    Option<Sampling>,
    Option<Command>,
    f64,
    (Option<i64>, Option<u64>, u32),
);

fn extras() -> impl Strategy<Value = Extras> {
    let float = || prop::num::f64::POSITIVE | prop::num::f64::ZERO;
    let loss = prop::array::uniform10(any::<Option<u64>>()).prop_map(|counts| Loss {
        untracked_objects: counts[0].unwrap_or(0),
        missed_events: counts[1],
        failed_updates: counts[2].unwrap_or(0),
        missed_frees_detected: counts[3].unwrap_or(0),
        frees_of_older_objects: counts[4],
        unmatched_frees: counts[5].unwrap_or(0),
        lost_stacks: counts[6].unwrap_or(0),
        lost_owners: counts[7].unwrap_or(0),
        lost_cgroup_events: counts[8].unwrap_or(0),
        failed_reads: counts[9].unwrap_or(0),
    });
    let cost = (any::<(u64, Option<u64>, Option<u64>, u64)>(), prop::array::uniform5(float()));
    let cost = cost.prop_map(|((events, bpf_runs, user_rss_bytes, map_bytes), floats)| Cost {
        events,
        bpf_ns_per_event: Some(floats[0]),
        bpf_runs,
        bpf_cpu_share: Some(floats[1]).filter(|share| *share < 1e9),
        user_cpu_share: Some(floats[2]),
        recent_cpu_share: Some(floats[3]),
        measured_s: floats[4],
        user_rss_bytes,
        map_bytes,
    });
    let mode = ("trampolines|kprobes|tracepoints", prop::option::of(".{0,5}"), "address|flags");
    let mode = mode.prop_map(|(frees, obstacle, caches)| Mode { frees, obstacle, caches });
    let cgroups = (any::<(u64, u64, u64, Option<u64>)>(), prop::option::of(float()));
    let cgroups = cgroups.prop_map(|((created, removed, released, dying), oldest_dying_s)| {
        Cgroups { created, removed, released, dying, oldest_dying_s }
    });
    let sampling = (float(), float(), ".{0,9}").prop_map(|(fraction, since_s, reason)| Sampling {
        fraction,
        since_s,
        reason,
    });
    let command = (prop::collection::vec(".{0,3}", 0..3), any::<(u32, Option<i32>, Option<i32>)>())
        .prop_map(|(argv, (pid, exit_status, signal))| Command { argv, pid, exit_status, signal });
    let min_age = prop::sample::select(vec![0.0, 0.1, 1.0, 1e9]);
    (
        loss,
        cost,
        mode,
        cgroups,
        prop::option::of(sampling),
        prop::option::of(command),
        min_age,
        any::<(Option<i64>, Option<u64>, u32)>(),
    )
}

fn owner() -> impl Strategy<Value = Owner> {
    let kind = "process|kthread|softirq|hardirq|unknown";
    let texts = prop::collection::vec(prop::option::of("[a-c/]{0,2}|.{0,3}"), 8);
    let rest = any::<(Option<u32>, Option<bool>, Option<bool>)>();
    (kind, texts, rest, Just(())).prop_map(|(kind, texts, (pid, exited, cgroup_removed), ())| {
        Owner {
            kind,
            pid,
            comm: texts[0].clone(),
            exited,
            cgroup: texts[1].clone(),
            cgroup_removed,
            unit: texts[2].clone(),
            pod: texts[3].clone(),
            namespace: texts[4].clone(),
            container: texts[5].clone(),
            pod_uid: texts[6].clone(),
            container_id: texts[7].clone(),
        }
    })
}

pub(super) fn head(sequence: u64, kind: Kind, evidence: &Evidence) -> Head {
    let window_ns = evidence.snapshot.at_ns - evidence.snapshot.start_ns;
    Head {
        schema: SCHEMA.to_owned(),
        sequence,
        kind,
        window_s: window_ns as f64 / 1e9,
        taken: "2026-11-21T21:00:00.000Z".to_owned(),
        kleak: "0.1.0".to_owned(),
    }
}

pub(super) fn body(evidence: &Evidence) -> Body {
    encode::body(evidence, &Settings::default()).unwrap()
}

/// A file of these frames.
pub(super) fn file(frames: &[(Kind, Evidence)]) -> Vec<u8> {
    let mut file = frame::title("0.1.0");
    for (sequence, (kind, evidence)) in (1..).zip(frames) {
        file.extend(frame::pack(&head(sequence, *kind, evidence), &body(evidence)).unwrap());
    }
    file
}

/// What is in a file.
pub(super) fn read(file: &[u8]) -> Result<(Recording, Frame), ReadError> {
    let mut recording = Recording::read(Cursor::new(file.to_vec()), Path::new("run.kleak"))?;
    let frame = recording.last()?;
    Ok((recording, frame))
}
