//! The command line: what makes no sense is refused with a clear message and the right status.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use kleak_tests::harness::{PATIENCE, binary, require_binary, require_live, run, run_command};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Usage errors: nothing on standard output, the words on standard error, status 2.
fn refused(cases: &[(&[&str], &[&str])]) -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    for (arguments, words) in cases {
        // Not a second of tracing, should one of them be accepted.
        let finished =
            run(arguments)?.expect(2, words).with_context(|| format!("{arguments:?}"))?;
        assert!(finished.stdout.is_empty(), "{arguments:?}: {finished}");
        assert!(!finished.stderr.contains("attached:"), "{arguments:?}: {finished}");
    }
    Ok(())
}

#[test]
fn sizes_that_make_no_sense() -> Result<()> {
    refused(&[
        (&["trace", "--size", "banana", "--duration", "1s"], &["banana"]),
        (&["trace", "--size", "0", "--duration", "1s"], &["0"]),
        (&["trace", "--size", "-5", "--duration", "1s"], &["-5"]),
        (&["trace", "--size", "5000000M", "--duration", "1s"], &["5000000M"]),
        (
            &["trace", "--size", "99999999999999999999", "--duration", "1s"],
            &["99999999999999999999"],
        ),
        (&["trace", "--size", "512,", "--duration", "1s"], &["512,"]),
        (&["trace", "--size", "", "--duration", "1s"], &["--size"]),
        (&["trace", "--size", "512,banana", "--duration", "1s"], &["banana"]),
        (&["trace", "--size", "kmalloc-banana", "--duration", "1s"], &["kmalloc-banana"]),
    ])
}

#[test]
fn durations_that_make_no_sense() -> Result<()> {
    refused(&[
        (&["trace", "--size", "512", "--duration", "5 parsecs"], &["parsecs"]),
        (&["trace", "--size", "512", "--duration", "0s"], &["0s"]),
        (&["trace", "--size", "512", "--duration", "banana"], &["banana"]),
        (&["trace", "--size", "512", "--duration", ""], &["--duration"]),
        (&["trace", "--size", "512", "--duration", "-1s"], &["-1s"]),
        (&["trace", "--size", "512", "--duration", "1s", "--min-age", "-1s"], &["-1s"]),
        (&["trace", "--size", "512", "--duration", "1s", "--min-age", "old"], &["old"]),
        (&["trace", "--size", "512", "--duration", "1s", "--interval", "0s"], &["0s"]),
        (&["trace", "--size", "512", "--duration", "1s", "--interval", "x"], &["--interval"]),
        (&["trace", "--size", "512", "--duration", "99999999999999999999y"], &["--duration"]),
    ])
}

#[test]
fn patterns_that_make_no_sense() -> Result<()> {
    refused(&[
        (&["trace", "--size", "512", "--duration", "1s", "--comm", "["], &["--comm"]),
        (&["trace", "--size", "512", "--duration", "1s", "--cgroup", "{a"], &["--cgroup"]),
        (&["trace", "--size", "512", "--duration", "1s", "--pod", "[z-a]"], &["--pod"]),
        (&["trace", "--cache", "[", "--duration", "1s"], &["--cache"]),
    ])
}

#[test]
fn thresholds_that_make_no_sense() -> Result<()> {
    let expressions = [
        "growth>>1",
        "growth>",
        ">1",
        "",
        "size>1",
        "share>2",
        "owner.share>2",
        "owner.share>-1",
        "objects>many",
        "objects>1.5.2",
        "growth>1MiB/parsec",
        "objects",
    ];
    if !require_binary()? {
        return Ok(());
    }
    for expression in expressions {
        let arguments = ["trace", "--size", "512", "--duration", "1s", "--fail-on", expression];
        run(&arguments)?.expect(2, &["--fail-on", expression])?;
    }
    Ok(())
}

#[test]
fn words_and_numbers_that_make_no_sense() -> Result<()> {
    refused(&[
        (&["trace", "--size", "512", "--duration", "1s", "--format", "xml"], &["xml", "ndjson"]),
        (&["trace", "--size", "512", "--duration", "1s", "--by", "mood"], &["mood", "cgroup"]),
        (&["trace", "--size", "512", "--duration", "1s", "--stacks", "some"], &["some", "auto"]),
        (&["trace", "--size", "512", "--duration", "1s", "--pid", "0"], &["--pid"]),
        (&["trace", "--size", "512", "--duration", "1s", "--pid", "me"], &["me"]),
        (&["trace", "--size", "512", "--duration", "1s", "--max-objects", "0"], &["--max-objects"]),
        (&["trace", "--size", "512", "--duration", "1s", "--max-objects", "x"], &["--max-objects"]),
        (&["trace", "--size", "512", "--duration", "1s", "--top", "x"], &["--top"]),
        (
            &["trace", "--size", "512", "--duration", "1s", "--no-such-option"],
            &["--no-such-option"],
        ),
        (&["trace", "--size", "512", "--duration", "1s", "stray"], &["stray"]),
        (&["no-such-command"], &["no-such-command"]),
        (&[], &["Usage"]),
    ])
}

#[test]
fn outputs_that_cannot_be_written_are_found_before_the_window() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let directory = directory.path().to_str().context("a temporary path that is no text")?;
    let missing = "/nonexistent/directory/x";
    refused(&[
        (&["trace", "--size", "512", "--duration", "1s", "--folded", missing], &[missing]),
        (&["trace", "--size", "512", "--duration", "1s", "--folded", directory], &[directory]),
        (&["trace", "--size", "512", "--duration", "1s", "-o", missing], &[missing]),
        (&["trace", "--size", "512", "--duration", "1s", "-o", directory], &[directory]),
    ])
}

#[test]
fn help_and_version() -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    for arguments in [&["--help"][..], &["-h"], &["trace", "--help"], &["--version"], &["-V"]] {
        let finished = run(arguments)?.expect(0, &[])?;
        assert!(finished.text()?.contains("kleak"), "{arguments:?}: {finished}");
        assert!(finished.stderr.is_empty(), "{arguments:?}: {finished}");
    }
    let version = run(&["--version"])?;
    assert!(version.text()?.chars().any(|c| c.is_ascii_digit()), "{version}");
    Ok(())
}

#[test]
fn help_lists_what_works_and_nothing_else() -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    let help = run(&["trace", "--help"])?.expect(0, &[])?;
    let help = help.text()?;
    for option in [
        "--size",
        "--cache",
        "--kind",
        "--pid",
        "--comm",
        "--cgroup",
        "--pod",
        "--duration",
        "--interval",
        "--min-age",
        "--by",
        "--top",
        "--stacks",
        "--user-stacks",
        "--max-objects",
        "--format",
        "--folded",
        "--svg",
        "--html",
        "--pprof",
        "--speedscope",
        "--save",
        "--fail-on",
        "--suppressions",
        "--baseline",
        "--junit",
        "--markdown",
        "--github",
    ] {
        assert!(help.contains(option), "{option} is not in\n{help}");
    }
    Ok(())
}

#[test]
fn without_root_it_says_how_to_get_there() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    // Where everybody can read it: the build directory may be root's own.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let copy = directory.path().join("kleak");
    fs::copy(binary()?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(&copy);
    command.args(["trace", "--size", "512", "--duration", "1s"]).uid(65_534).gid(65_534);
    let finished = run_command(command, PATIENCE)?.expect(3, &["root", "sudo"])?;
    assert!(finished.stdout.is_empty(), "{finished}");

    // What needs no privilege works without.
    let mut command = Command::new(&copy);
    command.args(["trace", "--help"]).uid(65_534).gid(65_534);
    run_command(command, PATIENCE)?.expect(0, &[])?;
    let mut command = Command::new(&copy);
    command.args(["trace", "--size", "banana"]).uid(65_534).gid(65_534);
    run_command(command, PATIENCE)?.expect(2, &["banana"])?;
    Ok(())
}

/// In the child: a mount namespace in which these directories are empty.
fn hide(directories: &[&str]) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for directory in directories {
        mount(Some("none"), *directory, Some("tmpfs"), MsFlags::MS_RDONLY, none)?;
    }
    Ok(())
}

#[test]
fn without_btf_and_tracefs_it_says_what_to_mount() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut command = Command::new(binary()?);
    command.args(["trace", "--size", "512", "--duration", "1s"]);
    // SAFETY: between fork and exec `hide` only makes system calls, on short paths for which nix
    // uses the stack.
    unsafe {
        command.pre_exec(|| hide(&["/sys/kernel/btf", "/sys/kernel/tracing", "/sys/kernel/debug"]));
    }
    let finished = run_command(command, PATIENCE)?.expect(3, &["mount -t tracefs"])?;
    assert!(finished.stdout.is_empty(), "{finished}");
    Ok(())
}
