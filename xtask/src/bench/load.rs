//! The programs that a measurement starts: one that allocates and frees, and one that watches.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{TRACED_CLASS, Tracer};
use crate::{
    command::{outer_cargo, run, shown},
    workspace::Workspace,
};

/// How every tracer says that from now on all is counted.
const READY: &str = "attached:";
/// Ample for preallocating maps for millions of objects.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// Ample for walking what is outstanding and writing the report.
const DONE_WITHIN: Duration = Duration::from_mins(1);

pub(super) struct Programs {
    kleak: PathBuf,
    workload: PathBuf,
    empty: PathBuf,
}

impl Programs {
    pub(super) fn build(workspace: &Workspace, kleak: PathBuf) -> Result<Self> {
        let mut cargo = outer_cargo(workspace);
        cargo.args(["build", "--release", "--package", "kleak-tests", "--bins"]);
        // One of them attaches programs of its own, out of the same object.
        cargo.env(crate::build::ENV_OBJECT, workspace.bpf_object());
        run(&mut cargo).context("could not build the workload")?;
        let built = |name: &str| {
            let path = workspace.target.join("release").join(name);
            if !path.is_file() {
                bail!("the package kleak-tests has no program {name}");
            }
            Ok(path)
        };
        Ok(Self {
            kleak,
            workload: built("kleak-workload")?,
            empty: built("kleak-empty-programs")?,
        })
    }

    /// Nanoseconds for one allocation and its free while the tracer watches.
    pub(super) fn measure(&self, tracer: Tracer, class: u32, pairs: u64) -> Result<f64> {
        let watching = self.tracer(tracer).map(Watching::start).transpose()?;
        let said = self.run_workload(class, pairs);
        // The tracer ends also when the workload has failed.
        if let Some(watching) = watching {
            watching.stop()?;
        }
        let said = said?;
        parse_ns_per_pair(&said).with_context(|| format!("no `ns_per_pair=` in: {said}"))
    }

    /// On one CPU, so that no migration falls into a measurement.
    fn run_workload(&self, class: u32, pairs: u64) -> Result<String> {
        let mut command = Command::new(&self.workload);
        command.args(["--cpu", "0", "pair", "--size-class", &class.to_string()]);
        command.args(["--pairs", &pairs.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("cannot run {}", shown(&command)))?;
        // It starts at this line, and ends when there are no more.
        if let Some(mut orders) = child.stdin.take() {
            orders.write_all(b"go\n").context("telling the workload to start")?;
        }
        let output = child.wait_with_output().context("waiting for the workload")?;
        if !output.status.success() {
            bail!("failed with {}: {}", output.status, shown(&command));
        }
        String::from_utf8(output.stdout).context("the workload said something that is no text")
    }

    fn tracer(&self, tracer: Tracer) -> Option<Command> {
        let traced = TRACED_CLASS.to_string();
        match tracer {
            Tracer::None => None,
            Tracer::EmptyPrograms => Some(Command::new(&self.empty)),
            Tracer::Kleak { stacks } => {
                let mut command = Command::new(&self.kleak);
                command.args(["trace", "--size", &traced, "--stacks", stacks]);
                // The end that it has of its own is for a bench that was killed.
                command.args(["--duration", "600s", "--format", "json", "-o", "/dev/null"]);
                Some(command)
            }
        }
    }
}

fn parse_ns_per_pair(said: &str) -> Option<f64> {
    let value = said.split_whitespace().find_map(|word| word.strip_prefix("ns_per_pair="))?;
    value.trim().parse().ok().filter(|ns: &f64| ns.is_finite() && *ns > 0.0)
}

/// A tracer that is attached. Dropping it ends it, come what may.
struct Watching {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    shown: String,
}

impl Watching {
    fn start(mut command: Command) -> Result<Self> {
        let shown = shown(&command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
        let stderr = child.stderr.take().context("the tracer's stderr was to be piped")?;
        let (sender, lines) = mpsc::channel();
        // Reads on to the end, so that a tracer with much to say never waits for a reader.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let mut watching = Self { child, lines, said: Vec::new(), shown };
        watching.wait_until_ready()?;
        Ok(watching)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                return Err(self.failed(&format!("did not say `{READY}`")));
            };
            let ready = line.starts_with(READY);
            self.said.push(line);
            if ready {
                return Ok(());
            }
        }
    }

    /// Ctrl-C, as a person would, and what came of it.
    fn stop(mut self) -> Result<()> {
        kill(pid(&self.child)?, Signal::SIGINT)
            .with_context(|| format!("cannot interrupt {}", self.shown))?;
        let Some(status) = wait(&mut self.child, DONE_WITHIN)? else {
            return Err(self.failed("did not end on Ctrl-C"));
        };
        // A program without a handler dies of the signal, which is as good an end.
        if !status.success() && status.signal() != Some(Signal::SIGINT as i32) {
            return Err(self.failed(&format!("failed with {status}")));
        }
        Ok(())
    }

    /// An error that quotes the tracer's last words.
    fn failed(&mut self, how: &str) -> anyhow::Error {
        self.said.extend(self.lines.try_iter());
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

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(child.id().try_into().context("a process id is positive")?))
}

fn wait(child: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    loop {
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

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_workloads_figure_is_read() {
        assert_eq!(parse_ns_per_pair("pairs=10\nns_per_pair=497.25\n"), Some(497.25));
        assert_eq!(parse_ns_per_pair("ns_per_pair=NaN"), None);
        assert_eq!(parse_ns_per_pair("ns_per_pair=0"), None);
        assert_eq!(parse_ns_per_pair(""), None);
    }

    #[test]
    fn a_tracer_is_awaited_and_interrupted() {
        let script = "trap 'exit 0' INT; echo loading >&2; echo 'attached: 2' >&2; \
                      while :; do sleep 0.05; done";
        Watching::start(shell(script)).unwrap().stop().unwrap();
    }

    #[test]
    fn a_tracer_that_ends_too_soon_is_quoted() {
        let Err(error) = Watching::start(shell("echo no BTF >&2; exit 3")) else {
            panic!("it was not attached");
        };
        assert!(error.to_string().contains("no BTF"), "{error}");
    }

    #[test]
    fn a_tracer_that_fails_in_the_end_is_an_error() {
        let script = "trap 'exit 4' INT; echo attached: >&2; while :; do sleep 0.05; done";
        let error = Watching::start(shell(script)).unwrap().stop().unwrap_err();
        assert!(error.to_string().contains("exit status: 4"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let Err(error) = Watching::start(Command::new("/nonexistent/kleak")) else {
            panic!("there is no such program");
        };
        assert!(error.to_string().contains("/nonexistent/kleak"), "{error}");
    }
}
