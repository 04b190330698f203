//! `kleak diff`: two recordings, by anybody, anywhere.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Finished, Tracer, Workload, class_512_of_messages, require_binary, require_live, run,
};
use serde_json::Value;

/// A recording that is no run of this machine.
const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/recordings/v1.kleak");

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a temporary path that is no text")
}

/// A comparison that satisfies its schema.
fn parse(finished: &Finished) -> Result<Value> {
    let diff: Value = serde_json::from_slice(&finished.stdout)
        .with_context(|| format!("not one JSON document: {finished}"))?;
    let schema = include_str!("../../schema/kleak.diff-1.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema)?)?;
    let errors: Vec<String> = schema.iter_errors(&diff).map(|error| error.to_string()).collect();
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(diff)
}

fn compare(options: &[&str]) -> Result<Finished> {
    run(&[&["diff"], options].concat())?.expect(0, &[])
}

/// What became of a program in the class of messages.
fn change<'a>(diff: &'a Value, name: &str) -> Result<&'a str> {
    let rows = diff["owners"].as_array().context("no owners")?;
    let row = rows.iter().find(|row| row["name"] == name);
    let row = row.with_context(|| format!("no {name}: {rows:#?}"))?;
    row["change"].as_str().context("no change")
}

/// A run of so many seconds in which `ticker` leaves so many messages behind, and `leaker` as many as it is
/// told to.
fn record(path: &Path, seconds: u64, ticker: u64, leaker: u64) -> Result<()> {
    let mut workloads = Vec::new();
    for (name, count) in [("ticker", ticker), ("leaker", leaker)] {
        if count > 0 {
            let count = count.to_string();
            workloads.push(Workload::start(&["--comm", name, "msg", "--count", &count])?);
        }
    }
    let duration = format!("{seconds}s");
    let tracer = Tracer::json(&["--duration", &duration, "--save", text(path)?])?;
    for workload in &mut workloads {
        workload.go("count")?;
    }
    tracer.finish()?.expect(0, &[]).map(drop)
}

#[test]
fn a_leak_is_told_from_what_was_there_before() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    class_512_of_messages()?;
    let directory = tempfile::tempdir()?;
    let [before, after] = ["before.kleak", "after.kleak"].map(|name| directory.path().join(name));
    record(&before, 4, 3000, 0)?;
    record(&after, 8, 6000, 4000)?;
    let (before, after) = (text(&before)?, text(&after)?);

    let diff = parse(&compare(&["--format", "json", before, after])?)?;
    assert_eq!(diff["verdict"]["worse"], true);
    assert_eq!(diff["verdict"]["owner"]["comm"], "leaker", "{:#}", diff["verdict"]);
    assert_eq!(change(&diff, "leaker")?, "appeared");
    // Twice as much in twice the time.
    assert_eq!(change(&diff, "ticker")?, "unchanged");
    let summary = diff["verdict"]["summary"].as_str().context("no summary")?;
    ensure!(summary.contains("load_msg < do_msgsnd"), "{summary}");
    let back = parse(&compare(&["--format", "json", after, before])?)?;
    assert_eq!(change(&back, "leaker")?, "went");
    let printed = compare(&[before, after])?;
    ensure!(printed.text()?.starts_with("leaker"), "{printed}");

    for by in ["process", "cgroup", "pod", "cache", "stack", "site"] {
        let diff = parse(&compare(&["--by", by, "--format", "json", before, after])?)?;
        assert_eq!(diff["verdict"]["owner"]["comm"], "leaker", "--by {by}");
    }
    let one = parse(&compare(&["--comm", "ticker", "--format", "json", before, after])?)?;
    assert_eq!(one["owners"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["verdict"]["worse"], false);
    let first = parse(&compare(&["--top", "1", "--format", "json", before, after])?)?;
    assert_eq!(first["owners"].as_array().map(Vec::len), Some(1));
    pictures(directory.path(), before, after)
}

/// Flame graphs of both.
fn pictures(directory: &Path, before: &str, after: &str) -> Result<()> {
    let [svg, folded, json] = ["diff.svg", "diff.folded", "diff.json"].map(|n| directory.join(n));
    let options = ["--svg", text(&svg)?, "--folded", text(&folded)?, "--format", "json", "-o"];
    compare(&[&options[..], &[text(&json)?, before, after]].concat())?;
    let drawn = fs::read_to_string(&svg)?;
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&drawn, options)?;
    let leaker = document
        .descendants()
        .filter(|node| node.has_tag_name("title"))
        .filter_map(|node| node.text())
        .find(|title| title.starts_with("leaker ("));
    ensure!(leaker.is_some(), "{drawn}");
    let diff: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let lines = fs::read_to_string(&folded)?;
    let mut sum = 0;
    for line in lines.lines() {
        let (rest, count) = line.rsplit_once(' ').context("one column")?;
        let (_, before) = rest.rsplit_once(' ').context("one column")?;
        before.parse::<u64>()?;
        sum += count.parse::<u64>()?;
    }
    assert_eq!(Some(sum), diff["totals"][0]["after"]["bytes"].as_u64());
    Ok(())
}

#[test]
fn a_recording_is_as_itself() -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    let diff = parse(&compare(&["--format", "json", RECORDING, RECORDING])?)?;
    assert_eq!(diff["verdict"]["worse"], false, "{:#}", diff["verdict"]);
    let rows = diff["owners"].as_array().context("no owners")?;
    ensure!(!rows.is_empty() && rows.iter().all(|row| row["change"] == "unchanged"), "{rows:#?}");
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused() -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let foreign = directory.path().join("foreign");
    fs::write(&foreign, "not a recording")?;
    let copy = directory.path().join("copy.kleak");
    fs::copy(RECORDING, &copy)?;
    let cases: [(&[&str], i32, &[&str]); 8] = [
        (&[RECORDING], 2, &["<AFTER>"]),
        (&[RECORDING, "/no/such/file"], 2, &["/no/such/file"]),
        (&[RECORDING, text(&foreign)?], 2, &["no kleak recording"]),
        (&["--by", "banana", RECORDING, RECORDING], 2, &["banana"]),
        (&["--top", "0", RECORDING, RECORDING], 2, &["--top"]),
        (
            &["--svg", text(&copy)?, text(&copy)?, RECORDING],
            2,
            &["--svg names a file that is read"],
        ),
        (&["-o", "/no/such/dir/x", RECORDING, RECORDING], 2, &["no directory"]),
        (&["--size", "8k", RECORDING, RECORDING], 2, &["8192"]),
    ];
    for (options, code, words) in cases {
        let finished = run(&[&["diff"], options].concat())?;
        let finished = finished.expect(code, words).with_context(|| format!("{options:?}"))?;
        assert!(finished.stdout.is_empty(), "{options:?}: {finished}");
    }
    assert_eq!(fs::read(&copy)?, fs::read(RECORDING)?, "a recording was written over");
    Ok(())
}

#[test]
fn a_program_is_the_same_when_started_again() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let directory = tempfile::tempdir()?;
    let [before, after] = ["before", "after"].map(|name| directory.path().join(name));
    for (path, count) in [(&before, 1000), (&after, 4000)] {
        let mut workload =
            Workload::start(&["--comm", "grows", "msg", "--count", &count.to_string()])?;
        let tracer = Tracer::json(&["--save", text(path)?])?;
        assert_eq!(workload.go("count")?, count);
        // So that a window is long enough to be compared, whatever else the machine does.
        std::thread::sleep(std::time::Duration::from_secs(3));
        tracer.report()?;
    }
    let diff = parse(&compare(&["--format", "json", text(&before)?, text(&after)?])?)?;
    let rows = diff["owners"].as_array().context("no owners")?;
    let row = rows.iter().find(|row| row["name"] == "grows" && row["cache"] == cache);
    let row = row.with_context(|| format!("no row of it: {rows:#?}"))?;
    assert_eq!(row["change"], "grew");
    assert_eq!((&row["before"]["objects"], &row["after"]["objects"]), (&1000.into(), &4000.into()));
    Ok(())
}
