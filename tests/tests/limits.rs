//! What happens at the edges: a full map, a violent end, signals, thresholds.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;
use kleak_tests::harness::{
    PATIENCE, Report, Tracer, Workload, as_counts, class_512_of_messages, loaded_by, require_live,
    wait_for,
};
use nix::sys::signal::Signal;

/// Sends 5,000 messages under `--max-objects 1000`.
fn fill_the_map(filtered: bool) -> Result<()> {
    let Some(_live) = require_live()? else { return Ok(()) };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "5000"])?;
    let pid = workload.pid().to_string();
    let mut options = vec!["--max-objects", "1000"];
    if filtered {
        options.extend(["--pid", &pid]);
    }
    let tracer = Tracer::json(&options)?;
    assert_eq!(workload.go("count")?, 5000);
    let report = tracer.report()?;

    // The map is the whole machine's: a few objects of others may be in it, or have found no room.
    assert!(report.outstanding()? <= 1000, "tracked: {:#}", report.0);
    let counts = report.counts(workload.pid(), cache)?;
    assert_eq!((counts.allocated, counts.freed), (5000, 0), "nothing was freed: {:#}", report.0);
    assert!((800..=1000).contains(&counts.outstanding), "{counts:?}");
    let untracked = report.number("/loss/untracked_objects")?;
    let its_own = counts.allocated - counts.outstanding;
    assert!((its_own..its_own + 500).contains(&untracked), "{counts:?}, {untracked} untracked");
    assert_ne!(report.word("/verdict/confidence")?, "high");
    if !filtered {
        let rows = report.owners()?.iter().map(as_counts).collect::<Result<Vec<_>>>()?;
        let unknown = rows.iter().map(|row| row.allocated - row.freed - row.outstanding);
        assert_eq!(unknown.sum::<u64>(), untracked, "neither freed nor held: {:#}", report.0);
    }
    Ok(())
}

#[test]
fn a_full_map_counts_what_it_cannot_hold() -> Result<()> {
    fill_the_map(true)
}

#[test]
fn a_full_map_counts_what_it_cannot_hold_of_the_whole_machine() -> Result<()> {
    fill_the_map(false)
}

#[test]
fn a_map_that_was_full_empties_again() -> Result<()> {
    let Some(_live) = require_live()? else { return Ok(()) };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "5000"])?;
    let pid = workload.pid().to_string();
    let tracer = Tracer::json(&["--max-objects", "1000", "--pid", &pid])?;
    assert_eq!(workload.go("count")?, 5000);
    assert_eq!(workload.drain()?, 5000);
    workload.order("go 300")?;
    assert_eq!(workload.done("count")?, 300);
    let report = tracer.report()?;

    assert_eq!(report.counts(workload.pid(), cache)?.outstanding, 300);
    assert!(report.number("/loss/untracked_objects")? >= 4000, "{:#}", report.0["loss"]);
    Ok(())
}

/// Names under the BPF file system, which may not be mounted.
fn pinned() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn nothing_stays_after(signal: Signal) -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let before = pinned();
    let mut workload = Workload::start(&["msg", "--count", "1000"])?;
    let tracer = Tracer::json(&[])?;
    assert_eq!(workload.go("count")?, 1000);
    let loaded = loaded_by(tracer.pid())?;
    assert!(!loaded.programs.is_empty() && !loaded.maps.is_empty(), "{loaded:?}");
    assert_eq!(loaded.still_there()?, loaded, "the kernel has what it should have");
    tracer.signal(signal)?;
    let finished = tracer.finish()?;

    if signal == Signal::SIGKILL {
        assert_eq!(finished.code(), None, "{finished}");
    }
    // The kernel frees programs and maps in the background.
    wait_for("end of kleak's programs and maps", PATIENCE, || {
        Ok(loaded.still_there()?.is_empty().then_some(()))
    })?;
    assert_eq!(pinned(), before, "pinned under /sys/fs/bpf");
    Ok(())
}

#[test]
fn nothing_stays_loaded_after_kill_9() -> Result<()> {
    nothing_stays_after(Signal::SIGKILL)
}

#[test]
fn nothing_stays_loaded_after_ctrl_c() -> Result<()> {
    nothing_stays_after(Signal::SIGINT)
}

#[test]
fn ctrl_c_and_term_print_the_report() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut workload = Workload::start(&["msg", "--count", "700"])?;
        let tracer = Tracer::json(&["--duration", "1h"])?;
        assert_eq!(workload.go("count")?, 700);
        tracer.signal(signal)?;
        let finished = tracer.finish()?.expect(0, &[])?;
        let report = Report::parse(&finished)?;
        assert_eq!(report.counts(workload.pid(), cache)?.outstanding, 700, "after {signal}");
    }
    Ok(())
}

#[test]
fn other_signals_end_it_with_their_number() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let tracer = Tracer::json(&[])?;
    tracer.signal(Signal::SIGHUP)?;
    let finished = tracer.finish()?;
    assert_eq!(finished.code(), Some(129), "{finished}");
    Ok(())
}

#[test]
fn thresholds_that_hold_are_named_and_exit_4() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cases = [
        ("objects>1000", "100000", 4),
        ("objects>1000000", "100000", 0),
        ("growth>1MiB", "100000", 4),
        ("growth>1GiB", "100000", 0),
        ("growth>1MiB/min", "100000", 4),
        ("owner.share>0.5", "100000", 4),
        ("untracked>0", "100000", 0),
        ("untracked>0", "500", 4),
    ];
    for (threshold, room, code) in cases {
        let mut workload = Workload::start(&["msg", "--count", "5000"])?;
        let pid = workload.pid().to_string();
        let tracer = Tracer::json(&["--pid", &pid, "--max-objects", room, "--fail-on", threshold])?;
        assert_eq!(workload.go("count")?, 5000);
        // The report is printed all the same.
        let said: &[&str] = if code == 4 { &[threshold] } else { &[] };
        let finished = tracer.interrupt()?.expect(code, said)?;
        let report = Report::parse(&finished)?;
        assert!(report.outstanding()? > 0, "{finished}");
    }
    Ok(())
}

#[test]
fn of_several_thresholds_only_those_that_hold_are_named() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&["msg", "--count", "2000"])?;
    let pid = workload.pid().to_string();
    let tracer =
        Tracer::json(&["--pid", &pid, "--fail-on", "objects>123456", "--fail-on", "objects>1500"])?;
    assert_eq!(workload.go("count")?, 2000);
    let finished = tracer.interrupt()?.expect(4, &["objects>1500"])?;
    assert!(!finished.stderr.contains("fail-on: objects>123456"), "{finished}");
    Ok(())
}
