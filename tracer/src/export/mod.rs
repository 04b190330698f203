//! What was found in the formats of other tools, and where it is written.

use std::io;

use crate::report::{Report, profile::Profile};

pub(crate) mod caption;
mod changes;
pub mod files;
pub mod folded;
pub mod frames;
pub(crate) mod held;
pub mod html;
pub mod output;
pub mod pprof;
pub mod speedscope;
pub mod svg;
pub(crate) mod xml;

/// What an exporter starts from.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit<'a> {
    /// The answer, the host, what was lost.
    pub report: &'a Report,
    /// All of it, path by path.
    pub profile: &'a Profile,
}

/// A format that findings can be written in: one file each in this folder.
pub trait Exporter {
    /// Writes all of it.
    ///
    /// Errors: `w` cannot be written.
    fn write(&self, what: &Exhibit<'_>, w: &mut dyn io::Write) -> io::Result<()>;
}

/// The formats there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line a stack, for any flame-graph tool
    Folded,
    /// A flame graph, for any browser
    Svg,
    /// For go tool pprof, Pyroscope and Parca
    Pprof,
    /// For speedscope
    Speedscope,
    /// One page for a browser: flame graph, growth, owners, stacks; fetches nothing
    Html,
}

impl Format {
    /// What writes it.
    #[must_use]
    pub fn exporter(self) -> &'static dyn Exporter {
        match self {
            Self::Folded => &folded::Folded,
            Self::Svg => &svg::Svg,
            Self::Pprof => &pprof::Pprof,
            Self::Speedscope => &speedscope::Speedscope,
            Self::Html => &html::Html,
        }
    }

    /// The option that asks for it, without its `--`.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Folded => "folded",
            Self::Svg => "svg",
            Self::Pprof => "pprof",
            Self::Speedscope => "speedscope",
            Self::Html => "html",
        }
    }

    /// What to call it in a message.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Folded => "folded stacks",
            Self::Svg => "the flame graph",
            Self::Pprof => "the pprof profile",
            Self::Speedscope => "the speedscope profile",
            Self::Html => "the HTML page",
        }
    }
}
