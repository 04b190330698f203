//! What is printed is well-formed, whatever the names in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{Cgroup, Report, Tracer, Workload, class_512_of_messages, require_live};
use serde_json::Value;

/// A name with a newline, the separator of folded stacks, an escape sequence, a quote, and bytes
/// that are not UTF-8: `e;` LF ESC `[31m"` FF FE `z`.
const HOSTILE: &str = "653b0a1b5b33316d22fffe7a";

fn schema() -> Result<jsonschema::Validator> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/kleak.report-1.schema.json");
    let schema = serde_json::from_str(&fs::read_to_string(path).context(path)?)?;
    jsonschema::validator_for(&schema).map_err(|error| anyhow::anyhow!("{path}: {error}"))
}

fn validate(schema: &jsonschema::Validator, report: &Value) -> Result<()> {
    let errors = schema
        .iter_errors(report)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect::<Vec<_>>();
    ensure!(errors.is_empty(), "not by the schema:\n{}\n{report:#}", errors.join("\n"));
    Ok(())
}

/// Frames and weight of a line of folded stacks.
fn folded_line(line: &str) -> Result<(Vec<&str>, u64)> {
    let (frames, weight) = line.rsplit_once(' ').with_context(|| format!("no weight: {line:?}"))?;
    let frames = frames.split(';').collect::<Vec<_>>();
    ensure!(frames.iter().all(|frame| !frame.is_empty()), "an empty frame: {line:?}");
    ensure!(!line.chars().any(char::is_control), "a control character: {line:?}");
    Ok((frames, weight.parse().with_context(|| format!("no weight: {line:?}"))?))
}

#[test]
fn reports_are_valid_by_the_schema() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let schema = schema()?;
    let mut workload = Workload::start(&["msg", "--count", "1000"])?;
    for by in ["process", "cgroup", "pod", "cache", "stack", "site"] {
        let tracer = Tracer::json(&["--by", by, "--user-stacks"])?;
        assert_eq!(workload.go("count")?, 1000);
        let report = tracer.report()?;
        assert_eq!(workload.drain()?, 1000);
        validate(&schema, &report.0).with_context(|| format!("--by {by}"))?;
        assert!(report.outstanding()? >= 1000, "--by {by} lost some: {:#}", report.0["owners"]);
    }
    Ok(())
}

#[test]
fn the_schema_refuses_what_is_wrong() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let schema = schema()?;
    let mut workload = Workload::start(&["msg", "--count", "100"])?;
    let tracer = Tracer::json(&[])?;
    assert_eq!(workload.go("count")?, 100);
    let report = tracer.report()?.0;
    for (pointer, wrong) in [
        ("/verdict/confidence", Value::from("sure")),
        ("/owners/0/outstanding_objects", Value::from(-1)),
        ("/owners/0/outstanding_bytes", Value::from(0.5)),
        ("/owners/0/owner/kind", Value::from(3)),
        ("/schema", Value::from("kleak.report/2")),
        ("/window_s", Value::Null),
    ] {
        let mut broken = report.clone();
        *broken.pointer_mut(pointer).with_context(|| pointer.to_owned())? = wrong.clone();
        assert!(!schema.is_valid(&broken), "{pointer} may be {wrong}");
    }
    Ok(())
}

#[test]
fn ndjson_is_a_line_an_interval() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let schema = schema()?;
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "1000"])?;
    let options = ["--size", "512", "--format", "ndjson", "--duration", "4s", "--interval", "1s"];
    let tracer = Tracer::start(&options)?;
    assert_eq!(workload.go("count")?, 1000);
    let finished = tracer.finish()?.expect(0, &[])?;
    let reports = Report::parse_lines(&finished)?;

    assert_eq!(reports.len(), 4, "{finished}");
    let mut last = 0.0;
    for report in &reports {
        validate(&schema, &report.0)?;
        let window = report.0["window_s"].as_f64().context("window_s")?;
        assert!(window > last, "windows of {last} s, then {window} s");
        last = window;
    }
    let newest = reports.last().context("no report")?;
    assert_eq!(newest.counts(workload.pid(), cache)?.outstanding, 1000);
    Ok(())
}

#[test]
fn hostile_names_leave_text_clean() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut workload = Workload::start(&["--comm-hex", HOSTILE, "msg", "--count", "3000"])?;
    let cgroup = Cgroup::make(&format!("kleak;\u{1b}[31m-{}", std::process::id()))?;
    cgroup.join(workload.pid())?;
    for by in ["process", "cgroup"] {
        let tracer = Tracer::start(&["--size", "512", "--by", by])?;
        assert_eq!(workload.go("count")?, 3000);
        let finished = tracer.interrupt()?.expect(0, &[])?;
        assert_eq!(workload.drain()?, 3000);
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!finished.text()?.contains(control), "--by {by}: {:?}", finished.text()?);
        assert!(!finished.stderr.contains(control), "--by {by}: {:?}", finished.stderr);
        assert!(finished.text()?.contains("31m"), "the row is not there at all: {finished}");
    }
    Ok(())
}

#[test]
fn hostile_names_leave_json_and_folded_well_formed() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let schema = schema()?;
    let cache = class_512_of_messages()?;
    let directory = tempfile::tempdir()?;
    let folded = directory.path().join("stacks.folded");
    let mut workload = Workload::start(&["--comm-hex", HOSTILE, "msg", "--count", "3000"])?;
    let cgroup = Cgroup::make(&format!("kleak;\u{1b}[31m-{}", std::process::id()))?;
    cgroup.join(workload.pid())?;
    let folded_option = folded.to_str().context("a temporary path that is no text")?;
    let tracer = Tracer::json(&["--stacks", "all", "--folded", folded_option])?;
    assert_eq!(workload.go("count")?, 3000);
    let report = tracer.report()?;

    validate(&schema, &report.0)?;
    let row = report.row(workload.pid(), cache)?.context("no row of the workload")?;
    assert_eq!(row["outstanding_objects"], 3000);
    let comm = row["owner"]["comm"].as_str().context("comm")?;
    // A parser gets the name as it is, lossily decoded; the document itself holds no control.
    assert_eq!(comm, "e;\n\u{1b}[31m\"\u{fffd}\u{fffd}z");
    // A sentence to be printed is another matter.
    let summary = report.word("/verdict/summary")?;
    assert!(!summary.contains(char::is_control), "{summary:?}");

    let text = fs::read_to_string(&folded).context("the folded stacks")?;
    let suffix = format!("-{}", workload.pid());
    let mut bytes = 0;
    for line in text.lines() {
        let (frames, weight) = folded_line(line)?;
        let last = frames.last().context("no frame")?;
        ensure!(last.starts_with('[') && last.ends_with(']'), "no cache at the leaf: {line:?}");
        if *last == format!("[{cache}]") && frames.iter().any(|frame| frame.ends_with(&suffix)) {
            bytes += weight;
            let maker = frames.iter().any(|frame| frame.contains("_msg"));
            ensure!(maker, "not through the code that makes messages: {line:?}");
        }
    }
    assert_eq!(bytes, 3000 * 512, "{text}");
    Ok(())
}

#[test]
fn folded_stacks_add_up_to_the_report() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let folded = directory.path().join("stacks.folded");
    let mut workload = Workload::start(&["msg", "--count", "2000"])?;
    let option = folded.to_str().context("a temporary path that is no text")?;
    let tracer = Tracer::json(&["--stacks", "all", "--folded", option])?;
    assert_eq!(workload.go("count")?, 2000);
    let report = tracer.report()?;

    let text = fs::read_to_string(&folded)?;
    let lines = text.lines().map(folded_line).collect::<Result<Vec<_>>>()?;
    let stacks = lines.iter().map(|(frames, _)| frames).collect::<BTreeSet<_>>();
    assert_eq!(stacks.len(), lines.len(), "a stack has two lines:\n{text}");
    let in_report = report.owners()?.iter().filter_map(|row| row["outstanding_bytes"].as_u64());
    assert_eq!(lines.iter().map(|(_, weight)| weight).sum::<u64>(), in_report.sum::<u64>());
    Ok(())
}

#[test]
fn output_goes_where_it_is_told() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.json");
    let mut workload = Workload::start(&["msg", "--count", "400"])?;
    let option = file.to_str().context("a temporary path that is no text")?;
    let tracer = Tracer::json(&["-o", option])?;
    assert_eq!(workload.go("count")?, 400);
    let finished = tracer.interrupt()?.expect(0, &[])?;

    assert!(finished.stdout.is_empty(), "{finished}");
    let report = Report::check(read_json(&file)?)?;
    assert_eq!(report.counts(workload.pid(), cache)?.outstanding, 400);
    Ok(())
}

#[test]
fn the_start_line_says_what_and_how_much_memory() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let tracer = Tracer::json(&[])?;
    let line = tracer.attached().to_owned();
    let finished = tracer.interrupt()?.expect(0, &[])?;
    assert!(line.contains("512"), "{line:?}");
    assert!(["KiB", "MiB", "GiB"].iter().any(|unit| line.contains(unit)), "{line:?}");
    assert_eq!(finished.stderr.matches("attached:").count(), 1, "{finished}");
    assert!(Report::parse(&finished)?.number("/cost/map_bytes")? > 0);
    Ok(())
}

fn read_json(path: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(path).context("the report")?)?)
}
