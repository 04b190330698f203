//! `kleak diff BEFORE AFTER`: what grew from one recording to another, who is to blame and by which path.
//!
//! [`compare()`] is pure: two reports with their profiles in, a [`Diff`] out, which [`text`] prints, JSON
//! holds and [`picture`] draws.

mod common;
mod compare;
mod path;
pub mod picture;
mod report;
mod sentence;
pub mod text;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use self::{
    compare::{Incomparable, compare},
    report::{Change, Diff, Difference, Residue, Row, Run, SCHEMA, Stack, Total, Verdict},
};
use crate::{
    analyse,
    cli::{DiffArgs, ReportFormat},
    export::{Exhibit, output::Output},
    progress::{Progress, say},
    recording::{Recording, check_source},
    report::{Report, json, profile::Profile, text::Style},
    trace::{Failure, Outcome, outputs::check_paths},
};

/// Rows of text when nobody says how many.
const TOP: usize = 10;

/// Runs `kleak diff`.
///
/// Errors: see [`Failure`].
pub fn run(args: &DiffArgs) -> Result<Outcome, Failure> {
    let mut written = vec![("output", args.output.as_path())];
    written.extend(args.svg.as_deref().map(|path| ("svg", path)));
    written.extend(args.folded.as_deref().map(|path| ("folded", path)));
    check_paths(&written)?;
    check_source(&args.before, &written)?;
    check_source(&args.after, &written)?;
    if [&args.before, &args.after].iter().all(|path| path.as_os_str() == "-") {
        return Err(Failure::Usage("only one of the recordings can be standard input".to_owned()));
    }
    let open = |path: &Path| Output::create(path);
    let output = open(&args.output)?;
    let svg = args.svg.as_deref().map(open).transpose()?;
    let folded = args.folded.as_deref().map(open).transpose()?;
    let progress = Progress::new();
    let before = read(&args.before, args, "reading BEFORE", &progress)?;
    let after = read(&args.after, args, "reading AFTER", &progress)?;
    progress.clear();
    let diff = compare(&before.exhibit(), &after.exhibit(), args.by)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let top = args.top.map(|top| top as usize);
    let printed = output.deliver("the comparison", |output| match args.format {
        ReportFormat::Text => {
            text::render(&diff, &Style::of(&args.output, top.unwrap_or(TOP)), output)
        }
        ReportFormat::Json => json::write_pretty(&cut(&diff, top), output),
    });
    let drawn = svg
        .map_or(Ok(()), |file| file.deliver("the flame graph", |file| picture::svg(&diff, file)));
    let folded = folded
        .map_or(Ok(()), |file| file.deliver("folded stacks", |file| picture::folded(&diff, file)));
    printed.and(drawn).and(folded)?;
    Ok(Outcome::Done)
}

/// A recording as it is compared.
struct Read {
    report: Report,
    profile: Profile,
}

impl Read {
    fn exhibit(&self) -> Exhibit<'_> {
        Exhibit { report: &self.report, profile: &self.profile }
    }
}

fn read(path: &Path, args: &DiffArgs, doing: &str, progress: &Progress) -> Result<Read, Failure> {
    progress.show(doing);
    let mut recording = Recording::open(path)?;
    let mut frame = recording.last()?;
    let (options, said) = args.look.look().apply(&mut frame)?;
    for line in &said {
        say(line);
    }
    frame.evidence.notes.extend(recording.notes(&frame));
    let (report, profile) = analyse::both(&frame.evidence, &options);
    Ok(Read { report, profile })
}

/// With the first rows only.
fn cut(diff: &Diff, top: Option<usize>) -> Diff {
    let mut diff = diff.clone();
    if let Some(top) = top {
        diff.owners.truncate(top);
        diff.stacks.truncate(top);
        for row in &mut diff.owners {
            row.stacks.retain(|id| (*id as usize) < top);
        }
    }
    diff
}
