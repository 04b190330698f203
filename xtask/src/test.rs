//! Every test, with what it needs built first.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::Apt,
    bench::{self, Checked},
    build::{self, Profile},
    command::shown,
    lint, say,
    vm::{self, VmArgs},
    workspace::{Workspace, in_path},
};

/// Names the finished program, for tests that run it.
const ENV_EXECUTABLE: &str = "KLEAK_BIN";

/// Programs that tests run, and the packages that have them.
///
/// podman runs its containers by runc here: crun refuses a hierarchy of version 1 beside one of 2. Go brings
/// the pprof that reads our profiles. The example for CI boots a machine of its own.
const NEEDED: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("go", "golang-go"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// The same, where there are such packages: Ubuntu has its browser as a snap. Without one, the tests of the
/// HTML page are skipped, loudly.
const WANTED: [(&str, &str); 2] = [("chromium", "chromium"), ("chromedriver", "chromium-driver")];

pub(crate) fn run(workspace: &Workspace, with_lint: bool, with_vm: bool) -> Result<()> {
    install_needed()?;
    let built = build::everything(workspace, Profile::Release)?;
    // A failed lint does not hide what the tests would have said.
    let linted = if with_lint { lint::check(workspace, &built.toolchain) } else { Ok(()) };

    say::step("test", "building and running the tests");
    let mut cargo = lint::user_side(workspace, "test");
    cargo
        .arg("--no-fail-fast")
        .env(ENV_EXECUTABLE, &built.executable)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot run {}", shown(&cargo)))?;
    let stdout = child.stdout.take().context("the tests' output was to be piped")?;
    let mut total = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read what the tests say")?;
        let line = String::from_utf8_lossy(&line);
        say::result(&line);
        if let Some(tally) = Tally::parse(&line) {
            total.add(&tally);
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    let passed_here = total.passed;
    let mut failed = Vec::new();
    say::step("test", "measuring what tracing costs, in the short form");
    match bench::check(workspace, &built.executable) {
        Ok(Checked::Fine) => total.passed += 1,
        Ok(Checked::Skipped) => total.ignored += 1,
        Err(error) => {
            total.failed += 1;
            failed.push(format!("bench: {error:#} (cargo xtask bench --quick --check)"));
        }
    }
    if with_vm {
        match vm::run(workspace, &VmArgs::brief()) {
            Ok(cells) => {
                total.add(&cells);
                if cells.failed > 0 {
                    failed.push(format!("{} cells of the kernel matrix failed", cells.failed));
                }
            }
            Err(error) => failed.push(format!("no kernel matrix: {error:#} (or --no-vm)")),
        }
    }
    say::result(&total.closing_line());
    if let Err(error) = linted {
        failed.push(format!("{error:#}"));
    }
    if !status.success() {
        failed.push(format!("tests failed with {status}: {}", shown(&cargo)));
    } else if passed_here == 0 {
        failed.push(format!("no test was run: {}", shown(&cargo)));
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

fn install_needed() -> Result<()> {
    let needed = packages_of_missing(&NEEDED);
    let mut wanted = packages_of_missing(&WANTED);
    if needed.is_empty() && wanted.is_empty() {
        return Ok(());
    }
    let Some(mut apt) = Apt::find() else {
        if needed.is_empty() {
            return Ok(());
        }
        bail!("the tests need the program(s) of {}: install them", needed.join(", "));
    };
    // What there is, only fresh lists know.
    apt.update()?;
    wanted.retain(|package| Apt::candidate(package).is_some());
    let packages = [needed, wanted].concat();
    if packages.is_empty() { Ok(()) } else { apt.install(&packages) }
}

fn packages_of_missing(all: &[(&str, &'static str)]) -> Vec<&'static str> {
    let missing = all.iter().filter(|(program, _)| in_path(program).is_none());
    missing.map(|(_, package)| *package).collect()
}

/// What the test binaries counted, over all of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Tally {
    /// Reads the closing line of one test binary.
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |name: &str| {
            counts.split(';').find_map(|part| part.trim().strip_suffix(name)?.trim().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            ignored: count("ignored").unwrap_or(0),
        })
    }

    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    fn closing_line(&self) -> String {
        let Self { passed, failed, ignored } = self;
        format!("tests: {passed} passed, {failed} failed, {ignored} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_test_binaries_are_added_up() {
        let ok = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; \
                  finished in 0.52s";
        let bad = "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let mut total = Tally::parse(ok).unwrap();
        total.add(&Tally::parse(bad).unwrap());
        assert_eq!(total, Tally { passed: 14, failed: 1, ignored: 1 });
        assert_eq!(total.closing_line(), "tests: 14 passed, 1 failed, 1 skipped");
        assert_eq!(Tally::parse("test foo ... ok"), None);
        assert_eq!(Tally::parse("test result: ?"), None);
    }
}
