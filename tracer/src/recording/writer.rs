//! Writing a recording as the run goes: whole frames, one by one, so that whatever happens next leaves a file
//! that can be read.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
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
    export::output::why_not,
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
    /// This user cannot write there, or nobody can: rights, a file system that is read-only or full.
    #[error("cannot save to `{}`: {source}", sanitize::terminal(&path.to_string_lossy()))]
    Denied {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
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
    syncing: Option<JoinHandle<io::Result<()>>>,
    /// Why the disk may not hold what was written, the first time that it said so.
    unsafe_since: Option<String>,
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
        let failed = |error: io::Error| {
            if denies(&error) {
                WriteError::Denied { path: path.to_owned(), source: error }
            } else {
                place(why_not(path, &error))
            }
        };
        let fits = |metadata: &fs::Metadata| metadata.is_file() || metadata.is_dir();
        // A reader of a pipe that stalls would stall the tracing, and nothing in a pipe can be taken back.
        let other = || {
            place(
                "it is a pipe or a device, and a recording goes to a file; give it another name"
                    .to_owned(),
            )
        };
        let made = match fs::metadata(path) {
            Ok(metadata) if !fits(&metadata) => return Err(other()),
            Ok(_) => false,
            Err(_) => true,
        };
        // Should a pipe come to be there meanwhile, it is not waited for.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path).map_err(failed)?;
        if !fits(&file.metadata().map_err(failed)?) {
            return Err(other());
        }
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(place("another kleak is writing to it".to_owned()));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            settings,
            made,
            whole: 0,
            sequence: 0,
            covers_s: None,
            failed: None,
            lost: None,
            syncing: None,
            unsafe_since: None,
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
                let on = if kind == Kind::Final { "" } else { "; tracing goes on" };
                let remark =
                    first.then(|| format!("writing {}: {why}; {}{on}", self.name(), self.safe()));
                Written { bytes: 0, remark }
            }
        }
    }

    /// Ends the recording.
    ///
    /// Errors: something that should be in it is not.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.synced();
        if self.whole > 0
            && let Err(error) = self.file.sync_data()
        {
            self.unsafe_since.get_or_insert_with(|| error.to_string());
        }
        if let Some(why) = &self.unsafe_since {
            return Err(WriteError::Incomplete(format!(
                "the recording {} may lack anything: the disk did not take what was written ({why})",
                self.name(),
            )));
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
        self.file.set_len(self.whole)?;
        self.file.seek(SeekFrom::Start(self.whole)).map(|_| ())
    }

    /// Has what is written go to the disk, as a node that leaks may not live to write back what it has in
    /// memory. Nobody waits for it: meanwhile events have to be read.
    fn sync(&mut self) {
        let busy = self.syncing.as_ref().is_some_and(|thread| !thread.is_finished());
        if busy {
            return;
        }
        self.synced();
        let Ok(file) = self.file.try_clone() else { return };
        let name = "kleak-sync".to_owned();
        self.syncing = thread::Builder::new().name(name).spawn(move || file.sync_data()).ok();
    }

    /// What became of what was to go to the disk. The kernel tells of an error once for all who share an open
    /// file (`errseq_t`, `lib/errseq.c`, 4.13 to 7.2), so what this says nobody else will.
    fn synced(&mut self) {
        let Some(thread) = self.syncing.take() else { return };
        let said = thread.join().unwrap_or_else(|_| Err(io::Error::other("nobody waited for it")));
        if let Err(error) = said {
            self.unsafe_since.get_or_insert_with(|| error.to_string());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An empty file says less than none.
        if self.made && self.whole == 0 {
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

/// Whether it is not the path that is wrong, but what this user, or anybody, may do there.
fn denies(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    // Of these EPERM too: a file that is immutable.
    matches!(error.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
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
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("run.kleak");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (_reader, pipe) = io::pipe().unwrap();
        let pipe = PathBuf::from(format!("/proc/self/fd/{}", pipe.as_raw_fd()));
        for path in [fifo.as_path(), &pipe, Path::new("/dev/null")] {
            let error = create(path).map(|_| ()).unwrap_err();
            assert!(matches!(error, WriteError::Place { .. }), "{error:?}");
            assert!(error.to_string().contains("a recording goes to a file"), "{error}");
        }
        assert!(fifo.exists());
    }

    #[test]
    fn what_nobody_may_write_is_no_mistake_of_the_path() {
        // Nobody makes files there.
        let error = create(Path::new("/sys/run.kleak")).map(|_| ()).unwrap_err();
        assert!(matches!(error, WriteError::Denied { .. }), "{error:?}");
        for number in [libc::EACCES, libc::EPERM, libc::EROFS, libc::ENOSPC, libc::EDQUOT] {
            assert!(denies(&io::Error::from_raw_os_error(number)), "{number}");
        }
        for number in [libc::ENOENT, libc::ENOTDIR, libc::EISDIR, libc::ENAMETOOLONG, libc::ELOOP] {
            assert!(!denies(&io::Error::from_raw_os_error(number)), "{number}");
        }
    }

    #[test]
    fn what_the_disk_did_not_take_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let failing = || Some(thread::spawn(|| Err(io::Error::from_raw_os_error(libc::EIO))));
        // At the end, and by a thread that has long ended when the next frame comes.
        for later in [false, true] {
            let mut writer = create(&dir.path().join("run.kleak")).unwrap();
            writer.add(Kind::Checkpoint, &incident(5));
            drop(writer.syncing.take().map(JoinHandle::join));
            writer.syncing = failing();
            while later && !writer.syncing.as_ref().unwrap().is_finished() {
                thread::yield_now();
            }
            writer.add(Kind::Final, &incident(20));
            let error = writer.finish().unwrap_err().to_string();
            assert!(error.contains("may lack anything"), "{error}");
            assert!(error.contains("Input/output error"), "{error}");
        }
    }

    #[test]
    fn after_the_end_nothing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = create(&dir.path().join("run.kleak")).unwrap();
        writer.file = File::open("/dev/null").unwrap();
        let remark = writer.add(Kind::Final, &incident(5)).remark.unwrap();
        assert!(remark.ends_with("it holds nothing"), "{remark}");
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
