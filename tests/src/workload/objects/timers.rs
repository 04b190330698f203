//! Timers of POSIX, and threads.

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigEvent, SigevNotify};
use nix::sys::timer::Timer;
use nix::time::ClockId;

use super::Objects;
use super::descriptors::drop_all;

/// Timers that tell nobody.
#[derive(Default)]
pub(super) struct Timers(Vec<Timer>);

impl Objects for Timers {
    fn make(&mut self) -> Result<()> {
        let event = SigEvent::new(SigevNotify::SigevNone);
        self.0.push(Timer::new(ClockId::CLOCK_MONOTONIC, event).context("timer_create")?);
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        Ok(drop_all(&mut self.0))
    }
}
