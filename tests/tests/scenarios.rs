//! Incidents from their first question to their answer, as an engineer goes through them: what
//! `kleak doctor` says, and the command it prints. (The kubelet's by itself is in `incident.rs`, piles of
//! dying cgroups are in `cgroups.rs`, one big process is in `doctor.rs`.)

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Cgroup, PATIENCE, Report, Returned, Tracer, Workload, as_counts, class_512_of_filters,
    require_caches, require_live, run, settle,
};
use serde_json::Value;

/// Files that the walker finds, and directories that they are in.
const FILES: usize = 20_000;
const DIRECTORIES: usize = 40;

/// Incident 1. The node has no process that is big; something grows in the kernel.
#[test]
fn the_line_that_doctor_prints_names_the_kubelet() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_filters()?;
    settle(cache)?;
    let _returned = Returned::watch(cache)?;
    let mut kubelet = Workload::start(&["--comm", "kubelet", "kubelet", "--dials", "64"])?;
    let cgroup = Cgroup::make("system.slice/kubelet.service")?;
    cgroup.join(kubelet.pid())?;
    kubelet.order("go")?;

    let report: Value = serde_json::from_slice(&run(&["doctor", "--format", "json"])?.stdout)?;
    // Each try leaves a socket behind, and its filter: which of the caches doctor notes in a second is
    // chance.
    let next = report["next"].as_str().context("nothing to run next")?;
    let findings = report["findings"].as_array().context("findings")?;
    let grown = findings.iter().find(|finding| finding["next"] == next);
    let grown = grown.with_context(|| format!("whose is {next}? {findings:#?}"))?;
    assert_eq!(grown["id"], "slab-cache", "{grown:#}");
    assert!(grown["evidence"]["growth_objects_per_s"].as_f64() > Some(0.0), "{grown:#}");
    let words: Vec<&str> = next.split(' ').collect();
    ensure!(words.starts_with(&["kleak", "trace"]) && next.ends_with(" --duration 30s"), "{next}");

    let tracer = Tracer::start(&[&words[2..], &["--format", "json"]].concat())?;
    let finished = tracer.finish_within(Duration::from_secs(30) + PATIENCE)?.expect(0, &[])?;
    kubelet.order("stop")?;
    ensure!(kubelet.done("kept")? > 0);
    let report = Report::parse(&finished)?;
    let verdict = &report.0["verdict"];
    assert_eq!(verdict["growing"], true, "{verdict:#}");
    assert_eq!(verdict["owner"]["pid"], kubelet.pid(), "{verdict:#}");
    assert_eq!(verdict["owner"]["unit"], "kubelet.service", "{verdict:#}");
    Ok(())
}

/// Incident 4. A job of the system's own, in no pod and under no limit, walks over very many files: what
/// it fills are the caches of names and inodes, whatever its working directory is.
#[test]
fn a_walker_in_no_pod_owns_the_names_and_inodes_it_fills() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !require_caches()? {
        return Ok(());
    }
    // Not where names are kept as long as files are, as on tmpfs.
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    plant(tree.path())?;
    let cgroup = Cgroup::make("system.slice/mlocate.service")?;
    // It is in its cgroup before it walks. `-printf %s` has it look at each file's inode.
    let mut walker = Command::new("sh")
        .args(["-c", "read -r go; exec find \"$0\" -printf %s"])
        .arg(tree.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let pid = walker.id();
    let walked = cgroup.join(pid).and_then(|()| {
        let caches = ["--cache", "dentry,*inode_cache*", "--format", "json", "--top", "1000"];
        let tracer = Tracer::start(&caches)?;
        let mut orders = walker.stdin.take().context("its stdin")?;
        orders.write_all(b"go\n")?;
        ensure!(walker.wait()?.success());
        tracer.report()
    });
    // Of one that was never told to go this is the end.
    drop(walker.stdin.take());
    drop(walker.wait());
    let report = walked?;

    let row = report.row(pid, "dentry")?.context("no names of the walker")?;
    let counts = as_counts(row)?;
    let files = u64::try_from(FILES)?;
    ensure!((files..files * 2).contains(&counts.outstanding), "{counts:?} of {files}");
    let inodes: u64 = report
        .rows_of(pid)?
        .iter()
        .filter(|row| row["cache"].as_str().is_some_and(|name| name.contains("inode_cache")))
        .filter_map(|row| row["outstanding_objects"].as_u64())
        .sum();
    ensure!(inodes >= files, "{inodes} inodes of {files} files");
    let owner = &report.0["verdict"]["owner"];
    assert_eq!((&owner["pid"], &owner["comm"]), (&pid.into(), &"find".into()), "{owner:#}");
    assert_eq!(owner["unit"], "mlocate.service", "{owner:#}");
    assert_eq!((&owner["pod"], &owner["container"]), (&Value::Null, &Value::Null), "{owner:#}");
    Ok(())
}

/// Makes files whose names and inodes the kernel has not in memory any more.
fn plant(directory: &Path) -> Result<()> {
    for number in 0..DIRECTORIES {
        let part = directory.join(number.to_string());
        fs::create_dir(&part)?;
        for file in 0..FILES / DIRECTORIES {
            fs::write(part.join(file.to_string()), b"")?;
        }
    }
    // Only what has been written can be let go of.
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "2").context("dropping caches")
}
