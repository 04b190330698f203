use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::analyse::By;
use crate::report::{Owner, Sampling, frames, profile::Sample, sample, sanitize, schema};

const SCHEMA_TEXT: &str = include_str!("../../../schema/kleak.diff-1.schema.json");

/// A recording: a report and its profile.
#[derive(Clone)]
struct Recorded {
    report: Report,
    profile: Profile,
}

impl Recorded {
    fn of(samples: Vec<Sample>) -> Self {
        Self { report: sample::nothing(), profile: Profile { samples, ..Profile::default() } }
    }

    fn exhibit(&self) -> Exhibit<'_> {
        Exhibit { report: &self.report, profile: &self.profile }
    }
}

fn held(owner: Owner, cache: &str, kernel: &[&str], objects: u64) -> Sample {
    Sample {
        owner: owner.into(),
        cache: cache.into(),
        kernel: frames(kernel),
        outstanding_objects: objects,
        outstanding_bytes: objects * 512,
        allocated_objects: objects,
        allocated_bytes: objects * 512,
        ..Sample::default()
    }
}

const MESSAGES: [&str; 4] = ["__kmalloc_noprof", "load_msg", "do_msgsnd", "__x64_sys_msgsnd"];
const FILES: [&str; 3] = ["__kmalloc_cache_noprof", "kernfs_fop_open", "do_dentry_open"];

fn kubelet(objects: u64) -> Sample {
    held(sample::kubelet(), "kmalloc-512", &MESSAGES, objects)
}

fn worker(objects: u64) -> Sample {
    held(sample::pod_worker(), "kmalloc-512", &FILES, objects)
}

/// A quiet node, and one on which kubelet leaks: started again, in a longer window, on a kernel of another
/// build.
fn incident() -> (Recorded, Recorded) {
    let softirq = || Owner { kind: "softirq".into(), ..Owner::default() };
    let named = |comm: &str| Owner { comm: Some(comm.into()), ..sample::kubelet() };
    let before = Recorded::of(vec![
        kubelet(1000),
        worker(402),
        held(softirq(), "kmalloc-512", &["sock_alloc"], 40),
        held(named("systemd"), "kmalloc-512", &FILES, 900),
        held(named("cron"), "kmalloc-512", &FILES, 300),
    ]);
    let again = Owner { pid: Some(77), ..sample::kubelet() };
    let pod = Owner {
        pid: Some(78),
        pod: Some("coredns-5d78c9869d-zzzzz".into()),
        container_id: Some("b2".into()),
        ..sample::pod_worker()
    };
    let messages = ["__kmalloc_node", "load_msg.isra.0", "do_msgsnd", "__x64_sys_msgsnd"];
    let mut after = Recorded::of(vec![
        held(again, "kmalloc-512", &messages, 14_231),
        held(pod, "kmalloc-512", &FILES, 810),
        held(softirq(), "kmalloc-512", &["sock_alloc"], 70),
        held(named("cron"), "kmalloc-512", &FILES, 60),
        held(named("mount"), "kmalloc-512", &["alloc_vfsmnt"], 600),
    ]);
    after.report.window_s = 60.0;
    after.profile.samples[1].estimated = true;
    (before, after)
}

fn diff(before: &Recorded, after: &Recorded, by: By) -> Diff {
    compare(&before.exhibit(), &after.exhibit(), by).unwrap()
}

fn text(diff: &Diff) -> String {
    let mut out = Vec::new();
    text::render(diff, &Style::default(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn json(diff: &Diff) -> Value {
    let mut out = Vec::new();
    json::write_pretty(diff, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

/// What became of a program.
fn of<'a>(diff: &'a Diff, name: &str) -> &'a Difference {
    &diff
        .owners
        .iter()
        .find(|row| row.name == name)
        .unwrap_or_else(|| panic!("no {name}"))
        .difference
}

#[test]
fn the_incident() {
    let (before, after) = incident();
    let diff = diff(&before, &after, By::Process);
    insta::assert_snapshot!(text(&diff), @r"
    kubelet (kubelet.service) leaves 6.0 MiB/min more behind in kmalloc-512, through
    load_msg < do_msgsnd < __x64_sys_msgsnd: 6.9 MiB/min, before 1000 KiB/min; 95 %
    of all that grew.

      slab memory: 1.3 MiB in 30 s before, 7.7 MiB in 1 min after

    CHANGE    OWNER    UNIT/POD         CACHE         WAS/MIN   NOW/MIN  MORE/MIN
    grew      kubelet  kubelet.service  kmalloc-512  1000 KiB   6.9 MiB  +6.0 MiB
    appeared  mount    kubelet.service  kmalloc-512       0 B   300 KiB  +300 KiB
    went      systemd  kubelet.service  kmalloc-512   900 KiB       0 B  -900 KiB
    shrank    cron     kubelet.service  kmalloc-512   300 KiB  30.0 KiB  -270 KiB
    … 2 unchanged, 2 of them by less than chance explains

    Code paths
    grew +6.0 MiB/min, kubelet in kmalloc-512: 1000 KiB/min before, 6.9 MiB/min
    after
        load_msg
        do_msgsnd
        __x64_sys_msgsnd

    appeared +300 KiB/min, mount in kmalloc-512: 0 B/min before, 300 KiB/min after
        alloc_vfsmnt

    went -900 KiB/min, systemd in kmalloc-512: 900 KiB/min before, 0 B/min after
        kernfs_fop_open
        do_dentry_open

    shrank -270 KiB/min, cron in kmalloc-512: 300 KiB/min before, 30.0 KiB/min after
        kernfs_fop_open
        do_dentry_open

    What was compared
      before    30 s; node7, Linux 6.12.0 x86_64
      after     1 min; node7, Linux 6.12.0 x86_64
      matched   programs by name and unit, pod or cgroup, never by pid; paths by
                functions; what is left behind by the minute of window; a change is
                one of more than a tenth and three standard errors, by the minute
                and in sum
      note      AFTER is not exact: 5.1 % of the bytes divided among stacks by
                sampling.
    ");
    let changes: Vec<_> =
        diff.owners.iter().map(|row| (row.name.as_str(), row.difference.change)).collect();
    assert_eq!(
        changes,
        [
            ("kubelet", Change::Grew),
            ("mount", Change::Appeared),
            ("systemd", Change::Went),
            ("cron", Change::Shrank),
            ("[softirq]", Change::Unchanged),
            ("coredns", Change::Unchanged),
        ]
    );
    let verdict = &diff.verdict;
    assert!(verdict.worse);
    assert_eq!(verdict.owner.as_ref().unwrap().unit.as_deref(), Some("kubelet.service"));
    // The build's own names do not make another path of it.
    assert_eq!(diff.stacks.iter().filter(|stack| stack.cache == "kmalloc-512").count(), 6);
}

#[test]
fn the_other_way_round_is_its_opposite() {
    let (before, after) = incident();
    let (there, back) = (diff(&before, &after, By::Process), diff(&after, &before, By::Process));
    assert_eq!(there.owners.len(), back.owners.len());
    for row in &there.owners {
        let other = of(&back, &row.name);
        let opposite = match row.difference.change {
            Change::Grew => Change::Shrank,
            Change::Shrank => Change::Grew,
            Change::Appeared => Change::Went,
            Change::Went => Change::Appeared,
            Change::Unchanged => Change::Unchanged,
        };
        assert_eq!(other.change, opposite, "{}", row.name);
        assert!((other.change_bytes_per_s + row.difference.change_bytes_per_s).abs() < 1e-9);
    }
}

#[test]
fn a_recording_is_as_itself() {
    let (before, _) = incident();
    let diff = diff(&before, &before, By::Process);
    assert!(diff.owners.iter().all(|row| row.difference.change == Change::Unchanged));
    assert!(!diff.verdict.worse);
    insta::assert_snapshot!(text(&diff), @r"
    Nothing changed by more than a tenth, or by more than chance explains.

      slab memory: 1.3 MiB in 30 s before, 1.3 MiB in 30 s after
    … 5 unchanged

    What was compared
      before    30 s; node7, Linux 6.12.0 x86_64
      after     30 s; node7, Linux 6.12.0 x86_64
      matched   programs by name and unit, pod or cgroup, never by pid; paths by
                functions; what is left behind by the minute of window; a change is
                one of more than a tenth and three standard errors, by the minute
                and in sum
    ");
}

#[test]
fn what_chance_explains_is_not_claimed() {
    let change = |before: u64, after: u64| {
        let [before, after] = [before, after].map(|objects| Recorded::of(vec![kubelet(objects)]));
        let diff = diff(&before, &after, By::Process);
        (diff.owners[0].difference.change, diff.owners[0].difference.within_noise)
    };
    assert_eq!(change(0, 5), (Change::Unchanged, Some(true)));
    assert_eq!(change(0, 10), (Change::Appeared, Some(false)));
    assert_eq!(change(100, 140), (Change::Unchanged, Some(true)));
    assert_eq!(change(100, 160), (Change::Grew, Some(false)));
    // More than chance, less than a tenth.
    assert_eq!(change(100_000, 105_000), (Change::Unchanged, Some(false)));
    assert_eq!(change(160, 100), (Change::Shrank, Some(false)));
}

/// kubelet's objects in windows of so many seconds.
fn windows(before: (u64, f64), after: (u64, f64)) -> (Recorded, Recorded) {
    let of = |(objects, window_s): (u64, f64)| {
        let mut recorded = Recorded::of(vec![kubelet(objects)]);
        recorded.report.window_s = window_s;
        recorded
    };
    (of(before), of(after))
}

#[test]
fn nothing_in_a_short_window_is_not_certain() {
    let change = |before, after| {
        let (before, after) = windows(before, after);
        diff(&before, &after, By::Process).owners[0].difference.change
    };
    // At one rate, the first window has none at all more often than one time in two.
    assert_eq!(change((0, 30.0), (10, 600.0)), Change::Unchanged);
    assert_eq!(change((10, 600.0), (0, 30.0)), Change::Unchanged);
    assert_eq!(change((0, 30.0), (1000, 600.0)), Change::Appeared);
    assert_eq!(change((0, 600.0), (10, 600.0)), Change::Appeared);
}

#[test]
fn what_is_always_in_flight_does_not_change_with_the_window() {
    let change = |before, after| {
        let (before, after) = windows(before, after);
        let diff = diff(&before, &after, By::Process);
        assert_eq!(diff.verdict.worse, diff.owners[0].difference.change.is_worse());
        diff.owners[0].difference.change
    };
    assert_eq!(change((1000, 60.0), (1000, 30.0)), Change::Unchanged);
    assert_eq!(change((1000, 30.0), (1000, 60.0)), Change::Unchanged);
    // By less than chance and than a tenth explain.
    assert_eq!(change((1000, 60.0), (1050, 30.0)), Change::Unchanged);
    assert_eq!(change((1_000_000, 60.0), (1_090_000, 30.0)), Change::Unchanged);
    assert_eq!(change((1000, 60.0), (5000, 30.0)), Change::Grew);
    assert_eq!(change((5000, 30.0), (1000, 60.0)), Change::Shrank);
}

#[test]
fn an_error_that_nobody_knows_is_not_claimed() {
    let pages = |objects| {
        let pages = held(sample::pod_worker(), "page order-0 unmovable", &["alloc_it"], objects);
        let mut recorded = Recorded::of(vec![pages]);
        recorded.report.filter.kinds = vec!["page".into()];
        recorded
    };
    let (before, mut after) = (pages(100), pages(9000));
    assert!(diff(&before, &after, By::Process).verdict.worse);
    let reason = "kleak takes too much".into();
    after.report.sampling = Some(Sampling { fraction: 0.125, since_s: 0.0, reason });
    let diff = diff(&before, &after, By::Process);
    assert_eq!(of(&diff, "coredns").within_noise, None);
    assert!(!diff.verdict.worse);
    insta::assert_snapshot!(diff.verdict.summary, @"Nothing is known to grow: coredns (kube-system/coredns-*, container coredns) seems to leave 8.7 MiB/min more behind in page order-0 unmovable, but that is scaled up from a part of the pages, and may be far off.");
    let text = text(&diff);
    for part in ["pages: ~50.0 KiB in 30 s before, ~4.4 MiB", "~+8.7 MiB", "~ estimated: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_path_that_is_only_estimated_is_perhaps_the_one() {
    let (before, mut after) = incident();
    after.profile.samples[0].estimated = true;
    let diff = diff(&before, &after, By::Process);
    assert!(
        diff.verdict.summary.contains("in kmalloc-512, perhaps through load_msg < do_msgsnd"),
        "{}",
        diff.verdict.summary
    );
}

#[test]
fn what_is_scaled_up_is_less_certain() {
    let [before, mut after] = [100, 200].map(|objects| Recorded::of(vec![kubelet(objects)]));
    assert_eq!(of(&diff(&before, &after, By::Process), "kubelet").change, Change::Grew);
    let reason = "kleak takes too much".into();
    after.report.sampling = Some(Sampling { fraction: 0.125, since_s: 0.0, reason });
    let diff = diff(&before, &after, By::Process);
    let difference = of(&diff, "kubelet");
    assert_eq!((difference.change, difference.within_noise), (Change::Unchanged, Some(true)));
    assert!(difference.estimated);
    assert!(diff.notes.iter().any(|note| note.contains("AFTER is not exact")), "{:?}", diff.notes);
}

#[test]
fn stacks_that_share_a_sum_have_no_known_error() {
    let (before, after) = incident();
    let diff = diff(&before, &after, By::Process);
    let stack = diff.stacks.iter().find(|stack| stack.owner.comm.as_deref() == Some("coredns"));
    let difference = &stack.unwrap().difference;
    assert_eq!((difference.within_noise, difference.standard_error_bytes_per_s), (None, None));
    assert!(difference.estimated);
    // The sum is exact.
    assert!(of(&diff, "coredns").standard_error_bytes_per_s.is_some());
}

#[test]
fn only_what_both_followed_is_compared() {
    let (mut before, mut after) = incident();
    let kilobyte = held(sample::kubelet(), "kmalloc-1k", &MESSAGES, 5000);
    after.profile.samples.push(kilobyte);
    after.report.filter.size_classes = vec![512, 1024];
    let both = diff(&before, &after, By::Process);
    assert!(both.owners.iter().all(|row| row.cache == "kmalloc-512"), "{:#?}", both.owners);
    assert!(both.notes[0].contains("BEFORE followed kmalloc of 512, AFTER"), "{:?}", both.notes);
    // Followed by both, it appeared.
    before.report.filter.size_classes = vec![512, 1024];
    let both = diff(&before, &after, By::Process);
    assert!(both.owners.iter().any(|row| row.cache == "kmalloc-1k"));
    // Only owners that one asked for.
    after.report.filter.comm = Some("kube*".into());
    let both = diff(&before, &after, By::Process);
    assert!(both.owners.iter().all(|row| row.name == "kubelet"), "{:#?}", both.owners);
    assert!(both.notes.iter().any(|note| note.contains("--comm all, AFTER of kube*")));
}

#[test]
fn one_process_is_not_compared_with_all_of_its_name() {
    let (mut before, mut after) = incident();
    before.report.filter.pid = Some(1165);
    let error = compare(&before.exhibit(), &after.exhibit(), By::Process).unwrap_err();
    assert!(error.to_string().contains("BEFORE is of one process (--pid)"), "{error}");
    after.report.filter.pid = Some(77);
    let both = diff(&before, &after, By::Process);
    assert_eq!(both.notes[0], "BEFORE is of process 1165, AFTER of process 77.");
    before.report.filter.pid = None;
    let error = compare(&before.exhibit(), &after.exhibit(), By::Process).unwrap_err();
    assert!(error.to_string().contains("AFTER is of one process"), "{error}");
}

#[test]
fn classes_that_a_name_chose_are_compared_by_name() {
    let (mut before, mut after) = incident();
    before.report.filter.size_classes.clear();
    before.report.filter.caches = vec!["kmalloc-cg-*".into()];
    after.report.filter.size_classes = vec![8, 512, 4 << 20];
    for (recorded, objects) in [(&mut before, 10), (&mut after, 5000)] {
        let accounted = held(sample::pod_worker(), "kmalloc-cg-512", &FILES, objects);
        recorded.profile.samples.push(accounted);
    }
    let both = diff(&before, &after, By::Cache);
    let caches: Vec<&str> = both.owners.iter().map(|row| row.cache.as_str()).collect();
    assert_eq!(caches, ["kmalloc-cg-512"]);
    // Both, by name and by size.
    before.report.filter.size_classes = vec![512];
    assert_eq!(diff(&before, &after, By::Cache).owners.len(), 2);
}

#[test]
fn nothing_in_common_is_refused() {
    let (mut before, after) = incident();
    before.report.filter.size_classes = vec![1024];
    let error = compare(&before.exhibit(), &after.exhibit(), By::Process).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nothing to compare: BEFORE followed kmalloc of 1024, AFTER kmalloc of 512; trace both with the \
         same --size, --cache and --kind"
    );
    before.report.filter.size_classes = vec![512];
    before.report.filter.kinds = vec!["page".into()];
    assert!(compare(&before.exhibit(), &after.exhibit(), By::Process).is_err());
}

#[test]
fn machines_kernels_and_windows_that_differ_are_told() {
    let (before, mut after) = incident();
    after.report.host.hostname = "node8".into();
    after.report.host.kernel = "6.1.0".into();
    after.report.window_s = 300.0;
    after.report.filter.min_age_s = 5.0;
    let diff = diff(&before, &after, By::Process);
    let perhaps = "Perhaps, as the recordings count from different ages (--min-age): kubelet";
    assert!(diff.verdict.summary.starts_with(perhaps), "{}", diff.verdict.summary);
    let notes = diff.notes.join("\n");
    for part in [
        "two machines: node7 and node8",
        "two kernels, 6.12.0 and 6.1.0",
        "30 s and 5 min",
        "--min-age",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
}

#[test]
fn paths_are_compared_as_far_as_both_have_them() {
    let (mut before, mut after) = incident();
    for sample in &mut after.profile.samples {
        sample.user = frames(["main"]);
    }
    let both = diff(&before, &after, By::Process);
    assert!(both.stacks.iter().all(|stack| stack.user.is_empty()));
    assert!(both.notes.iter().any(|note| note.contains("--user-stacks")));
    before.report.filter.stacks = "off".into();
    for sample in &mut before.profile.samples {
        sample.kernel = sample.kernel.iter().skip(1).take(1).map(Arc::clone).collect();
    }
    let both = diff(&before, &after, By::Process);
    assert!(both.notes.iter().any(|note| note.contains("--stacks off")));
    let kubelet = both.stacks.iter().find(|stack| stack.owner.comm.as_deref() == Some("kubelet"));
    assert_eq!(kubelet.unwrap().difference.change, Change::Grew);
}

#[test]
fn every_grouping_has_the_same_sum() {
    let (before, after) = incident();
    let sum = |diff: &Diff| -> (u64, u64) {
        let rows =
            diff.owners.iter().map(|row| (row.difference.before.bytes, row.difference.after.bytes));
        rows.fold((0, 0), |all, row| (all.0 + row.0, all.1 + row.1))
    };
    for by in [By::Process, By::Cgroup, By::Pod, By::Cache, By::Stack, By::Site] {
        let diff = diff(&before, &after, by);
        let (before, after) = sum(&diff);
        assert_eq!((before, after), (2642 * 512, 15_771 * 512), "{by:?}");
        assert_eq!(diff.totals.len(), 1);
        assert_eq!((diff.totals[0].before.bytes, diff.totals[0].after.bytes), (before, after));
        // Whatever rows stand for, a program is named.
        assert!(diff.verdict.summary.starts_with("kubelet (kubelet.service)"), "{by:?}");
        assert!(diff.owners.iter().all(|row| !row.stacks.is_empty()));
    }
    let by_site = diff(&before, &after, By::Site);
    assert_eq!(by_site.owners[0].name, "load_msg");
    assert_eq!(
        diff(&before, &after, By::Stack).owners[0].name,
        "load_msg < do_msgsnd < __x64_sys_msgsnd"
    );
    assert_eq!(diff(&before, &after, By::Pod).owners.last().unwrap().name, "kube-system/coredns-*");
}

#[test]
fn books_are_not_added_up_and_slab_memory_answers_first() {
    let (mut before, mut after) = incident();
    let pages =
        held(sample::pod_worker(), "page order-3 unmovable (slab)", &["allocate_slab"], 90_000);
    after.profile.samples.push(pages);
    for side in [&mut before, &mut after] {
        side.report.filter.kinds = vec!["kmalloc".into(), "page".into()];
    }
    let diff = diff(&before, &after, By::Process);
    assert_eq!(
        diff.totals.iter().map(|total| total.of).collect::<Vec<_>>(),
        ["slab memory", "pages"]
    );
    assert_eq!(diff.verdict.cache.as_deref(), Some("kmalloc-512"));
    let mut lines = Vec::new();
    picture::folded(&diff, &mut lines).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    assert!(
        lines
            .lines()
            .all(|line| line.starts_with("[slab memory];") || line.starts_with("[pages];"))
    );
}

#[test]
fn what_is_freed_unseen_is_not_blamed() {
    let (before, mut after) = incident();
    after.profile.samples[0].unfollowed_objects = 14_231;
    let unfollowed = diff(&before, &after, By::Process);
    // The next in line is.
    assert!(unfollowed.verdict.summary.starts_with("mount (kubelet.service) now leaves"));
    after.profile.samples.truncate(1);
    let unfollowed = diff(&before, &after, By::Process);
    assert!(!unfollowed.verdict.worse);
    assert!(
        unfollowed.verdict.summary.starts_with("Nothing is known to grow: kubelet"),
        "{}",
        unfollowed.verdict.summary
    );
}

#[test]
fn it_is_the_growth_that_is_freed_unseen_or_not() {
    let side = |objects, unfollowed_objects| {
        Recorded::of(vec![Sample { unfollowed_objects, ..kubelet(objects) }])
    };
    let unfollowed =
        |before, after| diff(&before, &after, By::Process).owners[0].difference.unfollowed;
    assert!(!unfollowed(side(5000, 5000), side(9000, 4500)));
    assert!(unfollowed(side(9000, 0), side(12_000, 2000)));
    assert!(!unfollowed(side(100, 100), side(100, 100)));
}

#[test]
fn pictures_have_two_counts() {
    let (before, after) = incident();
    let diff = diff(&before, &after, By::Process);
    let mut lines = Vec::new();
    picture::folded(&diff, &mut lines).unwrap();
    // BEFORE's 30 s by AFTER's 60 s.
    insta::assert_snapshot!(String::from_utf8(lines.clone()).unwrap(), @r"
    [coredns-*];coredns;do_dentry_open;kernfs_fop_open;[kmalloc-512] 411648 414720
    [kernel];softirq;sock_alloc;[kmalloc-512] 40960 35840
    [kubelet.service];cron;do_dentry_open;kernfs_fop_open;[kmalloc-512] 307200 30720
    [kubelet.service];kubelet;__x64_sys_msgsnd;do_msgsnd;load_msg;[kmalloc-512] 1024000 7286272
    [kubelet.service];mount;alloc_vfsmnt;[kmalloc-512] 0 307200
    [kubelet.service];systemd;do_dentry_open;kernfs_fop_open;[kmalloc-512] 921600 0
    ");
    let mut options = inferno::flamegraph::Options::default();
    inferno::flamegraph::from_reader(&mut options, &*lines, &mut Vec::new()).unwrap();
    let mut drawn = Vec::new();
    picture::svg(&diff, &mut drawn).unwrap();
    let drawn = String::from_utf8(drawn).unwrap();
    assert!(drawn.contains("What changed: node7, 30 s before, 1 min after"), "{drawn}");
    // By chance only, so that it has no colour.
    assert!(drawn.contains(">coredns (414,720 bytes, 4.47%)<"), "{drawn}");
    // What is divided by a sample is said.
    assert!(drawn.contains("; AFTER is not exact: 5.1 % of the bytes"), "{drawn}");
    // systemd went, and is there.
    assert!(drawn.contains("systemd (921,600 bytes"), "{drawn}");
}

#[test]
fn json_satisfies_its_schema() {
    let schema = schema::validator(SCHEMA_TEXT);
    let (before, after) = incident();
    for by in [By::Process, By::Cgroup, By::Pod, By::Cache, By::Stack, By::Site] {
        for (before, after) in [(&before, &after), (&after, &before), (&before, &before)] {
            let value = json(&diff(before, after, by));
            let errors: Vec<String> =
                schema.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path)).collect();
            assert!(errors.is_empty(), "{errors:#?}");
        }
    }
    let good = json(&diff(&before, &after, By::Process));
    for (at, value) in [
        ("/schema", "kleak.diff/2".into()),
        ("/owners/0/change", "exploded".into()),
        ("/owners/0/before/objects", (-1).into()),
        ("/stacks/0/within_noise", 1.into()),
        ("/verdict/summary", Value::Null),
    ] {
        let mut broken = good.clone();
        *broken.pointer_mut(at).unwrap() = value;
        assert!(!schema.is_valid(&broken), "{at} was accepted");
    }
    for part in ["", "/verdict", "/owners/0", "/stacks/0", "/before", "/totals/0"] {
        let mut broken = good.clone();
        broken.pointer_mut(part).unwrap().as_object_mut().unwrap().insert("extra".into(), 1.into());
        assert!(!schema.is_valid(&broken), "an unknown field of `{part}` was accepted");
    }
}

#[test]
fn the_schema_explains_every_field() {
    schema::explains_every_field(SCHEMA_TEXT);
}

#[test]
fn rows_are_cut_as_asked() {
    let (before, after) = incident();
    let all = diff(&before, &after, By::Process);
    let two = cut(&all, Some(2));
    assert_eq!((two.owners.len(), two.stacks.len()), (2, 2));
    let ids = two.owners.iter().flat_map(|row| &row.stacks);
    assert!(ids.into_iter().all(|id| two.stacks.iter().any(|stack| stack.id == *id)));
    assert_eq!(cut(&all, None), all);
}

/// Whatever the names: what makes text safe and tidy.
fn check(diff: &Diff) {
    use unicode_width::UnicodeWidthStr as _;
    for width in [60, 80, 132] {
        let mut out = Vec::new();
        text::render(diff, &Style { width, ..Style::default() }, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in text.lines() {
            assert!(line.width() <= width, "{} columns: {line}", line.width());
            assert_eq!(line.trim_end(), line);
            assert_eq!(sanitize::terminal(line), line);
        }
        assert!(text.ends_with('\n') && !text.contains("\n\n\n"), "{text}");
    }
}

#[test]
fn hostile_names_are_harmless() {
    let report = sample::hostile();
    let profile = sample::profile(&report);
    let hostile = Recorded { report, profile };
    let quiet = Recorded { profile: Profile::default(), ..hostile.clone() };
    for (before, after) in [(&quiet, &hostile), (&hostile, &quiet), (&hostile, &hostile)] {
        let diff = diff(before, after, By::Process);
        check(&diff);
        let mut out = Vec::new();
        picture::svg(&diff, &mut out).unwrap();
        picture::folded(&diff, &mut out).unwrap();
        assert!(!String::from_utf8(out).unwrap().contains('\u{1b}'));
    }
    let (before, after) = incident();
    for by in [By::Process, By::Cgroup, By::Pod, By::Cache, By::Stack, By::Site] {
        check(&diff(&before, &after, by));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_recordings_are_compared(
        name in any::<String>(),
        samples in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>(), 0_u8..3), 0..6),
        window in any::<f64>(),
    ) {
        let of = |side: bool| {
            let rows = samples.iter().filter(|row| row.2 == side).map(|(objects, bytes, _, kind)| Sample {
                owner: Owner {
                    kind: "process".into(), comm: Some(name.clone()), pod: Some(name.clone()),
                    cgroup: Some(name.clone()), unit: Some(name.clone()), ..Owner::default()
                }.into(),
                cache: ["kmalloc-512", "page order-0 movable", &name][usize::from(*kind)].into(),
                kernel: frames([&name]),
                outstanding_objects: *objects,
                outstanding_bytes: *bytes,
                ..Sample::default()
            });
            let mut recorded = Recorded::of(rows.collect());
            recorded.report.filter.kinds = vec!["kmalloc".into(), "cache".into(), "page".into()];
            recorded.report.host.hostname.clone_from(&name);
            recorded
        };
        let (before, mut after) = (of(true), of(false));
        after.report.window_s = window.abs();
        if after.report.window_s == 0.0 || after.report.window_s.is_nan() {
            prop_assert!(compare(&before.exhibit(), &after.exhibit(), By::Process).is_err());
            return Ok(());
        }
        for by in [By::Process, By::Stack, By::Pod] {
            let diff = diff(&before, &after, by);
            check(&diff);
            let mut out = Vec::new();
            picture::svg(&diff, &mut out).unwrap();
            picture::folded(&diff, &mut out).unwrap();
        }
    }
}
