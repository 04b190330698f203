//! `examples/ci`: red and green in a virtual machine, as a user would have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kleak_tests::harness::{
    Finished, binary, require_binary, require_program, require_root, run_command,
};

/// Two boots on emulated processors of a busy machine.
const LONGEST: Duration = Duration::from_mins(10);

/// A kernel that `cargo xtask vm` has fetched. Without one, the example fetches its own.
fn kernel() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let series = cache.join("kleak/kernels/6.12");
    let releases = fs::read_dir(series).ok()?.flatten().map(|entry| entry.path().join("boot"));
    let files = releases.filter_map(|boot| fs::read_dir(boot).ok()).flat_map(Iterator::flatten);
    let name = |path: &PathBuf| {
        path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz"))
    };
    files.map(|entry| entry.path()).find(name)
}

fn example(mode: &str, out: &Path) -> Result<Finished> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ci/run.sh");
    let mut run = Command::new(script);
    run.arg(binary()?).arg(mode).arg(out);
    if let Some(kernel) = kernel() {
        run.env("KERNEL", kernel);
    }
    run_command(run, LONGEST)
}

#[test]
fn it_is_red_when_the_workload_leaks_and_green_when_it_does_not() -> Result<()> {
    if kleak_tests::harness::vm_variant().is_some() {
        return Ok(());
    }
    // Alone: it takes both processors.
    let Some(_alone) = require_root()? else {
        return Ok(());
    };
    let programs = ["qemu-system-x86_64", "busybox", "cpio", "cc"];
    for program in programs {
        if require_program(program)?.is_none() {
            return Ok(());
        }
    }
    if !require_binary()? {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let out = |mode: &str| directory.path().join(mode);
    let red = example("leak", &out("leak"))?;
    let words = [
        "fail-on: objects>100: 2,0",
        "owner      workload[",
        "growth ",
        "at load_msg",
        "at do_msgsnd",
        "suppressed 3 objects, 1.5 KiB by 1 of 2 suppressions",
        "reproduce  kleak trace --size 512 --stacks all --fail-on 'objects>100'",
        "-- workload leak",
        "unused suppression kleak.toml:9",
    ];
    red.expect(4, &words)?;
    let failures = |mode: &str| -> Result<Option<String>> {
        let text = fs::read_to_string(out(mode).join("kleak.xml"))?;
        let document = roxmltree::Document::parse(&text)?;
        let failure = document.descendants().find(|node| node.has_tag_name("failure"));
        Ok(failure.map(|node| node.text().unwrap_or_default().to_owned()))
    };
    let failure = failures("leak")?.context("a failure")?;
    assert!(failure.contains("at load_msg"), "{failure}");
    // What was saved there is read here.
    let mut report = Command::new(binary()?);
    report.arg("report").arg(out("leak").join("run.kleak"));
    let report = run_command(report, LONGEST)?.expect(0, &[])?;
    assert!(report.text()?.contains("workload["), "{report}");

    let green = example("clean", &out("clean"))?;
    green.expect(0, &["suppressed 3 objects"])?;
    assert_eq!(failures("clean")?, None);
    let report = fs::read_to_string(out("clean").join("report.txt"))?;
    assert!(report.contains("Trust"), "{report}");
    Ok(())
}
