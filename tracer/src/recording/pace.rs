//! When checkpoints are written: soon at first, ever less often, and never so that they cost much.

use std::time::Duration;

/// Time to the first checkpoint.
const FIRST: Duration = Duration::from_secs(5);
/// Checkpoints after which their distance doubles.
const DOUBLES_AFTER: u32 = 32;
/// What checkpoints may add to the file, bytes a second: 1.4 GB a day, and less as they grow rarer. One of
/// 3 MiB comes every 192 s.
const BYTES_PER_S: u64 = 16 << 10;

/// The distance of checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    step: Duration,
    written: u32,
    wait: Duration,
    /// Times that a checkpoint rests as long as it took.
    rest: u32,
}

impl Pace {
    /// After a checkpoint it rests `rest` times as long as that took: with 50, checkpoints take 2 % of a CPU's
    /// time at the most.
    pub const fn new(rest: u32) -> Self {
        Self { step: FIRST, written: 0, wait: FIRST, rest }
    }

    /// Time from the start, or from the last frame that was written, to the next checkpoint.
    pub const fn wait(&self) -> Duration {
        self.wait
    }

    /// A checkpoint was written, or another frame in its place: taking it and writing it took `cost`, and the
    /// file grew by `bytes`.
    pub fn wrote(&mut self, cost: Duration, bytes: u64) {
        self.written = self.written.saturating_add(1);
        if self.written.is_multiple_of(DOUBLES_AFTER) {
            self.step = self.step.saturating_mul(2);
        }
        let room = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_S);
        self.wait = self.step.max(cost.saturating_mul(self.rest)).max(room);
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;
    use std::time::Duration;

    /// Checkpoints of a run of so many seconds.
    fn checkpoints(run_s: u64, cost: Duration, bytes: u64) -> (u32, u64) {
        let mut pace = Pace::new(50);
        let mut now = pace.wait();
        let mut count = 0;
        while now <= Duration::from_secs(run_s) {
            pace.wrote(cost, bytes);
            count += 1;
            now += pace.wait();
        }
        (count, u64::from(count) * bytes)
    }

    #[test]
    fn the_first_comes_soon_and_a_day_has_few() {
        assert_eq!(Pace::new(50).wait(), Duration::from_secs(5));
        let (minute, _) = checkpoints(60, Duration::ZERO, 1000);
        assert_eq!(minute, 12);
        let (day, _) = checkpoints(86_400, Duration::ZERO, 1000);
        assert!((200..400).contains(&day), "{day}");
    }

    #[test]
    fn large_ones_are_rare() {
        let mut pace = Pace::new(50);
        pace.wrote(Duration::from_millis(10), 3 << 20);
        assert_eq!(pace.wait(), Duration::from_secs(192));
        for bytes in [10_000, 100_000, 3 << 20, 100 << 20] {
            let (_, all) = checkpoints(3600, Duration::ZERO, bytes);
            assert!(all <= 3600 * 16_384 + bytes, "{bytes}: {all}");
        }
    }

    #[test]
    fn dear_ones_are_rare() {
        let mut pace = Pace::new(50);
        pace.wrote(Duration::from_secs(2), 1000);
        assert_eq!(pace.wait(), Duration::from_secs(100));
        pace.wrote(Duration::MAX, u64::MAX);
        assert_eq!(pace.wait(), Duration::MAX);
    }
}
