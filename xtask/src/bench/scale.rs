//! As many outstanding objects as the incident had: are they counted to the last one, at what price,
//! and does kleak miss anything while it reads them?

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::Value;

use super::{
    plan::TRACED_CLASS,
    programs::{ATTACHED, Programs},
    watching::Watching,
    work::Running,
};
use crate::{say, workspace::Workspace};

/// Bytes of text of a message that fills an object of the class, after `struct msg_msg`.
const TEXT: u64 = 512 - 48;
/// The kernel keeps the limit on a queue in an `int`.
const QUEUE_AT_MOST: u64 = 2_000_000_000;
/// An outstanding object takes its own bytes, and kleak's maps at most so many more; the rest of
/// the machine needs some too.
const BYTES_AN_OBJECT: u64 = 512 + 200;
const BYTES_LEFT: u64 = 1 << 30;
/// A report that takes longer is of no use to anybody.
const DONE_WITHIN: Duration = Duration::from_mins(15);
/// Losses that must not be: each is an object or an owner that the report does not know of, or
/// knows wrongly. (Frees of older objects, and unmatched ones, are of what was there before.)
const LOSSES: [&str; 8] = [
    "untracked_objects",
    "missed_events",
    "failed_updates",
    "missed_frees_detected",
    "lost_stacks",
    "lost_owners",
    "lost_cgroup_events",
    "failed_reads",
];

/// Fails when an object is not counted, or an event is lost.
pub(super) fn run(workspace: &Workspace, programs: &Programs, objects: u64) -> Result<()> {
    ensure_memory(objects)?;
    let directory = workspace.target.join("bench");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let path = directory.join("scale.json");
    drop(fs::remove_file(&path));

    let queue_bytes = (objects * TEXT).min(QUEUE_AT_MOST).to_string();
    let mut limit = Command::new(&programs.workload);
    limit.args(["limit", "--queue-bytes", &queue_bytes]);
    // Ctrl-C ends this program and, with its input, that one: after it has put the limit back.
    std::os::unix::process::CommandExt::process_group(&mut limit, 0);
    let limit = Running::spawn(limit)?;

    let room = (objects + objects / 10 + 10_000).to_string();
    let mut kleak = Command::new(&programs.kleak);
    kleak.args(["trace", "--size", &TRACED_CLASS.to_string(), "--max-objects", &room]);
    // A condition, which never holds, is a reason to attach every program from the start.
    kleak.args(["--fail-on", "objects>1000000000000"]);
    // The end that it has of its own is for a bench that was killed.
    kleak.args(["--duration", "15m", "--format", "json", "-o"]).arg(&path);
    let mut watching = Watching::start(kleak, ATTACHED)?;
    for line in watching.said() {
        say::step("scale", line);
    }

    say::step("scale", &format!("sending {objects} messages that nobody receives"));
    let count = objects.to_string();
    let mut holder = Running::start(
        &programs.workload,
        &["--comm", "holder", "msg", "--count", &count, "--size-class", "512"],
    )?;
    let start = Instant::now();
    holder.go()?;
    let sending = start.elapsed();

    // Others go on while the table is read: what is then lost would show.
    let mut busy =
        Running::start(&programs.workload, &["--comm", "busy", "churn", "--pairs", "0"])?;
    busy.order("go")?;
    say::step("scale", "interrupting kleak, which reads them all");
    let before = Usage::of(watching.pid())?;
    let mut last = before;
    let start = Instant::now();
    watching.stop(DONE_WITHIN, |pid| {
        // Of one that has ended there is less to read.
        if let Ok(now) = Usage::of(pid) {
            last.grow(now);
        }
    })?;
    let reading = start.elapsed();
    busy.order("stop")?;
    let pairs = busy.answer("done")?;

    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let counted = outstanding(&report, holder.pid())?;
    let map_bytes = report["cost"]["map_bytes"].as_u64().context("no cost.map_bytes")?;
    for line in [
        format!("objects         {counted} counted of {objects}"),
        format!("maps            {} MiB, for {room} objects and their stacks", map_bytes >> 20),
        format!("sending         {:.1} s", sending.as_secs_f64()),
        format!("Ctrl-C to end   {:.2} s, report written", reading.as_secs_f64()),
        format!("peak memory     {} MiB resident", last.peak_kib >> 10),
        format!(
            "CPU time        {:.2} s before Ctrl-C, {:.2} s after",
            before.cpu_s,
            last.cpu_s - before.cpu_s
        ),
        format!("meanwhile      {pairs} of others"),
        format!("loss            {}", report["loss"]),
    ] {
        say::result(&line);
    }
    let wrong = wrong(&report, counted, objects);
    // The messages go before the limit under which they were sent.
    holder.finish()?;
    busy.finish()?;
    limit.finish()?;
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
}

fn ensure_memory(objects: u64) -> Result<()> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let available =
        kib(&text, "MemAvailable").with_context(|| format!("no MemAvailable in {path}"))? << 10;
    let needed = objects * BYTES_AN_OBJECT + BYTES_LEFT;
    ensure!(
        available > needed,
        "{objects} objects take {} MiB with what else there is, and only {} MiB are available: \
         fewer --objects, or more memory",
        needed >> 20,
        available >> 20
    );
    Ok(())
}

/// Objects that a process has left, over all rows.
fn outstanding(report: &Value, pid: u32) -> Result<u64> {
    let owners = report["owners"].as_array().context("the report has no owners")?;
    let rows = owners.iter().filter(|row| row["owner"]["pid"] == pid);
    rows.map(|row| row["outstanding_objects"].as_u64().context("a row without objects")).sum()
}

fn wrong(report: &Value, counted: u64, objects: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    if counted != objects {
        wrong.push(format!("{counted} objects were counted, not {objects}"));
    }
    // Where frees by RCU cannot be followed, those of others are found out when an address comes up again.
    let blind = report["mode"]["frees"] == "tracepoints";
    for name in LOSSES {
        match report["loss"][name].as_u64() {
            Some(0) => {}
            Some(_) if blind && name == "missed_frees_detected" => {}
            Some(lost) => wrong.push(format!("loss.{name} is {lost}")),
            None => wrong.push(format!("the report has no loss.{name}")),
        }
    }
    wrong
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
struct Usage {
    peak_kib: u64,
    cpu_s: f64,
}

impl Usage {
    fn of(pid: u32) -> Result<Self> {
        let directory = Path::new("/proc").join(pid.to_string());
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("ticks a second")?;
        let cpu = cpu_ticks(&read("stat")?).context("CPU time of kleak")?;
        Ok(Self {
            // Gone with the memory of a process that has ended.
            peak_kib: kib(&read("status")?, "VmHWM").unwrap_or(0),
            cpu_s: cpu as f64 / ticks as f64,
        })
    }

    fn grow(&mut self, now: Self) {
        self.peak_kib = self.peak_kib.max(now.peak_kib);
        self.cpu_s = self.cpu_s.max(now.cpu_s);
    }
}

/// Of user and kernel together. The name before it may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    Some(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?)
}

/// A line `Name:  123 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "1 (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 70 30 0 0 20 0 1 0 5";
        assert_eq!(cpu_ticks(stat), Some(100));
        assert_eq!(kib("VmPeak:\t 5 kB\nVmHWM:\t  87948 kB\n", "VmHWM"), Some(87948));
        assert!(Usage::of(std::process::id()).unwrap().peak_kib > 0);
    }

    #[test]
    fn an_object_too_few_and_every_loss_are_told() {
        let mut report = serde_json::json!({
            "owners": [
                { "owner": { "pid": 7 }, "outstanding_objects": 90 },
                { "owner": { "pid": 7 }, "outstanding_objects": 9 },
                { "owner": { "pid": 8 }, "outstanding_objects": 5 },
            ],
            "loss": {},
        });
        for name in LOSSES {
            report["loss"][name] = 0.into();
        }
        assert_eq!(outstanding(&report, 7).unwrap(), 99);
        assert!(wrong(&report, 99, 99).is_empty());
        assert_eq!(wrong(&report, 99, 100), ["99 objects were counted, not 100"]);
        report["loss"]["missed_events"] = 3.into();
        assert_eq!(wrong(&report, 99, 99), ["loss.missed_events is 3"]);
    }
}
