//! What kleak costs, from readings at the ends of short windows in which the kernel measures its
//! programs, and from its own CPU time. Pure: readings come in, shares of the machine come out.

use std::{collections::VecDeque, time::Duration};

use crate::report::Cost;

/// Length of a window. Windows are about a second apart, so that measuring, which costs some tens of
/// nanoseconds a run, is on for 2 % of the time.
const WINDOW: Duration = Duration::from_millis(20);
/// Longest pause between two.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause after the first; each further is twice as long, so that a short run has some too.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The same with a budget to keep, which has to see soon what the machine does.
const BUDGET_WINDOW: Duration = Duration::from_millis(15);
const BUDGET_PAUSE: Duration = Duration::from_millis(235);
/// What counts as recent, nanoseconds.
const RECENT_NS: u64 = 5_000_000_000;

/// Runs that may be counted between two windows without anybody else having the kernel measure: those
/// under way when it stops, and until the first reading.
const STRAY_RUNS: u64 = 4096;

/// What the counters say at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// In our programs while the kernel measured, nanoseconds.
    pub bpf_ns: u64,
    /// Runs of them, likewise.
    pub runs: u64,
    /// Events that passed the filter, measured or not.
    pub events: u64,
    /// Own CPU time; `None` when the kernel does not say.
    pub user_ns: Option<u64>,
    /// The kernel measures, at least from now on or until now.
    pub measured: bool,
    /// It does so all the time (`kernel.bpf_stats_enabled`).
    pub always: bool,
}

/// One window's worth, as shares of the machine's CPU time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// When it ended, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Our programs.
    pub bpf_share: f64,
    /// This process, over the last seconds: what it does comes in pieces.
    pub user_share: f64,
    /// Part of the runs that had an event to deal with; the others only found that they had not.
    pub busy: f64,
}

/// Sums over windows.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    wall_ns: u64,
    bpf_ns: f64,
    runs: u64,
    events: u64,
}

impl Measured {
    fn add(&mut self, other: &Self) {
        self.wall_ns += other.wall_ns;
        self.bpf_ns += other.bpf_ns;
        self.runs += other.runs;
        self.events += other.events;
    }
}

/// Adds up what windows say.
pub(super) struct Meter {
    /// CPUs that are switched on.
    cpus: u32,
    /// What measuring adds to each run, nanoseconds.
    clock_ns: f64,
    /// Whether a budget is kept.
    budgeted: bool,
    first: Reading,
    opened: Option<Reading>,
    closed: Option<Reading>,
    /// Runs that had been counted when the last window was over.
    runs_after: Option<u64>,
    pause: Duration,
    all: Measured,
    /// Windows of the last seconds: when each ended, own CPU time at that moment, and what it held.
    recent: VecDeque<(u64, Option<u64>, Measured)>,
}

impl Meter {
    /// Begins at a reading, on so many CPUs.
    pub(super) fn new(first: Reading, cpus: u32, clock_ns: f64, budgeted: bool) -> Self {
        Self {
            cpus: cpus.max(1),
            clock_ns,
            budgeted,
            first,
            opened: None,
            closed: None,
            runs_after: None,
            pause: FIRST_PAUSE,
            all: Measured::default(),
            recent: VecDeque::new(),
        }
    }

    /// How long a window is to last.
    pub(super) const fn window(&self) -> Duration {
        if self.budgeted { BUDGET_WINDOW } else { WINDOW }
    }

    /// How long to wait for the next.
    pub(super) fn pause(&mut self) -> Duration {
        if self.budgeted {
            return BUDGET_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE);
        pause
    }

    /// Whether a window is open.
    pub(super) const fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// A window begins.
    pub(super) fn open(&mut self, reading: Reading) {
        if let Some(closed) = self.closed.filter(|closed| closed.always && reading.always) {
            self.note(&closed, &reading, true);
        }
        self.opened = Some(reading);
    }

    /// It ends; `runs_after` are those counted when the kernel had stopped measuring for us. `None` if
    /// none was open, or it had no length.
    pub(super) fn close(&mut self, reading: Reading, runs_after: u64) -> Option<Sample> {
        let opened = self.opened.take()?;
        // Somebody else has the kernel measure too: then the clock is really read, and what the kernel
        // says is what is spent.
        let between = self.runs_after.map_or(0, |runs| opened.runs.saturating_sub(runs));
        let shared = reading.always || between > STRAY_RUNS;
        self.closed = Some(reading);
        self.runs_after = Some(runs_after);
        let window = self.note(&opened, &reading, shared)?;
        let wall = reading.at_ns.saturating_sub(opened.at_ns) as f64 * f64::from(self.cpus);
        let (_, user_share) = self.recent_shares();
        // What is done once at the beginning is no rate: it counts as if it were spread over those seconds.
        let watched = reading.at_ns.saturating_sub(self.first.at_ns) as f64;
        let spread = (watched / RECENT_NS as f64).min(1.0);
        Some(Sample {
            at_ns: reading.at_ns,
            bpf_share: window.bpf_ns / wall,
            user_share: user_share.unwrap_or(0.0) * spread,
            busy: if window.runs == 0 { 0.0 } else { window.events as f64 / window.runs as f64 },
        })
    }

    fn note(&mut self, from: &Reading, to: &Reading, shared: bool) -> Option<Measured> {
        let runs = to.runs.saturating_sub(from.runs);
        let gross = to.bpf_ns.saturating_sub(from.bpf_ns) as f64;
        let clock = if shared { 0.0 } else { self.clock_ns * runs as f64 };
        let wall_ns = to.at_ns.saturating_sub(from.at_ns);
        if wall_ns == 0 {
            return None;
        }
        let measured = from.measured && to.measured;
        let window = Measured {
            wall_ns: if measured { wall_ns } else { 0 },
            bpf_ns: (gross - clock).max(0.0),
            runs,
            events: if measured { to.events.saturating_sub(from.events) } else { 0 },
        };
        self.all.add(&window);
        self.recent.push_back((to.at_ns, to.user_ns, window));
        // One older than that stays: what came since is counted from it.
        while self.recent.get(1).is_some_and(|second| second.0 + RECENT_NS < to.at_ns) {
            self.recent.pop_front();
        }
        Some(window)
    }

    /// Our programs' and this process's shares over the last seconds.
    fn recent_shares(&self) -> (Option<f64>, Option<f64>) {
        let cpus = f64::from(self.cpus);
        let mut sum = Measured::default();
        self.recent.iter().for_each(|(_, _, window)| sum.add(window));
        let bpf = (sum.wall_ns > 0).then(|| sum.bpf_ns / (sum.wall_ns as f64 * cpus));
        let since = match self.recent.front() {
            Some((at, user, _)) if self.recent.len() > 1 => (*at, *user),
            _ => (self.first.at_ns, self.first.user_ns),
        };
        let user = self.recent.back().and_then(|(at, user, _)| {
            let spent = (*user)?.saturating_sub(since.1?);
            let wall = at.saturating_sub(since.0);
            (wall > 0).then(|| spent as f64 / (wall as f64 * cpus))
        });
        (bpf, user)
    }

    /// What it came to until now. Without a window that the kernel measured in, what it alone knows is
    /// unknown.
    pub(super) fn cost(&self, now: &Reading, map_bytes: u64, user_rss_bytes: Option<u64>) -> Cost {
        let cpus = f64::from(self.cpus);
        let all = &self.all;
        let measured = all.wall_ns > 0;
        let wall = now.at_ns.saturating_sub(self.first.at_ns);
        let user = now.user_ns.zip(self.first.user_ns).filter(|_| wall > 0);
        let (recent_bpf, recent_user) = self.recent_shares();
        Cost {
            events: now.events,
            bpf_ns_per_event: (all.events > 0 && all.runs > 0)
                .then(|| all.bpf_ns / all.events as f64),
            bpf_runs: measured.then_some(all.runs),
            bpf_cpu_share: measured.then(|| all.bpf_ns / (all.wall_ns as f64 * cpus)),
            user_cpu_share: user
                .map(|(now, first)| now.saturating_sub(first) as f64 / (wall as f64 * cpus)),
            recent_cpu_share: recent_bpf.zip(recent_user).map(|(bpf, user)| bpf + user),
            measured_s: all.wall_ns as f64 / 1e9,
            user_rss_bytes,
            map_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Meter, Reading, Sample};

    const MS: u64 = 1_000_000;

    fn reading(ms: u64, bpf_us: u64, runs: u64, events: u64) -> Reading {
        let user_ns = Some(ms * MS / 100);
        Reading {
            at_ns: ms * MS,
            bpf_ns: bpf_us * 1000,
            runs,
            events,
            user_ns,
            measured: true,
            always: false,
        }
    }

    fn meter(clock_ns: f64) -> Meter {
        Meter::new(reading(0, 0, 0, 0), 2, clock_ns, false)
    }

    fn close(meter: &mut Meter, reading: Reading) -> Option<Sample> {
        meter.close(reading, reading.runs)
    }

    #[test]
    fn windows_add_up_and_what_lies_between_them_does_not() {
        let mut meter = meter(0.0);
        meter.open(reading(0, 0, 0, 0));
        let sample = close(&mut meter, reading(20, 400, 4000, 2000)).unwrap();
        // 0.4 of 40 ms.
        assert!((sample.bpf_share - 0.01).abs() < 1e-9);
        assert!((sample.busy - 0.5).abs() < 1e-9);
        meter.open(reading(1020, 400, 4000, 100_000));
        close(&mut meter, reading(1040, 1200, 12_000, 104_000)).unwrap();
        let cost = meter.cost(&reading(2000, 1200, 12_000, 200_000), 7, Some(9));
        assert_eq!((cost.events, cost.bpf_runs), (200_000, Some(12_000)));
        assert!((cost.bpf_ns_per_event.unwrap() - 200.0).abs() < 1e-9);
        assert!((cost.bpf_cpu_share.unwrap() - 1.2 / 80.0).abs() < 1e-9);
        assert!((cost.user_cpu_share.unwrap() - 0.005).abs() < 1e-9);
        assert!((cost.measured_s - 0.04).abs() < 1e-9);
        assert_eq!((cost.map_bytes, cost.user_rss_bytes), (7, Some(9)));
    }

    #[test]
    fn the_clock_is_left_out_unless_somebody_else_has_it_read() {
        let mut alone = meter(50.0);
        alone.open(reading(0, 0, 0, 0));
        let sample = close(&mut alone, reading(20, 400, 4000, 2000)).unwrap();
        assert!((sample.bpf_share - 0.005).abs() < 1e-9);
        // Runs were counted while no window of ours was open.
        alone.open(reading(1000, 900, 9000, 4500));
        let sample = close(&mut alone, reading(1020, 1300, 13_000, 6500)).unwrap();
        assert!((sample.bpf_share - 0.01).abs() < 1e-9);
    }

    #[test]
    fn where_the_kernel_measures_all_the_time_all_of_it_counts() {
        let mut meter = meter(50.0);
        let always = |reading| Reading { always: true, ..reading };
        meter.open(always(reading(0, 0, 0, 0)));
        close(&mut meter, always(reading(20, 400, 4000, 2000))).unwrap();
        meter.open(always(reading(1000, 20_000, 200_000, 100_000)));
        close(&mut meter, always(reading(1020, 20_400, 204_000, 102_000))).unwrap();
        let cost = meter.cost(&reading(1020, 20_400, 204_000, 102_000), 0, None);
        assert!((cost.measured_s - 1.02).abs() < 1e-9);
        assert!((cost.bpf_ns_per_event.unwrap() - 200.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_measured_is_unknown() {
        let cost = meter(0.0).cost(&reading(1000, 0, 0, 500), 1, None);
        assert_eq!((cost.bpf_ns_per_event, cost.bpf_cpu_share, cost.bpf_runs), (None, None, None));
        assert_eq!((cost.recent_cpu_share, cost.events), (None, 500));
        assert!(cost.measured_s.abs() < 1e-9);
    }

    #[test]
    fn a_kernel_that_does_not_measure_leaves_it_unknown() {
        let mut meter = meter(0.0);
        let blind = |reading| Reading { measured: false, ..reading };
        meter.open(blind(reading(0, 0, 0, 0)));
        close(&mut meter, blind(reading(20, 0, 0, 2000))).unwrap();
        let cost = meter.cost(&blind(reading(1000, 0, 0, 5000)), 0, None);
        assert_eq!((cost.bpf_ns_per_event, cost.bpf_cpu_share), (None, None));
        assert!((cost.user_cpu_share.unwrap() - 0.005).abs() < 1e-9);
    }

    #[test]
    fn recent_forgets_what_was_long_ago() {
        let mut meter = meter(0.0);
        let mut bpf_us = 0;
        for second in 0..20 {
            meter.open(reading(second * 1000, bpf_us, second, second));
            // Busy in the first ten seconds.
            bpf_us += if second < 10 { 20_000 } else { 400 };
            close(&mut meter, reading(second * 1000 + 20, bpf_us, second + 1, second + 1)).unwrap();
        }
        let cost = meter.cost(&reading(20_000, bpf_us, 20, 20), 0, None);
        // 0.4 of 40 ms, and 1 % of two CPUs.
        assert!((cost.recent_cpu_share.unwrap() - 0.015).abs() < 1e-9);
        assert!(cost.bpf_cpu_share.unwrap() > 0.2);
    }
}
