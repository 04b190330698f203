//! Formatting, clippy and documentation, each with warnings denied.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    bpf::{self, Linted},
    build::ENV_OBJECT,
    command::{outer_cargo, run as run_command},
    say,
    toolchain::{self, Toolchain},
    workspace::Workspace,
};

/// Everything but the BPF side, which the user's own compiler cannot build.
pub(crate) const USER_SIDE: [&str; 3] = ["--workspace", "--exclude", "kleak-ebpf"];

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    check(workspace, &toolchain::find_or_install()?)
}

/// Runs every check before it fails, so that one run shows all there is to mend.
pub(crate) fn check(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let mut failed = Vec::new();
    let mut note = |name, result: Result<()>| {
        if let Err(error) = result {
            say::error(&error);
            failed.push(name);
        }
    };
    say::step("lint", "formatting");
    note("formatting", run_command(outer_cargo(workspace).args(["fmt", "--all", "--check"])));

    say::step("lint", "clippy, user side");
    let mut clippy = user_side(workspace, "clippy");
    note("clippy", run_command(clippy.args(["--all-targets", "--", "-Dwarnings"])));

    say::step("lint", "clippy, BPF side");
    note("clippy on the BPF side", bpf_side(workspace, toolchain));

    // A workspace of its own, which the others leave out.
    say::step("lint", "clippy, fuzz targets");
    let mut fuzz = outer_cargo(workspace);
    fuzz.args(["clippy", "--manifest-path", "tests/fuzz/Cargo.toml"]);
    let target = workspace.target.join("fuzz");
    fuzz.arg("--target-dir").arg(target).args(["--all-targets", "--", "-Dwarnings"]);
    note("clippy on the fuzz targets", run_command(&mut fuzz));

    say::step("lint", "documentation");
    let mut doc = user_side(workspace, "doc");
    note("documentation", run_command(doc.arg("--no-deps").env("RUSTDOCFLAGS", "-Dwarnings")));

    if failed.is_empty() {
        return Ok(());
    }
    bail!("lint failed: {}", failed.join(", "));
}

fn bpf_side(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    match bpf::lint(workspace, toolchain)? {
        Linted::Clippy => {}
        Linted::WarningsOnly => say::warning(
            "lint",
            &format!(
                "{} has no clippy: the BPF side was checked for the compiler's own warnings only",
                toolchain.compiler.rustc.display()
            ),
        ),
    }
    Ok(())
}

/// A cargo task over the user side, embedding the same object as every other, so that what one has
/// compiled the next can use.
pub(crate) fn user_side(workspace: &Workspace, task: &str) -> Command {
    let mut cargo = outer_cargo(workspace);
    cargo.arg(task).args(USER_SIDE);
    let object = workspace.bpf_object();
    if object.is_file() {
        cargo.env(ENV_OBJECT, object);
    }
    cargo
}
