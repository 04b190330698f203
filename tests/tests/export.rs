//! Exports of a real run: every tool shows the bytes that the report has, whatever the names in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Cgroup, Report, Tracer, Workload, class_512_of_messages, require_live, require_program, run,
};
use serde_json::Value;

/// `<script>alert(1)</script>`, as much of it as a process's name holds.
const SCRIPT: &str = "3c7363726970743e616c6572742831";
const SCRIPT_TEXT: &str = "<script>alert(1";

/// Messages that are left behind.
const LEFT: u64 = 3000;

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a temporary path that is no text")
}

/// Bytes of all rows.
fn bytes(report: &Report) -> Result<u64> {
    let of = |row: &Value| row["outstanding_bytes"].as_u64().context("outstanding_bytes");
    report.owners()?.iter().map(of).sum()
}

/// `go tool pprof` on a file.
fn pprof(go: &Path, file: &Path, options: &[&str]) -> Result<String> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new(go);
    command.args(["tool", "pprof"]).args(options).arg(file);
    let output = command.env("HOME", home.path()).env("PPROF_TMPDIR", home.path()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// `3,000` as the pictures write it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[test]
fn every_format_has_the_bytes_of_the_report() -> Result<()> {
    let (Some(_live), Some(go)) = (require_live()?, require_program("go")?) else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let directory = tempfile::tempdir()?;
    let [folded, svg, profile, speedscope]: [PathBuf; 4] =
        ["run.folded", "run.svg", "run.pb.gz", "run.json"].map(|name| directory.path().join(name));
    let mut workload =
        Workload::start(&["--comm-hex", SCRIPT, "msg", "--count", &LEFT.to_string()])?;
    let cgroup = Cgroup::make(&format!("kleak\"'<b>&-{}", std::process::id()))?;
    cgroup.join(workload.pid())?;
    let tracer = Tracer::json(&[
        "--stacks",
        "all",
        "--folded",
        text(&folded)?,
        "--svg",
        text(&svg)?,
        "--pprof",
        text(&profile)?,
        "--speedscope",
        text(&speedscope)?,
    ])?;
    assert_eq!(workload.go("count")?, LEFT);
    let report = tracer.report()?;
    let all = bytes(&report)?;
    let own = report.counts(workload.pid(), cache)?;
    assert_eq!(own.outstanding, LEFT);

    // pprof, as its users do.
    let top = pprof(&go, &profile, &["-top", "-sample_index=inuse_space", "-unit=B"])?;
    ensure!(top.contains(&format!("of {all}B total")), "{all} bytes, but\n{top}");
    let focus = format!("-tagfocus=pid={}", workload.pid());
    let one = pprof(&go, &profile, &["-top", "-unit=B", &focus])?;
    ensure!(one.contains(&format!("for {}B,", own.bytes)), "{} bytes, but\n{one}", own.bytes);
    ensure!(one.lines().any(|line| line.trim_end().ends_with(" load_msg")), "{one}");
    let tags = pprof(&go, &profile, &["-tags", "-unit=B"])?;
    ensure!(tags.contains(SCRIPT_TEXT) && tags.contains("kleak\"'<b>&-"), "{tags}");
    let objects = pprof(&go, &profile, &["-top", "-sample_index=inuse_objects", &focus])?;
    ensure!(objects.contains(&format!("for {LEFT},")), "{objects}");

    // Folded stacks.
    let lines = fs::read_to_string(&folded)?;
    let count = |line: &str| -> Result<u64> {
        Ok(line.rsplit_once(' ').context(line.to_owned())?.1.parse()?)
    };
    assert_eq!(lines.lines().map(count).sum::<Result<u64>>()?, all);

    // The flame graph, read as strictly as a browser reads it.
    let drawn = fs::read_to_string(&svg)?;
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&drawn, options)?;
    let titles: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("title"))
        .filter_map(|node| node.text())
        .collect();
    ensure!(titles.contains(&&*format!("all ({} bytes, 100%)", grouped(all))), "{titles:#?}");
    let owner = format!("{SCRIPT_TEXT}-{} ({} bytes", workload.pid(), grouped(own.bytes));
    ensure!(titles.iter().any(|title| title.starts_with(&owner)), "no {owner}: {titles:#?}");
    ensure!(titles.iter().any(|title| title.contains("kleak\"'<b>&-")), "{titles:#?}");
    let scripts = document.descendants().filter(|node| node.has_tag_name("script")).count();
    assert_eq!(scripts, 1, "a name became an element");

    // speedscope.
    let file: Value = serde_json::from_slice(&fs::read(&speedscope)?)?;
    assert_eq!(file["profiles"][0]["unit"], "bytes");
    let end = file["profiles"][0]["endValue"].as_f64().context("no end")?;
    ensure!((end - all as f64).abs() < 0.5, "{end} of {all}");
    Ok(())
}

#[test]
fn a_path_that_cannot_be_written_fails_before_anyone_has_waited() -> Result<()> {
    if !kleak_tests::harness::require_binary()? {
        return Ok(());
    }
    for option in ["--svg", "--pprof", "--speedscope", "--folded"] {
        let finished =
            run(&["trace", "--size", "512", "--duration", "9s", option, "/no/such/file"])?;
        finished.expect(2, &["no directory `/no/such`"])?;
    }
    Ok(())
}
