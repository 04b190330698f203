//! Recordings of real runs: read elsewhere they say what the run said, and whatever ends a run leaves one.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Cgroup, Finished, Report, Tracer, Workload, binary, class_512_of_messages, require_live, run,
    shout, wait_for,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

/// A name with a newline, the separator of folded stacks, an escape sequence and a quote.
const HOSTILE: &str = "653b0a1b5b33316d22";

/// Anybody.
const NOBODY: u32 = 65534;

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a temporary path that is no text")
}

/// `kleak report` by somebody without rights, who may not look into the directory of the build either.
fn report_as_nobody(recording: &Path, options: &[&str]) -> Result<Finished> {
    let copy = recording.with_file_name("kleak");
    fs::copy(binary()?, &copy).with_context(|| copy.display().to_string())?;
    let mut command = Command::new(copy);
    command.arg("report").arg(recording).args(options).uid(NOBODY).gid(NOBODY);
    let output = command.output().with_context(|| format!("{command:?}"))?;
    Ok(Finished {
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A directory that anybody may look into.
fn open_directory() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

#[test]
fn what_is_saved_is_reported_as_it_was() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let directory = open_directory()?;
    let [saved, folded, again] =
        ["run.kleak", "live.folded", "again.folded"].map(|name| directory.path().join(name));
    let mut workload = Workload::start(&["--comm-hex", HOSTILE, "msg", "--count", "3000"])?;
    let cgroup = Cgroup::make(&format!("kleak;\"\u{1b}[31m-{}", std::process::id()))?;
    cgroup.join(workload.pid())?;
    let files = ["--save", text(&saved)?, "--folded", text(&folded)?];
    let tracer = Tracer::json(&[&files[..], &["--stacks", "all"]].concat())?;
    assert_eq!(workload.go("count")?, 3000);
    let live = tracer.interrupt()?.expect(0, &[])?;

    // Byte by byte what it said itself, --top and all.
    let options = ["--format", "json"];
    let read = report_as_nobody(&saved, &options)?.expect(0, &[])?;
    assert_eq!(read.text()?, live.text()?);

    // Grouped as nobody had asked for before.
    let by_cgroup = report_as_nobody(&saved, &["--format", "json", "--by", "cgroup"])?;
    let by_cgroup = Report::parse(&by_cgroup.expect(0, &[])?)?;
    let pid = workload.pid();
    let path = format!("kleak;\"\u{1b}[31m-{}", std::process::id());
    let row = by_cgroup.owners()?.iter().find(|row| {
        row["owner"]["cgroup"].as_str().is_some_and(|cgroup| cgroup.ends_with(&path))
            && row["cache"] == cache
    });
    assert_eq!(row.context("no row of the cgroup")?["outstanding_objects"], 3000);

    // One owner alone.
    let one = report_as_nobody(&saved, &["--format", "json", "--pid", &pid.to_string()])?;
    let one = Report::parse(&one.expect(0, &[])?)?;
    ensure!(one.owners()?.iter().all(|row| row["owner"]["pid"] == pid), "others are shown too");

    // And in the format of other tools.
    run(&["export", text(&saved)?, "--folded", text(&again)?])?.expect(0, &[])?;
    assert_eq!(fs::read_to_string(&again)?, fs::read_to_string(&folded)?);
    Ok(())
}

#[test]
fn a_run_that_is_killed_leaves_its_last_checkpoint() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let directory = open_directory()?;
    let saved = directory.path().join("run.kleak");
    let mut workload = Workload::start(&["msg", "--count", "1000"])?;
    let tracer = Tracer::json(&["--save", text(&saved)?])?;
    assert_eq!(workload.go("count")?, 1000);
    // The first is written after five seconds.
    wait_for("a checkpoint", Duration::from_secs(20), || {
        Ok(fs::metadata(&saved).ok().filter(|file| file.len() > 500))
    })?;
    tracer.signal(Signal::SIGKILL)?;
    let killed = tracer.finish()?;
    ensure!(killed.code().is_none(), "it was to be killed: {killed}");

    let report = Report::parse(&report_as_nobody(&saved, &["--format", "json"])?.expect(0, &[])?)?;
    let row = report.row(workload.pid(), cache)?.context("no row of the workload")?;
    assert_eq!(row["outstanding_objects"], 1000);
    let notes = report.0["notes"].to_string();
    ensure!(notes.contains("ends early"), "nobody is told that it has no end: {notes}");
    Ok(())
}

/// A file system with room for so many bytes, gone with its guard.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(bytes: u32) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let options = format!("size={bytes}");
        mount(
            Some("kleak-test"),
            directory.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .context("mounting a small tmpfs")?;
        Ok(Self(directory))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.0.path(), MntFlags::MNT_DETACH) {
            shout(&format!("unmounting {}: {error}", self.0.path().display()));
        }
    }
}

#[test]
fn a_full_disk_costs_the_rest_of_the_recording_and_nothing_else() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let disk = Disk::of(64 << 10)?;
    let saved = disk.0.path().join("run.kleak");
    let mut workload = Workload::start(&["msg", "--count", "1000"])?;
    let options = ["--format", "ndjson", "--interval", "100ms", "--save", text(&saved)?];
    let mut tracer = Tracer::start(&[&["--size", "512"], &options[..]].concat())?;
    assert_eq!(workload.go("count")?, 1000);
    tracer.await_line("writing ")?;
    // It goes on, and so does what it watches.
    let finished = tracer.interrupt()?.expect(1, &["no space left on device", "lacks"])?;
    let last = finished.text()?.lines().last().context("it printed nothing")?;
    let last = Report(serde_json::from_str(last)?);
    let row = last.row(workload.pid(), cache)?.context("no row of the workload")?;
    assert_eq!(row["outstanding_objects"], 1000);
    let told = finished.stderr.matches("tracing goes on").count();
    assert_eq!(told, 1, "once is enough: {finished}");

    // What was written before is whole.
    let report = run(&["report", text(&saved)?, "--format", "json"])?.expect(0, &[])?;
    let report = Report::parse(&report)?;
    let notes = report.0["notes"].to_string();
    ensure!(notes.contains("ends early"), "nobody is told that it has no end: {notes}");
    Ok(())
}

#[test]
fn a_run_that_cannot_start_leaves_the_last_recording() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let saved = directory.path().join("run.kleak");
    let trace = ["trace", "--size", "512", "--duration", "500ms", "--save", text(&saved)?];
    run(&trace)?.expect(0, &[])?;
    let before = fs::read(&saved)?;
    let too_many = run(&[&trace[..], &["--max-objects", "200M"]].concat())?;
    too_many.expect(3, &["--max-objects"])?;
    assert_eq!(fs::read(&saved)?, before);
    for (path, words) in [("-", "standard output"), ("/nonexistent/run.kleak", "no directory")] {
        run(&["trace", "--size", "512", "--duration", "1s", "--save", path])?
            .expect(2, &[words])?;
    }
    Ok(())
}
