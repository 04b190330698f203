//! `kleak trace … -- COMMAND`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Finished, Record, Report, Tracer, Workload, class_512_of_messages, require_live, run_command,
    workload_binary,
};
use tempfile::TempDir;

/// A run of the workload as kleak's command. Fields are dropped in order: the record is read for
/// what to clean up before its directory goes.
struct Case {
    record: Record,
    directory: TempDir,
}

impl Case {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let record = Record::at(directory.path().join("record"));
        Ok(Self { record, directory })
    }

    fn report_path(&self) -> PathBuf {
        self.directory.path().join("report.json")
    }

    /// Words of a workload that leaves `count` messages in each of its processes.
    fn tree(&self, count: &str, depth: &str, exit_code: &str) -> Result<Vec<String>> {
        let program = workload_binary()?.display().to_string();
        let record = self.record.path().display().to_string();
        let words = [
            program.as_str(),
            "--leave",
            "tree",
            "--count",
            count,
            "--depth",
            depth,
            "--children",
            "2",
            "--exit-code",
            exit_code,
            "--record",
            &record,
        ];
        Ok(words.map(str::to_owned).to_vec())
    }

    /// Options to trace a command and write the report to this case's file.
    fn options(&self) -> Vec<String> {
        let path = self.report_path().display().to_string();
        let words =
            ["--size", "512", "--format", "json", "--top", "1000", "-o", &path].map(str::to_owned);
        words.to_vec()
    }

    fn run(&self, more: &[&str], command: &[String]) -> Result<Finished> {
        let mut kleak = Command::new(kleak_tests::harness::binary()?);
        kleak.arg("trace").args(self.options()).args(more).arg("--").args(command);
        run_command(kleak, kleak_tests::harness::PATIENCE)
    }

    fn report(&self) -> Result<Report> {
        let text = fs::read_to_string(self.report_path()).context("the report")?;
        Report::check(serde_json::from_str(&text)?)
    }
}

#[test]
fn a_command_and_its_descendants_and_nobody_else() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let case = Case::new()?;
    let gate = case.directory.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU)?;
    // The family does its work, then the command waits at the gate.
    let script = "gate=$1; shift; \"$@\"; cat \"$gate\" >/dev/null";
    let mut words = case.options();
    words.extend(["--", "sh", "-c", script, "sh"].map(str::to_owned));
    words.push(gate.display().to_string());
    words.extend(case.tree("600", "2", "0")?);
    let mut bystander = Workload::start(&["msg", "--count", "900"])?;
    let words = words.iter().map(String::as_str).collect::<Vec<_>>();
    let tracer = Tracer::start(&words)?;
    assert_eq!(bystander.go("count")?, 900);
    drop(fs::File::options().write(true).open(&gate).context("the gate")?);
    tracer.finish()?.expect(0, &[])?;
    let report = case.report()?;

    let family = case.record.processes()?;
    assert_eq!(family.len(), 1 + 2 + 4);
    for (pid, _) in &family {
        let row = report.row(*pid, cache)?.with_context(|| format!("no row of {pid}"))?;
        assert_eq!(row["outstanding_objects"], 600, "{row:#}");
        assert_eq!(row["owner"]["exited"], true, "{row:#}");
        assert_eq!(row["owner"]["comm"], "kleak-workload", "{row:#}");
    }
    let shell = report.number("/command/pid")?;
    for row in report.owners()? {
        let pid = row["owner"]["pid"].as_u64().with_context(|| format!("nobody's: {row:#}"))?;
        ensure!(pid != u64::from(bystander.pid()), "the bystander is there: {row:#}");
        let outstanding = row["outstanding_objects"].as_u64().unwrap_or(0);
        let known = pid == shell || family.iter().any(|(member, _)| u64::from(*member) == pid);
        // `cat`, which the shell starts, is of the family too, and leaves nothing like this.
        ensure!(known || outstanding < 600, "a stranger: {row:#}");
    }
    assert_eq!(report.number("/command/exit_status")?, 0);
    Ok(())
}

#[test]
fn the_command_s_exit_status_is_passed_on() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let case = Case::new()?;
    case.run(&[], &case.tree("500", "0", "7")?)?.expect(7, &["attached:"])?;
    let report = case.report()?;
    assert_eq!(report.number("/command/exit_status")?, 7);
    assert!(report.0["command"]["signal"].is_null(), "{:#}", report.0["command"]);
    let (pid, _) = case.record.processes()?[0];
    assert_eq!(report.number("/command/pid")?, u64::from(pid));
    assert_eq!(report.counts(pid, cache)?.outstanding, 500);
    Ok(())
}

#[test]
fn a_threshold_comes_before_the_command_s_exit_status() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let case = Case::new()?;
    let command = case.tree("500", "0", "7")?;
    case.run(&["--fail-on", "objects>400"], &command)?.expect(4, &["objects>400"])?;
    assert_eq!(case.report()?.number("/command/exit_status")?, 7);
    let case = Case::new()?;
    let command = case.tree("500", "0", "7")?;
    case.run(&["--fail-on", "objects>100000"], &command)?.expect(7, &[])?;
    Ok(())
}

#[test]
fn a_command_that_a_signal_ends() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let case = Case::new()?;
    let command = ["sh", "-c", "kill -KILL $$"].map(str::to_owned);
    let finished = case.run(&[], &command)?;
    assert_eq!(finished.code(), Some(128 + 9), "{finished}");
    let report = case.report()?;
    assert!(report.0["command"]["exit_status"].is_null(), "{:#}", report.0["command"]);
    assert_eq!(report.number("/command/signal")?, 9);
    Ok(())
}

#[test]
fn a_command_that_leaves_nothing() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let case = Case::new()?;
    let mut command = case.tree("500", "1", "0")?;
    command.retain(|word| word != "--leave");
    case.run(&[], &command)?.expect(0, &[])?;
    let report = case.report()?;
    let processes = case.record.processes()?;
    assert_eq!(processes.len(), 3);
    for (pid, _) in processes {
        let counts = report.counts(pid, cache)?;
        assert_eq!((counts.outstanding, counts.allocated), (0, counts.freed), "of {pid}");
    }
    Ok(())
}

#[test]
fn a_command_that_outlives_the_window_is_ended_after_the_report() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let case = Case::new()?;
    // It ignores the request to end, so that it takes kleak seconds to end it.
    let stubborn = "trap '' TERM; while :; do sleep 0.1; done";
    let words = ["sh", "-c", stubborn].map(ToOwned::to_owned);
    let finished = case.run(&["--duration", "1s"], &words)?.expect(128 + 9, &[])?;
    let report = case.report()?.0;
    let window = report["window_s"].as_f64().context("window_s")?;
    assert!((1.0..3.0).contains(&window), "a window of {window} s: {finished}");
    assert_eq!(report["command"]["signal"], 9, "{finished}");
    Ok(())
}

#[test]
fn a_command_that_is_not_there() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let case = Case::new()?;
    let finished = case.run(&[], &["/nonexistent/kleak-command".to_owned()])?;
    finished.expect(2, &["/nonexistent/kleak-command"])?;
    Ok(())
}
