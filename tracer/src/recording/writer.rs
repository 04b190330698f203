//! Writing a recording as the run goes: whole frames, one by one, so that whatever happens next leaves a file
//! that can be read.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
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
    /// Waits for the disk, which may take long on a node that is short of memory.
    syncing: Option<JoinHandle<()>>,
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
            syncing: None,
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
    pub fn finish(mut self) -> Result<(), WriteError> {
        if self.regular
            && self.whole > 0
            && let Err(error) = self.file.sync_data()
        {
            self.failed.get_or_insert_with(|| error.to_string());
            self.lost = Some(Kind::Final);
        }
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
        if let Err(error) = self.file.write_all(&bytes) {
            // Should that fail too, the reader passes over what is half written.
            drop(self.cut());
            return Err(error);
        }
        let length = bytes.len() as u64;
        self.whole = self.whole.saturating_add(length);
        self.sync();
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

    /// Has what is written go to the disk, as a node that leaks may not live to write back what it has in
    /// memory. Nobody waits for it: meanwhile events have to be read.
    fn sync(&mut self) {
        let busy = self.syncing.as_ref().is_some_and(|thread| !thread.is_finished());
        if !self.regular || busy {
            return;
        }
        // Whatever fails here fails again when the recording ends, and is told then.
        let Ok(file) = self.file.try_clone() else { return };
        let name = "kleak-sync".to_owned();
        self.syncing = thread::Builder::new().name(name).spawn(move || drop(file.sync_data())).ok();
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

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsRawFd as _};

    use nix::{
        fcntl::{FcntlArg, SealFlag, fcntl},
        sys::memfd::{MFdFlags, memfd_create},
    };

    use super::*;
    use crate::recording::{Recording, testing::incident};

    fn create(path: &Path) -> Result<Writer, WriteError> {
        Writer::create(path, Settings::default())
    }

    /// How much of the window a file is of, seconds.
    fn covers(path: &Path) -> u64 {
        let frame = Recording::open(path).unwrap().last().unwrap();
        let snapshot = &frame.evidence.snapshot;
        (snapshot.at_ns - snapshot.start_ns) / 1_000_000_000
    }

    #[test]
    fn each_frame_is_there_when_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.kleak");
        let mut writer = create(&path).unwrap();
        for (kind, seconds) in [(Kind::Checkpoint, 5), (Kind::Interval, 10), (Kind::Final, 20)] {
            let before = writer.whole;
            let written = writer.add(kind, &incident(seconds));
            assert_eq!(written, Written { bytes: writer.whole - before, remark: None });
            assert_eq!(fs::metadata(&path).unwrap().len(), writer.whole);
            assert_eq!(covers(&path), seconds);
        }
        assert!(writer.finish().is_ok());
        assert_eq!(covers(&path), 20);
    }

    #[test]
    fn what_was_there_stays_until_there_is_something_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.kleak");
        drop(create(&path).unwrap());
        assert!(!path.exists());
        fs::write(&path, vec![b'x'; 100_000]).unwrap();
        drop(create(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), 100_000);
        let mut writer = create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 100_000);
        assert!(writer.add(Kind::Final, &incident(20)).bytes > 0);
        assert!(fs::metadata(&path).unwrap().len() < 100_000);
        assert_eq!(covers(&path), 20);
    }

    #[test]
    fn a_bad_place_is_told_before_the_window() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| create(path).map(|_| ()).unwrap_err().to_string();
        let here = dir.path().display();
        assert_eq!(error(dir.path()), format!("cannot save to `{here}`: it is a directory"));
        assert_eq!(
            error(&dir.path().join("no/file")),
            format!("cannot save to `{here}/no/file`: there is no directory `{here}/no`")
        );
        assert!(error(Path::new("-")).contains("give it a name"));
        let path = dir.path().join("run.kleak");
        let first = create(&path).unwrap();
        assert!(error(&path).ends_with("another kleak is writing to it"));
        drop(first);
        assert!(create(&path).is_ok());
    }

    #[test]
    fn a_pipe_gets_whole_frames() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let mut writer = create(Path::new(&format!("/proc/self/fd/{}", pipe.as_raw_fd()))).unwrap();
        assert_eq!(writer.add(Kind::Final, &incident(20)).remark, None);
        assert!(writer.finish().is_ok());
        drop(pipe);
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
        assert!(crate::recording::testing::read(&bytes).is_ok());
    }

    #[test]
    fn a_full_disk_keeps_what_is_whole_and_is_told_once() {
        let file = memfd_create("full", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mut writer = create(&path).unwrap();
        assert_eq!(writer.add(Kind::Checkpoint, &incident(5)).remark, None);
        // From now on it cannot grow.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
        let remark = writer.add(Kind::Checkpoint, &incident(10)).remark.unwrap();
        assert!(remark.contains("Operation not permitted"), "{remark}");
        assert!(remark.contains("it holds the first 5 s of the window"), "{remark}");
        assert!(remark.ends_with("tracing goes on"), "{remark}");
        assert_eq!(writer.add(Kind::Final, &incident(20)), Written::default());
        assert_eq!(covers(&path), 5);
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("lacks the end (Operation not permitted"), "{error}");
    }

    #[test]
    fn what_is_half_written_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.kleak");
        let mut writer = create(&path).unwrap();
        writer.add(Kind::Checkpoint, &incident(5));
        writer.file.write_all(b"half a frame").unwrap();
        writer.cut().unwrap();
        writer.add(Kind::Final, &incident(20));
        let mut recording = Recording::open(&path).unwrap();
        recording.last().unwrap();
        assert_eq!((recording.damage(), covers(&path)), (&[][..], 20));
    }

    #[test]
    fn a_checkpoint_that_failed_is_made_up_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = create(&dir.path().join("run.kleak")).unwrap();
        let file = std::mem::replace(&mut writer.file, File::open("/dev/null").unwrap());
        let remark = writer.add(Kind::Checkpoint, &incident(5)).remark.unwrap();
        assert!(remark.contains("it holds nothing"), "{remark}");
        writer.file = file;
        assert!(writer.add(Kind::Final, &incident(20)).bytes > 0);
        assert!(writer.finish().is_ok());
    }

    #[test]
    fn a_report_that_failed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = create(&dir.path().join("run.kleak")).unwrap();
        let file = std::mem::replace(&mut writer.file, File::open("/dev/null").unwrap());
        writer.add(Kind::Interval, &incident(5));
        writer.file = file;
        writer.add(Kind::Final, &incident(20));
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("lacks a report"), "{error}");
    }
}
