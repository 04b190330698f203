//! Whole reports from synthetic evidence.

use globset::Glob;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

use super::testing::{Births, START, World, even, kind, process, total};
use super::{By, Evidence, Options, Point, Select, SlabCount, analyse, profile};
use crate::report::profile::{Profile, Sample};
use crate::report::{Confidence, Owner, Report, frames};
use crate::snapshot::{Group, GroupKey, SiteFacts};

fn report(world: &World) -> Report {
    analyse(&world.evidence, &Options::default())
}

fn by(world: &World, by: By) -> Report {
    analyse(&world.evidence, &Options { by, ..Options::default() })
}

fn close(value: Option<f64>, expected: f64) -> bool {
    value.is_some_and(|value| (value - expected).abs() <= expected.abs() * 0.05)
}

/// kubelet leaks 500 a second for 20 s; nine others allocate ten times that and free it.
fn incident() -> World {
    let mut world = World::new(20);
    let kubelet = world.site(process(1165, "kubelet"));
    world.left(kubelet, even(500, 0..20), 500, 0);
    for index in 0..9 {
        let churner = world.site(process(2000 + index, "churn"));
        world.left(churner, even(40, 19..20), 100_000, 40);
    }
    world.slab("kmalloc-512", 10_420);
    world
}

#[test]
fn a_leak_among_a_hundredfold_churn_is_named_with_high_confidence() {
    let world = incident();
    let report = report(&world);
    let verdict = &report.verdict;
    assert!(verdict.growing);
    assert_eq!(verdict.owner.as_ref().unwrap().comm.as_deref(), Some("kubelet"));
    assert_eq!(verdict.cache.as_deref(), Some("kmalloc-512"));
    assert!(verdict.share.unwrap() > 0.95, "{verdict:?}");
    assert!(close(verdict.growth_bytes_per_s, 256_000.0), "{verdict:?}");
    let left = (8_u64 << 30) / 256_000;
    assert!(verdict.exhausts_memory_in_s.unwrap().abs_diff(left) < left / 20);
    assert_eq!(verdict.confidence, Confidence::High, "{}", verdict.summary);
    assert_eq!(
        verdict.summary,
        "kubelet (pid 1165, kubelet.service) is growing kmalloc-512 by 250 KiB/s, 100 % of its \
         growth, through load_msg; memory is gone in 9 h 19 min."
    );
    let row = &report.owners[0];
    assert_eq!((row.allocated_objects, row.freed_objects), (10_500, 500));
    assert_eq!((row.outstanding_objects, row.outstanding_bytes), (10_000, 5_120_000));
    assert_eq!(row.requested_bytes, 4_640_000);
    assert_eq!(row.growth_bytes_per_s, verdict.growth_bytes_per_s);
    assert_eq!(row.trend.len(), 10);
    assert_eq!((row.trend[0], row.trend[9]), (1000, 10_000));
    assert!(close(row.oldest_s, 20.0));
    assert_eq!(report.owners.len(), 10);
    assert_eq!(report.caches[0].outstanding_objects, 10_360);
    assert_eq!(report.caches[0].slabinfo_growth_objects, Some(10_420));
    assert!(close(report.caches[0].explained, 0.994));
    assert_eq!(report.stacks[0].kernel, frames(["load_msg"]));
    assert!(!report.stacks[0].estimated);
}

#[test]
fn churn_alone_is_no_growth() {
    let mut world = World::new(30);
    for pid in 1..5 {
        let site = world.site(process(pid, "churn"));
        world.left(site, even(100, 18..20), 50_000, 200);
    }
    world.slab("kmalloc-512", 30);
    let verdict = report(&world).verdict;
    assert!(!verdict.growing);
    assert!(verdict.summary.starts_with("churn: "), "{}", verdict.summary);
    assert_eq!(verdict.growth_bytes_per_s, None);
    assert_eq!(verdict.exhausts_memory_in_s, None);
    assert!(close(verdict.share, 0.25));
    assert_eq!(verdict.confidence, Confidence::High, "{}", verdict.summary);
}

#[test]
fn objects_that_live_for_a_fifth_of_the_window_are_churn() {
    // Exponential lifetimes of four slices: survivors thin out with age.
    let births: Births =
        std::array::from_fn(|slice| (1000.0 * (-(19.0 - slice as f64) / 4.0).exp()) as u64);
    let mut world = World::new(20);
    let site = world.site(process(7, "cache"));
    world.left(site, births, 17_000, 0);
    for (index, point) in world.evidence.history.iter_mut().enumerate() {
        let held = 4000.0 * (1.0 - (-(index as f64 + 1.0) / 4.0).exp());
        point.outstanding.insert(site, held as u64);
    }
    let verdict = report(&world).verdict;
    assert!(!verdict.growing, "{}", verdict.summary);
    assert!(verdict.summary.starts_with("churn: "), "{}", verdict.summary);
}

#[test]
fn a_slow_leak_under_its_own_churn_is_found() {
    let mut births = even(10, 0..20);
    births[19] += 3000;
    let mut world = World::new(20);
    let site = world.site(process(7, "mixed"));
    world.left(site, births, 500_000, 3000);
    world.evidence.history[19].outstanding.insert(site, total(births));
    world.slab("kmalloc-512", 3300);
    let verdict = report(&world).verdict;
    assert!(verdict.growing, "{}", verdict.summary);
    assert!(close(verdict.growth_bytes_per_s, 10.0 * 512.0), "{verdict:?}");
}

#[test]
fn warm_up_is_no_growth() {
    let mut world = World::new(20);
    let site = world.site(process(7, "starter"));
    let mut births = even(300, 0..4);
    births[4] = 20;
    world.left(site, births, 10, 0).slab("kmalloc-512", 1230);
    let verdict = report(&world).verdict;
    assert!(!verdict.growing);
    assert!(verdict.summary.starts_with("warm-up: starter"), "{}", verdict.summary);
    assert_eq!(verdict.owner.unwrap().pid, Some(7));
    assert_eq!(verdict.confidence, Confidence::High);
}

#[test]
fn a_cache_that_fills_ever_more_slowly_is_warm_up() {
    let births = [400, 300, 200, 150, 100, 80, 60, 40, 30, 20, 15, 10, 8, 6, 4, 3, 2, 2, 1, 1];
    let mut world = World::new(20);
    let site = world.site(process(7, "filling"));
    world.left(site, births, 0, 0).slab("kmalloc-512", 1432);
    let verdict = report(&world).verdict;
    assert!(!verdict.growing, "{}", verdict.summary);
    assert!(verdict.summary.starts_with("warm-up: filling"), "{}", verdict.summary);
}

#[test]
fn a_leak_that_stopped_is_no_growth() {
    let mut world = World::new(20);
    let site = world.site(process(7, "was"));
    world.left(site, even(100, 0..14), 0, 0).slab("kmalloc-512", 1400);
    let verdict = report(&world).verdict;
    assert!(!verdict.growing, "{}", verdict.summary);
    assert!(verdict.summary.contains("first 14 s"), "{}", verdict.summary);
}

#[test]
fn a_burst_is_dated() {
    let mut world = World::new(20);
    let site = world.site(process(7, "msgsnd"));
    world.left(site, even(10_000, 5..6), 0, 0).slab("kmalloc-512", 10_000);
    let verdict = report(&world).verdict;
    assert!(!verdict.growing);
    assert_eq!(
        verdict.summary,
        "a burst of 10,000 objects (4.9 MiB) of kmalloc-512 by msgsnd (pid 7, msgsnd.service) at \
         5.5 s, not growing since."
    );
    assert_eq!(verdict.share, Some(1.0));
    assert_eq!(verdict.confidence, Confidence::High);
}

#[test]
fn a_burst_at_the_end_asks_for_a_longer_run() {
    let mut world = World::new(20);
    let site = world.site(process(7, "msgsnd"));
    world.left(site, even(10_000, 19..20), 0, 0).slab("kmalloc-512", 10_000);
    let verdict = report(&world).verdict;
    assert!(!verdict.growing);
    assert!(verdict.summary.contains("run longer"), "{}", verdict.summary);
    assert_eq!(verdict.confidence, Confidence::Low);
}

#[test]
fn a_burst_neither_hides_a_leak_nor_counts_as_growth() {
    let mut births = even(20, 0..20);
    births[0] = 10_000;
    let mut world = World::new(20);
    let leak = world.site(process(7, "leak"));
    world.left(leak, births, 0, 0).slab("kmalloc-512", total(births) as i64);
    let verdict = report(&world).verdict;
    assert!(verdict.growing, "{}", verdict.summary);
    assert!(close(verdict.growth_bytes_per_s, 20.0 * 512.0), "{verdict:?}");
}

#[test]
fn a_leak_in_batches_every_few_seconds_grows() {
    let mut births = [0; 20];
    for slice in [1, 5, 9, 13, 17] {
        births[slice] = 200;
    }
    let mut world = World::new(20);
    let site = world.site(process(7, "timer"));
    world.left(site, births, 0, 0).slab("kmalloc-512", 1000);
    let verdict = report(&world).verdict;
    assert!(verdict.growing, "{}", verdict.summary);
    assert!(verdict.confidence >= Confidence::Medium);
}

#[test]
fn a_leak_that_begins_within_the_window_grows() {
    let mut world = World::new(20);
    let site = world.site(process(7, "late"));
    world.left(site, even(100, 9..20), 0, 0).slab("kmalloc-512", 1100);
    let verdict = report(&world).verdict;
    assert!(verdict.growing, "{}", verdict.summary);
    assert_eq!(verdict.confidence, Confidence::Medium, "{}", verdict.summary);
}

#[test]
fn missed_frees_that_slabinfo_contradicts_are_no_growth() {
    let mut world = World::new(20);
    let site = world.site(process(7, "timerfd"));
    world.left(site, even(100, 0..20), 0, 0).slab("kmalloc-512", 3);
    let report = report(&world);
    assert!(!report.verdict.growing);
    assert_eq!(report.verdict.confidence, Confidence::Low);
    assert!(report.verdict.summary.contains("frees were missed"), "{}", report.verdict.summary);
    assert!(report.notes.iter().any(|note| note.contains("RCU")), "{:?}", report.notes);
    assert_eq!(report.caches[0].explained, None);

    world.evidence.loss.frees_of_older_objects = Some(1990);
    let verdict = super::tests::report(&world).verdict;
    assert!(verdict.summary.contains("turnover"), "{}", verdict.summary);
}

#[test]
fn a_cache_that_does_grow_keeps_its_verdict_with_low_confidence() {
    let mut world = World::new(20);
    let site = world.site(process(7, "half"));
    world.left(site, even(100, 0..20), 0, 0).slab("kmalloc-512", 700);
    let verdict = report(&world).verdict;
    assert!(verdict.growing);
    assert_eq!(verdict.confidence, Confidence::Low);
}

#[test]
fn growth_that_was_not_traced_lowers_confidence() {
    for (growth, level) in [(13_500, Confidence::Medium), (25_000, Confidence::Low)] {
        let mut world = incident();
        world.slab("kmalloc-512", growth);
        let verdict = report(&world).verdict;
        assert!(verdict.growing);
        assert_eq!(verdict.confidence, level);
        assert!(verdict.summary.contains("it explains only"), "{}", verdict.summary);
    }
    let mut world = World::new(20);
    let site = world.site(process(7, "tidy"));
    world.left(site, [0; 20], 1000, 0).slab("kmalloc-512", 9000);
    let verdict = report(&world).verdict;
    assert!(!verdict.growing);
    assert_eq!(verdict.confidence, Confidence::Low);
    assert!(verdict.summary.contains("not traced"), "{}", verdict.summary);
}

#[test]
fn slabinfo_is_asked_under_every_name_of_the_cache() {
    let mut world = incident();
    world.slab("kmalloc-512", 700);
    for index in 1..=15 {
        world.slab(&format!("kmalloc-rnd-{index:02}-512"), 640);
    }
    assert_eq!(report(&world).caches[0].slabinfo_growth_objects, Some(700 + 15 * 640));

    // msgsnd's objects lie in a bucket cache, which the tracepoint does not know of.
    let mut world = incident();
    world.slab("kmalloc-512", 4).slab("msg_msg-512", 10_400).slab("biovec-512", 50_000);
    let report = report(&world);
    assert_eq!(report.verdict.confidence, Confidence::High, "{}", report.verdict.summary);
    assert_eq!(report.caches[0].slabinfo_growth_objects, Some(4));
    assert!(close(report.caches[0].explained, 0.996));
    assert!(report.notes.iter().any(|note| note.contains("together with the other caches")));
}

#[test]
fn without_slabinfo_confidence_is_medium() {
    let mut world = incident();
    world.evidence.slab_before.clear();
    let report = report(&world);
    assert_eq!(report.verdict.confidence, Confidence::Medium);
    assert!(report.verdict.summary.contains("slabinfo could not be read"));
    assert_eq!(report.caches[0].slabinfo_growth_objects, None);
}

#[test]
fn losses_lower_confidence_and_say_so() {
    let mut world = incident();
    world.evidence.loss.untracked_objects = 1;
    let lowered = report(&world);
    assert_eq!(lowered.verdict.confidence, Confidence::Medium);
    assert!(lowered.verdict.summary.contains("1 object was not tracked"));
    assert!(lowered.notes.iter().any(|note| note.contains("nobody knows")));

    world.evidence.loss.untracked_objects = 4000;
    let low = report(&world).verdict;
    assert_eq!(low.confidence, Confidence::Low);
    assert!(
        low.summary.ends_with("low confidence: 4,000 objects were not tracked."),
        "{}",
        low.summary
    );

    let mut world = incident();
    world.evidence.loss.missed_events = Some(700);
    assert_eq!(report(&world).verdict.confidence, Confidence::Medium);
    world.evidence.loss.missed_events = Some(10);
    assert_eq!(report(&world).verdict.confidence, Confidence::High);
    world.evidence.loss.missed_events = None;
    let unknown = report(&world);
    assert_eq!(unknown.verdict.confidence, Confidence::High);
    assert!(unknown.notes.iter().any(|note| note.contains("recursion guard")));
}

#[test]
fn an_unknown_owner_is_counted_but_not_blamed() {
    let mut world = incident();
    world.left_by(0, (-1, 0), even(2000, 0..20));
    world.left_by(0xdead, (-1, 0), even(1, 0..20));
    let report = report(&world);
    assert!(report.verdict.growing);
    assert_eq!(report.verdict.owner.as_ref().unwrap().kind, "unknown");
    assert_eq!(report.verdict.confidence, Confidence::Low);
    assert!(report.verdict.summary.contains("owner unknown"), "{}", report.verdict.summary);
    let row = &report.owners[0];
    assert_eq!((row.cache.as_str(), row.outstanding_objects), ("unknown", 40_020));
    assert_eq!(row.outstanding_bytes, 40_020 * 512);
    assert_eq!(report.stacks[0].kernel, frames(["unknown"]));

    // A little of it only weakens the answer about somebody else.
    let mut world = incident();
    world.left_by(0, (-1, 0), even(60, 0..20));
    let verdict = super::tests::report(&world).verdict;
    assert_eq!(verdict.owner.unwrap().comm.as_deref(), Some("kubelet"));
    assert_eq!(verdict.confidence, Confidence::Medium);
}

#[test]
fn interrupts_have_rows_of_their_own() {
    let mut world = World::new(20);
    for owner in [kind("softirq"), kind("softirq"), kind("hardirq")] {
        let site = world.site(owner);
        world.left(site, even(50, 0..20), 0, 0);
    }
    world.slab("kmalloc-512", 3000);
    let report = report(&world);
    assert_eq!(report.owners.len(), 2);
    assert_eq!(report.owners[0].owner, kind("softirq"));
    assert_eq!(report.owners[0].outstanding_objects, 2000);
    assert_eq!(report.verdict.owner.unwrap().kind, "softirq");
    for key in [By::Cgroup, By::Pod] {
        assert_eq!(by(&world, key).owners[0].owner, kind("softirq"));
    }
}

#[test]
fn an_exited_process_keeps_its_name() {
    let mut world = World::new(20);
    let gone = Owner { exited: Some(true), ..process(7, "gone") };
    let site = world.site(gone);
    world.left(site, even(500, 2..3), 0, 0).slab("kmalloc-512", 500);
    let verdict = report(&world).verdict;
    assert!(verdict.summary.contains("gone (pid 7, exited"), "{}", verdict.summary);
    assert_eq!(verdict.owner.unwrap().exited, Some(true));
}

#[test]
fn a_pid_used_twice_is_two_owners_and_a_moved_process_is_one() {
    let mut world = World::new(20);
    let first = world.site_of(process(7, "old"), 100, 512, "kmalloc-512");
    let second = world.site_of(process(7, "new"), 200, 512, "kmalloc-512");
    world.left(first, even(10, 2..3), 0, 0).left(second, even(30, 12..13), 0, 0);
    let rows = report(&world).owners;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].owner.comm.as_deref(), Some("new"));
    assert_eq!(rows[1].owner.comm.as_deref(), Some("old"));

    let mut world = World::new(20);
    let home = Owner { cgroup: Some("/home".to_owned()), unit: None, ..process(7, "mover") };
    let away = Owner { cgroup: Some("/away".to_owned()), ..home.clone() };
    let before = world.site_of(home, 100, 512, "kmalloc-512");
    let after = world.site_of(away.clone(), 100, 512, "kmalloc-512");
    world.left(before, even(10, 2..3), 0, 0).left(after, even(30, 12..13), 0, 0);
    let merged = report(&world);
    assert_eq!(merged.owners.len(), 1);
    assert_eq!(merged.owners[0].owner, away);
    assert_eq!(merged.owners[0].outstanding_objects, 40);
    assert_eq!(merged.stacks.len(), 1);
    let split = by(&world, By::Cgroup);
    assert_eq!(split.owners.len(), 2);
    assert_eq!(split.owners[0].owner.cgroup.as_deref(), Some("/away"));
    assert_eq!(split.owners[0].owner.kind, "cgroup");
    assert_eq!(split.owners[0].owner.pid, Some(7));
    assert_eq!(split.stacks.len(), 2);
}

#[test]
fn a_program_run_again_and_again_is_found_by_its_name() {
    let mut world = World::new(20);
    for run in 0..60_u32 {
        let probe = Owner { exited: Some(true), ..process(3000 + run, "runc") };
        let site = world.site(probe);
        world.left(site, even(20, run as usize / 3..run as usize / 3 + 1), 30, 0);
    }
    world.slab("kmalloc-512", 1200);
    let verdict = report(&world).verdict;
    assert!(verdict.growing, "{}", verdict.summary);
    let owner = verdict.owner.unwrap();
    assert_eq!((owner.comm.as_deref(), owner.pid), (Some("runc"), None));
    assert!(verdict.summary.contains("60 processes"), "{}", verdict.summary);
    assert_eq!(verdict.confidence, Confidence::High, "{}", verdict.summary);
}

#[test]
fn growth_spread_over_many_owners_is_said_to_be_so() {
    let mut world = World::new(20);
    for run in 0..60_u32 {
        let site = world.site(process(3000 + run, &format!("task-{run}")));
        world.left(site, even(20, run as usize / 3..run as usize / 3 + 1), 30, 0);
    }
    world.slab("kmalloc-512", 1200);
    let verdict = report(&world).verdict;
    assert!(verdict.growing);
    assert!(verdict.summary.contains("spread over 60 owners"), "{}", verdict.summary);
    assert_eq!(verdict.confidence, Confidence::Low);
}

#[test]
fn short_windows_say_too_little_evidence() {
    let mut world = World::new(2);
    let site = world.site(process(7, "quick"));
    world.left(site, even(100, 0..20), 0, 0).slab("kmalloc-512", 2000);
    let verdict = report(&world).verdict;
    assert!(!verdict.growing);
    assert_eq!(verdict.confidence, Confidence::Low);
    assert!(
        verdict.summary.starts_with("too little evidence: window of 2 s, run longer"),
        "{}",
        verdict.summary
    );

    let mut world = World::new(20);
    let site = world.site(process(7, "slow"));
    world.left(site, even(100, 0..20), 0, 0).slab("kmalloc-512", 2000);
    world.evidence.history.drain(..19);
    let verdict = report(&world).verdict;
    assert!(verdict.growing);
    assert_eq!(verdict.confidence, Confidence::Medium);
    assert!(verdict.summary.contains("counted only once"), "{}", verdict.summary);

    world.evidence.snapshot.at_ns = world.evidence.snapshot.start_ns;
    let report = report(&world);
    assert!(!report.verdict.growing);
    assert_eq!(report.owners[0].growth_bytes_per_s, None);
}

#[test]
fn nothing_at_all_is_an_answer() {
    let empty = report(&World::new(20));
    assert!(!empty.verdict.growing);
    assert_eq!(empty.verdict.owner, None);
    assert_eq!(empty.verdict.summary, "nothing left behind: nothing was allocated.");
    assert!(empty.owners.is_empty() && empty.caches.is_empty() && empty.stacks.is_empty());

    let mut world = World::new(20);
    let site = world.site(process(7, "tidy"));
    world.left(site, [0; 20], 10_000, 0).slab("kmalloc-512", -3);
    let report = report(&world);
    assert_eq!(report.verdict.summary, "nothing left behind: 10,000 objects allocated, all freed.");
    assert_eq!(report.verdict.confidence, Confidence::High);
    assert_eq!(report.owners[0].freed_objects, 10_000);
    assert_eq!(report.owners[0].oldest_s, None);
}

#[test]
fn sampled_stacks_are_scaled_to_the_exact_total() {
    let mut world = World::new(20);
    let site = world.site(process(7, "leak"));
    for (id, weight) in [(1, 70), (2, 20), (3, 10)] {
        world
            .evidence
            .kernel_stacks
            .insert(id, frames(["load_msg".to_owned(), format!("path_{id}")]));
        world.left_by(site, (id, weight), even(1, 0..10));
    }
    world.left(site, even(1000, 0..20), 0, 0);
    let report = report(&world);
    let objects: Vec<u64> = report.stacks.iter().map(|row| row.outstanding_objects).collect();
    assert_eq!(objects, [14_021, 4006, 2003]);
    assert_eq!(report.stacks[0].kernel, frames(["load_msg", "path_1"]));
    assert!(report.stacks.iter().all(|row| row.estimated));
    assert_eq!(report.owners[0].stacks, [1, 2, 3]);
    let owner = std::sync::Arc::clone(&report.stacks[1].owner);
    assert_eq!(owner.pid, Some(7));

    let stacks = by(&world, By::Stack);
    assert_eq!(stacks.owners.len(), 3);
    assert_eq!(stacks.owners[0].owner.kind, "stack");
    assert_eq!(stacks.owners[0].owner.comm.as_deref(), Some("load_msg < path_1"));
    assert_eq!(stacks.owners[0].outstanding_objects, 14_021);
    assert_eq!(stacks.owners.iter().map(|row| row.allocated_objects).sum::<u64>(), 20_030);
    assert_eq!(stacks.verdict.owner.unwrap().kind, "process");
}

#[test]
fn growth_of_one_stack_of_several_is_estimated() {
    let mut world = World::new(20);
    let site = world.site(process(7, "leak"));
    for id in 1..=2 {
        world.evidence.kernel_stacks.insert(id, frames(["load_msg", &format!("path_{id}")]));
        world.left_by(site, (id, 0), even(100, 0..20));
    }
    let other = world.site(process(8, "other"));
    world.evidence.kernel_stacks.insert(3, frames(["load_msg", "path_3"]));
    world.left_by(other, (3, 0), even(10, 0..20));
    let profile = profile(&world.evidence, &Options::default());
    let marks: Vec<_> =
        profile.samples.iter().map(|sample| (sample.estimated, sample.growth_estimated)).collect();
    assert_eq!(marks, [(false, true), (false, true), (false, false)]);
}

#[test]
fn growth_of_objects_of_no_known_size_is_unknown() {
    let mut world = World::new(20);
    world.evidence.filter.size_classes = vec![512, 1024];
    let site = world.site(process(7, "leak"));
    world.left_by(site, (-1, 0), even(100, 0..20));
    world.evidence.snapshot.sites.clear();
    assert_eq!(report(&world).owners[0].growth_bytes_per_s, None);
    let profile = profile(&world.evidence, &Options::default());
    assert_eq!(profile.samples[0].growth_bytes_per_s, None);
    assert!(profile.samples[0].outstanding_objects > 0);
}

#[test]
fn a_call_site_of_a_module_is_the_frame_that_it_is_in_stacks() {
    let mut world = World::new(20);
    let site = world.site(process(7, "leak"));
    world.left(site, even(100, 0..20), 500, 0);
    let frame = "nf_conntrack_alloc [nf_conntrack]";
    world.evidence.call_sites.insert(0xff10, frame.to_owned());
    let profile = profile(&world.evidence, &Options::default());
    assert_eq!(profile.samples.len(), 2, "what is held, and the rest");
    assert!(profile.samples.iter().all(|sample| sample.kernel == frames([frame])));
    // Where functions are told apart it is one by its name.
    let owner = by(&world, By::Site).owners[0].owner.clone();
    assert_eq!(owner.comm.as_deref(), Some("nf_conntrack_alloc"));
}

#[test]
fn a_stack_for_every_object_is_no_estimate() {
    let mut world = World::new(20);
    let site = world.site(process(7, "leak"));
    world.evidence.kernel_stacks.insert(1, frames(["a"]));
    world.evidence.kernel_stacks.insert(2, frames(["a"]));
    world.left_by(site, (1, 30), even(3, 0..10)).left_by(site, (2, 10), even(1, 0..10));
    // An id whose frames are not known: the call site.
    world.left_by(site, (3, 0), even(1, 0..5));
    let report = report(&world);
    assert_eq!(report.stacks.len(), 2);
    assert_eq!((report.stacks[0].outstanding_objects, report.stacks[0].estimated), (40, false));
    assert_eq!(report.stacks[1].kernel, frames(["load_msg"]));
    assert_eq!(report.stacks[1].outstanding_objects, 5);
}

#[test]
fn a_minimum_age_hides_the_young_but_does_not_call_them_freed() {
    let mut world = World::new(20);
    let site = world.site(process(7, "leak"));
    world.left(site, even(100, 0..15), 1000, 0).slab("kmalloc-512", 2000);
    world.evidence.filter.min_age_s = 5.0;
    // 500 younger ones, outstanding all the same.
    for (slice, point) in world.evidence.history.iter_mut().enumerate() {
        point.outstanding.insert(site, 100 * (slice as u64 + 1));
    }
    world.evidence.snapshot.sites.get_mut(&site).unwrap().allocated = 3000;
    let report = report(&world);
    let row = &report.owners[0];
    assert_eq!(row.outstanding_objects, 1500);
    assert_eq!(row.freed_objects, 1000);
    assert_eq!(row.trend.last(), Some(&2000));
    assert!(report.verdict.growing, "{}", report.verdict.summary);
    assert_eq!(report.verdict.confidence, Confidence::High, "{}", report.verdict.summary);

    world.evidence.filter.min_age_s = 18.0;
    let verdict = super::tests::report(&world).verdict;
    assert!(verdict.summary.starts_with("too little evidence: a minimum age"));
}

#[test]
fn owners_are_selected_by_every_condition() {
    let glob = |text: &str| Some(Glob::new(text).unwrap().compile_matcher());
    let mut world = incident();
    let pod = Owner {
        pod: Some("web-0".to_owned()),
        pod_uid: Some("1234-abcd".to_owned()),
        namespace: Some("shop".to_owned()),
        ..process(9, "nginx")
    };
    let site = world.site(pod);
    world.left(site, even(5, 0..20), 0, 0);
    world.evidence.snapshot.sites.get_mut(&site).unwrap().site.family = 1;
    world.left_by(0, (-1, 0), even(5, 0..20));
    let selected = |select: Select| {
        let rows = analyse(&world.evidence, &Options { select, ..Options::default() }).owners;
        rows.into_iter().map(|row| row.owner.comm.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(selected(Select::default()).len(), 12);
    assert_eq!(selected(Select { pid: Some(1165), ..Select::default() }), ["kubelet"]);
    assert_eq!(selected(Select { comm: glob("kube*"), ..Select::default() }), ["kubelet"]);
    for path in ["/system.slice/kubelet*", "system.slice/kube*"] {
        assert_eq!(selected(Select { cgroup: glob(path), ..Select::default() }), ["kubelet"]);
    }
    for name in ["web-*", "1234-*", "shop/web-0", "shop/*", "*/web-0"] {
        assert_eq!(selected(Select { pod: glob(name), ..Select::default() }), ["nginx"], "{name}");
    }
    for name in ["web", "shop", "other/web-0", "/web-0"] {
        assert!(selected(Select { pod: glob(name), ..Select::default() }).is_empty(), "{name}");
    }
    assert_eq!(selected(Select { family_only: true, ..Select::default() }), ["nginx"]);
    let none = Select { pid: Some(1165), comm: glob("churn"), ..Select::default() };
    assert!(selected(none).is_empty());
}

#[test]
fn rows_stand_for_what_was_asked() {
    let mut world = incident();
    let pods = [("web-0", "u1", 9), ("web-0", "u1", 10), ("db-0", "u2", 11)];
    for (pod, uid, pid) in pods {
        let owner = Owner {
            pod: Some(pod.to_owned()),
            pod_uid: Some(uid.to_owned()),
            namespace: Some("shop".to_owned()),
            cgroup: Some(format!("/kubepods/{uid}/{pid}")),
            unit: None,
            ..process(pid, "nginx")
        };
        let site = world.site(owner);
        world.left(site, even(1000, 0..20), 0, 0);
    }
    let report = by(&world, By::Pod);
    let first = &report.owners[0].owner;
    assert_eq!((first.kind.as_str(), first.pod.as_deref()), ("pod", Some("web-0")));
    assert_eq!((first.comm.as_deref(), first.pid, &first.cgroup), (Some("nginx"), None, &None));
    assert_eq!(report.owners[0].outstanding_objects, 40_000);
    assert_eq!(report.verdict.owner.as_ref().unwrap().pod.as_deref(), Some("web-0"));
    assert!(report.verdict.summary.starts_with("pod shop/web-0"), "{}", report.verdict.summary);
    let outside = report.owners.iter().find(|row| row.owner.kind == "cgroup").unwrap();
    assert_eq!(outside.owner.unit.as_deref(), Some("kubelet.service"));

    let report = by(&world, By::Cache);
    assert_eq!(report.owners.len(), 1);
    assert_eq!(report.owners[0].owner.comm.as_deref(), Some("kmalloc-512"));
    assert_eq!(report.verdict.owner.unwrap().kind, "process");
    let report = by(&world, By::Site);
    assert_eq!(report.owners[0].owner.comm.as_deref(), Some("load_msg"));
    assert_eq!(report.owners[0].owner.kind, "site");
}

#[test]
fn only_the_first_rows_are_kept_with_their_stacks() {
    let world = incident();
    let report = analyse(&world.evidence, &Options { top: Some(2), ..Options::default() });
    assert_eq!(report.owners.len(), 2);
    assert_eq!(report.stacks.len(), 2);
    assert_eq!(report.owners[1].stacks, [2]);
    assert_eq!(report.stacks[1].id, 2);
}

#[test]
fn what_a_command_leaves_behind_is_said_of_the_command() {
    let mut world = World::new(1);
    let site = world.site(process(7, "job"));
    world.left(site, even(50, 0..20), 0, 0);
    world.evidence.snapshot.sites.get_mut(&site).unwrap().site.family = 1;
    let select = Select { family_only: true, ..Select::default() };
    let verdict = analyse(&world.evidence, &Options { select, ..Options::default() }).verdict;
    assert!(verdict.summary.starts_with("the command left 1,000 objects"), "{}", verdict.summary);
}

#[test]
fn the_order_of_the_evidence_does_not_matter() {
    let world = incident();
    let first = report(&world);
    for _ in 0..5 {
        // Every map has a seed of its own, so a copy iterates in another order.
        let mut copy = incident();
        copy.evidence.history.reverse();
        copy.evidence.history.reverse();
        assert_eq!(report(&copy), first);
    }
}

/// A stream of numbers between 0 and 1 (splitmix64), the same in every run.
fn stream(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Objects born at random over 20 s, with exponential lifetimes of that mean; of `kept` in a
/// thousand none is ever freed.
fn simulate(seed: u64, allocations: u64, lifetime_s: f64, kept: f64) -> World {
    let mut random = stream(seed);
    let mut world = World::new(20);
    let site = world.site(process(7, "random"));
    let mut births: Births = [0; 20];
    for _ in 0..allocations {
        let born = random() * 20.0;
        let leaks = random() < kept / 1000.0;
        let dies = if leaks { f64::MAX } else { born - lifetime_s * (1.0 - random()).ln() };
        if dies > 20.0 {
            births[(born as usize).min(19)] += 1;
        }
        for (second, point) in (1_u32..).zip(world.evidence.history.iter_mut()) {
            let at = f64::from(second);
            *point.outstanding.entry(site).or_default() += u64::from(born <= at && dies > at);
        }
    }
    let history = std::mem::take(&mut world.evidence.history);
    world.left(site, births, 0, 0);
    world.evidence.history = history;
    world.evidence.snapshot.sites.get_mut(&site).unwrap().allocated = allocations;
    world
}

/// How many of 30 simulated windows are called growing.
fn called_growing(allocations: u64, lifetime_s: f64, kept: f64) -> usize {
    let grows =
        |seed: &u64| report(&simulate(*seed, allocations, lifetime_s, kept)).verdict.growing;
    (1..=30_u64).filter(grows).count()
}

#[test]
fn verdicts_hold_up_against_chance() {
    // Turnover is never growth while objects live for up to a fifth of the window.
    for lifetime_s in [0.01, 0.5, 2.0, 4.0] {
        assert!(called_growing(3000, lifetime_s, 0.0) <= 1, "{lifetime_s}");
    }
    // Thirty objects kept of three thousand that come and go, and few kept without any turnover.
    for lifetime_s in [0.01, 0.5, 1.0] {
        let found = called_growing(3000, lifetime_s, 10.0);
        assert!(found >= 28, "{lifetime_s}: {found}");
    }
    assert!(called_growing(40, 1.0, 1000.0) >= 28);
}

fn check_invariants(report: &Report) -> Result<(), proptest::test_runner::TestCaseError> {
    let verdict = &report.verdict;
    let share = verdict.share.unwrap_or(0.0);
    prop_assert!((0.0..=1.0).contains(&share));
    prop_assert!(
        verdict.growth_bytes_per_s.is_none_or(|growth| growth.is_finite() && growth >= 0.0)
    );
    prop_assert!(verdict.growing || verdict.growth_bytes_per_s.is_none());
    prop_assert!(verdict.growing || verdict.exhausts_memory_in_s.is_none());
    prop_assert!(!verdict.summary.is_empty());
    prop_assert!(report.window_s.is_finite());
    for (index, row) in report.owners.iter().enumerate() {
        prop_assert!((0.0..=1.0).contains(&row.share));
        prop_assert!(row.growth_bytes_per_s.is_none_or(f64::is_finite));
        prop_assert!(row.oldest_s.is_none_or(|age| age.is_finite() && age >= 0.0));
        prop_assert!(row.allocated_objects >= row.outstanding_objects);
        prop_assert_eq!(row.trend.len(), 10);
        let of_row = || report.stacks.iter().filter(|stack| row.stacks.contains(&stack.id));
        prop_assert_eq!(of_row().count(), row.stacks.len());
        let objects: u64 = of_row().map(|stack| stack.outstanding_objects).sum();
        prop_assert_eq!(objects, row.outstanding_objects, "row {}", index);
        let bytes: u64 = of_row().map(|stack| stack.outstanding_bytes).sum();
        prop_assert_eq!(bytes, row.outstanding_bytes, "row {}", index);
        prop_assert!(of_row().all(|stack| stack.cache == row.cache));
    }
    let total: f64 = report.owners.iter().map(|row| row.share).sum();
    prop_assert!(total <= 1.0 + 1e-6);
    prop_assert!(report.caches.iter().all(|row| row.explained.is_none_or(f64::is_finite)));
    Ok(())
}

/// A profile has what the rows have, path by path.
fn check_profile(
    profile: &Profile,
    report: &Report,
    all_rows: bool,
) -> Result<(), proptest::test_runner::TestCaseError> {
    let samples = &profile.samples;
    for sample in samples {
        prop_assert_eq!(sample.trend.len(), if sample.rest { 0 } else { profile.step_s.len() });
        prop_assert!(sample.growth_bytes_per_s.is_none_or(f64::is_finite));
        prop_assert!(sample.allocated_objects >= sample.outstanding_objects);
        prop_assert!(!sample.kernel.is_empty());
        prop_assert_eq!(sample.outstanding_objects == 0, sample.rest);
        prop_assert!(sample.allocated_objects > 0);
    }
    // Of nearly 2^64 objects nothing can be added up.
    let enough = |counts: &[u64]| counts.iter().all(|count| *count < u64::MAX >> 8);
    let allocated: Vec<u64> = report.owners.iter().map(|row| row.allocated_objects).collect();
    if all_rows && enough(&allocated) {
        let sum = |count: fn(&Sample) -> u64| samples.iter().map(count).sum::<u64>();
        prop_assert_eq!(sum(|sample| sample.allocated_objects), allocated.iter().sum::<u64>());
        for (in_rows, in_samples) in [
            (
                report.owners.iter().map(|row| row.outstanding_objects).sum::<u64>(),
                sum(|sample| sample.outstanding_objects),
            ),
            (
                report.owners.iter().map(|row| row.outstanding_bytes).sum(),
                sum(|sample| sample.outstanding_bytes),
            ),
            (
                report.owners.iter().map(|row| row.unfollowed_objects).sum(),
                sum(|sample| sample.unfollowed_objects),
            ),
        ] {
            prop_assert_eq!(in_rows, in_samples);
        }
    }
    Ok(())
}

/// Evidence that no kernel would give: sites without owners, groups without sites, counts that
/// contradict each other.
fn arbitrary_evidence() -> impl Strategy<Value = Evidence> {
    let birth = prop::array::uniform20(prop::sample::select(vec![0_u64, 0, 1, 5, 100, 1 << 40]));
    let group = (0..8_u64, -1..4_i32, -1..3_i32, birth, any::<u32>(), any::<u64>());
    let groups = prop::collection::vec(group, 0..12);
    let site = (
        0..8_u64,
        0..5_u8,
        0..3_u32,
        prop::sample::select(vec![0_u32, 8, 512, 8192]),
        0..u64::MAX >> 8,
    );
    let sites = prop::collection::vec(site, 0..8);
    let point = (any::<u32>(), prop::collection::vec((0..9_u64, 0..1_u64 << 50), 0..6));
    let points = prop::collection::vec(point, 0..8);
    let slab = prop::option::of((any::<u64>(), any::<u64>(), any::<u64>()));
    let window = prop::sample::select(vec![0_u64, 1, 2, 3, 20, 3600, 1 << 25]);
    let min_age = prop::sample::select(vec![0.0, 1.0, 1e9, f64::NAN, f64::INFINITY, -1.0]);
    let loss = (any::<u64>(), prop::option::of(any::<u64>()), any::<u64>());
    let rest = (window, min_age, loss, any::<u32>(), prop::option::of(any::<u64>()), slab);
    (groups, sites, points, rest, Just(())).prop_map(|(groups, sites, points, rest, ())| {
        let (window, min_age, loss, cpus, available, slab) = rest;
        let mut evidence = World::new(window).evidence;
        for (key, context, pid, size, allocated) in sites {
            let mut facts = SiteFacts { allocated, ..SiteFacts::default() };
            facts.site.context = context;
            facts.site.tgid = pid;
            facts.site.size = size;
            facts.site.call_site = 0xff10 * u64::from(pid % 2);
            evidence.snapshot.sites.insert(key, facts);
            if context < 3 {
                let mut owner = process(pid, "comm");
                owner.cgroup = (pid > 0).then(|| format!("/{pid}"));
                owner.pod = (pid == 2).then(|| "pod".to_owned());
                evidence.owners.insert(key, owner);
            }
            if context > 1 {
                evidence.cache_names.insert(key, "dentry".to_owned());
            }
        }
        for (site, kernel_stack, user_stack, births, weight, oldest_ns) in groups {
            let objects = births.iter().sum();
            let weight = u64::from(weight);
            let group = Group { objects, requested: objects, weight, oldest_ns, births };
            let key = GroupKey { site, kernel_stack, user_stack };
            evidence.snapshot.groups.insert(key, group);
        }
        evidence.kernel_stacks.insert(1, frames(["a", "b"]));
        evidence.kernel_stacks.insert(2, crate::report::Frames::default());
        evidence.user_stacks.insert((1, 1), frames(["main"]));
        if !points.is_empty() {
            evidence.history = points
                .into_iter()
                .map(|(offset, counts)| Point {
                    at_ns: START - 1000 + u64::from(offset) * 20,
                    outstanding: counts.into_iter().collect(),
                })
                .collect();
        }
        if let Some((before, after, per_slab)) = slab {
            let count = |active_objects| SlabCount { active_objects, objects_per_slab: per_slab };
            evidence.slab_before.insert("kmalloc-512".to_owned(), count(before));
            evidence.slab_after.insert("kmalloc-512".to_owned(), count(after));
        }
        evidence.filter.min_age_s = min_age;
        (
            evidence.loss.untracked_objects,
            evidence.loss.missed_events,
            evidence.loss.failed_updates,
        ) = loss;
        evidence.cpus = cpus;
        evidence.mem_available_bytes = available;
        evidence
    })
}

proptest! {
    #[test]
    fn whatever_the_evidence_the_sums_hold(
        evidence in arbitrary_evidence(),
        by in prop::sample::select(vec![
            By::Process, By::Cgroup, By::Pod, By::Cache, By::Stack, By::Site,
        ]),
        top in prop::option::of(0..4_usize),
        pid in prop::option::of(0..3_u32),
    ) {
        let select = Select { pid, ..Select::default() };
        let options = Options { by, top, select };
        let report = analyse(&evidence, &options);
        check_invariants(&report)?;
        check_profile(&profile(&evidence, &options), &report, top.is_none())?;
        let all: u64 = evidence.snapshot.groups.values().map(|group| group.objects).sum();
        let caches: u64 = report.caches.iter().map(|row| row.outstanding_objects).sum();
        if pid.is_none() {
            prop_assert_eq!(caches, all);
        }
        if top.is_none() {
            let owners: u64 = report.owners.iter().map(|row| row.outstanding_objects).sum();
            prop_assert_eq!(owners, caches);
        }
    }

    #[test]
    fn a_steady_leak_is_found_at_any_rate_and_length(
        rate in 3_u64..5000,
        seconds in 10_u64..3600,
        churners in 0_u32..6,
        pool in 1_u64..5000,
    ) {
        let mut world = World::new(seconds);
        let leak = world.site(process(1, "leak"));
        world.left(leak, even(rate, 0..20), rate, 0);
        for pid in 0..churners {
            let site = world.site(process(100 + pid, "churn"));
            world.left(site, even(pool, 19..20), pool * 1000, pool);
        }
        let verdict = report(&world).verdict;
        prop_assert!(verdict.growing);
        prop_assert_eq!(verdict.owner.and_then(|owner| owner.pid), Some(1));
        prop_assert!(close(verdict.growth_bytes_per_s, (rate * 20 * 512) as f64 / seconds as f64));
    }
}

fn kind_of(world: &mut World, site: u64, kind: u8) {
    world.evidence.snapshot.sites.get_mut(&site).unwrap().site.kind = kind;
}

/// A program whose objects grow by 256,000 bytes a second, and the pages that the slab allocator takes
/// for them, and a little more.
fn objects_and_their_pages() -> World {
    let mut world = World::new(20);
    let objects = world.site(process(7, "leaker"));
    world.left(objects, even(500, 0..20), 0, 0).slab("kmalloc-512", 10_000);
    let pages = world.site_of(process(7, "leaker"), 7, 32_768, "page order-3 unmovable (slab)");
    kind_of(&mut world, pages, kleak_common::kind::PAGE);
    world.left(pages, even(10, 0..20), 0, 0);
    for group in world.evidence.snapshot.groups.iter_mut().filter(|(key, _)| key.site == pages) {
        group.1.requested = group.1.objects * 32_768;
    }
    world
}

#[test]
fn pages_are_not_added_to_the_objects_in_them() {
    let world = objects_and_their_pages();
    let report = report(&world);
    assert_eq!(report.verdict.cache.as_deref(), Some("kmalloc-512"), "{}", report.verdict.summary);
    assert!(close(report.verdict.growth_bytes_per_s, 256_000.0), "{:?}", report.verdict);
    assert_eq!(report.verdict.share, Some(1.0));
    let shares: Vec<f64> = report.owners.iter().map(|row| row.share).collect();
    assert_eq!(shares, [1.0, 1.0]);
}

#[test]
fn slab_pages_that_grow_alone_say_where_to_look() {
    let mut world = objects_and_their_pages();
    let objects =
        *world.evidence.cache_names.iter().find(|(_, name)| *name == "kmalloc-512").unwrap().0;
    world.evidence.snapshot.sites.remove(&objects);
    world.evidence.snapshot.groups.retain(|key, _| key.site != objects);
    for point in &mut world.evidence.history {
        point.outstanding.remove(&objects);
    }
    let verdict = report(&world).verdict;
    assert!(verdict.growing);
    assert!(verdict.summary.contains("--kind kmalloc,cache"), "{}", verdict.summary);
    assert_ne!(verdict.confidence, Confidence::High, "nothing of the kernel's own confirms pages");
}

#[test]
fn bytes_of_a_block_freed_in_parts_are_those_left() {
    let mut world = World::new(20);
    let site = world.site_of(process(7, "mapper"), 7, 2 << 20, "page order-9 movable");
    kind_of(&mut world, site, kleak_common::kind::PAGE);
    world.left_by(site, (3, 10), even(1, 0..10));
    for group in world.evidence.snapshot.groups.values_mut() {
        group.requested = 10 << 20;
    }
    for way in [By::Process, By::Stack] {
        let report = by(&world, way);
        assert_eq!(report.owners[0].outstanding_objects, 10);
        assert_eq!(report.owners[0].outstanding_bytes, 10 << 20, "half of ten times 2 MiB");
        assert_eq!(report.stacks[0].outstanding_bytes, 10 << 20);
    }
}

#[test]
fn per_cpu_memory_is_compared_as_a_whole() {
    let world = |growth| {
        let mut world = World::new(20);
        for (size, cache) in [(1024, "percpu 512"), (2048, "percpu 1024")] {
            let site = world.site_of(process(7, "maps"), 7, size, cache);
            kind_of(&mut world, site, kleak_common::kind::PERCPU);
            world.left(site, even(50, 0..20), 0, 0);
        }
        world.evidence.percpu_growth_bytes = growth;
        report(&world)
    };
    // A thousand of each are 3 MiB.
    let agreeing = world(Some(3_100_000));
    assert!(agreeing.caches.iter().all(|cache| close(cache.explained, 0.991)), "{agreeing:?}");
    assert_eq!(agreeing.verdict.confidence, Confidence::High, "{}", agreeing.verdict.summary);
    let roomy = world(Some(1_000_000));
    assert!(roomy.verdict.growing, "room in populated pages refutes nothing");
    assert_eq!(roomy.verdict.confidence, Confidence::Medium, "{}", roomy.verdict.summary);
    assert_eq!(world(Some(0)).caches[0].explained, None);
    let unknown = world(None);
    assert!(unknown.verdict.summary.contains("meminfo"), "{}", unknown.verdict.summary);
}

#[test]
fn an_estimate_is_marked_and_sure_where_many_were_seen() {
    let mut world = incident();
    world.sampled(4);
    let sure = report(&world);
    assert_eq!(sure.verdict.owner.as_ref().unwrap().comm.as_deref(), Some("kubelet"));
    assert!(sure.verdict.growing);
    assert!(close(sure.verdict.growth_bytes_per_s, 256_000.0), "{:?}", sure.verdict);
    assert!(sure.verdict.summary.contains("estimated from 1 in 4 addresses, ±2 %"), "{sure:?}");
    assert_eq!(sure.verdict.confidence, Confidence::High, "{:?}", sure.verdict);
    assert!(sure.owners.iter().all(|row| row.estimated));
    assert!(sure.caches.iter().all(|row| row.estimated));
    assert!(sure.stacks.iter().all(|row| row.estimated));
    // 2,500 seen, of which 3/4 of the variance counts, times 4.
    assert_eq!(sure.owners[0].standard_error_objects, Some(173));
    assert!(sure.sampling.is_some() && sure.notes.iter().any(|note| note.contains("rough")));

    world.sampled(64);
    let unsure = report(&world);
    assert_eq!(unsure.verdict.owner.as_ref().unwrap().comm.as_deref(), Some("kubelet"));
    assert_eq!(unsure.verdict.confidence, Confidence::Medium);
    assert!(unsure.verdict.summary.contains("too few to be sure"), "{:?}", unsure.verdict);
}

#[test]
fn what_was_seen_of_few_objects_is_no_growth() {
    // Eleven seen, which stand for 704.
    let mut world = World::new(20);
    let site = world.site(process(1165, "kubelet"));
    let births = std::array::from_fn(|slice| if slice < 11 { 64 } else { 0 });
    world.left(site, births, 1_000_000, 0).sampled(64);
    assert!(!report(&world).verdict.growing);
}

#[test]
fn everything_followed_has_no_error() {
    let report = report(&incident());
    assert!(
        report.owners.iter().all(|row| !row.estimated && row.standard_error_objects == Some(0))
    );
    assert!(report.sampling.is_none());
}

#[test]
fn what_is_lost_has_a_size_only_where_nothing_else_was_followed() {
    for (kinds, bytes) in [(&["kmalloc"][..], 3 * 512), (&["kmalloc", "page"], 3 * 4096)] {
        let mut evidence = World::new(20).evidence;
        evidence.filter.kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let key = GroupKey { site: 0, kernel_stack: -1, user_stack: -1 };
        let births = even(3, 0..1);
        let group = Group { objects: 3, requested: 3 * 4096, births, ..Group::default() };
        evidence.snapshot.groups.insert(key, group);
        let report = analyse(&evidence, &Options::default());
        let sizes: Vec<u64> = report.owners.iter().map(|row| row.outstanding_bytes).collect();
        assert_eq!(sizes, [bytes], "{kinds:?}");
    }
}
