//! The command that is run with `-- COMMAND`.

use std::{
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use nix::{sys::signal, unistd::Pid};
use tokio::process::{Child, Command};

use crate::report::{self, sanitize};

/// How long a command may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Finds the program as the shell would.
///
/// Errors: there is none, or it cannot be executed.
pub(super) fn find(word: &OsStr) -> Result<PathBuf, String> {
    let shown = sanitize::terminal(&word.to_string_lossy()).into_owned();
    if word.is_empty() {
        return Err("the command is empty".to_owned());
    }
    if word.as_bytes().contains(&b'/') {
        let path = PathBuf::from(word);
        return match executable(&path) {
            true => Ok(path),
            false if path.exists() => Err(format!("`{shown}` cannot be executed")),
            false => Err(format!("there is no `{shown}` to run")),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path)
        .map(|directory| directory.join(word))
        .find(|path| executable(path))
        .ok_or_else(|| format!("there is no command `{shown}` in PATH"))
}

fn executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// A command that runs.
pub(super) struct Running {
    child: Child,
    pid: u32,
    argv: Vec<String>,
    status: Option<ExitStatus>,
}

impl Running {
    /// Starts it. Its kernel memory is counted from its fork on.
    ///
    /// Errors: it cannot be started.
    pub(super) fn start(command: &[OsString]) -> Result<Self, String> {
        let (word, rest) = command.split_first().ok_or("the command is empty")?;
        let argv: Vec<String> =
            command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let child = Command::new(word)
            .args(rest)
            .spawn()
            .map_err(|error| format!("cannot run `{}`: {error}", argv.join(" ")))?;
        let pid = child.id().ok_or("the command ended before it could be watched")?;
        Ok(Self { child, pid, argv, status: None })
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) {
        if self.status.is_none() {
            self.status = self.child.wait().await.ok();
        }
    }

    /// Asks it to end, and makes it after a while.
    pub(super) async fn end(&mut self) {
        if self.status.is_some() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.pid) {
            // It may have ended by itself this moment.
            let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM);
        }
        if tokio::time::timeout(PATIENCE, self.wait()).await.is_err() {
            drop(self.child.start_kill());
            self.wait().await;
        }
    }

    /// For the report.
    pub(super) fn report(&self) -> report::Command {
        report::Command {
            argv: self.argv.clone(),
            pid: self.pid,
            exit_status: self.status.and_then(|status| status.code()),
            signal: self.status.and_then(|status| status.signal()),
        }
    }

    /// Its exit status as a shell gives it: 128+N when signal N ended it.
    pub(super) fn exit_code(&self) -> u8 {
        let Some(status) = self.status else { return 1 };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}
