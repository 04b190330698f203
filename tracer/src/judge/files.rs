//! What judging reads before the window and writes after it.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::suppress::{Day, Suppressions};
use super::{Baseline, Condition, Rules, file, github, judge, junit, markdown, text};
use crate::analyse;
use crate::cli;
use crate::export::output::Output;
use crate::progress::say;
use crate::recording::{Look, Recording};
use crate::report::profile::Profile;
use crate::report::{Report, judgement::Judgement, sanitize};
use crate::trace::Failure;

/// Names the file that a step of a GitHub job appends its summary to.
const SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// By what a run is judged, and where that is written: all read and open.
pub struct Judge {
    conditions: Vec<Condition>,
    suppressions: Suppressions,
    baseline: Option<Baseline>,
    junit: Option<Output>,
    markdown: Option<Output>,
    github: Option<Github>,
}

/// What GitHub is told.
struct Github {
    summary: Option<(PathBuf, File)>,
}

impl Judge {
    /// Reads what is to be read and opens what is to be written.
    ///
    /// Errors: a file that cannot be read or written, or makes no sense.
    pub fn open(args: &cli::Judging) -> Result<Self, Failure> {
        let mut suppressions = Suppressions::default();
        for path in &args.suppressions {
            suppressions.extend(read_suppressions(path)?);
        }
        let open = |path: &Option<PathBuf>| path.as_ref().map(|path| Output::create(path));
        Ok(Self {
            conditions: args.fail_on.clone(),
            suppressions,
            baseline: args.baseline.as_deref().map(read_baseline).transpose()?,
            junit: open(&args.junit).transpose()?,
            markdown: open(&args.markdown).transpose()?,
            github: args.github.then(Github::open).transpose()?,
        })
    }

    /// Puts the judgement into `report`, when there is something to judge by.
    pub fn judge(&self, report: &mut Report, profile: &Profile) {
        if self.conditions.is_empty() {
            return;
        }
        let rules = Rules {
            conditions: &self.conditions,
            suppressions: &self.suppressions,
            baseline: self.baseline.as_ref(),
            today: &Day::of(SystemTime::now()),
        };
        report.judgement = Some(judge(report, profile, &rules));
    }

    /// Says what came of it, and writes it. Whether a condition held, and whether all was written.
    ///
    /// `fenced` says that the report is on standard output between two lines of a [`fence`]. GitHub's runner
    /// reads both streams in no certain order, so that annotations have to follow it there; otherwise
    /// standard output is for data.
    ///
    /// Errors: a file cannot be written; what was to be said is said.
    pub fn finish(self, report: &Report, fenced: bool) -> (bool, Result<(), Failure>) {
        let held = |judgement: &Judgement| judgement.held().next().is_some();
        let held = report.judgement.as_ref().is_some_and(held);
        (held, self.tell(report, fenced))
    }

    fn tell(self, report: &Report, fenced: bool) -> Result<(), Failure> {
        let judgement = report.judgement.as_ref();
        let mut summary = None;
        for line in judgement.map(text::lines).unwrap_or_default() {
            say(&if self.github.is_some() { github::inert(&line) } else { line });
        }
        if let Some(github) = self.github {
            for line in judgement.map(github::annotations).unwrap_or_default() {
                // A closed stream is nobody's problem but the user's. Nothing in it can steer a terminal.
                let written = if fenced {
                    writeln!(io::stdout(), "{line}")
                } else {
                    writeln!(io::stderr(), "{line}")
                };
                drop(written);
            }
            summary = Some(github);
        }
        // That one of them fails costs none but that.
        let markdown = self.markdown.map_or(Ok(()), |output| {
            output.deliver("Markdown", |output| markdown::write(report, judgement, output))
        });
        let junit = self.junit.zip(judgement).map_or(Ok(()), |(output, judgement)| {
            output.deliver("JUnit XML", |output| junit::write(report, judgement, output))
        });
        let summary =
            summary.map_or(Ok(()), |github| github.append(&markdown::summary(report, judgement)));
        junit.and(markdown).map_err(Failure::from).and(summary)
    }
}

impl Github {
    /// Errors: there is a summary to append to, and it cannot be.
    fn open() -> Result<Self, Failure> {
        let Some(path) = std::env::var_os(SUMMARY).filter(|path| !path.is_empty()) else {
            return Ok(Self { summary: None });
        };
        let path = PathBuf::from(path);
        match OpenOptions::new().append(true).create(true).open(&path) {
            Ok(file) => Ok(Self { summary: Some((path, file)) }),
            Err(error) => Err(Failure::Usage(format!(
                "--github: cannot append to `{}` ({SUMMARY}): {error}",
                sanitize::terminal(&path.to_string_lossy())
            ))),
        }
    }

    fn append(self, text: &str) -> Result<(), Failure> {
        let Some((path, mut file)) = self.summary else { return Ok(()) };
        // In one write, as other steps may append too.
        file.write_all(format!("{text}\n").as_bytes()).map_err(|error| {
            let path = path.to_string_lossy();
            Failure::Failed(format!("appending to `{}`: {error}", sanitize::terminal(&path)))
        })
    }
}

/// A word that nobody can guess: between two lines that bear it, GitHub's runner obeys nothing that it
/// reads.
pub fn fence() -> String {
    // Seeded by the kernel's random numbers.
    let half = || RandomState::new().hash_one(SystemTime::now());
    format!("kleak-{:016x}{:016x}", half(), half())
}

fn read_suppressions(path: &Path) -> Result<Suppressions, Failure> {
    let shown = path.to_string_lossy();
    let text = std::fs::read(path).map_err(|error| {
        Failure::Usage(format!(
            "cannot read suppressions from `{}`: {error}",
            sanitize::terminal(&shown)
        ))
    })?;
    let text = String::from_utf8(text).map_err(|error| {
        let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = line.filter(|byte| **byte == b'\n').count() + 1;
        let shown = sanitize::terminal(&shown).into_owned();
        Failure::Usage(format!("{shown}:{line}: this is no UTF-8, so it is no TOML"))
    })?;
    file::parse(&text, &shown).map_err(|error| Failure::Usage(error.to_string()))
}

/// Errors: it is no recording, or nothing of it can be read.
fn read_baseline(path: &Path) -> Result<Baseline, Failure> {
    let shown = path.to_string_lossy().into_owned();
    let of_baseline = |failure: Failure| failure.about("--baseline");
    let open = || Recording::open(path);
    let mut recording = open().map_err(|error| of_baseline(error.into()))?;
    let mut frame = recording.last().map_err(|error| of_baseline(error.into()))?;
    let look = Look::default().apply(&mut frame);
    let (options, _) = look.map_err(|error| of_baseline(error.into()))?;
    let notes = recording.notes(&frame);
    let (report, profile) = analyse::both(&frame.evidence, &options);
    Ok(Baseline::new(shown, report, profile).with_notes(notes))
}
