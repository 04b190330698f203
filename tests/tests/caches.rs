//! Slab caches by name.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Cgroup, Report, Tracer, Workload, binary, in_use, not_applicable, require_caches, require_live,
    run, run_command, settle,
};

/// Names of slab caches, also of those that were merged into others.
const CACHES: &str = "/sys/kernel/slab";

fn json(options: &[&str]) -> Result<Tracer> {
    Tracer::start(&[&["--format", "json", "--top", "1000"], options].concat())
}

/// The row of `caches` with this name.
fn cache<'a>(report: &'a Report, name: &str) -> Result<&'a serde_json::Value> {
    let rows = report.0["caches"].as_array().context("caches is no list")?;
    let row = rows.iter().find(|row| row["name"] == name);
    row.with_context(|| format!("no cache {name} in {rows:#?}"))
}

/// A cache's name and others of it, first of all `wanted`, if the kernel merged that one.
fn merged(wanted: &str) -> Result<Option<Vec<String>>> {
    let Ok(target) = fs::read_link(Path::new(CACHES).join(wanted)) else {
        return Ok(None);
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(CACHES)? {
        let entry = entry?;
        if fs::read_link(entry.path()).is_ok_and(|other| other == target) {
            names.push(entry.file_name().into_string().map_err(|_| anyhow::anyhow!("no text"))?);
        }
    }
    names.sort_by_key(|name| (name != wanted, name.clone()));
    Ok((names.len() > 1).then_some(names))
}

/// The threads of a process have thousands of names in /proc which the kernel makes (dentries and
/// inodes) when somebody looks for the first time, and keeps as long as the threads live: nothing
/// has to be dropped before, and nothing is freed meanwhile.
#[test]
fn what_find_leaves_in_the_dentry_cache() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !require_caches()? {
        return Ok(());
    }
    let mut threads = Workload::start(&["threads", "--count", "400"])?;
    assert_eq!(threads.go("count")?, 400);
    settle("dentry")?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.json");
    let before = in_use("dentry")?;
    let mut kleak = Command::new(binary()?);
    kleak.args(["trace", "--cache", "dentry", "--format", "json", "--top", "1000", "-o"]);
    kleak.arg(&file).args(["--", "find"]);
    kleak.arg(format!("/proc/{}/task", threads.pid())).arg("-xdev");
    let finished = run_command(kleak, 4 * kleak_tests::harness::PATIENCE)?;
    let grown = in_use("dentry")?.saturating_sub(before);
    ensure!(finished.stderr.contains("attached:"), "{finished}");
    let report = Report::check(serde_json::from_slice(&fs::read(&file).context("the report")?)?)?;

    ensure!(grown >= 10_000, "the cache grew by only {grown}: {:#}", report.0["caches"]);
    let row = cache(&report, "dentry")?;
    let explained = row["explained"].as_f64().with_context(|| format!("nothing: {row:#}"))?;
    ensure!((0.9..=1.1).contains(&explained), "{explained} of {grown} are explained: {row:#}");
    let verdict = &report.0["verdict"];
    assert_eq!(verdict["owner"]["comm"], "find", "{verdict:#}");
    assert_eq!(verdict["cache"], "dentry", "{verdict:#}");
    assert_eq!(report.0["command"]["exit_status"], 0, "{finished}");
    let pid = u32::try_from(report.number("/command/pid")?)?;
    let counts = report.counts(pid, "dentry")?;
    ensure!(counts.outstanding * 10 >= grown * 9, "{counts:?} of {grown}");
    ensure!(report.owners()?.iter().all(|row| row["cache"] == "dentry"), "{:#}", report.0);
    Ok(())
}

#[test]
fn files_left_open_are_counted_to_the_last() -> Result<()> {
    const FILES: u64 = 10_000;
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !require_caches()? {
        return Ok(());
    }
    let mut workload = Workload::start(&["--comm", "opener", "files", "--count", "10000"])?;
    settle("filp")?;
    let tracer = json(&["--cache", "filp"])?;
    assert_eq!(workload.go("count")?, FILES);
    let report = tracer.report()?;
    assert_eq!(workload.drain()?, FILES);

    let row = report.row(workload.pid(), "filp")?.context("no row of the workload")?;
    assert_eq!(row["outstanding_objects"], FILES, "{row:#}");
    assert_eq!(row["freed_objects"], 0, "{row:#}");
    assert_eq!(report.0["verdict"]["owner"]["comm"], "opener", "{:#}", report.0["verdict"]);
    let explained = cache(&report, "filp")?["explained"].as_f64().context("explained")?;
    ensure!((0.9..=1.1).contains(&explained), "{explained}: {:#}", report.0["caches"]);
    ensure!(report.owners()?.iter().all(|row| row["cache"] == "filp"), "{:#}", report.0);
    Ok(())
}

#[test]
fn files_closed_again_leave_nothing() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !require_caches()? {
        return Ok(());
    }
    let mut workload = Workload::start(&["files", "--count", "10000"])?;
    let tracer = json(&["--cache", "filp"])?;
    assert_eq!(workload.go("count")?, 10_000);
    assert_eq!(workload.drain()?, 10_000);
    // Up to 6.11 they are freed by an RCU callback.
    std::thread::sleep(Duration::from_secs(1));
    let counts = tracer.report()?.counts(workload.pid(), "filp")?;
    ensure!(counts.allocated >= 10_000 && counts.outstanding == 0, "{counts:?}");
    Ok(())
}

#[test]
fn a_glob_selects_what_it_matches_and_nothing_else() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !require_caches()? {
        return Ok(());
    }
    let tracer = json(&["--cache", "kernfs*", "--stacks", "off"])?;
    let name = format!("kleak-test-glob-{}", std::process::id());
    let cgroups = (0..20).map(|number| Cgroup::make(&format!("{name}/{number}")));
    let cgroups = cgroups.collect::<Result<Vec<_>>>()?;
    let report = tracer.report()?;
    // The parent was made with the first, and goes with it: after the others.
    cgroups.into_iter().rev().for_each(drop);

    let mine = report.rows_of(std::process::id())?;
    let nodes = mine.iter().find(|row| row["cache"] == "kernfs_node_cache");
    let nodes = nodes.with_context(|| format!("no kernfs nodes: {mine:#?}"))?;
    // Each directory has more than ten files.
    ensure!(nodes["outstanding_objects"].as_u64() >= Some(200), "{nodes:#}");
    for row in report.owners()? {
        let name = row["cache"].as_str().context("cache")?;
        let aliases = cache(&report, name)?["aliases"].as_array().context("aliases")?;
        let mut names = aliases.iter().filter_map(serde_json::Value::as_str).chain([name]);
        ensure!(names.any(|name| name.starts_with("kernfs")), "{name} is not one: {aliases:?}");
    }
    Ok(())
}

/// Epoll items share their cache with others on most kernels: whichever name is asked for, it is
/// that one cache.
#[test]
fn a_merged_cache_is_selected_by_any_of_its_names() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !require_caches()? {
        return Ok(());
    }
    let candidates = [("eventpoll_epi", "epoll"), ("posix_timers_cache", "timers")];
    let found = candidates.iter().find_map(|(cache, workload)| {
        merged(cache).transpose().map(|names| names.map(|names| (names, *workload)))
    });
    let Some((names, workload)) = found.transpose()? else {
        not_applicable("this kernel keeps these caches apart");
        return Ok(());
    };
    let mut workload = Workload::start(&[workload, "--count", "1000"])?;
    let mut shown = Vec::new();
    for name in [&names[0], &names[names.len() - 1]] {
        let tracer = json(&["--cache", name])?;
        assert_eq!(workload.go("count")?, 1000);
        let finished = tracer.interrupt()?.expect(0, &[name.as_str(), "one cache with"])?;
        let report = Report::parse(&finished)?;
        assert_eq!(workload.drain()?, 1000);
        let rows = report.rows_of(workload.pid())?;
        ensure!(rows.len() == 1, "one cache was asked for: {rows:#?}");
        assert_eq!(rows[0]["outstanding_objects"], 1000, "by {name}: {:#}", rows[0]);
        let kernels = rows[0]["cache"].as_str().context("cache")?;
        let aliases = &cache(&report, kernels)?["aliases"];
        let mut all = serde_json::from_value::<Vec<String>>(aliases.clone())?;
        ensure!(!all.iter().any(|alias| alias == kernels), "its own alias: {all:?}");
        all.push(kernels.to_owned());
        all.sort();
        let mut expected = names.clone();
        expected.sort();
        assert_eq!(all, expected, "by {name}");
        shown.push(kernels.to_owned());
    }
    assert_eq!(shown[0], shown[1], "one cache has one name");

    let tracer = Tracer::start(&["--cache", &names[0]])?;
    assert_eq!(workload.go("count")?, 1000);
    let finished = tracer.interrupt()?.expect(0, &[])?;
    let text = finished.text()?;
    ensure!(text.contains("in one cache with"), "the text does not say so: {text}");
    Ok(())
}

#[test]
fn a_cache_that_does_not_exist_is_a_usage_error() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    for wrong in ["no_such_cache", "no_such_*"] {
        let arguments = ["trace", "--cache", wrong, "--duration", "1s"];
        run(&arguments)?.expect(2, &[wrong, "/proc/slabinfo"])?;
    }
    Ok(())
}
