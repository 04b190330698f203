//! Reading a recording: frames are found first, and unpacked when they are wanted, one at a time.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    Damage, Kind, Settings, decode, foreign,
    format::{Head, SCHEMA},
    frame::{self, Unreadable},
    scan,
};
use crate::{
    analyse::Evidence,
    report::{human, profile::unix_ns, sanitize},
};

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read at all.
    #[error("cannot read `{}`: {source}", name(path))]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("`{}` is no kleak recording: {why}", name(path))]
    Foreign {
        /// Which.
        path: PathBuf,
        /// What it looks like.
        why: String,
    },
    /// A later kleak wrote it, in another way.
    #[error(
        "`{}` is a recording of version {version}, written by a newer kleak; this one reads version 1: \
         upgrade kleak",
        name(path)
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Of which version.
        version: u64,
    },
    /// It is one, and nothing in it can be read.
    #[error("nothing can be read of the recording `{}`: {why}", name(path))]
    Nothing {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

fn name(path: &Path) -> String {
    sanitize::terminal(&path.to_string_lossy()).into_owned()
}

/// Frames that are unpacked in search of one that can be read.
const MOST_TRIED: usize = 256;

/// What can be read and moved about in.
trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

/// A recording that is open.
pub struct Recording {
    source: BufReader<Box<dyn Source>>,
    path: PathBuf,
    frames: Vec<Place>,
    damage: Vec<Damage>,
    /// Place of the frame that [`Recording::last`] has handed out.
    answer: Option<usize>,
}

/// A frame that is there, not yet unpacked.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) head: Head,
}

/// A frame of a recording.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it stands for.
    pub kind: Kind,
    /// When it was taken: RFC 3339, UTC; empty when nobody knows.
    pub taken: String,
    /// Version of kleak that wrote it.
    pub kleak: String,
    /// What reports are made from.
    pub evidence: Evidence,
    /// How the run printed it.
    pub settings: Settings,
}

impl Frame {
    /// When it was taken, nanoseconds since the epoch; `None` when nobody knows.
    pub fn taken_unix_ns(&self) -> Option<u64> {
        unix_ns(humantime::parse_rfc3339(&self.taken).ok()?)
    }
}

impl Recording {
    /// Opens the file, or standard input for `-`, which is copied to a file without a name first.
    ///
    /// Errors: it cannot be read, or is no recording.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        if path.as_os_str() == "-" {
            let spooled = spool(io::stdin().lock()).map_err(io)?;
            return Self::read_boxed(spooled, Path::new("standard input"));
        }
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        let source = if metadata.is_file() { Box::new(file) } else { spool(file).map_err(io)? };
        Self::read_boxed(source, path)
    }

    /// Reads what is called `path` in messages.
    ///
    /// Errors: it cannot be read, or is no recording.
    pub fn read(source: impl Read + Seek + 'static, path: &Path) -> Result<Self, ReadError> {
        Self::read_boxed(Box::new(source), path)
    }

    fn read_boxed(source: Box<dyn Source>, path: &Path) -> Result<Self, ReadError> {
        let mut source = BufReader::new(source);
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let found = scan::frames(&mut source).map_err(io)?;
        let newer = |version| ReadError::Newer { path: path.to_owned(), version };
        let (ours, others): (Vec<_>, Vec<_>) =
            found.frames.into_iter().partition(|place| place.head.schema == SCHEMA);
        if ours.is_empty() {
            // Of two witnesses one may be damaged.
            let said = others.iter().find_map(|place| version(&place.head.schema));
            if let Some(version) = said.or(found.version).filter(|version| *version > 1) {
                return Err(newer(version));
            }
            if found.version.is_none() {
                source.seek(SeekFrom::Start(0)).map_err(io)?;
                let why = foreign::describe(&mut source).map_err(io)?;
                return Err(ReadError::Foreign { path: path.to_owned(), why });
            }
            let why = if found.damage.is_empty() {
                "the run ended before its first checkpoint".to_owned()
            } else {
                listed(&found.damage)
            };
            return Err(ReadError::Nothing { path: path.to_owned(), why });
        }
        let mut damage = found.damage;
        damage.extend(others.iter().map(Damage::of_place));
        if found.version != Some(1) {
            damage.insert(0, Damage::Title);
        }
        let frames = last_run(ours, &mut damage);
        Ok(Self { source, path: path.to_owned(), frames, damage, answer: None })
    }

    /// The last frame that can be read: what the recording is of.
    ///
    /// Errors: there is none.
    pub fn last(&mut self) -> Result<Frame, ReadError> {
        for index in (0..self.frames.len()).rev().take(MOST_TRIED) {
            if let Some(frame) = self.frame(index)? {
                self.answer = Some(index);
                return Ok(frame);
            }
        }
        Err(ReadError::Nothing { path: self.path.clone(), why: listed(&self.damage) })
    }

    /// Places of the reports that were printed on the way, for [`Recording::frame`]; without that which
    /// [`Recording::last`] has handed out.
    pub fn intervals(&self) -> Vec<usize> {
        let all = self.frames.iter().enumerate();
        let intervals = all.filter(|(_, place)| place.head.kind == Kind::Interval);
        intervals.map(|(index, _)| index).filter(|index| self.answer != Some(*index)).collect()
    }

    /// A frame; `None` when it turns out to be damaged, or is not there.
    ///
    /// Errors: the file cannot be read.
    pub fn frame(&mut self, index: usize) -> Result<Option<Frame>, ReadError> {
        let Some(place) = self.frames.get(index).cloned() else { return Ok(None) };
        let io = |source| ReadError::Io { path: self.path.clone(), source };
        self.source.seek(SeekFrom::Start(place.offset)).map_err(io)?;
        let unpacked = frame::unpack((&mut self.source).take(place.bytes));
        let unpacked = unpacked.and_then(|(head, body)| {
            let (evidence, settings) = decode::evidence(body).map_err(Unreadable::Misfit)?;
            Ok(Frame { kind: head.kind, taken: head.taken, kleak: head.kleak, evidence, settings })
        });
        match unpacked {
            Ok(frame) => Ok(Some(frame)),
            Err(why) => {
                let was = (place.head.kind, place.head.window_s);
                let damage = Damage::of_content(place.head.sequence, place.bytes, &why, was);
                if !self.damage.contains(&damage) {
                    self.damage.push(damage);
                }
                Ok(None)
            }
        }
    }

    /// What is wrong with the file, so far as that has been found out.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// What a reader of `frame`, the last that could be read, has to know.
    pub fn notes(&self, frame: &Frame) -> Vec<String> {
        let mut notes: Vec<String> =
            self.damage.iter().map(|damage| sentence(&damage.to_string())).collect();
        if frame.kind != Kind::Final {
            let snapshot = &frame.evidence.snapshot;
            let covers_ns = snapshot.at_ns.saturating_sub(snapshot.start_ns);
            let known = self.damage.iter().filter_map(Damage::covers_s);
            let of =
                known.filter(|covers_s| *covers_s > covers_ns as f64 / 1e9).fold(0.0, f64::max);
            let of = if of > 0.0 { format!(" of {}", human::seconds(of)) } else { String::new() };
            notes.push(format!(
                "The recording ends early: kleak was killed or still runs, the node went down, the disk was \
                 full, or the file was cut. This is of the first {}{of} of the window.",
                human::seconds(covers_ns as f64 / 1e9),
            ));
        }
        notes
    }
}

/// One sentence.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str())
}

fn listed(damage: &[Damage]) -> String {
    let mut words: Vec<String> = damage.iter().take(3).map(ToString::to_string).collect();
    if let Some(rest @ 1..) = damage.len().checked_sub(words.len()) {
        words.push(format!("and so on ({rest} more)"));
    }
    words.join("; ")
}

/// The version in `kleak.recording/1`.
fn version(schema: &str) -> Option<u64> {
    schema.strip_prefix(frame::TITLE)?.parse().ok()
}

/// The frames of the run that wrote last, and what is missing between them.
fn last_run(mut frames: Vec<Place>, damage: &mut Vec<Damage>) -> Vec<Place> {
    let sequence = |place: &Place| place.head.sequence;
    let begins =
        frames.windows(2).rposition(|two| matches!(two, [a, b] if sequence(b) <= sequence(a)));
    if let Some(begins) = begins {
        frames.drain(..=begins);
        damage.push(Damage::Joined);
    }
    // Where something is damaged, that is what is missing.
    if damage.is_empty() {
        let mut due = 1;
        for place in &frames {
            let missing = sequence(place).saturating_sub(due);
            if missing > 0 {
                damage.push(Damage::Gap { frames: missing, before: sequence(place) });
            }
            due = sequence(place).saturating_add(1);
        }
    }
    frames
}

/// What can be read but once, in a file without a name; in memory where there is no place for files.
fn spool(mut source: impl Read) -> io::Result<Box<dyn Source>> {
    let Ok(mut file) = tempfile::tempfile() else {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        return Ok(Box::new(io::Cursor::new(bytes)));
    };
    io::copy(&mut source, &mut file)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(Box::new(file))
}
