//! `--save`: the recording that is written while a window is watched.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use super::{Failure, plan::Plan};
use crate::{
    analyse::Evidence,
    recording::{Kind, Pace, Settings, WriteError, Writer},
};

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Place { .. } => Self::Usage(error.to_string()),
            WriteError::Denied { .. } => Self::Cannot(error.to_string()),
            WriteError::Incomplete(_) => Self::Failed(error.to_string()),
        }
    }
}

/// Has a file that would exceed the limit of a file's size (`ulimit -f`) be an error of writing, as a full disk
/// is: by default the kernel ends who writes it by a signal (`generic_write_check_limits`, `fs/read_write.c`).
/// A handler, as a signal that is ignored would stay so in the command that is run.
fn survive_file_limit() -> Result<(), Failure> {
    let listen = signal(SignalKind::from_raw(libc::SIGXFSZ));
    listen.map(drop).map_err(|error| Failure::Failed(format!("listening for signals: {error}")))
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
        let settings =
            Settings { top: plan.options.top, family_only: plan.options.select.family_only };
        if plan.save.is_some() {
            survive_file_limit()?;
        }
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn a_limit_of_a_files_size_ends_nobody() {
        survive_file_limit().unwrap();
        raise(Signal::SIGXFSZ).unwrap();
    }

    #[test]
    fn what_is_wrong_decides_the_exit_status() {
        let path = PathBuf::from("run.kleak");
        let source = std::io::Error::from_raw_os_error(libc::EROFS);
        let denied = WriteError::Denied { path: path.clone(), source };
        assert!(matches!(Failure::from(denied), Failure::Cannot(why) if why.contains("Read-only")));
        let place = WriteError::Place { path, why: "it is a directory".to_owned() };
        assert!(matches!(Failure::from(place), Failure::Usage(_)));
    }
}
