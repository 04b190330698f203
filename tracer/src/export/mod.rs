//! A report in the formats of other tools, and where it is written.

use std::io;

use crate::report::Report;

pub mod folded;
pub mod frames;
pub mod output;

/// A format that a report can be written in: one file each in this folder.
pub trait Exporter {
    /// Writes all of `report`.
    fn write(&self, report: &Report, w: &mut dyn io::Write) -> io::Result<()>;
}
