//! One run: attach, watch, report.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::Instant as TokioInstant;

use super::{
    Failure, Outcome, attached,
    budget::Budget,
    child::Running,
    evidence::{Resolver, Spent},
    history::{self, History},
    meter::{Meter, Reading},
    outputs::{Outputs, ended_with},
    plan::Plan,
    saving::Saver,
    signals::{Arrived, Signals},
};
use crate::{
    analyse::{self, Evidence},
    cli::Stacks,
    export::Exhibit,
    host::{own, process},
    judge::files::Judge,
    probe::{Measuring, Probe},
    progress::{Progress, say},
    recording::Kind,
    report::{Report, human, profile::unix_ns},
    snapshot::Snapshot,
};

/// How long the kernel may take to free what a command left, after its end: RCU callbacks, delayed
/// `fput` and workers run within some tens of milliseconds.
const SETTLE: Duration = Duration::from_millis(300);
/// How often cgroup events are taken, newly met slab caches decided on, and stacks of short-lived
/// processes looked up. The ring buffer holds 1,700 cgroup events, so 17,000 a second can pass.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// How often a terminal is told how far the window has come.
const A_SECOND: Duration = Duration::from_secs(1);

/// How often it is looked whether the kernel has skipped an event: what it skips until then is lost.
const LOOK_OUT: Duration = Duration::from_millis(20);

/// Without it nobody knows what is to be kept under the budget.
const NO_MEASURING: &str = "--budget needs the kernel to measure BPF programs (BPF_ENABLE_STATS, from 5.8), \
    which takes root or the capability SYS_ADMIN; run as root, or without --budget";

/// Runs the plan.
///
/// Errors: see [`Failure`].
pub(super) async fn run(plan: Plan) -> Result<Outcome, Failure> {
    for remark in &plan.remarks {
        say(remark);
    }
    let judge = Judge::open(&plan.judging)?;
    let mut outputs = Outputs::open(&plan)?;
    let rest = history::rest(plan.budget, own::online_cpus());
    let saver = Saver::open(&plan, rest)?;
    let mut signals = Signals::listen()?;
    let mut session = Session::attach(&plan, rest, saver)?;
    say(&attached::line(&plan, &session.probe));
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
    if let Err(failure) = session.end_window() {
        end_child(child.as_mut()).await;
        return Err(failure);
    }
    session.probe.detach();
    // Nobody waits for a report then, but a recording is read later.
    if let End::Signal(number) = end
        && !session.saver.is_on()
    {
        end_child(child.as_mut()).await;
        return Ok(Outcome::Signal(number));
    }
    // Before a command that still runs is ended: its end frees memory and takes time, and the report
    // is of the window.
    let began = TokioInstant::now();
    let evidence = session.final_evidence();
    session.progress.clear();
    end_child(child.as_mut()).await;
    let mut evidence = evidence?;
    evidence.command = child.as_ref().map(Running::report);
    session.save(Kind::Final, &evidence, began);
    if let End::Signal(number) = end {
        return session.saver.finish().map(|()| Outcome::Signal(number));
    }
    let (mut report, mut profile) = analyse::both(&evidence, &plan.options);
    profile.taken_unix_ns = unix_ns(SystemTime::now());
    judge.judge(&mut report, &profile);
    // Whatever fails from here on costs nothing but itself, and no red build.
    let printed = outputs.print(&report);
    let (held, judged) = judge.finish(&report, outputs.fenced());
    let written = outputs.finish(&Exhibit { report: &report, profile: &profile });
    // Last, as it waits for the disk.
    let saved = session.saver.finish();
    let outcome = child.map_or(Outcome::Done, |child| Outcome::Command(child.exit_code()));
    ended_with(held, outcome, [printed, judged, written, saved])
}

async fn end_child(child: Option<&mut Running>) {
    if let Some(child) = child {
        child.end().await;
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

/// What is kept while a window is watched.
struct Session<'a> {
    plan: &'a Plan,
    probe: Probe,
    resolver: Resolver,
    history: History,
    meter: Meter,
    budget: Option<Budget>,
    /// Held while the kernel measures our programs.
    measuring: Option<Measuring>,
    /// Looking walks every object, so it rests this many times as long as it took: with a few objects it
    /// is done at each housekeeping, with millions it takes 2 % of the time.
    rest: u32,
    /// When what is held is looked at next.
    next_look: Instant,
    /// Events there had been when it was looked at last.
    looked_at: u64,
    saver: Saver,
    progress: Progress,
}

impl<'a> Session<'a> {
    /// Loads, attaches and starts counting.
    fn attach(plan: &'a Plan, rest: u32, saver: Saver) -> Result<Self, Failure> {
        let mut probe = Probe::load(&plan.config)?;
        let mut resolver = Resolver::new(plan);
        probe.attach(&plan.config)?;
        probe.learn_caches(|name| plan.wants_cache(name))?;
        let clock_ns = probe.clock_ns();
        tracing::debug!(clock_ns, "what measuring adds to a run");
        if plan.budget.is_some() && probe.measure().is_none() {
            return Err(Failure::Cannot(NO_MEASURING.to_owned()));
        }
        resolver.read_slab_before(plan);
        probe.start()?;
        let (cpus, budgeted) = (own::online_cpus(), plan.budget.is_some());
        let first = reading(plan, &probe, false)?;
        let takes_stacks = plan.config.stacks != Stacks::Off.into();
        let mut session = Self {
            plan,
            probe,
            resolver,
            history: History::new(plan.duration, rest),
            meter: Meter::new(first, cpus, clock_ns, budgeted),
            budget: plan.budget.map(|limit| Budget::new(limit, takes_stacks)),
            measuring: None,
            rest,
            next_look: Instant::now(),
            looked_at: 0,
            saver,
            progress: Progress::new(),
        };
        session.begin_window()?;
        session.saver.start();
        Ok(session)
    }

    /// Has the kernel measure.
    fn begin_window(&mut self) -> Result<(), Failure> {
        self.measuring = self.probe.measure();
        self.meter.open(reading(self.plan, &self.probe, self.measuring.is_some())?);
        Ok(())
    }

    /// Has it stop, and keeps the budget.
    fn end_window(&mut self) -> Result<(), Failure> {
        let reading = reading(self.plan, &self.probe, self.measuring.is_some())?;
        self.measuring = None;
        let sample = self.meter.close(reading, self.probe.run_time().runs);
        let Some((budget, sample)) = self.budget.as_mut().zip(sample) else { return Ok(()) };
        tracing::debug!(?sample, "cost");
        if let Some(change) = budget.judge(&sample) {
            self.probe.tune(change.level.tuning())?;
            if change.level.single {
                self.probe.detach_later();
            }
            self.progress.say(&change.words);
        }
        Ok(())
    }

    /// The one or the other, and when it is due next.
    fn next_window(&mut self) -> Result<Duration, Failure> {
        if self.meter.is_open() {
            self.end_window()?;
            Ok(self.meter.pause())
        } else {
            self.begin_window()?;
            Ok(self.meter.window())
        }
    }

    /// What it cost, and what was held back.
    fn spent(&self) -> Result<Spent, Failure> {
        let now = reading(self.plan, &self.probe, false)?;
        let rss = own::peak_rss_bytes(&self.plan.host);
        let start = self.probe.start_ns();
        Ok(Spent {
            cost: self.meter.cost(&now, self.probe.map_bytes(), rss),
            sampling: self.budget.as_ref().and_then(|budget| budget.sampling(start)),
            notes: self.budget.as_ref().map(|budget| budget.notes(start)).unwrap_or_default(),
        })
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
        let mut next_window = start + self.meter.window();
        let mut next_line = self.shows_progress(child.is_some()).then_some(start);
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
                    self.progress.aside(|| outputs.print(&report))?;
                    if outputs.closed() {
                        return Ok(End::Window);
                    }
                }
                () = tokio::time::sleep_until(next_look) => {
                    self.probe.stand_in()?;
                    next_look = TokioInstant::now() + LOOK_OUT;
                }
                // Before what takes long, or a window would last as long as that.
                () = tokio::time::sleep_until(next_window) => {
                    next_window = TokioInstant::now() + self.next_window()?;
                }
                () = tokio::time::sleep_until(next_point) => {
                    self.take_point()?;
                    next_point = TokioInstant::now() + self.history.step();
                }
                () = tokio::time::sleep_until(next_chores) => {
                    self.chores()?;
                    next_chores = TokioInstant::now() + HOUSEKEEPING;
                }
                () = sleep_until(self.saver.due()) => self.checkpoint(child.as_deref())?,
                () = sleep_until(next_line) => {
                    self.progress.show(&countdown(
                        start.elapsed(),
                        self.plan.duration,
                        self.history.outstanding(),
                    ));
                    next_line = Some(TokioInstant::now() + A_SECOND);
                }
            }
        }
    }

    /// Not beside a command, which writes to the same terminal.
    fn shows_progress(&self, beside_command: bool) -> bool {
        self.progress.is_shown() && !beside_command
    }

    fn read_cgroup_events(&mut self) {
        for change in self.probe.cgroup_changes() {
            self.resolver.apply(change);
        }
    }

    /// Keeps the bounded tables of the kernel side in order.
    fn chores(&mut self) -> Result<(), Failure> {
        self.read_cgroup_events();
        self.resolver.learn_names(self.plan);
        let caches = &self.plan.caches;
        self.probe.decide_caches(|name| caches.wants(name))?;
        let host = &self.plan.host;
        self.probe
            .prune_family(|key| matches!(process::live(host, key.tgid, key.start_ns), Ok(false)))?;
        let looks = self.plan.config.user_stacks || self.samples_stacks();
        if looks && Instant::now() >= self.next_look && self.probe.events()? != self.looked_at {
            drop(self.look()?);
        }
        Ok(())
    }

    fn samples_stacks(&self) -> bool {
        self.plan.config.stacks == Stacks::Auto.into()
    }

    /// Looks at what is held now, for what cannot wait for the report: user stacks, while their processes
    /// live, and which sites grow, which more stacks are to be taken of. Also how long that took.
    fn look(&mut self) -> Result<(Snapshot, Duration), Failure> {
        let before = Instant::now();
        self.looked_at = self.probe.events()?;
        let snapshot = self.probe.snapshot(0)?;
        if self.plan.config.user_stacks {
            self.resolver.learn_user_stacks(&snapshot, &self.probe);
        }
        if self.samples_stacks() {
            self.probe.mark_growing(&snapshot)?;
        }
        let took = before.elapsed();
        self.next_look = Instant::now() + took * self.rest;
        Ok((snapshot, took))
    }

    fn take_point(&mut self) -> Result<(), Failure> {
        let (snapshot, took) = self.look()?;
        self.history.add(&snapshot, took);
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
        let began = TokioInstant::now();
        let evidence = self.evidence_now(child)?;
        self.save(Kind::Interval, &evidence, began);
        Ok(analyse::analyse(&evidence, &self.plan.options))
    }

    /// What the recording has in case there is no end.
    fn checkpoint(&mut self, child: Option<&Running>) -> Result<(), Failure> {
        let began = TokioInstant::now();
        let evidence = self.evidence_now(child)?;
        self.save(Kind::Checkpoint, &evidence, began);
        Ok(())
    }

    /// Adds to the recording, if there is one.
    fn save(&mut self, kind: Kind, evidence: &Evidence, began: TokioInstant) {
        if let Some(remark) = self.saver.add(kind, evidence, began) {
            self.progress.say(&remark);
        }
    }

    fn evidence_now(&mut self, child: Option<&Running>) -> Result<Evidence, Failure> {
        let before = Instant::now();
        let snapshot = self.snapshot()?;
        self.resolver.read_books(self.plan);
        self.history.add(&snapshot, before.elapsed());
        let mut evidence = self.evidence(snapshot)?;
        evidence.command = child.map(Running::report);
        Ok(evidence)
    }

    fn final_evidence(&mut self) -> Result<Evidence, Failure> {
        let snapshot = self.snapshot()?;
        self.progress.show("looking up names");
        self.evidence(snapshot)
    }

    fn evidence(&mut self, snapshot: Snapshot) -> Result<Evidence, Failure> {
        let spent = self.spent()?;
        let points = self.history.points();
        Ok(self.resolver.evidence(self.plan, snapshot, points, &self.probe, spent))
    }
}

/// How far a window has come.
fn countdown(passed: Duration, of: Option<Duration>, outstanding: Option<u64>) -> String {
    let passed = human::duration(passed.as_secs());
    let mut line = match of {
        Some(of) => format!("watching: {passed} of {}", human::seconds(of.as_secs_f64())),
        None => format!("watching: {passed}, until Ctrl-C"),
    };
    if let Some(count) = outstanding {
        line.push_str("; outstanding: ");
        line.push_str(&human::counted(count, "object"));
    }
    line
}

/// What the counters say now.
fn reading(plan: &Plan, probe: &Probe, measured: bool) -> Result<Reading, Failure> {
    let run_time = probe.run_time();
    Ok(Reading {
        at_ns: crate::probe::now_ns(),
        bpf_ns: run_time.nanos,
        runs: run_time.runs,
        events: probe.events()?,
        user_ns: own::cpu_ns(),
        measured,
        always: own::measures_bpf(&plan.host),
    })
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
