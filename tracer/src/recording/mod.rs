//! Recordings (`--save run.kleak`): everything that reports are made from, to be looked at later, elsewhere,
//! without root and by another grouping.
//!
//! # The file
//!
//! A row of Zstandard frames, so that `zstd -t run.kleak` checks it and `zstdcat run.kleak` shows it.
//!
//! 1. A *skippable* frame, which decompressors pass over: `frame::title`, which says what the file is,
//!    of which version, and how to read it.
//! 2. Frames of data, each with the checksum of its content, and each by itself: none needs another, so what
//!    damages one costs that one only. Each holds two lines of JSON:
//!    * `format::Head`: schema, number in the file, kind, when it was taken and how much of the window it
//!      covers. It is short, and first, so that a reader can choose frames without reading them.
//!    * `format::Body`: the [`Evidence`](crate::analyse::Evidence) and how the run printed it. Names, owners
//!      and stacks are tables; rows refer to them by their place, sites from 1.
//!
//! A frame is a `checkpoint`, written now and then in case there is no end; what `--interval` reported; or the
//! `final` report's. The last whole frame is the recording's answer, so a run that is killed or fills the disk
//! leaves the last of its checkpoints ([`Pace`]).
//!
//! What only leads to names is not in the file: addresses of functions and slab caches, which would tell where
//! the kernel lies, and keys, which are seeded anew by every run. A function that has no name keeps the number
//! that a report prints.
//!
//! Fields that a reader does not know are passed over and fields that are missing have defaults, so that
//! versions may add to `kleak.recording/1`. What an older reader would misunderstand is another number.

mod bounded;
mod damage;
mod decode;
mod encode;
mod foreign;
mod format;
mod frame;
mod limits;
mod look;
mod narrow;
mod pace;
mod reader;
mod replay;
mod scan;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod writer;

use serde::{Deserialize, Serialize};

pub(crate) use self::replay::check_source;
pub use self::{
    damage::Damage,
    look::{Look, LookError},
    narrow::NarrowError,
    pace::Pace,
    reader::{Frame, ReadError, Recording},
    replay::{export, report},
    writer::{WriteError, Writer, Written},
};

/// What a frame stands for; what is worse to lose is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Taken on the way, in case there is no end; nothing was printed.
    Checkpoint,
    /// What a report of `--interval` was made from.
    Interval,
    /// What the report at the end was made from.
    Final,
}

/// How the run looked at its evidence, so far as [`Filter`](crate::report::Filter) does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--top`; `None` when it was not given.
    pub top: Option<usize>,
    /// Only descendants of the command: with `-- COMMAND`.
    pub family_only: bool,
}
