//! Outstanding objects over time, at a bounded number of points however long the window.

use std::time::Duration;

use crate::{analyse::Point, snapshot::Snapshot};

/// Points kept; past it every second one is dropped, and they are taken half as often.
const MOST: usize = 64;
/// After a walk of the map it rests this many times as long: a walk may take 2 % of a CPU's time at the
/// most.
const REST: u32 = 50;

/// Points in time, oldest first, and when the next is due.
pub(super) struct History {
    points: Vec<Point>,
    step: Duration,
    rest: u32,
}

/// How many times as long as it took a walk of the map has to rest, so that it takes a quarter of a budget,
/// a share of that many CPUs, at the most.
pub(super) fn rest(budget: Option<f64>, cpus: u32) -> u32 {
    let Some(budget) = budget else { return REST };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and a budget is above 0"
    )]
    let rest = (4.0 / (budget * f64::from(cpus.max(1)))).ceil() as u32;
    rest.max(REST)
}

impl History {
    /// For a window of this length (`None` when nobody knows), with so long a [`rest`].
    pub(super) fn new(window: Option<Duration>, rest: u32) -> Self {
        let step = window.map_or(Duration::from_secs(1), |window| window / 20);
        let step = step.clamp(Duration::from_millis(100), Duration::from_secs(5));
        Self { points: Vec::new(), step, rest }
    }

    /// Time until the next point.
    pub(super) const fn step(&self) -> Duration {
        self.step
    }

    /// Adds a point; `took` is how long reading it took.
    pub(super) fn add(&mut self, snapshot: &Snapshot, took: Duration) {
        self.points
            .push(Point { at_ns: snapshot.at_ns, outstanding: snapshot.outstanding.clone() });
        if self.points.len() >= MOST {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.step = self.step.saturating_mul(2);
        }
        self.step = self.step.max(took.saturating_mul(self.rest));
    }

    /// Objects outstanding at the last point.
    pub(super) fn outstanding(&self) -> Option<u64> {
        let counts = self.points.last()?.outstanding.values();
        Some(counts.fold(0, |sum, count| sum.saturating_add(*count)))
    }

    /// The points, oldest first.
    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use super::{History, MOST, REST, rest};
    use crate::snapshot::Snapshot;
    use std::time::Duration;

    #[test]
    fn a_long_window_keeps_few_points_that_span_it() {
        let mut history = History::new(None, REST);
        for at_ns in 0..2_000 {
            history.add(&Snapshot { at_ns, ..Snapshot::default() }, Duration::ZERO);
        }
        assert!(history.points().len() < MOST);
        assert_eq!(history.points()[0].at_ns, 0);
        assert!(history.points().is_sorted_by_key(|point| point.at_ns));
        assert!(history.step() > Duration::from_secs(1000));
    }

    #[test]
    fn a_slow_walk_is_repeated_less_often() {
        let mut history = History::new(Some(Duration::from_secs(10)), rest(None, 2));
        history.add(&Snapshot::default(), Duration::from_secs(2));
        assert_eq!(history.step(), Duration::from_secs(100));
        // A quarter of 0.5 % of two CPUs is 0.25 % of one.
        let mut history = History::new(Some(Duration::from_secs(10)), rest(Some(0.005), 2));
        history.add(&Snapshot::default(), Duration::from_secs(2));
        assert_eq!(history.step(), Duration::from_secs(800));
        assert_eq!(rest(Some(0.5), 64), REST);
    }
}
