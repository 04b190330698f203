//! Memory that is in no slab cache, and large kmallocs, which are in two ledgers.

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Counts, Report, Tracer, Workload, as_counts, class_512_of_messages, require_live, shout,
};
use serde_json::Value;

/// Bytes of a page, by this machine.
fn page() -> Result<u64> {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("page size")?;
    Ok(bytes.try_into()?)
}

/// Possible CPUs: each has its copy of a per-CPU object.
fn possible_cpus() -> Result<u64> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = list.trim().rsplit([',', '-']).next().context("no CPU")?;
    Ok(last.parse::<u64>().with_context(|| list.clone())? + 1)
}

fn staying(objects: u64, each: u64) -> Counts {
    Counts { allocated: objects, freed: 0, outstanding: objects, bytes: objects * each }
}

/// `--kind` with these, and nothing else.
fn trace(kinds: &str, options: &[&str]) -> Result<Tracer> {
    let base = ["--kind", kinds, "--format", "json", "--top", "1000"];
    Tracer::start(&[&base, options].concat())
}

/// Rows of a process whose cache's name begins so.
fn rows_of<'a>(report: &'a Report, pid: u32, start: &str) -> Result<Vec<&'a Value>> {
    let rows = report.rows_of(pid)?.into_iter();
    Ok(rows.filter(|row| row["cache"].as_str().is_some_and(|n| n.starts_with(start))).collect())
}

fn share(rows: &[&Value]) -> f64 {
    rows.iter().filter_map(|row| row["share"].as_f64()).sum()
}

const PIPES: u64 = 100;
/// What a pipe holds unless told otherwise (`PIPE_DEF_BUFFERS`).
const PAGES: u64 = 16;

#[test]
fn pages_in_pipes_are_counted_to_the_last_one() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    for stacks in ["auto", "off"] {
        let mut workload = Workload::start(&["--comm", "filler", "pipes", "--count", "100"])?;
        let tracer = trace("page", &["--stacks", stacks])?;
        assert!(tracer.attached().contains("attached: pages;"), "{}", tracer.attached());
        assert_eq!(workload.go("pages")?, PIPES * PAGES);
        let report = tracer.report()?;

        let cache = "page order-0 unmovable";
        let row = report.row(workload.pid(), cache)?.context("no row of the workload")?;
        assert_eq!(as_counts(row)?, staying(PIPES * PAGES, page()?), "--stacks {stacks}");
        assert_eq!(row["owner"]["comm"], "filler");
        assert_eq!(row["owner"]["kind"], "process");
        assert_eq!(report.0["filter"]["kinds"], serde_json::json!(["page"]));
        let of_cache = report.0["caches"].as_array().context("caches")?;
        let of_cache = of_cache.iter().find(|row| row["name"] == cache).context("no such cache")?;
        assert_eq!(of_cache["object_size_bytes"], page()?);
        // No book of the kernel's says how many pages are for what.
        assert!(of_cache["explained"].is_null() && of_cache["slabinfo_growth_objects"].is_null());
        if stacks == "auto" {
            ensure!(report.passes_through(row, &["pipe_write"])?, "no such stack: {:#}", report.0);
        }
    }
    Ok(())
}

#[test]
fn pages_of_closed_pipes_are_gone() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&["pipes", "--count", "100"])?;
    let tracer = trace("page", &[])?;
    assert_eq!(workload.go("pages")?, PIPES * PAGES);
    assert_eq!(workload.drain()?, PIPES);
    let report = tracer.report()?;
    let counts = report.counts(workload.pid(), "page order-0 unmovable")?;
    assert_eq!((counts.outstanding, counts.bytes), (0, 0));
    assert_eq!(counts.allocated, counts.freed);
    assert!(counts.freed >= PIPES * PAGES, "{counts:?}");
    Ok(())
}

#[test]
fn the_function_that_fills_pipes_is_named() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&["pipes", "--count", "100"])?;
    let pid = workload.pid().to_string();
    // The call site is exact whether or not stacks are taken.
    let tracer = trace("page", &["--stacks", "off", "--by", "site", "--pid", &pid])?;
    assert_eq!(workload.go("pages")?, PIPES * PAGES);
    let report = tracer.report()?;
    let top = report.owners()?.first().context("no row")?;
    let name = top["owner"]["comm"].as_str().context("no name")?;
    assert!(name.contains("pipe"), "{top:#}");
    assert_eq!(as_counts(top)?, staying(PIPES * PAGES, page()?));
    Ok(())
}

#[test]
fn per_cpu_arrays_are_counted_over_all_cpus() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    // An element of 500 bytes takes 504 (`array_map_alloc()` rounds up to 8).
    let arrays = ["arrays", "--count", "4", "--entries", "500", "--value-size", "500"];
    let mut workload = Workload::start(&[&["--comm", "maker"], &arrays[..]].concat())?;
    let tracer = trace("percpu", &[])?;
    assert!(tracer.attached().contains("attached: per-CPU memory;"), "{}", tracer.attached());
    assert_eq!(workload.go("count")?, 4);
    let report = tracer.report()?;

    let row = report.row(workload.pid(), "percpu 504")?.context("no row of the workload")?;
    assert_eq!(as_counts(row)?, staying(2000, 504 * possible_cpus()?));
    assert_eq!(row["owner"]["comm"], "maker");
    // From 5.10 on: where the event does not say who called, the stack does.
    ensure!(report.passes_through(row, &["array_map_alloc"])?, "no such stack: {:#}", report.0);
    Ok(())
}

#[test]
fn per_cpu_memory_of_closed_arrays_is_gone() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let arrays = ["arrays", "--count", "4", "--entries", "500", "--value-size", "500"];
    let mut workload = Workload::start(&arrays)?;
    let tracer = trace("percpu", &[])?;
    assert_eq!(workload.go("count")?, 4);
    assert_eq!(workload.drain()?, 4);
    // A kernel worker frees them after a grace period; the sum of what is populated does not tell.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let report = tracer.report()?;
    let counts = report.counts(workload.pid(), "percpu 504")?;
    assert_eq!(counts, Counts { allocated: 2000, freed: 2000, outstanding: 0, bytes: 0 });
    Ok(())
}

/// Plain arrays of 12,000 bytes and a header: one kmalloc of 16 KiB each, which some kernels report
/// twice.
const LARGE: [&str; 8] =
    ["arrays", "--plain", "--count", "50", "--entries", "1500", "--value-size", "8"];

#[test]
fn large_kmallocs_are_counted_once_by_class() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&LARGE)?;
    let tracer = Tracer::start(&["--size", "16k", "--format", "json", "--top", "1000"])?;
    assert_eq!(workload.go("count")?, 50);
    let report = tracer.report()?;
    let rows = report.rows_of(workload.pid())?;
    ensure!(rows.len() == 1, "one class, one row: {rows:#?}");
    assert_eq!(as_counts(rows[0])?, staying(50, 16_384));
    assert_eq!(rows[0]["cache"], "kmalloc-large-16k");
    assert!(rows[0]["requested_bytes"].as_u64() >= Some(50 * 12_000), "{:#}", rows[0]);
    assert_eq!(report.number("/loss/missed_frees_detected")?, 0);
    Ok(())
}

#[test]
fn pages_of_large_kmallocs_are_not_added_to_them() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&LARGE)?;
    let pid = workload.pid().to_string();
    let tracer = trace("page,kmalloc", &["--pid", &pid, "--fail-on", "growth>1200KiB"])?;
    assert_eq!(workload.go("count")?, 50);
    // Twice 800 KiB is more than 1,200, and would be wrong.
    let report = Report::parse(&tracer.interrupt()?.expect(0, &[])?)?;
    let pid = workload.pid();
    assert_eq!(report.counts(pid, "kmalloc-large-16k")?, staying(50, 16_384));
    let pages = report.counts(pid, "page order-2 unmovable (large kmalloc)")?;
    assert_eq!(pages, staying(50, 4 * page()?));
    let slab = share(&rows_of(&report, pid, "kmalloc")?);
    let pages = share(&rows_of(&report, pid, "page")?);
    assert!((slab - 1.0).abs() < 0.001 && (pages - 1.0).abs() < 0.001, "{slab} and {pages}");
    Ok(())
}

#[test]
fn pages_that_slab_caches_take_are_told_from_others() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "20000"])?;
    let pid = workload.pid();
    let tracer = trace("page", &["--pid", &pid.to_string()])?;
    assert_eq!(workload.go("count")?, 20_000);
    let report = tracer.report()?;
    let bytes = |slab: bool| -> Result<u64> {
        let rows = rows_of(&report, pid, "page order-")?.into_iter().filter(|row| {
            row["cache"].as_str().is_some_and(|name| name.ends_with(" (slab)") == slab)
        });
        rows.map(|row| Ok(as_counts(row)?.bytes)).sum()
    };
    // 20,000 objects of 512 bytes are 10 MB, a few of which lay in pages that were there before.
    let slab = bytes(true)?;
    assert!(
        (8_000_000..16_000_000).contains(&slab),
        "{slab} bytes for slab caches: {:#}",
        report.0
    );
    let others = bytes(false)?;
    assert!(others < 1_000_000, "{others} bytes of messages are taken for others: {:#}", report.0);
    Ok(())
}

#[test]
fn memory_of_processes_is_called_that() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&["memory", "--mib", "64"])?;
    let pid = workload.pid();
    let tracer = trace("page", &["--pid", &pid.to_string()])?;
    assert_eq!(workload.go("bytes")?, 64 << 20);
    let report = tracer.report()?;
    let movable: u64 = rows_of(&report, pid, "page order-")?
        .into_iter()
        .filter(|row| row["cache"].as_str().is_some_and(|name| name.ends_with(" movable")))
        .map(|row| Ok(as_counts(row)?.bytes))
        .sum::<Result<u64>>()?;
    // All of it, and little more: pages of its own program may be read from disk meanwhile.
    assert!((64 << 20..66 << 20).contains(&movable), "{movable}: {:#}", report.0);
    let summary = report.word("/verdict/summary")?;
    assert!(summary.contains("not kernel objects"), "{summary}");
    Ok(())
}

#[test]
fn huge_pages_freed_in_parts_are_counted_down() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&["memory", "--mib", "16", "--huge"])?;
    let pid = workload.pid();
    let tracer = trace("page", &["--pid", &pid.to_string()])?;
    assert_eq!(workload.go("bytes")?, 16 << 20);
    let left = workload.drain()?;
    let report = tracer.report()?;

    let movable = |row: &&Value| row["cache"].as_str().is_some_and(|n| n.ends_with(" movable"));
    let rows = rows_of(&report, pid, "page order-")?.into_iter().filter(movable);
    let rows = rows.filter(|row| report.passes_through(row, &["shmem"]).unwrap_or(false));
    let rows = rows.collect::<Vec<_>>();
    let bytes: u64 = rows.iter().map(|row| Ok(as_counts(row)?.bytes)).sum::<Result<u64>>()?;
    assert_eq!(bytes, left, "{rows:#?}");
    if !rows.iter().any(|row| row["cache"] == "page order-9 movable") {
        shout("this kernel gave out no huge pages, so that none was freed in parts");
        return Ok(());
    }
    assert_eq!(left, 8 << 20, "the file system's count of what is left");
    Ok(())
}
