//! What xtask itself says. Its talk goes to stderr: `cargo xtask run` may be piped, and stdout
//! belongs to kleak.
#![allow(clippy::print_stderr, reason = "this is the one place that talks to the terminal")]

use std::io::{self, Write as _};

/// One line about what is being done, under the name of the task that does it.
pub(crate) fn step(task: &str, what: &str) {
    eprintln!("{task}: {what}");
}

/// Something that was left out or could not be done, and that must not pass unseen.
pub(crate) fn warning(task: &str, what: &str) {
    eprintln!("{task}: WARNING: {what}");
}

/// Why a task has not done its work.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// A line of what the task was asked for, to stdout. A reader that has gone away is no error.
pub(crate) fn result(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}
