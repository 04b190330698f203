//! A running `kleak trace`.

use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::kleak::{Finished, Killed, binary};
use super::{PATIENCE, Report, on_this_machine, output, wait_for};

/// Time to load the programs, on a machine that is busy with other tests.
const ATTACH: Duration = Duration::from_secs(25);

/// A `kleak trace` that has attached. Killed with its guard.
#[derive(Debug)]
pub struct Tracer {
    child: Killed,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Receiver<String>,
    said: Vec<String>,
}

impl Tracer {
    /// Starts `kleak trace` with these options and waits until it counts.
    pub fn start(options: &[&str]) -> Result<Self> {
        Self::start_command("trace", options)
    }

    /// The same of another of kleak's commands.
    pub fn start_command(name: &str, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.arg(name).args(options);
        Self::start_by(command)
    }

    /// The same by another command, which ends in kleak's.
    pub fn start_by(mut command: Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let mut child = Killed(child);
        let stdout = Some(output::collect(child.0.stdout.take().context("its stdout")?));
        let stderr = output::lines(child.0.stderr.take().context("its stderr")?);
        let mut tracer = Self { child, stdout, stderr, said: Vec::new() };
        tracer.wait_for_line("attached:", ATTACH)?;
        Ok(tracer)
    }

    /// `trace --size 512 --format json` with more options, and room for every owner and stack.
    pub fn json(options: &[&str]) -> Result<Self> {
        let base = ["--size", "512", "--format", "json", "--top", "1000"];
        Self::start(&[&base, options].concat())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// The line it printed when it had attached.
    pub fn attached(&self) -> &str {
        self.said.last().map_or("", String::as_str)
    }

    /// Waits until it says something on standard error that begins so.
    pub fn await_line(&mut self, start: &str) -> Result<()> {
        self.wait_for_line(start, PATIENCE)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid().try_into()?), signal).with_context(|| signal.to_string())
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Finished> {
        self.wait(PATIENCE)
    }

    /// As Ctrl-C: what was there when this was called is in the report.
    pub fn interrupt(self) -> Result<Finished> {
        self.signal(Signal::SIGINT)?;
        self.finish()
    }

    /// Ctrl-C, and the report it prints.
    pub fn report(self) -> Result<Report> {
        Report::parse(&self.interrupt()?.expect(0, &[])?)
    }

    /// Waits for its end for longer than usual.
    pub fn finish_within(mut self, patience: Duration) -> Result<Finished> {
        self.wait(patience)
    }

    fn wait(&mut self, patience: Duration) -> Result<Finished> {
        let status = wait_for("end of kleak", patience, || Ok(self.child.0.try_wait()?))
            .with_context(|| format!("it said:\n{}", self.said.join("\n")))?;
        let stdout = self.stdout.take().context("it was waited for twice")?;
        // The pipe closes when the process, and what it started, has ended.
        let deadline = Instant::now() + on_this_machine(PATIENCE);
        loop {
            match self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("kleak's standard error stays open"),
            }
        }
        let stdout = stdout.join().map_err(|_| anyhow!("a reader panicked"))?;
        Ok(Finished { status, stdout, stderr: self.said.join("\n") })
    }

    fn wait_for_line(&mut self, start: &str, patience: Duration) -> Result<()> {
        let patience = on_this_machine(patience);
        let deadline = Instant::now() + patience;
        loop {
            match self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.starts_with(start);
                    self.said.push(line);
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no line {start:?} within {patience:?}:\n{}", self.said.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let finished = self.wait(PATIENCE)?;
                    ensure!(false, "kleak ended before it attached: {finished}");
                }
            }
        }
    }
}
