//! Where reports go.

use std::io::{self, Write};

use super::{Failure, plan::Plan};
use crate::{
    cli::Format,
    export::{Exhibit, files::Files, output::Output},
    judge,
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
    /// What GitHub's runner is told to wait for before it obeys again: whoever names a process must not
    /// give it orders.
    fence: Option<String>,
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
        let read_by_github =
            plan.judging.github && plan.format == Format::Text && plan.output.as_os_str() == "-";
        let fence = read_by_github.then(judge::files::fence);
        let format = plan.format;
        Ok(Self { report, exports, format, style, closed: false, printed: false, fence })
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
                rule.and_then(|()| self.text(report))
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

    fn text(&mut self, report: &Report) -> io::Result<()> {
        if let Some(fence) = &self.fence {
            writeln!(self.report, "::stop-commands::{fence}")?;
        }
        text::render(report, &self.style, &mut self.report)?;
        match &self.fence {
            Some(fence) => writeln!(self.report, "::{fence}::"),
            None => Ok(()),
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
