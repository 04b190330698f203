//! Building kleak and becoming it.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Result, anyhow};

use crate::{
    apt::is_root,
    build::{self, Profile},
    command::{shown, without_xtask},
    say,
    workspace::{Workspace, in_path},
};

pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<()> {
    let built = build::everything(workspace, Profile::Release)?;
    let mut command = match in_path("sudo") {
        Some(sudo) if !is_root() => {
            let mut command = Command::new(sudo);
            command.arg("--").arg(&built.executable);
            command
        }
        // Without root kleak says itself what it may not do, and `doctor` does much all the same.
        _ => Command::new(&built.executable),
    };
    command.args(args);
    without_xtask(&mut command, workspace);
    say::step("run", &shown(&command));
    // In its place rather than as its parent: signals and exit status need no passing on.
    let error = command.exec();
    Err(anyhow!("cannot run {}: {error}", shown(&command)))
}
