//! Every object given to its right owner.

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, bail};
use kleak_tests::harness::{
    Cgroup, Counts, Tracer, Workload, as_counts, class_512_of_filters, class_512_of_messages,
    has_btf, holds_frame, not_applicable, require_live, workload_binary,
};

/// A cgroup name of this test run's own.
fn cgroup_name(of: &str) -> String {
    format!("kleak-test-{of}-{}", std::process::id())
}

/// Pairs of the one that keeps some.
const PAIRS: u64 = 200_000;

const fn staying(objects: u64) -> Counts {
    Counts { allocated: objects, freed: 0, outstanding: objects, bytes: objects * 512 }
}

#[test]
fn the_one_of_four_that_keeps_every_hundredth_object() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    // One of each CPU's two ends by itself after so many pairs; the others go on meanwhile.
    let keeping = ["--cpu", "0", "churn", "--pairs", "200000", "--keep-every", "100"];
    let mut processes = vec![Workload::start(&keeping)?];
    for cpu in ["0", "1", "1"] {
        processes.push(Workload::start(&["--cpu", cpu, "churn", "--pairs", "0"])?);
    }
    let cgroups = (0..4)
        .map(|index| Cgroup::make(&cgroup_name(&format!("four-{index}"))))
        .collect::<Result<Vec<_>>>()?;
    for (process, cgroup) in processes.iter().zip(&cgroups) {
        cgroup.join(process.pid())?;
    }
    let tracer = Tracer::json(&[])?;
    for process in &mut processes {
        process.order("go")?;
    }
    let kept = processes[0].done("kept")?;
    assert_eq!(kept, PAIRS / 100);
    let mut made = Vec::new();
    for process in &mut processes[1..] {
        process.order("stop")?;
        made.push(process.done("pairs")?);
    }
    let report = tracer.report()?;

    let keeper = report.row(processes[0].pid(), cache)?.context("no row of the one that keeps")?;
    let expected =
        Counts { allocated: PAIRS, freed: PAIRS - kept, outstanding: kept, bytes: kept * 512 };
    assert_eq!(as_counts(keeper)?, expected);
    assert_eq!(keeper["owner"]["cgroup"], cgroups[0].path());
    for ((process, cgroup), made) in processes.iter().zip(&cgroups).skip(1).zip(made) {
        assert!(made > 0);
        let row = report.row(process.pid(), cache)?;
        if let Some(row) = row {
            let expected = Counts { allocated: made, freed: made, outstanding: 0, bytes: 0 };
            assert_eq!(as_counts(row)?, expected, "of {}", cgroup.path());
            assert_eq!(row["owner"]["cgroup"], cgroup.path());
        }
    }
    Ok(())
}

#[test]
fn freed_by_another_process() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let mut maker = Workload::start(&["msg", "--count", "5000", "--capacity", "5700"])?;
    let mut taker = Workload::start(&["recv", "--ids", &maker.queues()])?;
    let tracer = Tracer::json(&[])?;
    assert_eq!(maker.go("count")?, 5000);
    assert_eq!(taker.go("count")?, 5000);
    maker.order("go 700")?;
    assert_eq!(maker.done("count")?, 700);
    let report = tracer.report()?;

    let expected = Counts { allocated: 5700, freed: 5000, outstanding: 700, bytes: 700 * 512 };
    assert_eq!(report.counts(maker.pid(), cache)?, expected);
    assert_eq!(report.counts(taker.pid(), cache)?, Counts::default());
    Ok(())
}

#[test]
fn allocated_by_a_process_that_has_exited() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !has_btf() {
        not_applicable("without BTF a process is its id, which another may have by now");
        return Ok(());
    }
    let cache = class_512_of_messages()?;
    let cgroup = Cgroup::make(&cgroup_name("exited"))?;
    let mut workload =
        Workload::start(&["--comm", "short-lived", "--leave", "msg", "--count", "2000"])?;
    cgroup.join(workload.pid())?;
    let tracer = Tracer::json(&[])?;
    assert_eq!(workload.go("count")?, 2000);
    assert!(workload.exit()?.success());
    let report = tracer.report()?;

    let row = report.row(workload.pid(), cache)?.context("no row of the one that exited")?;
    assert_eq!(as_counts(row)?, staying(2000));
    assert_eq!(row["owner"]["exited"], true);
    assert_eq!(row["owner"]["comm"], "short-lived");
    assert_eq!(row["owner"]["cgroup"], cgroup.path());
    Ok(())
}

/// Starts workloads until one has the process id asked for.
fn start_under_pid(pid: u32, program: &std::path::Path, arguments: &[&str]) -> Result<Workload> {
    // Somebody else may start a process between the two lines.
    for _ in 0..500 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
        let mut workload = Workload::spawn(program, arguments)?;
        if workload.pid() == pid {
            workload.await_ready()?;
            return Ok(workload);
        }
    }
    bail!("no process got the id {pid}")
}

#[test]
fn a_process_id_used_again_by_another_program() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !has_btf() {
        not_applicable("without BTF a process is its id");
        return Ok(());
    }
    let cache = class_512_of_messages()?;
    let directory = tempfile::tempdir()?;
    let [one, two] = ["first-prog", "second-prog"].map(|name| directory.path().join(name));
    symlink(workload_binary()?, &one)?;
    symlink(workload_binary()?, &two)?;
    let mut first = Workload::start_as(&one, &["--leave", "msg", "--count", "3000"])?;
    let pid = first.pid();
    let tracer = Tracer::json(&[])?;
    assert_eq!(first.go("count")?, 3000);
    assert!(first.exit()?.success());
    let mut second = start_under_pid(pid, &two, &["msg", "--count", "2000"])?;
    assert_eq!(second.go("count")?, 2000);
    let report = tracer.report()?;

    let mut rows = report.rows_of(pid)?;
    rows.retain(|row| row["cache"] == cache);
    assert_eq!(rows.len(), 2, "{rows:#?}");
    for (comm, exited, objects) in [("first-prog", true, 3000), ("second-prog", false, 2000)] {
        let row = rows.iter().find(|row| row["owner"]["comm"] == comm);
        let row = row.with_context(|| format!("nothing of {comm}: {rows:#?}"))?;
        let counts = as_counts(row)?;
        // Starting took some objects too where messages have no cache of their own (5.10).
        let freed = if exited { 0 } else { counts.freed };
        let expected = Counts { allocated: objects + freed, freed, ..staying(objects) };
        assert_eq!(counts, expected, "{comm}");
        assert!(freed < 100, "{comm}: {counts:?}");
        assert_eq!(row["owner"]["exited"], exited, "{comm}");
    }
    Ok(())
}

#[test]
fn threads_are_their_process() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !has_btf() {
        not_applicable("without BTF a process may bear the name of a thread");
        return Ok(());
    }
    let cache = class_512_of_messages()?;
    let arguments = ["--comm", "threaded", "msg", "--count", "4000", "--threads", "8"];
    let mut workload = Workload::start(&arguments)?;
    let tracer = Tracer::json(&[])?;
    assert_eq!(workload.go("count")?, 4000);
    let report = tracer.report()?;

    let row = report.row(workload.pid(), cache)?.context("no row of the process")?;
    assert_eq!(as_counts(row)?, staying(4000), "{:#}", report.0["loss"]);
    assert_eq!(row["owner"]["comm"], "threaded", "the process's name, not a thread's");
    Ok(())
}

#[test]
fn what_a_softirq_allocates_is_not_the_interrupted_process_s() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_filters()?;
    let mut workload = Workload::start(&["arp", "--count", "400"])?;
    let tracer = Tracer::json(&["--stacks", "all"])?;
    assert_eq!(workload.go("count")?, 400);
    let report = tracer.report()?;

    let stacks = report.0["stacks"].as_array().context("stacks")?;
    let of_neighbours = stacks
        .iter()
        .filter(|stack| stack["cache"] == cache && holds_frame(stack, &["neigh_"]))
        // A new device makes neighbours of its own for IPv6.
        .filter(|stack| holds_frame(stack, &["arp_"]))
        // Their table may have to grow.
        .filter(|stack| !holds_frame(stack, &["neigh_hash_alloc"]))
        .collect::<Vec<_>>();
    let objects =
        of_neighbours.iter().filter_map(|stack| stack["outstanding_objects"].as_u64()).sum::<u64>();
    assert_eq!(objects, 400, "{of_neighbours:#?}");
    for stack in of_neighbours {
        assert_eq!(stack["owner"]["kind"], "softirq");
        let frames = stack["kernel"].to_string();
        assert!(!frames.contains("packet_sendmsg"), "the interrupted task's frames: {frames}");
    }
    let blamed = report.counts(workload.pid(), cache)?;
    assert!(blamed.outstanding < 10, "the sender is blamed: {blamed:?}");
    Ok(())
}

/// Runs with a filter that lets the first of two processes through, and returns whose process ids
/// the report has.
fn pids_with_filter(filter: &str, value_of: impl Fn(&Workload, &Cgroup) -> String) -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let cgroups = [Cgroup::make(&cgroup_name("one"))?, Cgroup::make(&cgroup_name("two"))?];
    let mut one = Workload::start(&["--comm", "wanted-1", "msg", "--count", "1500"])?;
    let mut two = Workload::start(&["--comm", "other-2", "msg", "--count", "2500"])?;
    cgroups[0].join(one.pid())?;
    cgroups[1].join(two.pid())?;
    let tracer = Tracer::json(&[filter, &value_of(&one, &cgroups[0])])?;
    assert_eq!(one.go("count")?, 1500);
    assert_eq!(two.go("count")?, 2500);
    let report = tracer.report()?;

    assert_eq!(report.counts(one.pid(), cache)?, staying(1500));
    let pids = report.owners()?.iter().map(|row| row["owner"]["pid"].as_u64());
    let strangers = pids.filter(|pid| *pid != Some(one.pid().into())).collect::<Vec<_>>();
    assert!(strangers.is_empty(), "{filter} let others through: {strangers:?}");
    assert_eq!(report.0["verdict"]["owner"]["pid"], one.pid());
    Ok(())
}

#[test]
fn only_one_process() -> Result<()> {
    pids_with_filter("--pid", |process, _| process.pid().to_string())
}

#[test]
fn only_processes_by_name() -> Result<()> {
    pids_with_filter("--comm", |_, _| "wanted-*".to_owned())
}

#[test]
fn only_processes_of_a_cgroup() -> Result<()> {
    pids_with_filter("--cgroup", |_, cgroup| cgroup.path().to_owned())
}

#[test]
fn only_processes_of_cgroups_by_pattern() -> Result<()> {
    pids_with_filter("--cgroup", |_, cgroup| {
        format!("*{}*", cgroup.path().trim_start_matches('/').trim_end_matches(char::is_numeric))
    })
}

#[test]
fn processes_added_up_by_cgroup() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let cgroups = [Cgroup::make(&cgroup_name("sum-a"))?, Cgroup::make(&cgroup_name("sum-b"))?];
    let counts = [1000, 600, 250];
    let mut workloads = counts
        .iter()
        .map(|count| Workload::start(&["msg", "--count", &format!("{count}")]))
        .collect::<Result<Vec<_>>>()?;
    for (workload, cgroup) in workloads.iter().zip([&cgroups[0], &cgroups[0], &cgroups[1]]) {
        cgroup.join(workload.pid())?;
    }
    let tracer = Tracer::json(&["--by", "cgroup"])?;
    for (workload, count) in workloads.iter_mut().zip(counts) {
        assert_eq!(workload.go("count")?, count);
    }
    let report = tracer.report()?;

    assert_eq!(report.0["filter"]["by"], "cgroup");
    for (cgroup, objects) in cgroups.iter().zip([1600, 250]) {
        let rows = report.owners()?.iter();
        let rows = rows.filter(|row| row["owner"]["cgroup"] == cgroup.path());
        let rows = rows.filter(|row| row["cache"] == cache).collect::<Vec<_>>();
        assert_eq!(rows.len(), 1, "{rows:#?}");
        assert_eq!(rows[0]["owner"]["kind"], "cgroup");
        assert_eq!(as_counts(rows[0])?, staying(objects), "{}", cgroup.path());
    }
    Ok(())
}

#[test]
fn a_process_that_moves_owns_in_each_cgroup_what_it_allocated_there() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !has_btf() {
        not_applicable("without BTF a cgroup that is gone has no path");
        return Ok(());
    }
    let cache = class_512_of_messages()?;
    // On one CPU, where nothing but the move itself tells that it is no longer where it was.
    let mut workload = Workload::start(&["--cpu", "0", "msg", "--count", "1000"])?;
    let stays = Cgroup::make(&cgroup_name("stays"))?;
    stays.join(workload.pid())?;
    let tracer = Tracer::json(&["--by", "cgroup"])?;
    // Made and removed inside the window, so that only its events tell its path.
    let passes = Cgroup::make(&cgroup_name("passes"))?;
    let mut expected = vec![(stays.path().to_owned(), 500), (passes.path().to_owned(), 300)];
    for (cgroup, count) in [(&stays, 200), (&passes, 300), (&stays, 300)] {
        cgroup.join(workload.pid())?;
        workload.order(&format!("go {count}"))?;
        assert_eq!(workload.done("count")?, count);
    }
    drop(passes);
    let report = tracer.report()?;

    for (path, objects) in expected.drain(..) {
        let rows = report.owners()?.iter();
        let rows = rows.filter(|row| row["owner"]["cgroup"] == path && row["cache"] == cache);
        let rows = rows.collect::<Vec<_>>();
        assert_eq!(rows.len(), 1, "{path}: {:#?}", report.owners()?);
        assert_eq!(as_counts(rows[0])?, staying(objects), "{path}");
    }
    assert!(report.number("/cgroups/created")? >= 1);
    assert!(report.number("/cgroups/removed")? >= 1);
    Ok(())
}

#[test]
fn objects_added_up_by_site_and_by_cache() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "2000"])?;
    for (key, name) in [("site", "_msg"), ("cache", cache)] {
        let tracer = Tracer::json(&["--by", key, "--pid", &workload.pid().to_string()])?;
        assert_eq!(workload.go("count")?, 2000);
        let report = tracer.report()?;
        assert_eq!(workload.drain()?, 2000);

        let rows = report
            .owners()?
            .iter()
            .filter(|row| row["owner"]["comm"].as_str().is_some_and(|comm| comm.contains(name)));
        let rows = rows.filter(|row| row["cache"] == cache).collect::<Vec<_>>();
        assert_eq!(rows.len(), 1, "by {key}: {:#}", report.0["owners"]);
        assert_eq!(rows[0]["owner"]["kind"], key);
        assert_eq!(as_counts(rows[0])?, staying(2000), "by {key}");
    }
    Ok(())
}
