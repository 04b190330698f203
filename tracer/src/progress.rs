//! Lines on stderr: messages, which stay, and what takes long, which is shown on a terminal only and
//! leaves nothing behind.

use std::io::Write as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::sanitize;

/// How often a terminal is written to at the most, times a second.
const REDRAWS: u8 = 5;

/// What is going on.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// On stderr, if that is a terminal; nothing is shown yet.
    #[must_use]
    pub fn new() -> Self {
        // Hidden by itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(REDRAWS));
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Whether anybody would see it.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Shows a line in place of the last.
    pub fn show(&self, line: &str) {
        if self.is_shown() {
            self.bar.set_message(sanitize::terminal(line).into_owned());
        }
    }

    /// A line that stays. A closed stderr is nobody's problem but the user's.
    pub fn say(&self, line: &str) {
        self.aside(|| say(line));
    }

    /// Does what may write to the terminal, without the line in its way.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.bar.suspend(work)
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// A line to stderr.
pub fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{}", sanitize::terminal(line)));
}
