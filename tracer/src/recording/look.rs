//! How to look at a recording: as the run did, but for what the reader asks.

use std::time::Duration;

use clap::ValueEnum as _;
use globset::{Glob, GlobMatcher};

use super::{
    Frame,
    narrow::{self, Lack, NarrowError},
};
use crate::{
    analyse::{By, Options, Select},
    report::sanitize,
};

/// What the reader asks for; what is `None` or empty is as in the run.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// What a row stands for.
    pub by: Option<By>,
    /// Rows.
    pub top: Option<usize>,
    /// Thread-group id.
    pub pid: Option<u32>,
    /// Name of the process.
    pub comm: Option<GlobMatcher>,
    /// Path of the cgroup.
    pub cgroup: Option<GlobMatcher>,
    /// Pod.
    pub pod: Option<GlobMatcher>,
    /// Size classes, bytes.
    pub sizes: Vec<u64>,
    /// Slab caches.
    pub caches: Vec<GlobMatcher>,
    /// Least age.
    pub min_age: Option<Duration>,
}

/// Why it cannot be looked at so.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// A mistake on the command line.
    #[error(transparent)]
    Narrow(#[from] NarrowError),
    /// What the recording says of its own run makes no sense.
    #[error(
        "the recording was made with `--{option} {}`, which is no pattern; give another --{option}",
        sanitize::terminal(value)
    )]
    Recorded {
        /// Which option.
        option: &'static str,
        /// Its value.
        value: String,
    },
}

impl Look {
    /// Has `frame` hold what is to be looked at; how to look at it, and what there is to say about it.
    ///
    /// Errors: what is asked for is not in it.
    pub fn apply(&self, frame: &mut Frame) -> Result<(Options, Vec<String>), LookError> {
        self.apply_or(frame, Lack::Refused)
    }

    /// The same to a report on the way, in which what is asked for may not have come yet.
    ///
    /// Errors: the frame does not say how it was looked at.
    pub fn apply_on_the_way(&self, frame: &mut Frame) -> Result<Options, LookError> {
        self.apply_or(frame, Lack::Taken).map(|(options, _)| options)
    }

    fn apply_or(&self, frame: &mut Frame, lack: Lack) -> Result<(Options, Vec<String>), LookError> {
        let evidence = &mut frame.evidence;
        let mut said = narrow::caches(evidence, &self.sizes, &self.caches, lack)?;
        if let Some(age) = self.min_age {
            let notes = narrow::min_age(evidence, age, lack)?;
            evidence.notes.extend(notes.iter().cloned());
            said.extend(notes);
        }
        let filter = &mut evidence.filter;
        let by = self.by.or_else(|| By::from_str(&filter.by, false).ok()).unwrap_or_default();
        by.as_str().clone_into(&mut filter.by);
        filter.pid = self.pid.or(filter.pid);
        let select = Select {
            pid: filter.pid,
            comm: pattern("comm", self.comm.as_ref(), &mut filter.comm)?,
            cgroup: pattern("cgroup", self.cgroup.as_ref(), &mut filter.cgroup)?,
            pod: pattern("pod", self.pod.as_ref(), &mut filter.pod)?,
            family_only: frame.settings.family_only,
        };
        let top = self.top.or(frame.settings.top);
        Ok((Options { by, top, select }, said))
    }
}

/// The pattern asked for, or that of the run; `recorded` says which.
fn pattern(
    option: &'static str,
    asked: Option<&GlobMatcher>,
    recorded: &mut Option<String>,
) -> Result<Option<GlobMatcher>, LookError> {
    if let Some(asked) = asked {
        *recorded = Some(asked.glob().glob().to_owned());
        return Ok(Some(asked.clone()));
    }
    let Some(value) = recorded else { return Ok(None) };
    match Glob::new(value) {
        Ok(glob) => Ok(Some(glob.compile_matcher())),
        Err(_) => Err(LookError::Recorded { option, value: value.clone() }),
    }
}
