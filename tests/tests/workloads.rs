//! The ground truth is true: the workloads do to the kernel what the other tests take for granted,
//! by the kernel's own books.

use std::fs;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use kleak_tests::harness::{
    Cgroup, PATIENCE, Workload, class_512_of_filters, class_512_of_messages, in_use, require_root,
    settle, wait_for,
};
use kleak_tests::sysv;

/// Objects by which the books may be off: slabs that a CPU holds count as in use to the last
/// object, and others allocate too.
const SLACK: u64 = 250;

#[test]
fn messages_are_objects_of_the_512_class() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "10000"])?;
    settle(cache)?;
    let before = in_use(cache)?;
    assert_eq!(workload.go("count")?, 10_000);
    assert_eq!(workload.waiting()?, 10_000);
    let after = in_use(cache)?;
    assert!(after.abs_diff(before + 10_000) < SLACK, "{cache} went from {before} to {after}");
    assert_eq!(workload.drain()?, 10_000);
    assert_eq!(workload.waiting()?, 0);
    let drained = in_use(cache)?;
    assert!(drained.abs_diff(before) < SLACK, "{cache} went from {before} to {drained}");
    Ok(())
}

#[test]
fn churn_keeps_every_hundredth() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&["churn", "--pairs", "20000", "--keep-every", "100"])?;
    assert_eq!(workload.go("kept")?, 200);
    assert_eq!(workload.waiting()?, 200);
    Ok(())
}

#[test]
fn the_kubelet_leaves_an_object_at_every_dial() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let cache = class_512_of_filters()?;
    // Others free objects of that cache too, by thousands when a build's files go: not every time.
    let mut tries = Vec::new();
    for _ in 0..3 {
        let mut workload = Workload::start(&["kubelet", "--period-ms", "10"])?;
        settle(cache)?;
        let before = in_use(cache)?;
        workload.order("go")?;
        wait_for("growth by 3,000 objects", PATIENCE, || {
            Ok((in_use(cache)? >= before + 3000).then_some(()))
        })?;
        workload.order("stop")?;
        let kept = workload.done("kept")?;
        let after = in_use(cache)?;
        if after.abs_diff(before + kept) < kept / 10 {
            return Ok(());
        }
        tries.push((before, after, kept));
    }
    bail!("in use before, after, and kept, each time: {tries:?}");
}

#[test]
fn the_kubelet_s_server_does_not_answer() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&["kubelet", "--period-ms", "10", "--dials", "1"])?;
    workload.order("go")?;
    // In its network namespace: attempts whose first packet is out, and none that got through.
    let table = format!("/proc/{}/net/tcp", workload.pid());
    let states = wait_for("20 attempts", PATIENCE, || {
        let table = fs::read_to_string(&table)?;
        let states = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
        let states = states.map(str::to_owned).collect::<Vec<_>>();
        Ok((states.len() >= 20).then_some(states))
    })?;
    // 02: SYN_SENT.
    ensure!(states.iter().all(|state| state == "02"), "{states:?}");
    workload.order("stop")?;
    assert!(workload.done("tries")? >= 20);
    Ok(())
}

#[test]
fn arp_requests_make_neighbours() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let cache = class_512_of_filters()?;
    let mut workload = Workload::start(&["arp", "--count", "400"])?;
    settle(cache)?;
    let before = in_use(cache)?;
    assert_eq!(workload.go("count")?, 400);
    let after = in_use(cache)?;
    assert!(after.abs_diff(before + 400) < SLACK, "{cache} went from {before} to {after}");
    Ok(())
}

#[test]
fn names_may_be_any_bytes() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let workload = Workload::start(&["--comm-hex", "650a3b1bff", "msg", "--count", "1"])?;
    let comm = fs::read(format!("/proc/{}/comm", workload.pid()))?;
    assert_eq!(comm, b"e\n;\x1b\xff\n");
    Ok(())
}

#[test]
fn a_pair_is_timed() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let pair = ["pair", "--pairs", "10000", "--size-class", "1024"];
    let ways: [&[&str]; 3] = [&[], &["--threads", "4"], &["--across"]];
    // There is no other CPU to free on.
    let able = |way: &[&str]| {
        way != ["--across"] || thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1)
    };
    for way in ways.into_iter().filter(|way| able(way)) {
        let mut workload = Workload::start(&[&pair, way].concat())?;
        workload.order("go")?;
        let done = workload.answer("done")?;
        let each = done.get("ns_per_pair").context("no ns_per_pair")?.parse::<f64>()?;
        assert!(each > 10.0 && each < 1e6, "{way:?}: {each} ns");
    }
    Ok(())
}

#[test]
fn processes_and_round_trips_are_counted() -> Result<()> {
    for work in ["ping-pong", "spawn"] {
        let mut workload = Workload::start(&[work, "--count", "20"])?;
        assert_eq!(workload.go("count")?, 20, "{work}");
        assert!(workload.exit()?.success(), "{work}");
    }
    Ok(())
}

#[test]
fn a_limit_is_put_back_when_its_input_ends() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let before = sysv::queue_bytes()?;
    let more = (before + 512).to_string();
    let mut workload = Workload::start(&["limit", "--queue-bytes", &more])?;
    assert_eq!(sysv::queue_bytes()?, before + 512);
    assert!(workload.exit()?.success());
    assert_eq!(sysv::queue_bytes()?, before);
    Ok(())
}

#[test]
fn queues_and_cgroups_go_with_their_guards() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let name = format!("kleak-test-guard-{}", std::process::id());
    let cgroup = Cgroup::make(&name)?;
    let mut workload = Workload::start(&["--leave", "msg", "--count", "100"])?;
    cgroup.join(workload.pid())?;
    assert_eq!(workload.go("count")?, 100);
    assert!(workload.exit()?.success());
    assert_eq!(workload.waiting()?, 100, "they outlive the process");
    let queues = workload.queues();
    drop(workload);
    let mut receiver = Workload::start(&["recv", "--ids", &queues])?;
    receiver.order("go")?;
    assert!(receiver.answer("done").is_err(), "the queues are still there");
    drop(cgroup);
    let again = Cgroup::make(&name)?;
    assert_eq!(again.path(), format!("/{name}"));
    Ok(())
}
