//! Every object counted, to the last one.

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Counts, Tracer, Workload, as_counts, class_512_of_messages, has_btf, holds_frame, require_live,
};
use serde_json::Value;

const MESSAGES: u64 = 10_000;

/// Functions of the kernel that make a message.
const MAKERS: &[&str] = &["load_msg", "alloc_msg"];

fn all_stay(stacks: &str) -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["--comm", "leaker", "msg", "--count", "10000"])?;
    let tracer = Tracer::json(&["--stacks", stacks])?;
    assert_eq!(workload.go("count")?, MESSAGES);
    assert_eq!(workload.waiting()?, MESSAGES);
    let report = tracer.report()?;

    let row = report.row(workload.pid(), cache)?.context("no row of the workload")?;
    let expected =
        Counts { allocated: MESSAGES, freed: 0, outstanding: MESSAGES, bytes: MESSAGES * 512 };
    assert_eq!(as_counts(row)?, expected);
    assert_eq!(row["requested_bytes"], MESSAGES * 512);
    assert_eq!(row["owner"]["kind"], "process");
    assert_eq!(row["owner"]["comm"], "leaker");
    // Without BTF an id does not tell a process from its next user.
    let exited = if has_btf() { Value::from(false) } else { Value::Null };
    assert_eq!(row["owner"]["exited"], exited);
    assert!(row["oldest_s"].as_f64().is_some_and(|age| age > 0.0 && age < 60.0), "{row:#}");
    assert_eq!(report.number("/loss/untracked_objects")?, 0);
    assert_eq!(report.number("/loss/failed_updates")?, 0);

    let caches = report.0["caches"].as_array().context("caches")?;
    let of_cache = caches.iter().find(|row| row["name"] == cache).context("no such cache")?;
    assert_eq!(of_cache["object_size_bytes"], 512);
    assert!(of_cache["outstanding_objects"].as_u64() >= Some(MESSAGES), "{of_cache:#}");

    if stacks != "off" {
        ensure!(report.passes_through(row, MAKERS)?, "no stack through {MAKERS:?}: {:#}", report.0);
        let through = report
            .stacks_of(row)?
            .into_iter()
            .filter(|stack| holds_frame(stack, MAKERS))
            .map(|stack| stack["outstanding_objects"].as_u64().unwrap_or(0))
            .sum::<u64>();
        if stacks == "all" {
            assert_eq!(through, MESSAGES, "objects by exact stacks");
            assert!(report.stacks_of(row)?.iter().all(|stack| stack["estimated"] == false));
        } else {
            // Shares of a total that is exact: at most a rounding off for each stack.
            assert!(through.abs_diff(MESSAGES) <= 50, "{through} objects by sampled stacks");
        }
    }
    Ok(())
}

#[test]
fn all_messages_that_stay_are_counted_with_stacks_auto() -> Result<()> {
    all_stay("auto")
}

#[test]
fn all_messages_that_stay_are_counted_with_stacks_all() -> Result<()> {
    all_stay("all")
}

#[test]
fn all_messages_that_stay_are_counted_with_stacks_off() -> Result<()> {
    all_stay("off")
}

fn none_stays(stacks: &str) -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "10000"])?;
    let tracer = Tracer::json(&["--stacks", stacks])?;
    assert_eq!(workload.go("count")?, MESSAGES);
    assert_eq!(workload.drain()?, MESSAGES);
    let report = tracer.report()?;

    let counts = report.counts(workload.pid(), cache)?;
    assert_eq!((counts.outstanding, counts.bytes), (0, 0));
    assert_eq!(counts.allocated, counts.freed);
    assert!(report.number("/cost/events")? >= MESSAGES, "it saw too little: {:#}", report.0);
    Ok(())
}

#[test]
fn messages_received_leave_nothing_with_stacks_auto() -> Result<()> {
    none_stays("auto")
}

#[test]
fn messages_received_leave_nothing_with_stacks_all() -> Result<()> {
    none_stays("all")
}

#[test]
fn messages_received_leave_nothing_with_stacks_off() -> Result<()> {
    none_stays("off")
}

#[test]
fn frees_of_objects_older_than_the_window_are_taken_from_nobody() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "3000"])?;
    assert_eq!(workload.go("count")?, 3000);
    let tracer = Tracer::json(&[])?;
    assert_eq!(workload.drain()?, 3000);
    workload.order("go 100")?;
    assert_eq!(workload.done("count")?, 100);
    let report = tracer.report()?;

    let expected = Counts { allocated: 100, freed: 0, outstanding: 100, bytes: 51_200 };
    assert_eq!(report.counts(workload.pid(), cache)?, expected);
    assert!(report.number("/loss/unmatched_frees")? >= 3000, "{:#}", report.0["loss"]);
    let older = &report.0["loss"]["frees_of_older_objects"];
    assert!(older.is_null() || older.as_u64() >= Some(3000), "{:#}", report.0["loss"]);
    Ok(())
}

#[test]
fn other_size_classes_are_not_counted() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut of_1k = Workload::start(&["msg", "--count", "1000", "--size-class", "1024"])?;
    let mut of_256 = Workload::start(&["msg", "--count", "1000", "--size-class", "256"])?;
    let tracer = Tracer::json(&[])?;
    assert_eq!(of_1k.go("count")?, 1000);
    assert_eq!(of_256.go("count")?, 1000);
    let report = tracer.report()?;

    for workload in [&of_1k, &of_256] {
        let rows = report.rows_of(workload.pid())?;
        let counted = rows.into_iter().map(as_counts).collect::<Result<Vec<_>>>()?;
        // A page table's worth of 512-class objects may be the process's own; not its messages.
        assert!(counted.iter().all(|counts| counts.allocated < 100), "{counted:?}");
    }
    Ok(())
}

#[test]
fn only_objects_that_outlive_min_age_are_counted() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "3000", "--capacity", "4000"])?;
    let tracer = Tracer::json(&["--min-age", "5s"])?;
    assert_eq!(workload.go("count")?, 3000);
    // Nothing to wait for: the objects have to get old.
    std::thread::sleep(std::time::Duration::from_secs(6));
    workload.order("go 1000")?;
    assert_eq!(workload.done("count")?, 1000);
    let report = tracer.report()?;

    let counts = report.counts(workload.pid(), cache)?;
    assert_eq!((counts.outstanding, counts.bytes, counts.freed), (3000, 3000 * 512, 0));
    assert_eq!(report.0["filter"]["min_age_s"], 5.0);
    Ok(())
}
