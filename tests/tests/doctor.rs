//! `kleak doctor` on the machine that it runs on: no BPF, and nothing is changed.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser as _;
use kleak::cli::{Cli, Command};
use kleak::host::Host;
use kleak::host::cgroup::CgroupLayout;
use kleak_tests::harness::{
    Cgroup, Finished, PATIENCE, Tmpfs, Workload, binary, class_512_of_messages, require_binary,
    require_root, run, run_command,
};
use serde_json::Value;

/// Cgroups that a test pins.
const PINNED: u64 = 20;
/// Anonymous memory of a process that is to be named, at most; a small machine has no room for it.
const LARGE_MIB: u64 = 2_048;
/// Part of what is available that it may take.
const PART: u64 = 4;
/// Messages that are sent at once, and how far apart, so that a cache grows steadily: 5,000 a second.
const BATCH: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);
/// Messages there is room for: 20 s of them, as the tool may be slow to start.
const ROOM: usize = 100_000;

/// A report that satisfies its schema.
fn parse(finished: &Finished) -> Result<Value> {
    let report: Value = serde_json::from_slice(&finished.stdout)
        .with_context(|| format!("not one JSON document: {finished}"))?;
    let schema = include_str!("../../schema/kleak.doctor-1.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema)?)?;
    let errors: Vec<String> = schema.iter_errors(&report).map(|error| error.to_string()).collect();
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(report)
}

fn examine() -> Result<Value> {
    parse(&run(&["doctor", "--format", "json"])?.expect(0, &[])?)
}

fn findings<'a>(report: &'a Value, id: &str) -> Result<Vec<&'a Value>> {
    let all = report["findings"].as_array().context("no findings")?;
    Ok(all.iter().filter(|finding| finding["id"] == id).collect())
}

fn of_process(report: &Value, pid: u32) -> Result<&Value> {
    let rows = report["processes"].as_array().context("no processes")?;
    let row = rows.iter().find(|row| row["pid"] == pid);
    row.with_context(|| format!("process {pid} is not among the biggest: {rows:#?}"))
}

#[test]
fn a_big_process_is_named_and_is_not_the_kernel() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let cgroup = Cgroup::make(&format!("kleak-test-big-{}", std::process::id()))?;
    let available = kleak::host::meminfo::read(&Host::default())?.mem_available;
    let mib = LARGE_MIB.min((available.context("no MemAvailable")? / PART) >> 20);
    let argument = mib.to_string();
    let mut big = Workload::start(&["--comm", "big-one", "memory", "--mib", &argument])?;
    cgroup.join(big.pid())?;
    big.order("go")?;
    big.answer("done")?;
    let report = examine()?;

    let row = of_process(&report, big.pid())?;
    assert_eq!((&row["comm"], &row["cgroup"]), (&"big-one".into(), &cgroup.path().into()));
    let anon = row["anon_bytes"].as_u64().context("no anonymous memory")?;
    ensure!((mib << 20..(mib + 64) << 20).contains(&anon), "{anon} of {mib} MiB");
    assert_eq!(row["limited"], false);
    let total = report["memory"]["total_bytes"].as_u64().context("no total")?;
    ensure!(report["memory"]["anon_bytes"].as_u64() >= Some(anon), "{:#}", report["memory"]);
    // From a twentieth of memory on it is a finding of its own.
    if anon as f64 / total as f64 >= 0.05 {
        let found = findings(&report, "user-process")?;
        let mine = found.iter().find(|finding| finding["evidence"]["pid"] == big.pid());
        let mine = mine.with_context(|| format!("no finding: {found:#?}"))?;
        let summary = mine["summary"].as_str().context("no summary")?;
        ensure!(summary.starts_with("a process, not the kernel: big-one (pid "), "{summary}");
        ensure!(summary.contains(" anonymous, "), "{summary}");
        ensure!(!mine["next"].as_str().unwrap_or_default().contains("kleak trace"), "{mine:#}");
    }
    Ok(())
}

/// Sends messages until told to stop.
fn send_steadily(sender: &mut Workload, stop: &AtomicBool) -> Result<usize> {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) && sent + BATCH <= ROOM {
        sender.order(&format!("go {BATCH}"))?;
        sender.answer("done")?;
        sent += BATCH;
        std::thread::sleep(PAUSE);
    }
    Ok(sent)
}

#[test]
fn growth_is_seen_in_the_second_look() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let room = ROOM.to_string();
    let batch = BATCH.to_string();
    let mut sender = Workload::start(&["msg", "--count", &batch, "--capacity", &room])?;
    let stop = AtomicBool::new(false);
    let (report, sent) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| send_steadily(&mut sender, &stop));
        let report = examine();
        stop.store(true, Ordering::Relaxed);
        let sent = worker.join().map_err(|_| anyhow!("the sender panicked"))?;
        Ok::<_, anyhow::Error>((report?, sent?))
    })?;

    ensure!(sent < ROOM, "the sender ran out of room");
    let found = findings(&report, "slab-cache")?;
    let mine = found.iter().find(|finding| finding["evidence"]["cache"] == cache);
    let mine = mine.with_context(|| format!("{cache} is not named: {found:#?}"))?;
    let rate = mine["evidence"]["growth_objects_per_s"].as_f64().context("no rate")?;
    ensure!(rate > 500.0 && rate < 50_000.0, "{rate}");
    let next = report["next"].as_str().context("nothing to run next")?;
    ensure!(next.starts_with("kleak trace --size 512 "), "{next}");
    // What is printed is a command that kleak takes.
    let parsed = Cli::try_parse_from(next.split(' '))?;
    let Command::Trace(arguments) = parsed.command else { anyhow::bail!("{next}: no trace") };
    assert_eq!(arguments.size, [512]);

    // Without anybody who sends, it does not grow.
    drop(sender);
    let quiet = examine()?;
    let found = findings(&quiet, "slab-cache")?;
    ensure!(found.iter().all(|finding| finding["evidence"]["cache"] != cache), "{found:#?}");
    Ok(())
}

fn dying() -> Result<u64> {
    let host = Host::default();
    CgroupLayout::detect(&host)?.dying(&host).context("the kernel does not say how many are dying")
}

#[test]
fn dying_cgroups_are_counted() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let tmpfs = Tmpfs::mount()?;
    let parent = Cgroup::make(&format!("kleak-test-dying-{}", std::process::id()))?;
    parent.give_memory_to_children()?;
    let (directory, root) = (parent.directory(), parent.root().to_owned());
    let (directory, root) = (directory.display().to_string(), root.display().to_string());
    let (count, pin) = (PINNED.to_string(), tmpfs.path().display().to_string());
    let words =
        ["cgroups", "--count", &count, "--parent", &directory, "--home", &root, "--pin", &pin];
    let mut maker = Workload::start(&words)?;
    let before = dying()?;
    assert_eq!(maker.go("count")?, PINNED);
    // Some kernels let go of them at once; others keep them while the files are there.
    std::thread::sleep(Duration::from_secs(1));
    let books = dying()?;
    let report = examine()?;
    let told = report["cgroups"]["dying"].as_u64().context("dying ones are not counted")?;
    // Others on this machine may remove cgroups meanwhile.
    ensure!(told.abs_diff(books) <= 5, "{told} are told, {books} are in the books");
    if books >= before + PINNED / 2 {
        ensure!(told >= before + PINNED / 2, "{told} of {before} and {PINNED}");
    }
    let live = report["cgroups"]["live"].as_u64().context("no live ones")?;
    ensure!(live >= 2, "{live}");
    maker.drain()?;
    Ok(())
}

#[test]
fn without_rights_it_says_what_it_could_not_read() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    // Readable by everybody, which a build directory need not be.
    let copy = directory.path().join("kleak");
    std::fs::copy(binary()?, &copy)?;
    for path in [directory.path(), &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    let mut command = std::process::Command::new(&copy);
    command.args(["doctor", "--format", "json"]).uid(65_534).gid(65_534);
    let report = parse(&run_command(command, PATIENCE)?.expect(0, &[])?)?;
    let unread = report["unread"].as_array().context("no list")?;
    ensure!(unread.iter().any(|row| row["path"] == "/proc/slabinfo"), "{unread:#?}");
    assert_eq!(report["caches"], Value::Null, "unknown is null");
    ensure!(report["memory"]["total_bytes"].as_u64() > Some(0));
    let said = findings(&report, "capability")?;
    let of = |what: &str| said.iter().any(|finding| finding["evidence"]["what"] == what);
    ensure!(of("permissions") && of("unread"), "{said:#?}");
    Ok(())
}

#[test]
fn root_needs_no_rights_to_be_more_than_said() -> Result<()> {
    let Some(_live) = require_root()? else {
        return Ok(());
    };
    let report = examine()?;
    assert_eq!((&report["live"], &report["host"]["kernel"].is_string()), (&true.into(), &true));
    ensure!(report["looked_s"].as_f64() >= Some(1.0), "{}", report["looked_s"]);
    let said = findings(&report, "capability")?;
    ensure!(said.iter().all(|finding| finding["evidence"]["what"] != "permissions"), "{said:#?}");
    ensure!(report["caches"].as_array().is_some_and(|caches| caches.len() == 10));
    Ok(())
}

#[test]
fn saved_trees_formats_and_usage() -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/incidents/1-kubelet");
    let finished = run(&["doctor", "--root", tree])?.expect(0, &[])?;
    let text = finished.text()?;
    ensure!(text.starts_with("Kernel, not processes: 55.6 GiB of unreclaimable slab"), "{text}");
    ensure!(text.ends_with("\nNext: kleak trace --size 512 --duration 30s\n"), "{text}");
    ensure!(!text.contains('\u{1b}'), "colour without a terminal");

    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.json");
    let path = file.display().to_string();
    let finished =
        run(&["doctor", "--root", tree, "--format", "json", "-o", &path])?.expect(0, &[])?;
    ensure!(finished.stdout.is_empty(), "{finished}");
    let report: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    assert_eq!(report["schema"], "kleak.doctor/1");

    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty)?;
    let empty = empty.display().to_string();
    run(&["doctor", "--root", &empty])?.expect(3, &["nothing about memory", "meminfo"])?;
    run(&["doctor", "--root", "/nonexistent/node"])?.expect(2, &["no such directory"])?;
    run(&["doctor", "--format", "ndjson"])?.expect(2, &["ndjson"])?;
    run(&["doctor", "--root", tree, "-o", "/nonexistent/x"])?.expect(2, &["no directory"])?;
    Ok(())
}
