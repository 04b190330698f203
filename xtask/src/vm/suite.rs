//! What runs inside: the very test binaries of this clone, linked so that they need nothing beside
//! them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    build::{self, Profile},
    command::shown,
    say,
    workspace::Workspace,
};

/// A file of `tests/tests` to run in each machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    /// Whether it is also run where something is taken away from a kernel or its cgroups are v1's:
    /// if that could change what kleak answers.
    pub(super) in_variants: bool,
    /// Tests to run, by a part of their names, unless others are asked for: an emulated processor is
    /// ten times as slow, and those on which the kernel has a bearing are these. Empty: all.
    pub(super) only: &'static [&'static str],
    /// Of those, the tests of the short matrix.
    pub(super) brief: Brief,
}

/// Which tests of a check the short matrix runs, by a part of their names, and where.
#[derive(Clone, Copy, Debug)]
pub(super) enum Brief {
    /// In every machine where the check is run at all.
    Everywhere(&'static [&'static str]),
    /// On the oldest and on the newest kernel.
    Ends(&'static [&'static str]),
}

impl Check {
    /// The tests to run, by a part of their names.
    pub(super) const fn tests(&self, brief: bool) -> &'static [&'static str] {
        match self.brief {
            Brief::Everywhere(tests) | Brief::Ends(tests) if brief => tests,
            _ => self.only,
        }
    }
}

/// The checks, in the order of the table. A new file of tests is one more line here. Left out are
/// those on which the kernel has no bearing.
pub(super) const CHECKS: [Check; 10] = [
    Check {
        name: "counting",
        in_variants: true,
        only: &["with_stacks_auto", "with_stacks_all", "older_than_the_window"],
        brief: Brief::Everywhere(&["stay_are_counted_with_stacks_auto", "older_than_the_window"]),
    },
    Check {
        name: "owners",
        in_variants: true,
        only: &["used_again", "moves", "exited", "softirq", "threads", "one_of_four"],
        brief: Brief::Everywhere(&["used_again", "softirq"]),
    },
    Check {
        name: "limits",
        in_variants: false,
        only: &["cannot_hold", "kill_9"],
        brief: Brief::Ends(&["kill_9"]),
    },
    Check {
        name: "incident",
        in_variants: false,
        only: &["within_twenty_seconds"],
        brief: Brief::Ends(&["within_twenty_seconds"]),
    },
    Check {
        name: "rcu",
        in_variants: true,
        only: &["leave_nothing", "churn_in_its_cache"],
        brief: Brief::Everywhere(&["epoll_items::made_and_destroyed_leave_nothing"]),
    },
    Check {
        name: "caches",
        in_variants: false,
        only: &["find", "left_open", "merged"],
        brief: Brief::Ends(&["find", "merged"]),
    },
    Check {
        name: "pages",
        in_variants: false,
        only: &["to_the_last_one", "over_all_cpus", "by_class", "are_gone"],
        brief: Brief::Ends(&["to_the_last_one", "by_class"]),
    },
    Check {
        name: "cgroups",
        in_variants: true,
        only: &["made_and", "pinned"],
        brief: Brief::Ends(&["pinned"]),
    },
    Check { name: "storm", in_variants: false, only: &[], brief: Brief::Ends(&[]) },
    Check {
        name: "stacks",
        in_variants: false,
        only: &["few_thousand"],
        brief: Brief::Ends(&["few_thousand"]),
    },
];

/// The package of the tests.
const PACKAGE: &str = "kleak-tests";
const WORKLOAD: &str = "kleak-workload";

/// What there is to run.
pub(super) struct Programs {
    pub(super) kleak: PathBuf,
    pub(super) workload: PathBuf,
    pub(super) tests: BTreeMap<String, PathBuf>,
}

pub(super) fn build(workspace: &Workspace, checks: &[Check]) -> Result<Programs> {
    let built = build::everything(workspace, Profile::Release)?;
    say::step("vm", "building the tests to run inside");
    let mut cargo = build::static_cargo(workspace, "test", PACKAGE, Profile::Release)?;
    cargo.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    for check in checks {
        cargo.args(["--test", check.name]);
    }
    let artifacts = executables(&mut cargo)?;
    let find = |name: &str| {
        let found = artifacts.get(name).cloned();
        found.with_context(|| format!("{} made no {name}", shown(&cargo)))
    };
    let tests = checks.iter().map(|check| Ok((check.name.to_owned(), find(check.name)?)));
    Ok(Programs {
        kleak: built.executable,
        workload: find(WORKLOAD)?,
        tests: tests.collect::<Result<_>>()?,
    })
}

/// That each of the names that choose tests is of one: a test that was renamed would be missed by nobody.
pub(super) fn ensure_found(programs: &Programs, checks: &[Check], brief: bool) -> Result<()> {
    for check in checks {
        let path = programs.tests.get(check.name).context("each check has a program")?;
        let output = Command::new(path).args(["--list", "--format", "terse"]).output();
        let output = output.with_context(|| format!("cannot run {}", path.display()))?;
        let list = String::from_utf8_lossy(&output.stdout);
        for name in check.tests(brief) {
            let found = list.lines().any(|line| line.contains(name));
            ensure!(found, "no test of {} has {name} in its name: see suite.rs", check.name);
        }
    }
    Ok(())
}

/// What cargo says that it made, by the name of the target.
fn executables(cargo: &mut Command) -> Result<BTreeMap<String, PathBuf>> {
    let output = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", shown(cargo)))?;
    if !output.status.success() {
        bail!("failed with {}: {}", output.status, shown(cargo));
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    let found = text.lines().filter_map(executable).collect::<BTreeMap<_, _>>();
    ensure!(!found.is_empty(), "no executable was made: {}", shown(cargo));
    Ok(found)
}

fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message = serde_json::from_str::<Value>(line).ok()?;
    let executable = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), executable.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_cargo_s_messages() {
        let made = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"limits"},
                       "executable":"/t/limits-1"}"#;
        let library =
            r#"{"reason":"compiler-artifact","target":{"name":"kleak"},"executable":null}"#;
        assert_eq!(executable(made), Some(("limits".to_owned(), "/t/limits-1".into())));
        assert_eq!(executable(library), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("warning: not JSON"), None);
    }

    #[test]
    fn every_check_is_a_file_of_tests() {
        let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests");
        for check in CHECKS {
            assert!(tests.join(check.name).with_extension("rs").is_file(), "{check:?}");
        }
    }
}
