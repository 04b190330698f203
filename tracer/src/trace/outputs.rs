//! Where reports go.

use std::io::{self, Write};

use super::{Failure, plan::Plan};
use crate::{
    cli::Format,
    export::{Exhibit, files::Files, output::Output},
    report::{Report, json, text},
};

/// Everything that is written, opened before the run so that a bad path fails early.
pub(super) struct Outputs {
    report: Output,
    exports: Files,
    format: Format,
    style: text::Style,
    /// The reader of the report has gone: nothing more is written to it.
    closed: bool,
    printed: bool,
}

impl Outputs {
    /// Opens them.
    ///
    /// Errors: a path cannot be written.
    pub(super) fn open(plan: &Plan) -> Result<Self, Failure> {
        // What is printed while tracing has to be readable while tracing.
        let report = if plan.interval.is_some() {
            Output::stream(&plan.output)?
        } else {
            Output::create(&plan.output)?
        };
        let exports = Files::open(&plan.exports)?;
        let style = text::Style::of(&plan.output, plan.top);
        Ok(Self { report, exports, format: plan.format, style, closed: false, printed: false })
    }

    /// Writes one report.
    ///
    /// Errors: the output cannot be written; a reader that has gone is none.
    pub(super) fn print(&mut self, report: &Report) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let result = match self.format {
            Format::Text => {
                let rule = if self.printed { writeln!(self.report) } else { Ok(()) };
                rule.and_then(|()| text::render(report, &self.style, &mut self.report))
            }
            Format::Json => json::write_pretty(report, &mut self.report),
            Format::Ndjson => json::write_line(report, &mut self.report),
        }
        .and_then(|()| self.report.flush());
        self.printed = true;
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::Failed(format!("writing the report: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Whether the reader of the report has gone.
    pub(super) const fn closed(&self) -> bool {
        self.closed
    }

    /// Writes the other files, and puts everything in place.
    ///
    /// Errors: a file cannot be written.
    pub(super) fn finish(self, what: &Exhibit<'_>) -> Result<(), Failure> {
        self.exports.write(what).map_err(|error| Failure::Failed(error.to_string()))?;
        match self.report.finish() {
            Err(error) if !error.is_broken_pipe() => Err(Failure::Failed(error.to_string())),
            _ => Ok(()),
        }
    }
}
