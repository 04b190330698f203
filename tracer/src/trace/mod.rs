//! `kleak trace`: attach, watch a window, report.

mod attached;
mod budget;
mod child;
mod evidence;
mod history;
mod meter;
pub(crate) mod outputs;
pub(crate) mod plan;
mod saving;
mod session;
pub(crate) mod signals;

use crate::{
    cli::TraceArgs,
    export::output::{OutputError, Undelivered},
    host::HostError,
    probe,
};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// A `--fail-on` held.
    ConditionHeld,
    /// The command's own exit status.
    Command(u8),
    /// A signal other than INT and TERM ended the window.
    Signal(i32),
}

/// Why a run did not come to a report.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The user asked for something that makes no sense (exit 2).
    #[error("{0}")]
    Usage(String),
    /// This system or user cannot (exit 3).
    #[error("{0}")]
    Cannot(String),
    /// Something that should work did not (exit 1).
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// With the option that it is about.
    #[must_use]
    pub(crate) fn about(self, option: &str) -> Self {
        match self {
            Self::Usage(why) => Self::Usage(format!("{option}: {why}")),
            Self::Cannot(why) => Self::Cannot(format!("{option}: {why}")),
            Self::Failed(why) => Self::Failed(format!("{option}: {why}")),
        }
    }
}

impl From<probe::Error> for Failure {
    fn from(error: probe::Error) -> Self {
        if error.is_inability() {
            Self::Cannot(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        if error.is_denied() || error.is_missing() {
            Self::Cannot(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<Undelivered> for Failure {
    fn from(error: Undelivered) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs `kleak trace`.
///
/// Errors: see [`Failure`].
pub async fn run(args: &TraceArgs) -> Result<Outcome, Failure> {
    let plan = plan::Plan::new(args)?;
    session::run(plan).await
}
