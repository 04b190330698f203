//! One run: attach, watch, report.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use tokio::time::Instant as TokioInstant;

use super::{
    Failure, Outcome,
    child::Running,
    evidence::Resolver,
    history::History,
    outputs::Outputs,
    plan::Plan,
    signals::{Arrived, Signals},
};
use crate::{
    analyse,
    host::process,
    probe::{Following, FreeMode, Probe},
    report::Report,
    snapshot::Snapshot,
};

/// How long the kernel may take to free what a command left, after its end: RCU callbacks, delayed
/// `fput` and workers run within some tens of milliseconds.
const SETTLE: Duration = Duration::from_millis(300);
/// How often cgroup events are taken, newly met slab caches decided on, and stacks of short-lived
/// processes looked up. The ring buffer holds 1,700 cgroup events, so 17,000 a second can pass.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// How often it is looked whether the kernel has skipped an event: what it skips until then is lost.
const LOOK_OUT: Duration = Duration::from_millis(20);

/// Looking up user stacks walks every object, so it rests this many times as long as it took: with a
/// few objects it is done at each housekeeping, with millions it takes 2 % of the time.
const USER_STACKS_REST: u32 = 50;

/// Runs the plan.
///
/// Errors: see [`Failure`].
pub(super) async fn run(plan: Plan) -> Result<Outcome, Failure> {
    for remark in &plan.remarks {
        say(remark);
    }
    let mut outputs = Outputs::open(&plan)?;
    let mut signals = Signals::listen()?;
    let mut session = Session::attach(&plan)?;
    say(&attached_line(&plan, &session.probe));
    let mut child = if plan.command.is_empty() {
        None
    } else {
        Some(Running::start(&plan.command).map_err(Failure::Failed)?)
    };
    let end = session.watch(&mut outputs, &mut signals, child.as_mut()).await;
    let end = match end {
        Ok(end) => end,
        Err(failure) => {
            end_child(child.as_mut()).await;
            return Err(failure);
        }
    };
    if child.is_some() && end == End::CommandEnded {
        tokio::time::sleep(SETTLE).await;
    }
    session.resolver.read_books(&plan);
    session.probe.detach();
    if let End::Signal(number) = end {
        end_child(child.as_mut()).await;
        return Ok(Outcome::Signal(number));
    }
    // Before a command that still runs is ended: its end frees memory and takes time, and the report
    // is of the window.
    let report = session.final_report(child.as_ref());
    end_child(child.as_mut()).await;
    let mut report = report?;
    report.command = child.as_ref().map(Running::report);
    outputs.print(&report)?;
    outputs.finish(&report)?;
    Ok(judge(&plan, &report, child.as_ref()))
}

async fn end_child(child: Option<&mut Running>) {
    if let Some(child) = child {
        child.end().await;
    }
}

fn judge(plan: &Plan, report: &Report, child: Option<&Running>) -> Outcome {
    let held: Vec<String> =
        plan.conditions.iter().filter_map(|condition| condition.evaluate(report)).collect();
    for reason in &held {
        say(&format!("fail-on: {reason}"));
    }
    match (held.is_empty(), child) {
        (false, _) => Outcome::ConditionHeld,
        (true, Some(child)) => Outcome::Command(child.exit_code()),
        (true, None) => Outcome::Done,
    }
}

/// Why a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its time was up, the user ended it, or nobody reads any more.
    Window,
    CommandEnded,
    Signal(i32),
}

/// A line to stderr. A closed stderr is nobody's problem but the user's.
fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{}", crate::report::sanitize::terminal(line)));
}

fn attached_line(plan: &Plan, probe: &Probe) -> String {
    let filter = &plan.filter;
    let sizes = match filter.size_classes.as_slice() {
        [] => String::new(),
        [one] => format!("kmalloc-{}", short(*one)),
        list if list.len() <= 4 => {
            let names: Vec<String> = list.iter().map(|size| short(*size)).collect();
            format!("kmalloc of {}", names.join(", "))
        }
        list => format!("kmalloc, {} size classes", list.len()),
    };
    let caches = if filter.kinds.iter().any(|kind| kind == "cache") {
        let names =
            if filter.caches.is_empty() { "*".to_owned() } else { filter.caches.join(", ") };
        format!("caches {names}")
    } else {
        String::new()
    };
    let followed = |kind: &str, what: &str| {
        let named = filter.kinds.iter().any(|name| name == kind);
        if named { what.to_owned() } else { String::new() }
    };
    let others = [followed("page", "pages"), followed("percpu", "per-CPU memory")];
    let what: Vec<String> =
        [sizes, caches].into_iter().chain(others).filter(|part| !part.is_empty()).collect();
    format!(
        "attached: {}; up to {} objects in {:.0} MiB of kernel memory; {}kleak itself is left out",
        what.join(" and "),
        plan.config.max_objects,
        probe.map_bytes() as f64 / f64::from(1 << 20),
        // Pages and per-CPU memory are freed in other ways.
        if plan.config.slab() { frees_line(probe.free_mode()) + "; " } else { String::new() },
    )
}

/// How frees by RCU and in bulk are followed.
fn frees_line(mode: &FreeMode) -> String {
    let how = match mode.following {
        Following::Trampolines => "frees by RCU and in bulk are followed by trampolines",
        Following::Kprobes => "frees by RCU and in bulk are followed by kprobes",
        Following::Tracepoints => "frees by RCU and in bulk cannot be followed",
    };
    match &mode.obstacle {
        Some(obstacle) => format!("{how} ({obstacle})"),
        None => how.to_owned(),
    }
}

fn short(size: u64) -> String {
    let plain = crate::host::classes::cache_name(size, kleak_common::flavour::NORMAL);
    plain.trim_start_matches("kmalloc-").to_owned()
}

/// What is kept while a window is watched.
struct Session<'a> {
    plan: &'a Plan,
    probe: Probe,
    resolver: Resolver,
    history: History,
    /// When user stacks are looked up next.
    next_user_stacks: Instant,
}

impl<'a> Session<'a> {
    /// Loads, attaches and starts counting.
    fn attach(plan: &'a Plan) -> Result<Self, Failure> {
        let mut probe = Probe::load(&plan.config)?;
        let mut resolver = Resolver::new(plan);
        probe.attach(&plan.config)?;
        probe.learn_caches(|name| plan.wants_cache(name))?;
        resolver.read_slab_before(plan);
        probe.start()?;
        let history = History::new(plan.duration);
        Ok(Self { plan, probe, resolver, history, next_user_stacks: Instant::now() })
    }

    /// Watches until the window ends.
    async fn watch(
        &mut self,
        outputs: &mut Outputs,
        signals: &mut Signals,
        mut child: Option<&mut Running>,
    ) -> Result<End, Failure> {
        let start = TokioInstant::now();
        let deadline = self.plan.duration.map(|duration| start + duration);
        let mut next_point = start + self.history.step();
        let mut next_report = self.plan.interval.map(|interval| start + interval);
        let mut next_chores = start + HOUSEKEEPING;
        let mut next_look = start + LOOK_OUT;
        loop {
            tokio::select! {
                // In this order, so that the window's end is not put off by work.
                biased;
                arrived = signals.next() => return Ok(match arrived {
                    Arrived::End => End::Window,
                    Arrived::Other(number) => End::Signal(number),
                }),
                () = sleep_until(deadline) => return Ok(End::Window),
                () = ended(child.as_deref_mut()) => return Ok(End::CommandEnded),
                () = sleep_until(next_report) => {
                    next_report = self.plan.interval.zip(next_report).map(|(interval, due)| {
                        after(due, interval)
                    });
                    let report = self.interval_report(child.as_deref())?;
                    outputs.print(&report)?;
                    if outputs.closed() {
                        return Ok(End::Window);
                    }
                }
                () = tokio::time::sleep_until(next_look) => {
                    self.probe.stand_in()?;
                    next_look = TokioInstant::now() + LOOK_OUT;
                }
                () = tokio::time::sleep_until(next_point) => {
                    self.take_point()?;
                    next_point = TokioInstant::now() + self.history.step();
                }
                () = tokio::time::sleep_until(next_chores) => {
                    self.chores()?;
                    next_chores = TokioInstant::now() + HOUSEKEEPING;
                }
            }
        }
    }

    fn read_cgroup_events(&mut self) {
        for change in self.probe.cgroup_changes() {
            self.resolver.cgroups.apply(change);
        }
    }

    /// Keeps the bounded tables of the kernel side in order.
    fn chores(&mut self) -> Result<(), Failure> {
        self.read_cgroup_events();
        let caches = &self.plan.caches;
        self.probe.decide_caches(|name| caches.wants(name))?;
        let host = &self.plan.host;
        self.probe
            .prune_family(|key| matches!(process::live(host, key.tgid, key.start_ns), Ok(false)))?;
        if self.plan.config.user_stacks && Instant::now() >= self.next_user_stacks {
            let before = Instant::now();
            let snapshot = self.probe.snapshot(0)?;
            self.resolver.learn_user_stacks(&snapshot, &self.probe);
            self.next_user_stacks = Instant::now() + before.elapsed() * USER_STACKS_REST;
        }
        Ok(())
    }

    fn take_point(&mut self) -> Result<(), Failure> {
        let before = Instant::now();
        let snapshot = self.probe.snapshot(0)?;
        self.history.add(&snapshot, before.elapsed());
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        self.read_cgroup_events();
        let caches = &self.plan.caches;
        self.probe.decide_caches(|name| caches.wants(name))?;
        self.probe.revalidate()?;
        let min_age = u64::try_from(self.plan.min_age.as_nanos()).unwrap_or(u64::MAX);
        Ok(self.probe.snapshot(min_age)?)
    }

    fn interval_report(&mut self, child: Option<&Running>) -> Result<Report, Failure> {
        let before = Instant::now();
        let snapshot = self.snapshot()?;
        self.resolver.read_books(self.plan);
        self.history.add(&snapshot, before.elapsed());
        Ok(self.report(snapshot, child))
    }

    fn final_report(&mut self, child: Option<&Running>) -> Result<Report, Failure> {
        let snapshot = self.snapshot()?;
        Ok(self.report(snapshot, child))
    }

    fn report(&mut self, snapshot: Snapshot, child: Option<&Running>) -> Report {
        let command = child.map(Running::report);
        let points = self.history.points();
        let evidence = self.resolver.evidence(self.plan, snapshot, points, &self.probe, command);
        analyse::analyse(&evidence, &self.plan.options)
    }
}

/// When a report is due that is made every so often: at the same beat, however late the last was.
fn after(due: TokioInstant, interval: Duration) -> TokioInstant {
    let now = TokioInstant::now();
    let late = now.saturating_duration_since(due);
    let beats = late.as_nanos().checked_div(interval.as_nanos()).unwrap_or(0) + 1;
    u32::try_from(beats).map_or(now + interval, |beats| due + interval * beats)
}

async fn sleep_until(when: Option<TokioInstant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

async fn ended(child: Option<&mut Running>) {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}
