//! The tool: where it is, and running it to its end.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{PATIENCE, output, wait_for};

/// The binary under test: `KLEAK_BIN`, or the one `cargo xtask build` leaves, or a debug build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KLEAK_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "KLEAK_BIN: no such file: {}", path.display());
        return Ok(path);
    }
    let test = std::env::current_exe()?;
    // target/PROFILE/deps/test-0123456789abcdef
    let profile = test.ancestors().nth(2).context("the test lies in no target directory")?;
    let release = profile.with_file_name("release");
    [release, profile.to_owned()]
        .map(|directory| directory.join("kleak"))
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("no kleak binary; `cargo xtask build` makes it, or set KLEAK_BIN"))
}

/// A run that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
}

impl Finished {
    /// The exit status, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output as text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.stdout).context("standard output is not UTF-8")
    }

    /// Fails unless the exit status is this one and standard error holds all of these.
    pub fn expect(self, code: i32, words: &[&str]) -> Result<Self> {
        ensure!(self.code() == Some(code), "exit status {code} was expected: {self}");
        for word in words {
            let said = self.stderr.to_lowercase().contains(&word.to_lowercase());
            ensure!(said, "{word:?} was expected on standard error: {self}");
        }
        ensure!(
            !self.stderr.contains("panicked at"),
            "an error message was expected, not a panic: {self}"
        );
        Ok(self)
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, signal) => format!("signal {signal:?}"),
        };
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stdout = stdout.chars().take(4000).collect::<String>();
        write!(f, "{end}\n--- stderr\n{}\n--- stdout\n{stdout}", self.stderr.trim_end())
    }
}

/// Runs kleak with these arguments to its end.
pub fn run(arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new(binary()?);
    command.args(arguments);
    run_command(command, PATIENCE)
}

/// Runs a command to its end; one that takes longer is killed and is a failure.
pub fn run_command(mut command: Command, patience: Duration) -> Result<Finished> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let mut child = Killed(child);
    let stdout = output::collect(child.0.stdout.take().context("its stdout")?);
    let stderr = output::collect(child.0.stderr.take().context("its stderr")?);
    let status = wait_for(&format!("end of {command:?}"), patience, || Ok(child.0.try_wait()?))?;
    Ok(Finished {
        status,
        stdout: stdout.join().map_err(|_| anyhow!("a reader panicked"))?,
        stderr: String::from_utf8_lossy(&stderr.join().map_err(|_| anyhow!("a reader panicked"))?)
            .into_owned(),
    })
}

/// A child that does not outlive its guard.
#[derive(Debug)]
pub(super) struct Killed(pub(super) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
