//! Programs that allocate and free while others watch.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::command::shown;

/// A `kleak-workload` that is ready. Dropping it closes its input, at which it cleans up and ends.
pub(super) struct Running {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    shown: String,
}

impl Running {
    pub(super) fn start(program: &Path, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(command)
    }

    pub(super) fn spawn(mut command: Command) -> Result<Self> {
        let shown = shown(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
        let orders = child.stdin.take();
        let answers = child.stdout.take().context("the workload's stdout was to be piped")?;
        let mut running = Self { child, orders, answers: BufReader::new(answers), shown };
        running.answer("ready")?;
        Ok(running)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it do its work, and waits until that is done. The rest of its answer.
    pub(super) fn go(&mut self) -> Result<String> {
        self.order("go")?;
        self.answer("done")
    }

    pub(super) fn order(&mut self, order: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("it was told to end")?;
        writeln!(orders, "{order}").with_context(|| format!("{} does not listen", self.shown))
    }

    pub(super) fn answer(&mut self, word: &str) -> Result<String> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .with_context(|| format!("cannot read what {} says", self.shown))?;
        let rest = line.trim_end().strip_prefix(word);
        rest.map(str::to_owned).with_context(|| {
            format!("{} did not say `{word}` but: {}", self.shown, line.trim_end())
        })
    }

    /// Ends it.
    pub(super) fn finish(mut self) -> Result<()> {
        drop(self.orders.take());
        let status = self.child.wait().with_context(|| format!("waiting for {}", self.shown))?;
        ensure!(status.success(), "failed with {status}: {}", self.shown);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.orders.take());
        drop(self.child.wait());
    }
}

/// A number in what a workload says, by its name.
pub(super) fn number(said: &str, name: &str) -> Result<f64> {
    let value = said.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = value.and_then(|value| value.parse().ok());
    number
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .with_context(|| format!("no {name} in: {said}"))
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
        let read = |said: &str| number(said, "ns_per_pair").ok();
        assert_eq!(read("pairs=10\nns_per_pair=497.25\n"), Some(497.25));
        assert_eq!(read("ns_per_pair=NaN"), None);
        assert_eq!(read("ns_per_pair=0"), None);
        assert_eq!(read("ns_per_pairs=1"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn a_workload_obeys_and_ends_with_its_input() {
        let script = "echo ready; while read order; do echo done $order=7; done";
        let mut running = Running::spawn(shell(script)).unwrap();
        assert_eq!(number(&running.go().unwrap(), "go").unwrap().to_bits(), 7.0_f64.to_bits());
        running.finish().unwrap();
    }

    #[test]
    fn a_workload_that_fails_is_named() {
        let Err(error) = Running::spawn(shell("exit 3")) else { panic!("it is not ready") };
        assert!(error.to_string().contains("exit 3"), "{error}");
        let error = Running::spawn(shell("echo ready; exit 3")).unwrap().finish().unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }
}
