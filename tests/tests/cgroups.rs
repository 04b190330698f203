//! `kleak cgroups`, and what `kleak trace` says of cgroups that are removed: on either version of
//! cgroups, whatever the kernel lets go of at once.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kleak::host::Host;
use kleak::host::cgroup::CgroupLayout;
use kleak_tests::harness::{
    Cgroup, Finished, PATIENCE, Report, Tmpfs, Tracer, Workload, class_512_of_messages, has_btf,
    not_applicable, require_binary, require_live, run, wait_for,
};
use serde_json::Value;

/// How many cgroups a test makes.
const MANY: u64 = 200;
/// How many it lets pin a file.
const PINNED: u64 = 20;

/// A cgroup name of this test run's own.
fn cgroup_name(of: &str) -> String {
    format!("kleak-test-{of}-{}", std::process::id())
}

/// A cgroup whose children have a memory controller.
fn parent(of: &str) -> Result<Cgroup> {
    let parent = Cgroup::make(&cgroup_name(of))?;
    parent.give_memory_to_children()?;
    Ok(parent)
}

/// A workload that makes cgroups below `parent`, itself in the root.
fn maker(parent: &Cgroup, count: u64, more: &[&str]) -> Result<Workload> {
    let directory = parent.directory();
    let words = [
        "--comm".to_owned(),
        "cg-maker".to_owned(),
        "cgroups".to_owned(),
        "--count".to_owned(),
        count.to_string(),
        "--parent".to_owned(),
        directory.display().to_string(),
        "--home".to_owned(),
        parent.root().display().to_string(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Workload::start(&words)
}

fn start() -> Result<Tracer> {
    Tracer::start_command("cgroups", &["--format", "json"])
}

fn report(tracer: Tracer) -> Result<Value> {
    parse(&tracer.interrupt()?.expect(0, &[])?)
}

/// A report that satisfies its schema.
fn parse(finished: &Finished) -> Result<Value> {
    let report: Value = serde_json::from_slice(&finished.stdout)
        .with_context(|| format!("not one JSON document: {finished}"))?;
    let schema = include_str!("../../schema/kleak.cgroups-1.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema)?)?;
    let errors: Vec<String> = schema.iter_errors(&report).map(|error| error.to_string()).collect();
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(report)
}

fn rows<'a>(report: &'a Value, table: &str) -> Result<&'a Vec<Value>> {
    report[table].as_array().with_context(|| format!("{table} is no list"))
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no count"))
}

/// The row of a process among the creators.
fn creator(report: &Value, pid: u32) -> Result<&Value> {
    let row = rows(report, "creators")?.iter().find(|row| row["owner"]["pid"] == pid);
    row.with_context(|| format!("process {pid} is not among the creators: {report:#}"))
}

fn below<'a>(report: &'a Value, parent: &Cgroup) -> Result<&'a Value> {
    let row = rows(report, "parents")?.iter().find(|row| row["path"] == parent.path());
    row.with_context(|| format!("{} is not among the parents: {report:#}", parent.path()))
}

/// Dying cgroups by the kernel's books, as files tell them.
fn dying() -> Result<u64> {
    let host = Host::default();
    CgroupLayout::detect(&host)?.dying(&host).context("the kernel does not say how many are dying")
}

/// Waits until the kernel has let go of what it will let go of by itself.
fn calm() -> Result<u64> {
    let mut last = dying()?;
    let mut same = 0;
    wait_for("calm among dying cgroups", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(100));
        let now = dying()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        Ok((same >= 5).then_some(now))
    })
}

#[test]
fn made_and_removed_by_one_process() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !has_btf() {
        not_applicable("who makes cgroups is told by BTF");
        return Ok(());
    }
    let parent = parent("churn")?;
    let mut maker = maker(&parent, MANY, &[])?;
    calm()?;
    let tracer = start()?;
    ensure!(tracer.attached().contains("no allocation"), "{}", tracer.attached());
    assert_eq!(maker.go("count")?, MANY);
    // Empty ones die within milliseconds, after a grace period or two.
    calm()?;
    let report = report(tracer)?;

    let row = creator(&report, maker.pid())?;
    let of = |field: &str| number(&row[field]);
    assert_eq!((of("created")?, of("removed")?, of("live")?), (MANY, MANY, 0), "{row:#}");
    assert_eq!((of("released")?, of("dying")?), (MANY, 0), "{row:#}");
    assert_eq!(
        (&row["owner"]["comm"], &row["owner"]["exited"]),
        (&"cg-maker".into(), &false.into())
    );
    let place = below(&report, &parent)?;
    assert_eq!((number(&place["created"])?, number(&place["removed"])?), (MANY, MANY));
    assert!(number(&report["life"]["created"])? >= MANY);
    assert!(report["life"]["dying_mean_s"].as_f64().is_some_and(|mean| mean > 0.0 && mean < 10.0));
    assert_eq!(report["loss"]["lost_events"], 0);
    let summary = report["summary"].as_str().context("no summary")?;
    assert!(summary.contains(&format!("cg-maker (pid {}", maker.pid())), "{summary}");
    Ok(())
}

#[test]
fn those_that_stay_are_live() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !has_btf() {
        not_applicable("who makes cgroups is told by BTF");
        return Ok(());
    }
    let parent = parent("stay")?;
    // The guards remove what the workload leaves.
    let mut maker = maker(&parent, 10, &["--keep"])?;
    let tracer = start()?;
    assert_eq!(maker.go("count")?, 10);
    let stayed = (0..10)
        .map(|index| Cgroup::adopt(&format!("{}/g{index}", &parent.path()[1..])))
        .collect::<Result<Vec<_>>>();
    let report = report(tracer)?;
    drop(stayed?);

    let row = creator(&report, maker.pid())?;
    assert_eq!((number(&row["created"])?, number(&row["live"])?), (10, 10), "{row:#}");
    let place = below(&report, &parent)?;
    assert_eq!(number(&place["live"])?, 10);
    let cgroups = &report["cgroups"];
    assert!(number(&cgroups["live"])? >= number(&cgroups["live_at_start"])? + 5, "{cgroups:#}");
    assert!(number(&report["limit"]["used_at_least"])? >= 10);
    assert!(report["limit"]["reached_in_s"].as_u64().is_some(), "{:#}", report["limit"]);
    Ok(())
}

/// Since 7.2 the pages of a removed cgroup become its parent's, so that nothing pins it. Which kind
/// of kernel this is, the kernel's own books say.
#[test]
fn pinned_ones_are_dying_until_their_files_are_deleted() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !has_btf() {
        not_applicable("who makes cgroups is told by BTF");
        return Ok(());
    }
    let tmpfs = Tmpfs::mount()?;
    let parent = parent("pinned")?;
    let directory = tmpfs.path().display().to_string();
    let mut maker = maker(&parent, PINNED, &["--pin", &directory])?;
    let before = calm()?;
    let tracer = start()?;
    assert_eq!(maker.go("count")?, PINNED);
    let pinned = calm()?.saturating_sub(before);
    // Others on this machine may remove cgroups too, a few a second at most, and what was dying before
    // may go.
    let pins = pinned + 3 >= PINNED;
    ensure!(pins || pinned < PINNED / 2, "{pinned} of {PINNED} are dying");
    let while_pinned = report(tracer)?;

    let expected = if pins { PINNED } else { 0 };
    let row = creator(&while_pinned, maker.pid())?;
    assert_eq!((number(&row["created"])?, number(&row["dying"])?), (PINNED, expected), "{row:#}");
    assert_eq!(number(&row["released"])?, PINNED - expected, "{row:#}");
    let mine: Vec<&Value> = rows(&while_pinned, "dying")?
        .iter()
        .filter(|row| row["path"].as_str().is_some_and(|path| path.starts_with(parent.path())))
        .collect();
    assert_eq!(mine.len() as u64, expected);
    for row in &mine {
        assert_eq!(row["creator"]["pid"], maker.pid());
        assert_eq!(row["remover"]["comm"], "cg-maker");
        assert!(number(&row["charged_bytes"])? >= 2 << 20, "{row:#}");
        assert!(row["lived_s"].as_f64().is_some_and(|lived| lived > 0.0));
    }
    let cgroups = &while_pinned["cgroups"];
    if pins {
        let grown = number(&cgroups["dying"])?.saturating_sub(number(&cgroups["dying_at_start"])?);
        assert!(grown + 3 >= PINNED, "{cgroups:#}");
        assert!(cgroups["oldest_dying_s"].as_f64().is_some_and(|age| age > 0.0));
        assert_eq!(while_pinned["alarm"], true);
        let place = below(&while_pinned, &parent)?;
        let by_kernel = place["dying"].as_u64();
        assert!(by_kernel.is_none_or(|dying| dying == PINNED), "{place:#}");
        let held = number(&place["held"]["shmem_bytes"])?;
        let expected = PINNED << 21;
        assert!(held.abs_diff(expected) <= expected / 4, "{held} of {expected}: {place:#}");
        assert!(while_pinned["limit"]["used_at_most"].as_u64() < Some(PINNED + 1000));
    }

    // A window that begins later has not seen them die: they are in the books, and nobody's.
    let tracer = start()?;
    let later = report(tracer)?;
    assert_eq!(later["cgroups"]["oldest_dying_s"], Value::Null, "{:#}", later["cgroups"]);
    assert!(number(&later["cgroups"]["dying"])? >= expected);

    let tracer = start()?;
    assert_eq!(maker.drain()?, PINNED);
    wait_for("end of what was pinned", PATIENCE, || {
        Ok((dying()? < before + PINNED / 2).then_some(()))
    })?;
    // A CPU may hold on to a few of them for a while, in its stock of charges made in advance.
    calm()?;
    let after = report(tracer)?;
    let cgroups = &after["cgroups"];
    let fewer = number(&cgroups["dying_at_start"])?.saturating_sub(number(&cgroups["dying"])?);
    assert!(fewer >= expected / 2, "{cgroups:#}");
    // By events as by the kernel's books, which may be a release ahead.
    let released = number(&after["life"]["released"])?;
    assert!(released + 3 >= fewer && released >= expected / 2, "{released}, {cgroups:#}");
    Ok(())
}

#[test]
fn without_rights_the_books_still_tell() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    // Readable by everybody, which a build directory need not be.
    let binary = directory.path().join("kleak");
    std::fs::copy(kleak_tests::harness::binary()?, &binary)?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755))?;
    for more in [&[][..], &["--duration", "300ms"]] {
        let mut command = std::process::Command::new(&binary);
        command.args(["cgroups", "--format", "json"]).args(more).uid(65_534).gid(65_534);
        let finished = kleak_tests::harness::run_command(command, PATIENCE)?;
        let report = parse(&finished.expect(0, &["without BPF", "BPF"])?)?;
        assert_eq!((&report["life"], &report["loss"]), (&Value::Null, &Value::Null));
        assert!(number(&report["cgroups"]["live"])? >= 1);
        assert_eq!(report["window_s"].as_f64().is_some_and(|s| s > 0.2), !more.is_empty());
        let notes = rows(&report, "notes")?;
        let said =
            |word: &str| notes.iter().any(|note| note.as_str().is_some_and(|n| n.contains(word)));
        assert!(said("BPF"), "{notes:#?}");
    }
    Ok(())
}

#[test]
fn text_and_usage() -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    for arguments in
        [&["cgroups", "--duration", "0s"][..], &["cgroups", "--top", "0"], &["cgroups", "x"]]
    {
        let finished = run(arguments)?.expect(2, &[])?;
        assert!(finished.stdout.is_empty(), "{finished}");
    }
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let finished = run(&["cgroups", "--duration", "300ms"])?.expect(0, &["attached:"])?;
    let text = finished.text()?;
    for word in ["ids are used", "live", "dying", "Trust", "watched"] {
        assert!(text.contains(word), "no {word:?} in {finished}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    Ok(())
}

/// What a member of a cgroup made outlives the cgroup, and stays in its row.
#[test]
fn objects_outlive_the_cgroup_of_their_owner() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let stays = Cgroup::make(&cgroup_name("stays"))?;
    let goes = Cgroup::make(&cgroup_name("goes"))?;
    let path = goes.path().to_owned();
    let mut in_staying = Workload::start(&["msg", "--count", "1000"])?;
    let mut in_going = Workload::start(&["msg", "--count", "2000"])?;
    stays.join(in_staying.pid())?;
    goes.join(in_going.pid())?;
    let by_process = Tracer::json(&[])?;
    let by_cgroup = Tracer::json(&["--by", "cgroup"])?;
    in_staying.go("count")?;
    in_going.go("count")?;
    // Moves the process out and removes the cgroup.
    drop(goes);
    let gone: PathBuf = stays.root().join(&path[1..]);
    ensure!(!gone.exists(), "{} is still there", gone.display());
    let by_process = by_process.report()?;
    let by_cgroup = by_cgroup.report()?;

    let row = by_process.row(in_going.pid(), cache)?.context("no row of the one in the removed")?;
    assert_eq!(
        (&row["owner"]["cgroup"], &row["owner"]["cgroup_removed"]),
        (&path.clone().into(), &true.into())
    );
    let row = by_process.row(in_staying.pid(), cache)?.context("no row of the other")?;
    assert_eq!(row["owner"]["cgroup_removed"], false);
    let rows = |report: &Report, path: &str| -> Result<Vec<Value>> {
        let all = report.owners()?.iter();
        Ok(all
            .filter(|row| row["owner"]["cgroup"] == path && row["cache"] == cache)
            .cloned()
            .collect())
    };
    let removed = rows(&by_cgroup, &path)?;
    assert_eq!(removed.len(), 1, "{removed:#?}");
    assert_eq!(removed[0]["outstanding_objects"], 2000);
    assert_eq!(removed[0]["owner"]["cgroup_removed"], true);
    let kept = rows(&by_cgroup, stays.path())?;
    assert_eq!(
        (&kept[0]["outstanding_objects"], &kept[0]["owner"]["cgroup_removed"]),
        (&1000.into(), &false.into())
    );
    assert!(by_cgroup.number("/cgroups/removed")? >= 1);
    Ok(())
}
