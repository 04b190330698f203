//! Where reports go.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{Failure, Outcome, plan::Plan};
use crate::{
    cli::Format,
    export::{self, Exhibit, files::Files, output::Output},
    judge,
    progress::say,
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
        if let Some((other, _)) = before.into_iter().find(|(_, used)| same_file(used, path)) {
            return Err(Failure::Usage(format!(
                "--{option} and --{other} name the same file; give each its own"
            )));
        }
    }
    Ok(())
}

/// Whether both lead to one file, whichever way. A device is nobody's.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    let is_device = |path: &Path| path.metadata().is_ok_and(|file| !file.is_file());
    (one == other || place_of(one) == place_of(other)) && !is_device(one)
}

/// Where a path leads, also when nothing is there yet.
fn place_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let of_parent = || {
        let parent = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(parent.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(of_parent).unwrap_or_else(|| path.to_owned())
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
        // JSON is data, and gives a runner no orders: see `sanitize::json`.
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
        let result = self.write(report).and_then(|()| self.report.flush());
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

    fn write(&mut self, report: &Report) -> io::Result<()> {
        if self.printed && self.format == Format::Text {
            writeln!(self.report)?;
        }
        if let Some(fence) = &self.fence {
            writeln!(self.report, "::stop-commands::{fence}")?;
        }
        match self.format {
            Format::Text => text::render(report, &self.style, &mut self.report)?,
            Format::Json => json::write_pretty(report, &mut self.report)?,
            Format::Ndjson => json::write_line(report, &mut self.report)?,
        }
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
        // The report comes first: that another file fails costs none but that.
        let report = self.report.finish();
        let exports = self.exports.write(what);
        match report {
            Err(error) if !error.is_broken_pipe() => {
                return Err(Failure::Failed(error.to_string()));
            }
            _ => (),
        }
        exports.map_err(Failure::from)
    }
}

/// How a run ends when it has been judged: a condition that held comes first, as a build has to fail by it, then
/// what failed late, then `otherwise`.
///
/// Errors: the first of what failed, the others being said.
pub(crate) fn ended_with(
    held: bool,
    otherwise: Outcome,
    late: impl IntoIterator<Item = Result<(), Failure>>,
) -> Result<Outcome, Failure> {
    let mut failures = late.into_iter().filter_map(Result::err);
    let first = if held { None } else { failures.next() };
    for failure in failures {
        say(&format!("error: {failure}"));
    }
    match first {
        Some(failure) => Err(failure),
        None if held => Ok(Outcome::ConditionHeld),
        None => Ok(otherwise),
    }
}
