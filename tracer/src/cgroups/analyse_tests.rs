use serde_json::Value;

use super::*;
use crate::{
    cgroups::{
        census::Group,
        sample::{self, census},
    },
    host::memcg::MemoryStat,
    report::{json, schema},
};

const SCHEMA_TEXT: &str = include_str!("../../../schema/kleak.cgroups-1.schema.json");

fn mib(bytes: Option<u64>) -> Option<u64> {
    bytes.map(|bytes| bytes >> 20)
}

#[test]
fn who_made_what_and_what_became_of_it() {
    let report = analyse(&sample::piling_up(), None);
    let row = &report.creators[0];
    assert_eq!((row.created, row.live, row.dying, row.released), (40, 10, 20, 10));
    assert_eq!((row.removed, row.processes, row.owner.pid), (30, Some(2), None));
    assert_eq!(report.cgroups.dying_seen, Some(20));
    assert_eq!(report.cgroups.oldest_dying_s, Some(13.0));
    assert_eq!(report.dying.len(), 20);
    assert_eq!(report.dying[0].lived_s, Some(2.0));
    assert_eq!(report.dying[0].charged_bytes, Some(1 << 20));
    let life = report.life.unwrap();
    assert_eq!((life.created, life.dying_mean_s), (40, Some(1.0)));
    assert!((life.created_per_s - 2.0).abs() < 1e-9);
    assert!(report.alarm, "20 more dying in 20 s");
}

#[test]
fn what_is_below_the_dead_counts_for_the_nearest_that_lives() {
    let report = analyse(&sample::piling_up(), None);
    let row = report.parents.iter().find(|row| row.path == "/pods").unwrap();
    assert_eq!((row.live, row.created, row.removed), (1, Some(40), Some(30)));
    assert_eq!((row.dying, row.dying_seen), (None, Some(20)));
}

#[test]
fn version_1_tells_what_the_dying_hold() {
    let report = analyse(&sample::piling_up(), None);
    // /pods: 108 in all, none its own, 8 of the child that is there; / adds nothing.
    let held = report.held.unwrap();
    assert_eq!(mib(held.charges.shmem_bytes), Some(100));
    assert_eq!(mib(held.charges.file_bytes), Some(25));
    assert!(!held.with_parents_own);
    let row = report.parents.iter().find(|row| row.path == "/pods").unwrap();
    assert_eq!(mib(row.held.unwrap().shmem_bytes), Some(100));
    let mut unread = sample::piling_up();
    unread.after.groups.get_mut("/pods/a").unwrap().charges = None;
    assert_eq!(analyse(&unread, None).held, None, "one that could not be read");
    // One that was removed while the charges were read is dying by now.
    unread.after.groups.get_mut("/pods/a").unwrap().memory = false;
    let held = analyse(&unread, None).held.unwrap();
    assert_eq!(mib(held.charges.shmem_bytes), Some(108));
}

/// As version 2 has it: every cgroup says how many are dying below it, none what is its own.
fn version_2() -> CgroupsSnapshot {
    let mut snapshot = sample::piling_up();
    snapshot.version = MemoryVersion::V2;
    let below: HashMap<&str, u64> =
        HashMap::from([("/", 25), ("/system.slice", 0), ("/pods", 24), ("/pods/a", 4)]);
    for (path, group) in &mut snapshot.after.groups {
        group.dying_below = below.get(path.as_str()).copied();
        group.charges = group.charges.map(|stat| MemoryStat { own: None, ..stat });
    }
    snapshot
}

#[test]
fn version_2_tells_below_which_they_are_dying() {
    let report = analyse(&version_2(), None);
    let dying: Vec<_> = report.parents.iter().map(|row| (row.path.as_str(), row.dying)).collect();
    assert_eq!(dying, [("/pods", Some(20)), ("/pods/a", Some(4)), ("/", Some(1))]);
    let held = report.held.unwrap();
    assert!(held.with_parents_own);
    // 100 below /pods, 8 at or below /pods/a; the root's are unknown.
    assert_eq!(mib(held.charges.shmem_bytes), Some(108));
    assert_eq!(report.parents[2].held, None);
}

#[test]
fn the_dying_use_ids_only_for_what_is_swapped_out() {
    let mut snapshot = sample::piling_up();
    let used = |snapshot: &CgroupsSnapshot| {
        let limit = analyse(snapshot, None).limit;
        (limit.used_at_least, limit.used_at_most)
    };
    assert_eq!(used(&snapshot), (4, Some(4)));
    snapshot.swap_used_bytes = Some(4096);
    assert_eq!(used(&snapshot), (4, Some(29)));
    snapshot.swap_used_bytes = Some(0);
    snapshot.host.kernel = "3.10.0-957.el7.x86_64".into();
    assert_eq!(used(&snapshot), (4, Some(29)), "up to 4.7 they keep them");
    snapshot.host.kernel = "linux".into();
    assert_eq!(used(&snapshot), (4, Some(29)), "an unknown version is not relied on");
    snapshot.after.dying = None;
    assert_eq!(used(&snapshot), (4, None));
}

#[test]
fn version_2_has_cgroups_without_an_id() {
    let mut snapshot = version_2();
    snapshot.after.groups.get_mut("/pods/a").unwrap().memory = false;
    let limit = analyse(&snapshot, None).limit;
    // The controller may be on without its files being there.
    assert_eq!((limit.used_at_least, limit.used_at_most), (3, Some(4)));
    snapshot.after.memory = Some(3);
    let limit = analyse(&snapshot, None).limit;
    assert_eq!((limit.used_at_least, limit.used_at_most), (3, Some(3)));
}

#[test]
fn the_limit_is_reached_when_ids_grow() {
    let mut snapshot = sample::piling_up();
    assert_eq!(analyse(&snapshot, None).limit.reached_in_s, None);
    for id in 1000..1100 {
        let group = Group { id, memory: true, ..Group::default() };
        snapshot.after.groups.insert(format!("/pods/n{id}"), group);
    }
    let report = analyse(&snapshot, None);
    // 100 in 20 s, 65,431 left.
    assert_eq!(report.limit.reached_in_s, Some(13_086));
    assert!(report.summary.contains("mkdir fails in 3 h 38 min"), "{}", report.summary);
    for id in 2000..70_000 {
        snapshot
            .after
            .groups
            .insert(format!("/pods/m{id}"), Group { id, memory: true, ..Group::default() });
    }
    let report = analyse(&snapshot, None);
    assert!(report.summary.contains("mkdir fails with \"No space left"), "{}", report.summary);
    assert!(report.alarm);
}

#[test]
fn without_events_the_books_still_tell() {
    let report = analyse(&sample::without_bpf(), None);
    assert_eq!((report.cgroups.live, report.cgroups.dying), (4, Some(0)));
    assert_eq!((report.life, report.loss, report.cgroups.dying_seen), (None, None, None));
    assert!(report.creators.is_empty() && !report.alarm);
    assert!(report.notes[0].contains("needs root"), "{:?}", report.notes);
    assert_eq!(report.limit.growth_per_s, None);
}

#[test]
fn rows_are_bounded_and_the_sums_are_not() {
    let report = analyse(&sample::piling_up(), Some(3));
    assert_eq!((report.dying.len(), report.cgroups.dying_seen), (3, Some(20)));
}

#[test]
fn the_schema_holds_and_explains_every_field() {
    let schema = schema::validator(SCHEMA_TEXT);
    schema::explains_every_field(SCHEMA_TEXT);
    let mut snapshots = sample::all().to_vec();
    snapshots.push(version_2());
    for snapshot in snapshots {
        let report = analyse(&snapshot, None);
        let mut out = Vec::new();
        json::write_pretty(&report, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
        let value: Value = serde_json::from_str(&text).unwrap();
        let errors: Vec<String> =
            schema.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path)).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        assert_eq!(serde_json::from_str::<CgroupsReport>(&text).unwrap(), report);
    }
}

#[test]
fn the_schema_rejects_what_is_broken() {
    let schema = schema::validator(SCHEMA_TEXT);
    let good = serde_json::to_value(analyse(&sample::piling_up(), None)).unwrap();
    assert!(schema.is_valid(&good));
    for key in good.as_object().unwrap().keys() {
        let mut report = good.clone();
        report.as_object_mut().unwrap().remove(key);
        assert!(!schema.is_valid(&report), "a report without `{key}` was accepted");
    }
    for part in
        ["", "/cgroups", "/limit", "/life", "/creators/0", "/parents/0", "/dying/0", "/held"]
    {
        let mut report = good.clone();
        let object = report.pointer_mut(part).unwrap().as_object_mut().unwrap();
        object.insert("extra".into(), Value::Null);
        assert!(!schema.is_valid(&report), "an unknown field of `{part}` was accepted");
    }
}

#[test]
fn what_is_gone_is_below_something_that_is_there() {
    let census = census(0);
    assert_eq!(census.nearest("/pods/gone/c"), "/pods");
    assert_eq!(census.nearest("/pods/a"), "/pods/a");
    assert_eq!(census.nearest("relative"), "/");
}
