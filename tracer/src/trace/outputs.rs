//! Where reports go.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{Failure, plan::Plan};
use crate::{
    cli::Format,
    export::{self, Exhibit, files::Files, output::Output},
    judge,
    report::{Report, json, text},
};

/// How and where to print.
pub(crate) struct Printing<'a> {
    /// Where reports go.
    pub(crate) output: &'a Path,
    /// Reports are read while more are to come.
    pub(crate) streams: bool,
    /// Files in other formats.
    pub(crate) exports: &'a [(export::Format, PathBuf)],
    pub(crate) format: Format,
    /// Rows of the text report.
    pub(crate) top: usize,
    /// GitHub's runner reads what is printed.
    pub(crate) github: bool,
}

/// Refuses two outputs in one file, each with the option that names it.
///
/// Errors: says which.
pub(crate) fn check_paths(written: &[(&str, &Path)]) -> Result<(), Failure> {
    for (place, (option, path)) in written.iter().enumerate() {
        let before = written.iter().take(place);
        if let Some((other, _)) = before.into_iter().find(|(_, used)| used == path) {
            return Err(Failure::Usage(format!(
                "--{option} and --{other} name the same file; give each its own"
            )));
        }
    }
    Ok(())
}

/// Everything that is written, opened before the run so that a bad path fails early.
pub(crate) struct Outputs {
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
    /// Opens those of a run.
    ///
    /// Errors: a path cannot be written.
    pub(super) fn open(plan: &Plan) -> Result<Self, Failure> {
        Self::to(&Printing {
            output: &plan.output,
            // What is printed while tracing has to be readable while tracing.
            streams: plan.interval.is_some(),
            exports: &plan.exports,
            format: plan.format,
            top: plan.top,
            github: plan.judging.github,
        })
    }

    /// Opens them.
    ///
    /// Errors: a path cannot be written.
    pub(crate) fn to(printing: &Printing<'_>) -> Result<Self, Failure> {
        let &Printing { output, streams, exports, format, top, github } = printing;
        let report = if streams { Output::stream(output)? } else { Output::create(output)? };
        let exports = Files::open(exports)?;
        let style = text::Style::of(output, top);
        let read_by_github = github && format == Format::Text && output.as_os_str() == "-";
        let fence = read_by_github.then(judge::files::fence);
        Ok(Self { report, exports, format, style, closed: false, printed: false, fence })
    }

    /// Writes one report.
    ///
    /// Errors: the output cannot be written; a reader that has gone is none.
    pub(crate) fn print(&mut self, report: &Report) -> Result<(), Failure> {
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

    /// Whether GitHub's runner was told not to obey the report, which it reads on standard output.
    pub(crate) const fn fenced(&self) -> bool {
        self.fence.is_some()
    }

    /// Whether the reader of the report has gone.
    pub(super) const fn closed(&self) -> bool {
        self.closed
    }

    /// Writes the other files, and puts everything in place.
    ///
    /// Errors: a file cannot be written.
    pub(crate) fn finish(self, what: &Exhibit<'_>) -> Result<(), Failure> {
        self.exports.write(what).map_err(|error| Failure::Failed(error.to_string()))?;
        match self.report.finish() {
            Err(error) if !error.is_broken_pipe() => Err(Failure::Failed(error.to_string())),
            _ => Ok(()),
        }
    }
}
