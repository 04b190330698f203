//! Keeps what kleak costs under a share of the machine: fewer stacks, then a fraction of the addresses,
//! then no second chance for events that come while a program runs. Pure: what was measured comes in,
//! what to hold back comes out.
//!
//! Up within a second or two, in steps as large as it is over. Down for stacks alone, slowly, and ever
//! more slowly where that turns out to be too much. The fraction is never widened: of the objects that
//! were allocated outside it while it was narrow nobody knows anything, so that those would look like
//! none at all, and their frees like frees of older ones.

use kleak_common::{LEAST_FRACTION, STACKS_PER_SLICE, Tuning};

use super::meter::Sample;
use crate::report::{Sampling, human};

/// Halvings of the stacks' allowance after which none are taken.
const NO_STACKS: u32 = 6;
/// What is aimed at, of the budget: measurements scatter.
const AIM: f64 = 0.85;
/// So much of the budget is the programs' at the least. Holding them back further would not help: it is
/// kleak's own reading that costs, which rests for longer the longer it takes.
const LEAST_ROOM: f64 = 0.25;
/// Over by so much, one measurement is enough to take no more stacks.
const GRAVE: f64 = 1.5;
/// Runs that deal with an event, of all: below, nearly all of the cost is of finding that there is nothing
/// to do, and following fewer addresses saves nothing.
const BUSY: f64 = 0.05;
/// The fraction gets smaller by at most this many halvings at a time, as it never gets larger again.
const LARGEST_STEP: u32 = 3;
/// Below this part of what is aimed at, stacks may be taken again.
const CALM: f64 = 0.5;
/// For so long, nanoseconds, at first and at most.
const CALM_NS: u64 = 5_000_000_000;
const LONGEST_CALM_NS: u64 = 300_000_000_000;

/// What is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    /// Halvings of the stacks' allowance; [`NO_STACKS`]: none are taken.
    pub stacks: u32,
    /// Halvings of the addresses that are followed.
    pub fraction: u32,
    /// Only one program for each event.
    pub single: bool,
}

impl Level {
    /// As the kernel side takes it.
    pub(super) const fn tuning(self) -> Tuning {
        let stack_allowance =
            if self.stacks >= NO_STACKS { 0 } else { STACKS_PER_SLICE >> self.stacks };
        Tuning { stack_allowance, fraction_shift: self.fraction }
    }
}

/// Something to do, or at least to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// What is held back from now on.
    pub level: Level,
    /// For the user.
    pub words: String,
}

/// Keeps a budget.
pub(super) struct Budget {
    /// Share of the machine, 0 to 1.
    limit: f64,
    /// Whether stacks are taken at all.
    stacks: bool,
    level: Level,
    /// Measurements in a row that were over, since something changed.
    over: u32,
    /// Since when there has been room for stacks, nanoseconds.
    calm_since: Option<u64>,
    /// How long that has to last.
    patience_ns: u64,
    /// When stacks were given back last.
    given_back: Option<u64>,
    /// When not all addresses were followed any more, and why.
    sampled: Option<(u64, String)>,
    /// When fewer stacks were taken for the first time.
    fewer_stacks: Option<u64>,
    /// It has been said that nothing more can be done.
    exhausted: bool,
}

impl Budget {
    /// For a share of the machine.
    pub(super) const fn new(limit: f64, stacks: bool) -> Self {
        Self {
            limit,
            stacks,
            level: Level { stacks: if stacks { 0 } else { NO_STACKS }, fraction: 0, single: false },
            over: 0,
            calm_since: None,
            patience_ns: CALM_NS,
            given_back: None,
            sampled: None,
            fewer_stacks: None,
            exhausted: false,
        }
    }

    /// What follows from a measurement.
    pub(super) fn judge(&mut self, sample: &Sample) -> Option<Change> {
        let room = (AIM * self.limit - sample.user_share).max(LEAST_ROOM * self.limit);
        let ratio = sample.bpf_share / room;
        if ratio > 1.0 {
            self.calm_since = None;
            self.over += 1;
            // One measurement may be of a moment; stacks can be given back, the rest cannot.
            let grave = ratio >= GRAVE && self.level.stacks < NO_STACKS;
            if self.over < 2 && !grave {
                return None;
            }
            self.over = 0;
            return self.hold_back(sample, ratio);
        }
        self.over = 0;
        if ratio >= CALM {
            self.calm_since = None;
            return None;
        }
        let since = *self.calm_since.get_or_insert(sample.at_ns);
        if sample.at_ns.saturating_sub(since) < self.patience_ns {
            return None;
        }
        self.give_back(sample)
    }

    fn hold_back(&mut self, sample: &Sample, ratio: f64) -> Option<Change> {
        // Stacks that were given back were too much: wait longer the next time.
        if self.given_back.take().is_some() {
            self.patience_ns = (self.patience_ns * 2).min(LONGEST_CALM_NS);
        }
        let share = sample.bpf_share + sample.user_share;
        let cost = format!(
            "kleak takes {} of the machine, {} the budget of {}",
            human::percent(share),
            if share > self.limit { "over" } else { "close to" },
            human::percent(self.limit)
        );
        let halvings = halvings(ratio);
        let done = if self.level.stacks < NO_STACKS {
            let step = if ratio > 2.0 { NO_STACKS } else { halvings };
            self.level.stacks = (self.level.stacks + step).min(NO_STACKS);
            self.fewer_stacks.get_or_insert(sample.at_ns);
            self.stack_words()
        } else if self.level.fraction < LEAST_FRACTION && sample.busy >= BUSY {
            let step = halvings.min(LARGEST_STEP);
            self.level.fraction = (self.level.fraction + step).min(LEAST_FRACTION);
            self.sampled.get_or_insert_with(|| (sample.at_ns, cost.clone()));
            format!(
                "following objects at 1 in {} addresses from now on; figures are scaled up and marked",
                human::count(1 << self.level.fraction)
            )
        } else if !self.level.single {
            self.level.single = true;
            "one program for each event from now on: what comes, in interrupts, while it runs is lost, \
             and counted"
                .to_owned()
        } else if self.exhausted || share <= self.limit {
            return None;
        } else {
            self.exhausted = true;
            "nothing more can be held back: so much it costs to be called for each event, and to \
             find that it is not to be followed"
                .to_owned()
        };
        Some(Change { level: self.level, words: format!("budget: {cost}: {done}") })
    }

    fn give_back(&mut self, sample: &Sample) -> Option<Change> {
        self.calm_since = None;
        if !self.stacks || self.level.stacks == 0 {
            return None;
        }
        self.level.stacks -= 1;
        self.given_back = Some(sample.at_ns);
        let words = format!("budget: there is room: {}", self.stack_words());
        Some(Change { level: self.level, words })
    }

    fn stack_words(&self) -> String {
        match self.level.stacks {
            0 => "as many stacks as without a budget from now on".to_owned(),
            NO_STACKS.. => "no stacks from now on".to_owned(),
            halvings => format!("1/{} of the stacks from now on", 1_u32 << halvings),
        }
    }

    /// The fraction of addresses that is followed, since when and why; `None` while it is all of them.
    pub(super) fn sampling(&self, start_ns: u64) -> Option<Sampling> {
        let (since, reason) = self.sampled.as_ref()?;
        Some(Sampling {
            fraction: 1.0 / f64::from(1_u32 << self.level.fraction),
            since_s: since.saturating_sub(start_ns) as f64 / 1e9,
            reason: reason.clone(),
        })
    }

    /// What a reader of the report has to know besides.
    pub(super) fn notes(&self, start_ns: u64) -> Vec<String> {
        let seconds = |at: u64| human::seconds(at.saturating_sub(start_ns) as f64 / 1e9);
        let mut notes = Vec::new();
        if let Some(at) = self.fewer_stacks {
            notes.push(format!(
                "to keep the budget of {} (--budget), fewer stacks were taken from {} on",
                human::percent(self.limit),
                seconds(at)
            ));
        }
        if self.level.single {
            notes.push(
                "to keep the budget, each event was offered to one program only in the end: those that \
                 came while it ran count as missed"
                    .to_owned(),
            );
        }
        if self.exhausted {
            notes.push(
                "the budget could not be kept: on this machine it costs more to be called for each \
                 event; a --size or --kind with fewer events costs less"
                    .to_owned(),
            );
        }
        notes
    }
}

/// Halvings that make up for a ratio above 1; at least one.
fn halvings(ratio: f64) -> u32 {
    let mut halvings = 1;
    let mut rest = ratio / 2.0;
    while rest > 1.0 && halvings < LEAST_FRACTION {
        halvings += 1;
        rest /= 2.0;
    }
    halvings
}

#[cfg(test)]
mod tests {
    use super::{Budget, Level, NO_STACKS, halvings};
    use crate::trace::meter::Sample;

    const QUARTER: u64 = 250_000_000;

    /// A machine: what an event costs when it is rejected, followed, and walked, as shares.
    #[derive(Clone, Copy)]
    struct Machine {
        rejected: f64,
        followed: f64,
        stacks: f64,
    }

    const IDLE: Machine = Machine { rejected: 0.0, followed: 0.0, stacks: 0.0 };
    const HAMMERED: Machine = Machine { rejected: 0.006, followed: 0.2, stacks: 0.1 };

    impl Machine {
        fn sample(self, at_ns: u64, level: Level, noise: f64) -> Sample {
            let part = 1.0 / f64::from(1_u32 << level.fraction);
            let stacks = f64::from(level.tuning().stack_allowance) / 128.0;
            let rejected = if level.single { self.rejected / 2.0 } else { self.rejected };
            let share = rejected + part * (self.followed + stacks * self.stacks);
            Sample {
                at_ns,
                bpf_share: share * noise,
                user_share: 0.001,
                busy: if self.followed > 0.0 { part / 2.0 } else { 0.5 },
            }
        }
    }

    /// Levels over time, four measurements a second, the machine by second.
    fn run(budget: &mut Budget, seconds: u64, machine: impl Fn(u64) -> Machine) -> Vec<Level> {
        let noise = |n: u64| 0.8 + 0.4 * ((n * 7919 % 101) as f64 / 101.0);
        (0..seconds * 4)
            .map(|n| {
                let sample = machine(n / 4).sample(n * QUARTER, budget.level, noise(n));
                drop(budget.judge(&sample));
                budget.level
            })
            .collect()
    }

    #[test]
    fn idle_then_hammered_is_under_it_within_three_seconds() {
        let mut budget = Budget::new(0.02, true);
        let levels = run(&mut budget, 60, |second| if second < 10 { IDLE } else { HAMMERED });
        assert_eq!(levels[39], Level::default(), "nothing is held back from an idle machine");
        assert!(budget.sampling(0).is_some());
        for (n, level) in levels.iter().enumerate().skip(13 * 4) {
            let cost = HAMMERED.sample(0, *level, 1.0);
            assert!(cost.bpf_share + cost.user_share < 0.02, "quarter {n}: {level:?}");
        }
        let last = levels.last().unwrap();
        assert!(last.fraction <= 6, "not smaller than it has to be: {last:?}");
    }

    #[test]
    fn the_fraction_never_widens_and_stacks_come_back() {
        let mut budget = Budget::new(0.02, true);
        let levels =
            run(&mut budget, 200, |second| if (5..20).contains(&second) { HAMMERED } else { IDLE });
        let fractions: Vec<u32> = levels.iter().map(|level| level.fraction).collect();
        assert!(fractions.is_sorted());
        assert_eq!(levels.last().unwrap().stacks, 0);
    }

    #[test]
    fn it_does_not_swing() {
        // Stacks alone make the difference.
        let machine = Machine { rejected: 0.002, followed: 0.01, stacks: 0.03 };
        let mut budget = Budget::new(0.02, true);
        let levels = run(&mut budget, 600, |_| machine);
        let changes = |levels: &[Level]| levels.windows(2).filter(|two| two[0] != two[1]).count();
        assert!(changes(&levels[1200..]) <= 12, "{} changes", changes(&levels[1200..]));
        assert_eq!(levels.last().unwrap().fraction, 0);
    }

    #[test]
    fn one_bad_moment_changes_nothing() {
        let mut budget = Budget::new(0.02, true);
        let at = |n: u64, bpf_share| Sample {
            at_ns: n * QUARTER,
            bpf_share,
            user_share: 0.0,
            busy: 0.5,
        };
        for n in 0..40 {
            assert_eq!(budget.judge(&at(n, if n % 3 == 0 { 0.02 } else { 0.005 })), None);
        }
    }

    #[test]
    fn where_nothing_helps_the_fraction_is_left_alone_and_that_is_said_once() {
        // All of it is of being called.
        let mut budget = Budget::new(0.001, true);
        let floor = Machine { rejected: 0.05, followed: 0.001, stacks: 0.0 };
        let mut said = Vec::new();
        for n in 0..200 {
            let mut sample = floor.sample(n * QUARTER, budget.level, 1.0);
            sample.busy /= 20.0;
            said.extend(budget.judge(&sample).map(|change| change.words));
        }
        assert_eq!(budget.level, Level { stacks: NO_STACKS, fraction: 0, single: true });
        assert_eq!(said.iter().filter(|words| words.contains("nothing more")).count(), 1);
        assert_eq!(said.len(), 3, "{said:#?}");
        assert!(budget.notes(0).iter().any(|note| note.contains("could not be kept")));
    }

    #[test]
    fn steps_are_as_large_as_needed() {
        assert_eq!(halvings(1.1), 1);
        assert_eq!(halvings(2.0), 1);
        assert_eq!(halvings(3.9), 2);
        assert_eq!(halvings(f64::INFINITY), 16);
        assert_eq!(halvings(f64::NAN), 1);
        assert_eq!(Level { stacks: NO_STACKS, ..Level::default() }.tuning().stack_allowance, 0);
    }
}
