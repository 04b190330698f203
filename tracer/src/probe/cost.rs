//! What the programs cost, measured by the kernel itself: it does so only while asked to, because
//! reading the clock twice for each run costs as much as a short program.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    maps::Array,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
    sys::{Stats, enable_stats},
};
use kleak_common::Tuning;

use super::{Error, Probe, read, sys};

/// Runs of the empty program for each of which the clock is taken to be as fast as it can be.
const RUNS: u32 = 100;
/// How often that is tried.
const TRIES: u32 = 5;

/// The kernel measures while this is held (`BPF_ENABLE_STATS`, from 5.8).
pub struct Measuring {
    _stats: OwnedFd,
}

/// What the kernel has measured of all programs since they were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// Nanoseconds in them.
    pub nanos: u64,
    /// How often they ran, while it measured.
    pub runs: u64,
}

impl Probe {
    /// Has the kernel measure for as long as the result is held; `None` where it cannot.
    #[must_use]
    pub fn measure(&self) -> Option<Measuring> {
        match enable_stats(Stats::RunTime) {
            Ok(stats) => Some(Measuring { _stats: stats }),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not measure programs");
                None
            }
        }
    }

    /// What it has measured so far.
    #[must_use]
    pub fn run_time(&self) -> RunTime {
        let mut total = RunTime::default();
        for (_, program) in self.ebpf.programs() {
            let Ok(fd) = program.fd() else { continue };
            let Ok((nanos, runs, _)) = sys::program_info(fd.as_fd()) else { continue };
            total.nanos += nanos;
            total.runs += runs;
        }
        total
    }

    /// Allocations and frees that passed the filter so far.
    ///
    /// Errors: the map cannot be read.
    pub fn events(&self) -> Result<u64, Error> {
        read::tally(&self.ebpf).map(|tally| tally.events)
    }

    /// Nanoseconds that measuring adds to each run: what the kernel says that a program takes which does
    /// nothing, at best. 0 where that cannot be tried.
    #[must_use]
    pub fn clock_ns(&mut self) -> f64 {
        let Some(_measuring) = self.measure() else { return 0.0 };
        let Some(program) = self.ebpf.program_mut("empty") else { return 0.0 };
        let Ok(program): Result<&mut RawTracePoint, _> = program.try_into() else { return 0.0 };
        if program.load().is_err() {
            return 0.0;
        }
        let Ok(fd) = program.fd().and_then(|fd| Ok(fd.try_clone()?)) else { return 0.0 };
        let mut best = f64::INFINITY;
        for _ in 0..TRIES {
            let Ok((before, _, _)) = sys::program_info(fd.as_fd()) else { return 0.0 };
            for _ in 0..RUNS {
                if program.test_run(RawTracePointRunOptions::new()).is_err() {
                    return 0.0;
                }
            }
            let Ok((after, _, _)) = sys::program_info(fd.as_fd()) else { return 0.0 };
            best = best.min(after.saturating_sub(before) as f64 / f64::from(RUNS));
        }
        if best.is_finite() { best } else { 0.0 }
    }

    /// Holds the programs back, or lets them go on.
    ///
    /// Errors: the map cannot be written.
    pub fn tune(&mut self, tuning: Tuning) -> Result<(), Error> {
        let map = self.ebpf.map_mut(".data").ok_or_else(|| read::missing(".data"))?;
        let mut data: Array<_, Tuning> =
            Array::try_from(map).map_err(|error| read::map_error(".data", &error))?;
        data.set(0, tuning, 0).map_err(|error| read::map_error(".data", &error))?;
        self.tuning = tuning;
        Ok(())
    }
}
