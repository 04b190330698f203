//! `--save`: the recording that is written while a window is watched.

use std::time::Duration;

use tokio::time::Instant;

use super::{Failure, plan::Plan};
use crate::{
    analyse::Evidence,
    recording::{Kind, Pace, Settings, WriteError, Writer},
};

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Place { .. } => Self::Usage(error.to_string()),
            WriteError::Incomplete(_) => Self::Failed(error.to_string()),
        }
    }
}

/// A recording, and when its next checkpoint is due. Without `--save` nothing ever is.
pub(super) struct Saver {
    writer: Option<Writer>,
    pace: Pace,
    due: Option<Instant>,
}

impl Saver {
    /// Opens it, before anything is attached; its first frame is written after that. What is not to cost more
    /// than a share of the time rests `rest` times as long as it took.
    ///
    /// Errors: nothing can be written there.
    pub(super) fn open(plan: &Plan, rest: u32) -> Result<Self, Failure> {
        let settings = Settings {
            top: plan.options.top,
            family_only: plan.options.select.family_only,
            interval_s: plan.interval.map(|interval| interval.as_secs_f64()),
        };
        let writer = plan.save.as_ref().map(|path| Writer::create(path, settings)).transpose()?;
        Ok(Self { writer, pace: Pace::new(rest), due: None })
    }

    /// Whether there is one.
    pub(super) const fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// The window begins.
    pub(super) fn start(&mut self) {
        self.due = self.writer.as_ref().map(|_| Instant::now() + self.pace.wait());
    }

    /// When a checkpoint is due.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Adds a frame; `began` is when taking it did. What there is to say about it.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        evidence: &Evidence,
        began: Instant,
    ) -> Option<String> {
        let written = self.writer.as_mut()?.add(kind, evidence);
        self.pace.wrote(began.elapsed(), written.bytes);
        // A year at the most, which no clock overflows by.
        let wait = self.pace.wait().min(Duration::from_hours(366 * 24));
        self.due = Some(Instant::now() + wait);
        written.remark
    }

    /// Ends it.
    ///
    /// Errors: it lacks something.
    pub(super) fn finish(self) -> Result<(), Failure> {
        self.writer.map_or(Ok(()), Writer::finish).map_err(Failure::from)
    }
}
