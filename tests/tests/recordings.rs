//! Recordings read by anybody, anywhere: a file of the first version that is committed, whole and damaged.
//! `saving.rs` has those of real runs.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{Finished, binary, require_binary, run, skip};
use serde_json::Value;
use tempfile::TempDir;

/// Three frames: what `--interval` printed at 10 s, a checkpoint at 15 s, the end at 20 s.
const RECORDING: &[u8] = include_bytes!("../fixtures/recordings/v1.kleak");
const SCHEMA: &str = include_str!("../../schema/kleak.report-1.schema.json");
/// Anybody.
const NOBODY: u32 = 65534;

/// A root with nothing in it but kleak and what is read: no `/proc`, no libraries, no names.
struct Elsewhere {
    root: TempDir,
    /// Nobody may change the root of a process but root.
    is_root: bool,
}

impl Elsewhere {
    fn new() -> Result<Self> {
        let root = tempfile::tempdir()?;
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777))?;
        fs::copy(binary()?, root.path().join("kleak"))?;
        let elsewhere = Self { root, is_root: nix::unistd::geteuid().is_root() };
        elsewhere.file("run.kleak", RECORDING)?;
        Ok(elsewhere)
    }

    fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.root.path().join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(path)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.root.path().join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let root = self.root.path();
        let mut command = if self.is_root {
            let user = format!("--userspec={NOBODY}:{NOBODY}");
            let mut command = Command::new("chroot");
            command.arg(user).arg(root).arg("/kleak");
            command
        } else {
            let mut command = Command::new(root.join("kleak"));
            command.current_dir(root);
            command
        };
        command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn run(&self, args: &[&str]) -> Result<Finished> {
        self.pipe(args, b"")
    }

    /// Runs kleak there, as nobody, with this on standard input.
    fn pipe(&self, args: &[&str], input: &[u8]) -> Result<Finished> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().context("kleak")?;
        let mut stdin = child.stdin.take().context("no pipe")?;
        // It may end without reading it.
        drop(stdin.write_all(input));
        drop(stdin);
        let output = child.wait_with_output()?;
        Ok(Finished {
            status: output.status,
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

fn valid(text: &str) -> Result<Value> {
    let report: Value = serde_json::from_str(text)?;
    let schema = jsonschema::validator_for(&serde_json::from_str(SCHEMA)?)?;
    ensure!(schema.is_valid(&report), "not as the schema says: {text}");
    Ok(report)
}

/// Where the frames of the recording begin, by their magic, and its end.
fn places() -> Vec<usize> {
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let places = RECORDING.windows(4).enumerate().filter(|(_, bytes)| *bytes == magic);
    places.map(|(place, _)| place).chain([RECORDING.len()]).collect()
}

#[test]
fn old_files_stay_readable() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let report = elsewhere.run(&["report", "run.kleak"])?.expect(0, &[])?;
    insta::assert_snapshot!(report.text()?);
    ensure!(report.stderr.is_empty(), "{report}");
    for by in ["process", "cgroup", "pod", "cache", "stack", "site"] {
        let args = ["report", "run.kleak", "--by", by, "--format", "json", "--top", "2"];
        let report = valid(elsewhere.run(&args)?.expect(0, &[])?.text()?)?;
        assert_eq!(report["filter"]["by"], by);
        assert_eq!(report["owners"].as_array().map(Vec::len), Some(2), "{by}");
    }
    Ok(())
}

#[test]
fn reports_on_the_way_are_printed_when_asked_for() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let windows = |report: &Finished| -> Result<Vec<Value>> {
        report.text()?.lines().map(|line| Ok(valid(line)?["window_s"].clone())).collect()
    };
    let report = elsewhere.run(&["report", "run.kleak", "--format", "ndjson"])?.expect(0, &[])?;
    assert_eq!(windows(&report)?, [10.0, 20.0]);
    // Nothing is as old as that when the first is printed.
    let args = ["report", "run.kleak", "--format", "ndjson", "--min-age", "12s"];
    assert_eq!(windows(&elsewhere.run(&args)?.expect(0, &[])?)?, [10.0, 20.0]);
    let all = elsewhere.run(&["report", "run.kleak", "--all"])?.expect(0, &[])?;
    let last = elsewhere.run(&["report", "run.kleak"])?.expect(0, &[])?;
    ensure!(all.text()?.ends_with(last.text()?) && all.stdout.len() > last.stdout.len(), "{all}");
    Ok(())
}

#[test]
fn standard_input_is_as_good_as_a_file() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let read = elsewhere.run(&["report", "run.kleak"])?.expect(0, &[])?;
    for has_tmp in [false, true] {
        if has_tmp {
            let tmp = elsewhere.root.path().join("tmp");
            fs::create_dir(&tmp)?;
            fs::set_permissions(tmp, fs::Permissions::from_mode(0o777))?;
        }
        let piped = elsewhere.pipe(&["report", "-"], RECORDING)?.expect(0, &[])?;
        assert_eq!(piped.text()?, read.text()?);
    }
    elsewhere
        .pipe(&["report", "-"], b"")?
        .expect(2, &["`standard input` is no kleak recording", "empty"])?;
    Ok(())
}

#[test]
fn what_is_selected_is_shown() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let report = |options: &[&str]| -> Result<Value> {
        let args = [&["report", "run.kleak", "--format", "json"], options].concat();
        valid(elsewhere.run(&args)?.expect(0, &[])?.text()?)
    };
    let comms = |report: &Value| -> Vec<String> {
        let rows = report["owners"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| row["owner"]["comm"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(comms(&report(&["--pid", "1165"])?), ["kubelet"]);
    assert_eq!(comms(&report(&["--pod", "kube-system/*"])?), ["coredns"]);
    assert_eq!(comms(&report(&["--cgroup", "kubepods.slice/*"])?), ["coredns"]);
    assert_eq!(comms(&report(&["--comm", "pi*"])?), ["pipes"]);
    assert_eq!(comms(&report(&["--cache", "page*"])?), ["pipes"]);
    assert_eq!(comms(&report(&["--size", "1k"])?), ["coredns"]);
    let old = report(&["--min-age", "10s", "--comm", "kubelet"])?;
    assert_eq!(old["owners"][0]["outstanding_objects"], 5000);
    assert_eq!(old["filter"]["min_age_s"], 10.0);
    Ok(())
}

#[test]
fn a_condition_that_holds_is_exit_4() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let with = |condition| elsewhere.run(&["report", "run.kleak", "--fail-on", condition]);
    with("objects>1000")?.expect(4, &["fail-on: "])?;
    with("objects>1000000")?.expect(0, &[])?;
    Ok(())
}

#[test]
fn exports_go_to_files_and_pipes() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let piped = elsewhere.run(&["export", "run.kleak", "--format", "folded"])?.expect(0, &[])?;
    ensure!(piped.text()?.contains(";kubelet-1165;do_msgsnd;load_msg;"), "{piped}");
    elsewhere
        .run(&["export", "run.kleak", "--folded", "one", "--format", "folded", "-o", "two"])?
        .expect(0, &[])?;
    assert_eq!(elsewhere.read("one")?, piped.text()?);
    assert_eq!(elsewhere.read("two")?, piped.text()?);
    elsewhere.run(&["report", "run.kleak", "--folded", "three"])?.expect(0, &[])?;
    assert_eq!(elsewhere.read("three")?, piped.text()?);
    let one = elsewhere.run(&["export", "run.kleak", "--pid", "1165", "--format", "folded"])?;
    ensure!(one.expect(0, &[])?.text()?.lines().all(|line| line.contains(";kubelet-1165;")));
    Ok(())
}

#[test]
fn mistakes_are_told_and_cost_nothing() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let mut said = String::new();
    for args in [
        &["report", "run.kleak", "--size", "64"][..],
        &["report", "run.kleak", "--cache", "dentry"],
        &["report", "run.kleak", "--min-age", "1m"],
        &["report", "run.kleak", "-o", "run.kleak"],
        &["report", "run.kleak", "-o", "same", "--folded", "same"],
        &["export", "run.kleak"],
        &["export", "run.kleak", "-o", "out"],
        &["export", "run.kleak", "--folded", "./run.kleak"],
        &["export", "run.kleak", "--format", "folded", "--folded", "-"],
    ] {
        let failed = elsewhere.run(args)?.expect(2, &[])?;
        ensure!(failed.stdout.is_empty(), "{failed}");
        said.extend([&args.join(" "), "\n  ", &failed.stderr]);
    }
    insta::assert_snapshot!(said);
    assert_eq!(fs::read(elsewhere.root.path().join("run.kleak"))?, RECORDING);
    Ok(())
}

#[test]
fn damage_is_told_in_the_report() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let places = places();
    assert_eq!(places.len(), 4);
    elsewhere.file("cut.kleak", &RECORDING[..places[3] - 100])?;
    let report = elsewhere.run(&["report", "cut.kleak", "--format", "json"])?.expect(0, &[])?;
    let report = valid(report.text()?)?;
    assert_eq!(report["window_s"], 15.0);
    let notes = report["notes"].to_string();
    ensure!(
        notes.contains("is cut short") && notes.contains("of the first 15 s of the window"),
        "{notes}"
    );
    // Folded stacks have no room for it.
    let export = elsewhere.run(&["export", "cut.kleak", "--format", "folded"])?;
    export.expect(0, &["cut short", "ends early"])?;
    // In text, where it is trusted or not.
    let text = elsewhere.run(&["report", "cut.kleak"])?.expect(0, &[])?;
    ensure!(text.text()?.contains("ends early"), "{text}");

    let mut flipped = RECORDING.to_vec();
    flipped[places[2] + 700] ^= 0x10;
    elsewhere.file("flipped.kleak", &flipped)?;
    let report = elsewhere.run(&["report", "flipped.kleak", "--format", "json"])?.expect(0, &[])?;
    let report = valid(report.text()?)?;
    assert_eq!(report["window_s"], 15.0);
    ensure!(report["notes"].to_string().contains("is left out"), "{report}");
    Ok(())
}

#[test]
fn what_is_no_recording_is_told() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let report = elsewhere.run(&["report", "run.kleak", "--format", "json"])?.expect(0, &[])?;
    elsewhere.file("report.json", &report.stdout)?;
    elsewhere.file("empty.kleak", b"")?;
    elsewhere.file("begun.kleak", &RECORDING[..places()[0]])?;
    elsewhere.file("lines.json", include_bytes!("../fixtures/recordings/v1.json"))?;
    elsewhere.file("gzip.kleak", &[0x1f, 0x8b, 8, 0])?;
    let newer = String::from_utf8_lossy(&RECORDING[8..places()[0]]).replace("/1 ", "/7 ");
    elsewhere.file("newer.kleak", &[&RECORDING[..8], newer.as_bytes()].concat())?;
    let mut said = String::new();
    for name in [
        "report.json",
        "empty.kleak",
        "begun.kleak",
        "lines.json",
        "gzip.kleak",
        "newer.kleak",
        "missing.kleak",
        ".",
    ] {
        // A later kleak can read its own; what is wrong with the others is the command line.
        let status = if name == "newer.kleak" { 3 } else { 2 };
        let failed = elsewhere.run(&["report", name])?.expect(status, &[])?;
        ensure!(failed.stdout.is_empty(), "{failed}");
        said.push_str(&failed.stderr);
    }
    insta::assert_snapshot!(said);
    Ok(())
}

/// A full disk for one output is no reason for a build to pass, or for another file to be missing.
#[test]
fn what_cannot_be_written_costs_nothing_else() -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let [file, junit, svg] =
        ["run.kleak", "junit.xml", "out.svg"].map(|name| directory.path().join(name));
    fs::write(&file, RECORDING)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that is no text");
    let (file, junit, svg) = (text(&file)?, text(&junit)?, text(&svg)?);
    let full = ["report", &file, "-o", "/dev/full", "--folded", "/dev/full", "--svg", &svg];
    for (limit, status) in [("objects>0", 4), ("objects>999999999", 1)] {
        let judged = ["--fail-on", limit, "--junit", &junit];
        let failed = run(&[&full[..], &judged].concat())?.expect(status, &["no space left"])?;
        for path in [&junit, &svg] {
            ensure!(fs::metadata(path).is_ok_and(|file| file.len() > 0), "no {path}: {failed}");
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[test]
fn zstd_knows_the_file() -> Result<()> {
    let Ok(found) = Command::new("zstd").arg("--version").output() else {
        skip("zstd is not installed");
        return Ok(());
    };
    ensure!(found.status.success());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recordings/v1.kleak");
    let tested = Command::new("zstd").arg("-tq").arg(&file).status()?;
    ensure!(tested.success(), "zstd -t: {tested}");
    let lines = Command::new("zstd").arg("-dcq").arg(&file).output()?;
    let lines = String::from_utf8(lines.stdout)?;
    // Two a frame, each a document.
    assert_eq!(lines.lines().count(), 6);
    for line in lines.lines() {
        serde_json::from_str::<Value>(line)?;
    }
    Ok(())
}
