//! `kleak report` and `kleak export`: what a recording says, as the run would have said it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Frame, Look, LookError, ReadError, Recording};
use crate::{
    analyse,
    cli::{ExportArgs, Format, ReportArgs},
    export::{self, Exhibit, files::Files},
    judge::files::Judge,
    progress::{Progress, say},
    trace::{
        Failure, Outcome,
        outputs::{Outputs, Printing, check_paths, ended_with},
    },
};

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
        let message = error.to_string();
        match error {
            ReadError::Foreign { .. } | ReadError::Nothing { .. } => Self::Usage(message),
            ReadError::Newer { .. } => Self::Cannot(message),
            ReadError::Io { source, .. } => match source.kind() {
                NotFound | IsADirectory | NotADirectory => Self::Usage(message),
                PermissionDenied => Self::Cannot(message),
                _ => Self::Failed(message),
            },
        }
    }
}

impl From<LookError> for Failure {
    fn from(error: LookError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs `kleak report`.
///
/// Errors: see [`Failure`].
pub fn report(args: &ReportArgs) -> Result<Outcome, Failure> {
    let exports = args.exports.wanted();
    let mut written = vec![("output", args.output.as_path())];
    written.extend(exports.iter().map(|(format, path)| (format.option(), path.as_path())));
    written.extend(args.judging.written());
    check_paths(&written)?;
    check_source(&args.file, &written)?;
    for source in args.judging.read() {
        check_source(source, &written)?;
    }
    let judge = Judge::open(&args.judging)?;
    let progress = Progress::new();
    let (mut recording, mut frame) = open(&args.file, &progress)?;
    let top = args.top.map(|top| top as usize);
    let look = Look { by: args.by, top, ..args.look.look() };
    let (options, said) = look.apply(&mut frame)?;
    for line in &said {
        progress.say(line);
    }
    let all = args.all || args.format == Format::Ndjson;
    let mut outputs = Outputs::to(&Printing {
        output: &args.output,
        streams: false,
        exports: &exports,
        format: args.format,
        top: options.top.unwrap_or(10),
        github: args.judging.github,
    })?;
    progress.clear();
    if all {
        for place in recording.intervals() {
            let Some(mut frame) = recording.frame(place)? else { continue };
            let options = look.apply_on_the_way(&mut frame)?;
            outputs.print(&analyse::analyse(&frame.evidence, &options))?;
        }
    }
    frame.evidence.notes.extend(recording.notes(&frame));
    let (mut report, mut profile) = analyse::both(&frame.evidence, &options);
    profile.taken_unix_ns = frame.taken_unix_ns();
    judge.judge(&mut report, &profile);
    let printed = outputs.print(&report);
    let (held, judged) = judge.finish(&report, outputs.fenced());
    let written = outputs.finish(&Exhibit { report: &report, profile: &profile });
    ended_with(held, Outcome::Done, [printed, judged, written])
}

/// Runs `kleak export`.
///
/// Errors: see [`Failure`].
pub fn export(args: &ExportArgs) -> Result<Outcome, Failure> {
    let mut wanted = args.exports.wanted();
    let mut written: Vec<(&str, PathBuf)> =
        wanted.iter().map(|(format, path)| (format.option(), path.clone())).collect();
    if let Some(format) = args.format {
        let output = args.output.clone().unwrap_or_else(|| PathBuf::from("-"));
        written.push(("output", output.clone()));
        wanted.push((format, output));
    } else if args.output.is_some() {
        return Err(Failure::Usage(format!(
            "-o needs --format, which says what to write; one of {}",
            formats().join(", ")
        )));
    }
    if wanted.is_empty() {
        let options: Vec<String> = formats().iter().map(|name| format!("--{name} FILE")).collect();
        return Err(Failure::Usage(format!(
            "say what to write: {}, or --format NAME for standard output",
            options.join(", ")
        )));
    }
    let written: Vec<(&str, &Path)> =
        written.iter().map(|(option, path)| (*option, path.as_path())).collect();
    check_paths(&written)?;
    check_source(&args.file, &written)?;
    let progress = Progress::new();
    let (recording, mut frame) = open(&args.file, &progress)?;
    // Not before: standard input may take its time, and a signal would leave the files that are not yet in
    // place.
    let files = Files::open(&wanted)?;
    let (options, said) = args.look.look().apply(&mut frame)?;
    let notes = recording.notes(&frame);
    frame.evidence.notes.extend(notes.iter().cloned());
    progress.clear();
    // Not every format has room for them.
    for line in said.iter().chain(&notes) {
        say(line);
    }
    let (report, mut profile) = analyse::both(&frame.evidence, &options);
    profile.taken_unix_ns = frame.taken_unix_ns();
    files.write(&Exhibit { report: &report, profile: &profile })?;
    Ok(Outcome::Done)
}

/// Names of the formats, as the options are called.
fn formats() -> Vec<&'static str> {
    use clap::ValueEnum as _;
    export::Format::value_variants().iter().map(|format| format.option()).collect()
}

fn open(path: &Path, progress: &Progress) -> Result<(Recording, Frame), Failure> {
    progress.show("reading the recording");
    let mut recording = Recording::open(path)?;
    let frame = recording.last()?;
    Ok((recording, frame))
}

/// Refuses to write over what is read.
pub(crate) fn check_source(file: &Path, written: &[(&str, &Path)]) -> Result<(), Failure> {
    let place = |path: &Path| {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    let Some(source) = place(file) else { return Ok(()) };
    match written.iter().find(|(_, path)| place(path) == Some(source)) {
        Some((option, _)) => {
            Err(Failure::Usage(format!("--{option} names a file that is read; give another")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn exported(line: &[&str]) -> Failure {
        match Cli::try_parse_from(line).unwrap().command {
            Command::Export(args) => export(&args).unwrap_err(),
            _ => unreachable!("of another command"),
        }
    }

    #[test]
    fn nothing_is_made_before_the_recording_is_read() {
        let failure = exported(&["kleak", "export", "/no/run.kleak", "--folded", "/not/there/out"]);
        assert!(
            matches!(&failure, Failure::Usage(why) if why.contains("/no/run.kleak")),
            "{failure:?}"
        );
    }

    #[test]
    fn a_path_through_a_file_is_a_mistake_on_the_command_line() {
        let failure = exported(&["kleak", "export", "/proc/version/x", "--format", "folded"]);
        assert!(matches!(failure, Failure::Usage(_)), "{failure:?}");
    }
}
