//! A program that watches while others allocate and free.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::command::shown;

/// Ample for preallocating maps for millions of objects.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// Ample for walking what is outstanding and writing the report.
pub(super) const DONE_WITHIN: Duration = Duration::from_mins(1);
/// How often a tracer that says nothing is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Looks at which nothing has changed, after which a tracer that attaches one program after the
/// other has attached all.
const QUIET_LOOKS: u32 = 6;

/// How a tracer shows that from now on all is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ready {
    /// By a line on standard error that begins so.
    Says(&'static str),
    /// By nothing it says: it holds at least so many attached programs, and attaches no more.
    Holds(usize),
}

/// A tracer that is attached. Dropping it ends it, come what may.
pub(super) struct Watching {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    shown: String,
}

impl Watching {
    pub(super) fn start(mut command: Command, ready: Ready) -> Result<Self> {
        let shown = shown(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            read_on(stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            read_on(stderr, sender);
        }
        let mut watching = Self { child, lines, said: Vec::new(), shown };
        match ready {
            Ready::Says(line) => watching.wait_until_it_says(line)?,
            Ready::Holds(programs) => watching.wait_until_it_holds(programs)?,
        }
        Ok(watching)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Programs that it holds attached.
    pub(super) fn attached(&self) -> usize {
        attached_by(self.child.id())
    }

    /// What it has said so far.
    pub(super) fn said(&mut self) -> &[String] {
        self.said.extend(self.lines.try_iter());
        &self.said
    }

    fn wait_until_it_says(&mut self, beginning: &str) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                return Err(self.failed(&format!("did not say `{beginning}`")));
            };
            let ready = line.starts_with(beginning);
            self.said.push(line);
            if ready {
                return Ok(());
            }
        }
    }

    fn wait_until_it_holds(&mut self, programs: usize) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let (mut before, mut quiet) = (0, 0);
        while quiet < QUIET_LOOKS {
            thread::sleep(LOOK_EVERY);
            if let Some(status) = self.child.try_wait().context("cannot wait for the tracer")? {
                return Err(self.failed(&format!("ended with {status} before it was attached")));
            }
            if Instant::now() >= deadline {
                return Err(
                    self.failed(&format!("holds {before} attached programs, not {programs}"))
                );
            }
            let held = attached_by(self.child.id());
            quiet = if held >= programs && held == before { quiet + 1 } else { 0 };
            before = held;
        }
        Ok(())
    }

    /// Ctrl-C, as a person would, and what came of it: all that it said. `look` is called now and
    /// then until it has ended.
    pub(super) fn stop(
        mut self,
        within: Duration,
        mut look: impl FnMut(u32),
    ) -> Result<Vec<String>> {
        kill(pid(&self.child)?, Signal::SIGINT)
            .with_context(|| format!("cannot interrupt {}", self.shown))?;
        let Some(status) = wait(&mut self.child, within, &mut look)? else {
            return Err(self.failed("did not end on Ctrl-C"));
        };
        // A program without a handler dies of the signal, which is as good an end.
        if !status.success() && status.signal() != Some(Signal::SIGINT as i32) {
            return Err(self.failed(&format!("failed with {status}")));
        }
        // It has ended, and so do its pipes.
        while let Ok(line) = self.lines.recv_timeout(DONE_WITHIN) {
            self.said.push(line);
        }
        Ok(std::mem::take(&mut self.said))
    }

    /// An error that quotes the tracer's last words.
    fn failed(&mut self, how: &str) -> anyhow::Error {
        // The words of one that has ended may still be on their way.
        while let Ok(line) = self.lines.recv_timeout(LOOK_EVERY) {
            self.said.push(line);
        }
        let last = &self.said[self.said.len().saturating_sub(5)..];
        let words = if last.is_empty() { "nothing".to_owned() } else { last.join("\n") };
        anyhow!("{} {how}; it said: {words}", self.shown)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // After stop() it has ended already, and both are without effect.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads to the end, so that a tracer with much to say never waits for a reader.
fn read_on(pipe: impl Read + Send + 'static, sender: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            drop(sender.send(String::from_utf8_lossy(&line).into_owned()));
        }
    });
}

/// Attached programs that a process holds: links, and before there were links to perf events,
/// those. One of both counts once.
fn attached_by(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let (mut links, mut events) = (0, 0);
    for target in descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok()) {
        let target = target.to_string_lossy();
        links += usize::from(target.contains("bpf_link") || target.contains("bpf-link"));
        events += usize::from(target.contains("perf_event"));
    }
    links.max(events)
}

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(child.id().try_into().context("a process id is positive")?))
}

fn wait(
    child: &mut Child,
    within: Duration,
    look: &mut impl FnMut(u32),
) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    loop {
        look(child.id());
        if let Some(status) = child.try_wait().context("cannot wait for the tracer")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAYS: Ready = Ready::Says("attached:");

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_tracer_is_awaited_and_interrupted() {
        let script = "trap 'exit 0' INT; echo loading >&2; echo 'attached: 2' >&2; \
                      while :; do sleep 0.05; done";
        Watching::start(shell(script), SAYS).unwrap().stop(DONE_WITHIN, |_| {}).unwrap();
    }

    #[test]
    fn a_tracer_that_ends_too_soon_is_quoted() {
        let Err(error) = Watching::start(shell("echo no BTF >&2; exit 3"), SAYS) else {
            panic!("it was not attached");
        };
        assert!(error.to_string().contains("no BTF"), "{error}");
    }

    #[test]
    fn a_tracer_that_fails_in_the_end_is_an_error() {
        let script = "trap 'exit 4' INT; echo attached: >&2; while :; do sleep 0.05; done";
        let error =
            Watching::start(shell(script), SAYS).unwrap().stop(DONE_WITHIN, |_| {}).unwrap_err();
        assert!(error.to_string().contains("exit status: 4"), "{error}");
    }

    #[test]
    fn a_silent_tracer_must_hold_programs() {
        let Err(error) = Watching::start(shell("echo no maps >&2; exit 1"), Ready::Holds(4)) else {
            panic!("it was not attached");
        };
        assert!(error.to_string().contains("no maps"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let Err(error) = Watching::start(Command::new("/nonexistent/kleak"), SAYS) else {
            panic!("there is no such program");
        };
        assert!(error.to_string().contains("/nonexistent/kleak"), "{error}");
    }
}
