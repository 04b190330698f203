//! What of a recording cannot be read, in words.

use std::fmt;

use super::{Kind, frame::Unreadable, reader::Place};
use crate::report::{human, sanitize};

/// Something in the file that is not as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Damage {
    /// The first frame does not say what the file is.
    Title,
    /// So many bytes belong to no frame that can be read.
    Lost {
        /// The frame that they are or were, from 1.
        frame: u64,
        /// How many.
        bytes: u64,
        /// The file ends in it.
        cut: bool,
        /// What its beginning says that it was, if that could be read.
        was: Option<(Kind, f64)>,
    },
    /// A frame does not hold what it should.
    Content {
        /// Its number, from 1.
        frame: u64,
        /// Its length.
        bytes: u64,
        /// Why.
        why: String,
        /// What it was.
        was: (Kind, f64),
    },
    /// Frames are missing before this one, and nothing is left of them.
    Gap {
        /// How many.
        frames: u64,
        /// Number of the frame after them.
        before: u64,
    },
    /// What comes before belongs to another run.
    Joined,
}

impl Damage {
    /// A frame that turned out to be unreadable.
    pub(super) fn of_content(frame: u64, bytes: u64, why: &Unreadable, was: (Kind, f64)) -> Self {
        // An error of the JSON reader quotes what it met.
        let why = sanitize::terminal(&why.to_string()).into_owned();
        Self::Content { frame, bytes, why, was }
    }

    /// A frame whose beginning says that it is of no recording, or of another version.
    pub(super) fn of_place(place: &Place) -> Self {
        let was = Some((place.head.kind, place.head.window_s));
        Self::Lost { frame: place.head.sequence, bytes: place.bytes, cut: false, was }
    }

    /// How much of the window it covered, seconds.
    pub(super) const fn covers_s(&self) -> Option<f64> {
        match self {
            Self::Lost { was: Some((_, covers_s)), .. }
            | Self::Content { was: (_, covers_s), .. } => Some(*covers_s),
            _ => None,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Title => write!(f, "the beginning of the recording is damaged"),
            Self::Lost { frame, bytes, cut, was } => {
                write!(f, "frame {frame} of about {}", human::bytes(*bytes))?;
                write_kind(f, *was)?;
                let how = if *cut { "is cut short" } else { "is damaged" };
                write!(f, " {how} and left out")
            }
            Self::Content { frame, bytes, why, was } => {
                write!(f, "frame {frame} of {}", human::bytes(*bytes))?;
                write_kind(f, Some(*was))?;
                write!(f, " is left out: {why}")
            }
            Self::Gap { frames, before } => {
                write!(f, "{} missing before frame {before}", human::counted(*frames, "frame"))
            }
            Self::Joined => {
                write!(f, "the file holds more than one recording, and only the last is read")
            }
        }
    }
}

fn write_kind(f: &mut fmt::Formatter<'_>, was: Option<(Kind, f64)>) -> fmt::Result {
    let Some((kind, covers_s)) = was else { return Ok(()) };
    let what = match kind {
        Kind::Checkpoint => "a checkpoint",
        Kind::Interval => "a report",
        Kind::Final => "the final report",
    };
    write!(f, " ({what}, at {} of the window)", human::seconds(covers_s))
}
