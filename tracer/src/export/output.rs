//! Where a report is written: opened before the run, so that a bad path fails before anyone has
//! waited; replaced only at its end, so that a run which fails does not cost the file of the last.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::report::sanitize;

/// An output that is open.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Stdout(io::Stdout),
    /// A device, a pipe, or a file that is followed while it grows.
    Direct(File),
    /// Written beside `path`, then renamed to it.
    Replace {
        temp: NamedTempFile,
        path: PathBuf,
    },
    /// A file that may be written but not renamed to, as its directory is closed to us: kept in
    /// memory until the end.
    Held {
        file: File,
        content: Vec<u8>,
    },
}

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`: {why}", sanitize::terminal(&path.to_string_lossy()))]
pub struct OutputError {
    path: PathBuf,
    why: String,
    #[source]
    source: io::Error,
}

/// Why a document is not where it was to be.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    /// It could not be written.
    #[error("writing {what}: {source}")]
    Write {
        /// What it is.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// It could not be put in place.
    #[error(transparent)]
    Place(#[from] OutputError),
}

impl OutputError {
    fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.to_owned(), why: why_not(path, &source), source }
    }

    /// Whether the reader went away, which is no failure of ours.
    pub fn is_broken_pipe(&self) -> bool {
        self.source.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Output {
    /// Opens `path` for one document, or stdout for `-`. A file appears, or changes, only with
    /// [`Output::finish`]; a pipe waits for its reader here, as in a shell.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        Self::open(path, create)
    }

    /// Opens `path` for documents that are read while they are written (ndjson): what a file held
    /// is gone at once.
    pub fn stream(path: &Path) -> Result<Self, OutputError> {
        Self::open(path, |path| File::create(path).map(Target::Direct))
    }

    fn open(
        path: &Path,
        open: impl FnOnce(&Path) -> io::Result<Target>,
    ) -> Result<Self, OutputError> {
        let target =
            if path.as_os_str() == "-" { Ok(Target::Stdout(io::stdout())) } else { open(path) };
        match target {
            Ok(target) => Ok(Self { path: path.to_owned(), target }),
            Err(source) => Err(OutputError::new(path, source)),
        }
    }

    /// Writes `what` and puts it in place; a reader that has gone had what it wanted.
    ///
    /// Errors: it could not be written, or not be put there.
    pub fn deliver(
        mut self,
        what: &str,
        write: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> Result<(), Undelivered> {
        match write(&mut self).and_then(|()| self.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(source) => return Err(Undelivered::Write { what: what.to_owned(), source }),
            Ok(()) => (),
        }
        match self.finish() {
            Err(error) if !error.is_broken_pipe() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Puts what was written in place. Without it, a file is as it was.
    pub fn finish(self) -> Result<(), OutputError> {
        let done = match self.target {
            Target::Stdout(mut stdout) => stdout.flush(),
            Target::Direct(mut file) => file.flush(),
            Target::Replace { temp, path } => replace(temp, &path),
            Target::Held { file, content } => overwrite(file, &content),
        };
        done.map_err(|source| OutputError::new(&self.path, source))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.target {
            Target::Stdout(stdout) => stdout.write(bytes),
            Target::Direct(file) => file.write(bytes),
            Target::Replace { temp, .. } => temp.write(bytes),
            Target::Held { content, .. } => content.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Stdout(stdout) => stdout.flush(),
            Target::Direct(file) => file.flush(),
            Target::Replace { temp, .. } => temp.flush(),
            Target::Held { .. } => Ok(()),
        }
    }
}

/// Why `path` cannot be written, in words that say what to mend.
pub(crate) fn why_not(path: &Path, error: &io::Error) -> String {
    let missing = || path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists());
    match (error.kind(), missing()) {
        (io::ErrorKind::NotFound, Some(parent)) => {
            format!("there is no directory `{}`", sanitize::terminal(&parent.to_string_lossy()))
        }
        (io::ErrorKind::IsADirectory, _) => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// A reader that has seen enough (`kleak report FILE | head`) is success.
pub fn broken_pipe_is_success(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn create(path: &Path) -> io::Result<Target> {
    // A link keeps pointing where it points; what it points to is replaced.
    let path = &resolve(path);
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let Some(file) = file else {
        return Ok(Target::Replace { temp: beside(path)?, path: path.clone() });
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Target::Direct(file));
    }
    let Ok(temp) = beside(path) else {
        return Ok(Target::Held { file, content: Vec::new() });
    };
    // The new file is as its predecessor was. The owner only where we may say so: root's kleak
    // does not take a user's file away.
    temp.as_file().set_permissions(Permissions::from_mode(metadata.mode() & 0o777))?;
    let owned = fchown(temp.as_file(), Some(metadata.uid()), Some(metadata.gid()));
    if owned.is_err() {
        tracing::debug!(path = %path.display(), "the new file is owned by who runs kleak");
    }
    Ok(Target::Replace { temp, path: path.clone() })
}

/// An unnamed-until-done file in the directory of `path`, as a rename works only within one file
/// system. Private by default; a report is to be as readable as any file its user makes.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".kleak-")
        // The kernel takes the umask off this.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent)
        // tempfile's own message names its temporary path, which means nothing to the user.
        .map_err(|error| error.raw_os_error().map_or(error, io::Error::from_raw_os_error))
}

/// Where `path` leads through links, also when nothing is there yet.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    let mut path = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| to.clone(), |parent| parent.join(&to));
    }
    path
}

fn replace(temp: NamedTempFile, path: &Path) -> io::Result<()> {
    let Err(failed) = temp.persist(path) else {
        return Ok(());
    };
    // A file mounted by itself into a container cannot be renamed to, but can be written.
    let Ok(file) = OpenOptions::new().write(true).open(path) else {
        return Err(failed.error);
    };
    overwrite(file, &fs::read(failed.file.path())?)
}

fn overwrite(mut file: File, content: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn entries(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_file_appears_only_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        assert!(!path.exists());
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(entries(dir.path()), 1);
    }

    #[test]
    fn a_new_file_is_as_readable_as_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
        Output::create(&ours).unwrap().finish().unwrap();
        File::create(&plain).unwrap();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[test]
    fn a_run_that_fails_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(entries(dir.path()), 1);
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        fs::write(&path, "old and longer").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o640);
    }

    #[test]
    fn links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (link, real) = (dir.path().join("link"), dir.path().join("real"));
        symlink("real", &link).unwrap();
        for content in ["first", "second"] {
            let mut output = Output::create(&link).unwrap();
            output.write_all(content.as_bytes()).unwrap();
            output.finish().unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(&real).unwrap(), content);
        }
    }

    #[test]
    fn a_bad_path_fails_at_once_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| Output::create(path).unwrap_err().to_string();
        let here = dir.path().display();
        assert_eq!(
            error(&dir.path().join("no/such/file")),
            format!("cannot write `{here}/no/such/file`: there is no directory `{here}/no/such`")
        );
        assert_eq!(error(dir.path()), format!("cannot write `{here}`: it is a directory"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let below = error(&file.join("x\n"));
        assert!(below.starts_with(&format!("cannot write `{here}/file/x\\n`: Not a directory")));
        assert!(Output::stream(&dir.path().join("no/file")).is_err());
    }

    #[test]
    fn devices_and_pipes_are_written_to() {
        let mut output = Output::create(Path::new("/dev/null")).unwrap();
        output.write_all(b"x").unwrap();
        output.finish().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs::read_to_string(path).unwrap()
        });
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"through").unwrap();
        output.finish().unwrap();
        assert_eq!(reader.join().unwrap(), "through");
    }

    #[test]
    fn a_full_device_is_an_error() {
        let Ok(mut output) = Output::create(Path::new("/dev/full")) else {
            return;
        };
        assert!(output.write_all(b"x").is_err());
    }

    #[test]
    fn a_stream_can_be_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.ndjson");
        fs::write(&path, "old").unwrap();
        let mut output = Output::stream(&path).unwrap();
        output.write_all(b"{}\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
        output.finish().unwrap();
    }

    #[test]
    fn a_file_that_is_held_is_written_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mounted");
        fs::write(&path, "old and longer").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let target = Target::Held { file, content: Vec::new() };
        let mut output = Output { path: path.clone(), target };
        output.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old and longer");
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_reader_that_left_is_success() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(broken_pipe_is_success(Err(broken())).is_ok());
        assert!(broken_pipe_is_success(Err(io::ErrorKind::StorageFull.into())).is_err());
        assert!(OutputError::new(Path::new("-"), broken()).is_broken_pipe());
    }
}
