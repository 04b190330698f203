//! A running `kleak-workload`.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::kleak::Killed;
use super::{PATIENCE, on_this_machine, output, wait_for};
use crate::sysv;

/// The program: `KLEAK_WORKLOAD`, or the one built with the tests.
pub fn workload_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KLEAK_WORKLOAD") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    test.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("kleak-workload"))
        .find(|path| path.is_file())
        .context("no kleak-workload beside the tests; `cargo test -p kleak-tests` builds it")
}

/// A workload that is ready. Killed with its guard, and its queues removed.
#[derive(Debug)]
pub struct Workload {
    child: Killed,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    queues: Vec<i32>,
}

impl Workload {
    /// Starts one and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_as(&workload_binary()?, arguments)
    }

    /// The same, or loudly nothing where this kernel lacks what the workload is about.
    pub fn start_if_able(arguments: &[&str]) -> Result<Option<Self>> {
        let mut workload = Self::spawn(&workload_binary()?, arguments)?;
        let line = workload.line(PATIENCE)?;
        if let Some(why) = line.strip_prefix("unable ") {
            super::not_applicable(&format!("{arguments:?}: {why}"));
            return Ok(None);
        }
        workload.queues = ready(&fields_of(&line, "ready")?)?;
        Ok(Some(workload))
    }

    /// The same by another path, whose last part is the program's name.
    pub fn start_as(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut workload = Self::spawn(program, arguments)?;
        workload.await_ready()?;
        Ok(workload)
    }

    /// Starts one and does not wait: see [`Workload::await_ready`].
    pub fn spawn(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::spawn_by(command)
    }

    /// The same by another command, which ends in the workload's.
    pub fn spawn_by(mut command: Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let mut child = Killed(child);
        let stdin = Some(child.0.stdin.take().context("its stdin")?);
        let lines = output::lines(child.0.stdout.take().context("its stdout")?);
        Ok(Self { child, stdin, lines, queues: Vec::new() })
    }

    /// Waits until it is ready.
    pub fn await_ready(&mut self) -> Result<()> {
        self.queues = ready(&self.answer("ready")?)?;
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// The queues it made, with commas between them.
    pub fn queues(&self) -> String {
        self.queues.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
    }

    /// Messages in its queues, by the kernel's count.
    pub fn waiting(&self) -> Result<u64> {
        self.queues.iter().map(|id| sysv::waiting(*id)).sum()
    }

    /// Gives an order without waiting for it to be carried out.
    pub fn order(&mut self, order: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it was told to end")?;
        stdin.write_all(format!("{order}\n").as_bytes()).with_context(|| format!("order {order}"))
    }

    /// Waits for an answer that begins with this word, and returns its `name=value` fields.
    pub fn answer(&mut self, word: &str) -> Result<HashMap<String, String>> {
        self.answer_within(word, PATIENCE)
    }

    /// The same of one that takes longer than usual.
    pub fn answer_within(
        &mut self,
        word: &str,
        patience: Duration,
    ) -> Result<HashMap<String, String>> {
        let line = self.line(patience).with_context(|| format!("waiting for {word:?}"))?;
        fields_of(&line, word)
    }

    fn line(&mut self, patience: Duration) -> Result<String> {
        self.lines.recv_timeout(on_this_machine(patience)).with_context(|| {
            format!("no answer within {patience:?} from workload {} (did it end?)", self.pid())
        })
    }

    /// `go`, and the number its `done` gives for `field`.
    pub fn go(&mut self, field: &str) -> Result<u64> {
        self.order("go")?;
        self.done(field)
    }

    /// The number that `done` gives for `field`.
    pub fn done(&mut self, field: &str) -> Result<u64> {
        number(&self.answer("done")?, field)
    }

    /// `drain`, and how many objects that freed.
    pub fn drain(&mut self) -> Result<u64> {
        self.order("drain")?;
        number(&self.answer("drained")?, "count")
    }

    /// Tells it to end and waits for that. Its queues stay until the guard goes, if it was started
    /// with `--leave`.
    pub fn exit(&mut self) -> Result<ExitStatus> {
        self.order("exit")?;
        self.stdin = None;
        wait_for("end of a workload", PATIENCE, || Ok(self.child.0.try_wait()?))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Killed first, or it would go on to send to queues that are gone.
        drop(self.child.0.kill());
        drop(self.child.0.wait());
        for id in &self.queues {
            if let Err(error) = sysv::remove(*id) {
                output::shout(&format!("left behind: {error:#}"));
            }
        }
    }
}

/// The file in which the processes of `kleak-workload tree` say who they are. Their queues are
/// removed with its guard.
#[derive(Debug)]
pub struct Record(PathBuf);

impl Record {
    /// A file that does not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The processes, in the order in which they began, with their queues.
    pub fn processes(&self) -> Result<Vec<(u32, Vec<i32>)>> {
        let text = std::fs::read_to_string(&self.0).context("the workload's record")?;
        text.lines()
            .map(|line| {
                let (pid, queues) = line
                    .strip_prefix("pid=")
                    .and_then(|rest| rest.split_once(" queues="))
                    .with_context(|| line.to_owned())?;
                Ok((pid.parse()?, parse_ids(queues)?))
            })
            .collect()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Without a record no process began.
        let processes = self.processes().unwrap_or_default();
        for id in processes.iter().flat_map(|(_, queues)| queues) {
            if let Err(error) = sysv::remove(*id) {
                output::shout(&format!("left behind: {error:#}"));
            }
        }
    }
}

/// The `name=value` fields of an answer that has to begin with this word.
fn fields_of(line: &str, word: &str) -> Result<HashMap<String, String>> {
    ensure!(line.split(' ').next() == Some(word), "{word:?} was expected, not {line:?}");
    let fields = line.split(' ').filter_map(|field| field.split_once('='));
    Ok(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The queues of a workload that is ready.
fn ready(fields: &HashMap<String, String>) -> Result<Vec<i32>> {
    parse_ids(fields.get("queues").context("no queues in the answer")?)
}

/// Numbers with commas between them.
fn parse_ids(ids: &str) -> Result<Vec<i32>> {
    ids.split(',')
        .filter(|id| !id.is_empty())
        .map(|id| id.parse().with_context(|| format!("queue id {id:?}")))
        .collect()
}

fn number(fields: &HashMap<String, String>, field: &str) -> Result<u64> {
    let text = fields.get(field).ok_or_else(|| anyhow!("no {field} in {fields:?}"))?;
    text.parse().with_context(|| format!("{field}={text}"))
}
