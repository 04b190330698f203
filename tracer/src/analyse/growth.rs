//! Growth told from churn, warm-up and bursts, by two independent signs: how many objects of each
//! age are still there (survival), and how the count went over time (regression).

use super::facts::{Series, Timeline};
use crate::snapshot::BIRTH_SLICES;

/// Windows shorter than this say nothing about growth.
pub(super) const MIN_WINDOW_S: f64 = 3.0;
/// The youngest fifth of the window is taken to be in flight, whatever becomes of it.
const IN_FLIGHT: f64 = 0.2;
/// Slices of settled survivors below which a trend cannot be seen.
const MIN_SLICES: usize = 8;
/// Settled survivors below which a trend could be chance: of 12 spread at random over the four
/// quarters, one of the halves is below a third of the other less than once in ten.
const MIN_SETTLED: u64 = 12;
/// A slice counts at most this many times the median slice: a burst on top of a leak must not
/// hide it, nor count as growth.
const BURST_FACTOR: u64 = 8;
/// Points past the first fifth that a slope needs to leave the start out.
const MIN_LATE_POINTS: usize = 4;

/// What a residue looks like over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pattern {
    /// Nothing is outstanding.
    Nothing,
    /// The window, or what the minimum age leaves of it, is too short.
    TooShort,
    /// Too few objects to tell.
    Few,
    /// All in one or two slices, at so many seconds.
    Burst { at_s: f64, recent: bool },
    /// In separate bursts: too few to tell whether they go on.
    Scattered,
    /// Nothing (or little) new since so many seconds.
    WarmUp { until_s: f64 },
    /// Began in the youngest slices, with few frees: too early to tell.
    Recent { since_s: f64 },
    /// Objects come and go; those left are young.
    Churn,
    /// It grows.
    Growing(Growth),
}

/// Growth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Growth {
    /// Settled survivors a second.
    pub objects_per_s: f64,
    /// Every quarter of the window agrees.
    pub steady: bool,
    /// When it began, seconds.
    pub since_s: f64,
}

/// `part / whole` between 0 and 1; 0 of nothing.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    let ratio = part / whole;
    if ratio.is_finite() { ratio.clamp(0.0, 1.0) } else { 0.0 }
}

/// A figure that was computed, as a whole number.
pub(super) fn whole(figure: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole numbers are meant, and a cast from float keeps within the bounds of u64"
    )]
    let whole = figure.round() as u64;
    whole
}

/// Objects a second: least squares over the start, where nothing was outstanding, and the counts
/// since. Where there are enough counts, those of the first fifth are left out: what is in flight
/// at any moment has to build up from nothing after attaching, and is no growth.
pub(super) fn slope(timeline: &Timeline, history: &[u64]) -> Option<f64> {
    if timeline.length_s <= 0.0 {
        return None;
    }
    let since_start = std::iter::once((0.0, 0.0))
        .chain(timeline.seconds.iter().zip(history).map(|(at, count)| (*at, *count as f64)));
    let points: Vec<(f64, f64)> = since_start.collect();
    let begin = IN_FLIGHT * timeline.length_s;
    let late: Vec<(f64, f64)> = points.iter().copied().filter(|(at, _)| *at >= begin).collect();
    least_squares(if late.len() >= MIN_LATE_POINTS { &late } else { &points })
}

/// The same in bytes, of objects of so many; `None` also where nobody knows how large they are.
pub(super) fn bytes_slope(timeline: &Timeline, history: &[u64], size: u64) -> Option<f64> {
    slope(timeline, history).filter(|_| size > 0).map(|slope| slope * size as f64)
}

fn least_squares(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = covariance / variance;
    // Adding zero makes a plain 0 of -0.
    slope.is_finite().then_some(slope + 0.0)
}

/// Survivors by age, those that settled apart from those that may be in flight. What was seen of them,
/// where a fraction is followed: only that scatters as counts do, and so few settle nothing.
struct Survivors {
    births: [u64; BIRTH_SLICES],
    /// Slices that are settled: the first so many.
    settled: usize,
    /// Slices in which no object is hidden by the minimum age: the first so many.
    visible: usize,
    slice_s: f64,
}

impl Survivors {
    fn new(timeline: &Timeline, series: &Series) -> Self {
        let slice_s = timeline.slice_s();
        let older_than = |age_s: f64| {
            let ends = (1..=BIRTH_SLICES).map(|slice| slice as f64 * slice_s);
            ends.take_while(|end| *end <= timeline.length_s - age_s + 1e-6).count()
        };
        Self {
            births: series.births.map(|count| count.div_ceil(series.each())),
            settled: older_than((IN_FLIGHT * timeline.length_s).max(timeline.min_age_s)),
            visible: older_than(timeline.min_age_s),
            slice_s,
        }
    }

    /// Settled survivors by slice, bursts cut to size.
    fn capped(&self) -> Vec<u64> {
        let settled: Vec<u64> = self.births.iter().take(self.settled).copied().collect();
        let mut occupied: Vec<u64> = settled.iter().copied().filter(|count| *count > 0).collect();
        occupied.sort_unstable();
        let cap = match occupied.get(occupied.len() / 2) {
            Some(median) if occupied.len() >= 4 => median.saturating_mul(BURST_FACTOR),
            _ => u64::MAX,
        };
        settled.into_iter().map(|count| count.min(cap)).collect()
    }

    fn total(&self) -> u64 {
        sum(&self.births)
    }

    /// The one or two neighbouring slices that hold nearly everything.
    fn burst(&self) -> Option<(usize, usize)> {
        let total = self.total();
        let (begin, held) = (0..BIRTH_SLICES)
            .map(|begin| {
                (
                    begin,
                    sum(self.births.get(begin..(begin + 2).min(BIRTH_SLICES)).unwrap_or_default()),
                )
            })
            .max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)))?;
        let outside = total.saturating_sub(held);
        let empty = |slice: usize| self.births.get(slice).is_none_or(|count| *count == 0);
        let begin = if empty(begin) { begin + 1 } else { begin };
        let end = if empty(begin + 1) { begin + 1 } else { begin + 2 };
        (outside < MIN_SETTLED && outside.saturating_mul(20) <= total).then_some((begin, end))
    }

    /// Whether births have stopped: the silence since the last is longer than any before it.
    fn stopped(&self) -> bool {
        let mut gap = 0;
        let mut longest = 0;
        let mut seen = false;
        for count in self.births.iter().take(self.visible) {
            if *count == 0 {
                gap += 1;
            } else {
                longest = if seen { gap.max(longest) } else { 0 };
                (gap, seen) = (0, true);
            }
        }
        seen && gap > longest + 1 && gap >= 3
    }

    /// Where nearly all (95 %) of the settled survivors were born, seconds.
    fn until_s(&self) -> f64 {
        let settled = self.births.get(..self.settled).unwrap_or_default();
        let all = sum(settled);
        let mut so_far = 0_u64;
        for (slice, count) in (1_u32..).zip(settled) {
            so_far = so_far.saturating_add(*count);
            if u128::from(so_far) * 20 >= u128::from(all) * 19 {
                return f64::from(slice) * self.slice_s;
            }
        }
        self.settled as f64 * self.slice_s
    }
}

fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

/// What the residue of `series` looks like.
pub(super) fn pattern(timeline: &Timeline, series: &Series) -> Pattern {
    let survivors = Survivors::new(timeline, series);
    let total = survivors.total();
    if series.objects == 0 {
        return Pattern::Nothing;
    }
    if timeline.length_s < MIN_WINDOW_S || survivors.settled < MIN_SLICES {
        return Pattern::TooShort;
    }
    let turnover = series.freed() >= series.allocated.div_ceil(2);
    if let Some((begin, end)) = survivors.burst() {
        let recent = end > survivors.settled;
        if recent && turnover {
            return Pattern::Churn;
        }
        let at_s = (begin + end) as f64 / 2.0 * survivors.slice_s;
        return Pattern::Burst { at_s, recent };
    }
    let capped = survivors.capped();
    let settled = sum(&capped);
    if settled < MIN_SETTLED {
        let young = total.saturating_sub(settled);
        return if turnover && young > settled {
            Pattern::Churn
        } else if young < MIN_SETTLED {
            Pattern::Few
        } else {
            Pattern::Recent { since_s: survivors.settled as f64 * survivors.slice_s }
        };
    }
    settled_pattern(timeline, series, &survivors, &capped)
}

fn settled_pattern(
    timeline: &Timeline,
    series: &Series,
    survivors: &Survivors,
    capped: &[u64],
) -> Pattern {
    let quarters = quarters(capped);
    let [first, second, third, fourth] = quarters;
    let old = first.saturating_add(second);
    let late = third.saturating_add(fourth);
    let occupied_quarters = quarters.iter().filter(|count| **count > 0).count();
    let occupied_slices = capped.iter().filter(|count| **count > 0).count();
    if late < old / 3 || survivors.stopped() {
        return Pattern::WarmUp { until_s: survivors.until_s() };
    }
    let since = capped.iter().position(|count| *count > 0).unwrap_or(0);
    let since_s = since as f64 * survivors.slice_s;
    let settled = sum(capped);
    let each = series.each() as f64;
    // Objects that live for a while and are then freed leave ever fewer of the older ones; a leak
    // leaves as many of every age. Two standard deviations of a count are allowed for.
    let flat = old as f64 + 2.0 * (old as f64).sqrt() >= 0.6 * late as f64;
    if flat && occupied_quarters >= 3 && fourth > 0 {
        let largest = capped.iter().copied().max().unwrap_or(0);
        return Pattern::Growing(Growth {
            objects_per_s: each * settled as f64 / (capped.len() as f64 * survivors.slice_s),
            steady: occupied_quarters == 4
                && occupied_slices >= 5
                && largest as f64 <= 0.6 * settled as f64,
            since_s: if since <= capped.len() / 4 { 0.0 } else { since_s },
        });
    }
    if flat {
        return Pattern::Scattered;
    }
    let few_frees = series.freed() < series.allocated / 5;
    if few_frees || accelerates(timeline, &series.history) {
        return if occupied_slices >= 3 {
            Pattern::Growing(Growth {
                objects_per_s: each * settled as f64
                    / ((capped.len() - since) as f64 * survivors.slice_s),
                steady: false,
                since_s,
            })
        } else {
            Pattern::Recent { since_s }
        };
    }
    Pattern::Churn
}

/// Sums of four equal parts of the settled slices, oldest first.
fn quarters(capped: &[u64]) -> [u64; 4] {
    let mut quarters = [0_u64; 4];
    for (slice, count) in capped.iter().enumerate() {
        if let Some(quarter) = quarters.get_mut(slice * 4 / capped.len()) {
            *quarter = quarter.saturating_add(*count);
        }
    }
    quarters
}

/// Whether the count grows in the last third of the window about as fast as in the middle one.
fn accelerates(timeline: &Timeline, history: &[u64]) -> bool {
    if history.len() < 6 {
        return false;
    }
    let at = |part: f64| timeline.value_at(history, part * timeline.length_s) as f64;
    let (third, two_thirds, end) = (at(1.0 / 3.0), at(2.0 / 3.0), at(1.0));
    let last = end - two_thirds;
    last >= 0.15 * end && last > 0.0 && last >= 0.7 * (two_thirds - third)
}

/// Settled survivors a second that belong to no growing owner: what growth spread over many would
/// look like. A burst or a warm-up has an empty half, and so adds nothing.
pub(super) fn diffuse(timeline: &Timeline, series: &Series) -> f64 {
    let survivors = Survivors::new(timeline, series);
    let capped = survivors.capped();
    if timeline.length_s < MIN_WINDOW_S || capped.len() < MIN_SLICES {
        return 0.0;
    }
    let [first, second, third, fourth] = quarters(&capped);
    let half = first.saturating_add(second).min(third.saturating_add(fourth));
    2.0 * series.each() as f64 * half as f64 / (capped.len() as f64 * survivors.slice_s)
}

#[cfg(test)]
mod tests {
    use super::{least_squares, ratio};

    #[test]
    fn a_line_has_its_slope_and_a_single_instant_has_none() {
        let line: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), 3.0 * f64::from(x))).collect();
        assert!((least_squares(&line).unwrap() - 3.0).abs() < 1e-9);
        assert_eq!(least_squares(&[(1.0, 1.0)]), None);
        assert_eq!(least_squares(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(least_squares(&[]), None);
    }

    #[test]
    fn a_share_is_never_outside_its_bounds() {
        assert!((ratio(1.0, 4.0) - 0.25).abs() < 1e-12);
        for (part, whole) in [(0.0, 0.0), (1.0, 0.0), (-1.0, 2.0), (3.0, 2.0), (f64::NAN, 1.0)] {
            assert!((0.0..=1.0).contains(&ratio(part, whole)));
        }
    }
}
