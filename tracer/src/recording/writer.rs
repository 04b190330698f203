//! Writing a recording as the run goes: whole frames, one by one, so that whatever happens next leaves a file
//! that can be read.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Kind, Settings,
    encode::{self, Unfit},
    format::{Head, SCHEMA},
    frame,
};
use crate::{
    analyse::Evidence,
    report::{human, sanitize},
};

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It was asked for where it cannot be (a mistake on the command line).
    #[error("cannot save to `{}`: {why}", sanitize::terminal(&path.to_string_lossy()))]
    Place {
        /// Where.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It is not complete.
    #[error("{0}")]
    Incomplete(String),
}

/// A recording in the making.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    settings: Settings,
    /// It was not there before.
    made: bool,
    /// A file, which can be cut back; not a pipe.
    regular: bool,
    /// Length up to which it holds whole frames; 0 before the first.
    whole: u64,
    sequence: u64,
    /// How much of the window the last frame that was written covers, seconds.
    covers_s: Option<f64>,
    /// Why a frame could not be written, the first time.
    failed: Option<String>,
    /// The most important frame that is not in it.
    lost: Option<Kind>,
}

/// What a frame took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// By so much the file has grown.
    pub bytes: u64,
    /// What there is to say about it: that it could not be written, once.
    pub remark: Option<String>,
}

impl Writer {
    /// Opens `path`. What is there stays until the first frame is written, so that a run which fails to attach
    /// does not cost the recording of the last.
    ///
    /// Errors: nothing can be written there; the message is for the user.
    pub fn create(path: &Path, settings: Settings) -> Result<Self, WriteError> {
        let place = |why: String| WriteError::Place { path: path.to_owned(), why };
        if path.as_os_str() == "-" {
            let why = "a recording goes to a file, and the report to standard output; give it a name, \
                       such as run.kleak";
            return Err(place(why.to_owned()));
        }
        let made = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| place(why_not(path, &error)))?;
        let metadata = file.metadata().map_err(|error| place(error.to_string()))?;
        let regular = metadata.is_file();
        if regular && matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(place("another kleak is writing to it".to_owned()));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            settings,
            made,
            regular,
            whole: 0,
            sequence: 0,
            covers_s: None,
            failed: None,
            lost: None,
        })
    }

    /// Adds a frame, whole or not at all. When it fails the run can go on, and later frames may fit again.
    pub fn add(&mut self, kind: Kind, evidence: &Evidence) -> Written {
        match self.try_add(kind, evidence) {
            Ok(bytes) => {
                // Whatever a checkpoint held, this frame holds too.
                self.lost = self.lost.filter(|lost| *lost != Kind::Checkpoint);
                Written { bytes, remark: None }
            }
            Err(error) => {
                self.lost = self.lost.max(Some(kind));
                let first = self.failed.is_none();
                let why = self.failed.get_or_insert_with(|| error.to_string()).clone();
                let remark = first.then(|| {
                    format!("writing {}: {why}; {}; tracing goes on", self.name(), self.safe())
                });
                Written { bytes: 0, remark }
            }
        }
    }

    /// Ends the recording.
    ///
    /// Errors: something that should be in it is not.
    pub fn finish(self) -> Result<(), WriteError> {
        match (&self.failed, self.lost) {
            (Some(why), Some(lost)) => {
                let what = if lost == Kind::Interval { "a report" } else { "the end" };
                Err(WriteError::Incomplete(format!(
                    "the recording {} lacks {what} ({why}); {}",
                    self.name(),
                    self.safe()
                )))
            }
            _ => Ok(()),
        }
    }

    fn name(&self) -> String {
        sanitize::terminal(&self.path.to_string_lossy()).into_owned()
    }

    /// What can be relied on.
    fn safe(&self) -> String {
        match self.covers_s {
            Some(covers_s) => format!(
                "it holds the first {} of the window ({})",
                human::seconds(covers_s),
                human::bytes(self.whole)
            ),
            None => "it holds nothing".to_owned(),
        }
    }

    fn try_add(&mut self, kind: Kind, evidence: &Evidence) -> Result<u64, Failed> {
        let window_ns = evidence.snapshot.at_ns.saturating_sub(evidence.snapshot.start_ns);
        let head = Head {
            schema: SCHEMA.to_owned(),
            sequence: self.sequence + 1,
            kind,
            window_s: window_ns as f64 / 1e9,
            taken: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            kleak: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let body = encode::body(evidence, &self.settings)?;
        let packed = frame::pack(&head, &body)?;
        let bytes = self.append(packed)?;
        self.sequence = head.sequence;
        self.covers_s = Some(head.window_s);
        Ok(bytes)
    }

    /// Writes a frame at the end of what is whole, or nothing.
    fn append(&mut self, packed: Vec<u8>) -> io::Result<u64> {
        let mut bytes = packed;
        if self.whole == 0 {
            let title = frame::title(env!("CARGO_PKG_VERSION"));
            bytes.splice(0..0, title);
            self.cut()?;
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.sync());
        if let Err(error) = written {
            // Should that fail too, the reader passes over what is half written.
            drop(self.cut());
            return Err(error);
        }
        let length = bytes.len() as u64;
        self.whole = self.whole.saturating_add(length);
        Ok(length)
    }

    /// Leaves whole frames only.
    fn cut(&mut self) -> io::Result<()> {
        if self.regular {
            self.file.set_len(self.whole)?;
            self.file.seek(SeekFrom::Start(self.whole))?;
        }
        Ok(())
    }

    /// A node that leaks may not live to write back what it has in memory.
    fn sync(&self) -> io::Result<()> {
        if self.regular { self.file.sync_data() } else { Ok(()) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An empty file says less than none.
        if self.made && self.regular && self.whole == 0 {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Why a frame was not written.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

fn why_not(path: &Path, error: &io::Error) -> String {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match (error.kind(), parent.filter(|parent| !parent.exists())) {
        (io::ErrorKind::NotFound, Some(parent)) => {
            format!("there is no directory `{}`", sanitize::terminal(&parent.to_string_lossy()))
        }
        (io::ErrorKind::IsADirectory, _) => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}
