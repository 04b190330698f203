//! What `/proc` and `/sys` say about the machine.
//!
//! Every reader takes a [`Host`], so a saved or mounted tree can stand in for the running system
//! (`kleak doctor --root`), and every parser is a pure function of the text it is given.

pub mod cgroup;
pub mod classes;
pub mod containers;
pub mod features;
pub mod footprint;
pub mod gauge;
pub mod kallsyms;
pub mod kmem;
pub mod kmsg;
pub mod memcg;
pub mod meminfo;
pub mod own;
pub mod process;
pub mod release;
pub mod slabinfo;
pub mod system;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// Most bytes read from one file. Files of `/proc` stay far below it; a saved tree may hold
/// anything.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Where the files of a machine are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Holds `proc`.
    root: PathBuf,
    /// Holds all else: the same, but where only `proc` is there.
    rest: PathBuf,
    live: bool,
}

impl Default for Host {
    /// The running system.
    fn default() -> Self {
        Self::mounted("/")
    }
}

impl Host {
    /// The machine whose `proc` and `sys` lie below `root`: a saved tree.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { rest: root.clone(), root, live: false }
    }

    /// The running system, whose own root is mounted at `root`, as in a privileged container. With
    /// nothing there but `proc`, what the first process sees stands in for the rest.
    pub fn mounted(root: impl Into<PathBuf>) -> Self {
        let host = Self { live: true, ..Self::new(root) };
        if host.sys("kernel").exists() {
            return host;
        }
        let rest = host.root.join("proc/1/root");
        if rest.join("sys/kernel").exists() { Self { rest, ..host } } else { host }
    }

    /// The directory that holds `proc`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the running system, which can be asked more than its files say.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether its root is this process's own, so that what a path means is the same to both.
    pub fn is_own_root(&self) -> bool {
        self.live && self.root == Path::new("/")
    }

    /// The process whose mounts are the machine's: this one, or the first where this one is in a
    /// container.
    pub fn first_process(&self) -> &'static str {
        if self.live && !self.is_own_root() { "1" } else { "self" }
    }

    /// An absolute path of that machine, as a path of this one. `..` is dropped, so that a mount
    /// table in a saved tree cannot lead out of it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        below(&self.rest, path.as_ref())
    }

    /// A path below `/proc`.
    pub fn proc(&self, path: impl AsRef<Path>) -> PathBuf {
        below(&self.root, &Path::new("proc").join(relative(path.as_ref())))
    }

    /// A path below `/sys`.
    pub fn sys(&self, path: impl AsRef<Path>) -> PathBuf {
        self.join(Path::new("sys").join(relative(path.as_ref())))
    }
}

/// `path` below `root`, without its `..`.
fn below(root: &Path, path: &Path) -> PathBuf {
    let mut joined = root.to_path_buf();
    joined.extend(path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    }));
    joined
}

/// The path without a leading `/`, which would replace what it is joined to.
fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Why something about the machine is not known.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file could not be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file was read and makes no sense.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What was expected and not found.
        what: &'static str,
    },
    /// A system call that takes no path failed.
    #[error("cannot ask the kernel for {what}")]
    Call {
        /// What was asked for.
        what: &'static str,
        /// Why.
        #[source]
        cause: nix::Error,
    },
}

impl HostError {
    /// Whether it failed because the thing does not exist. `/proc/PID` files answer `ESRCH` when
    /// the process ends between opening and reading.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Read { cause, .. } => {
                cause.kind() == io::ErrorKind::NotFound || cause.raw_os_error() == Some(libc::ESRCH)
            }
            Self::Malformed { .. } | Self::Call { .. } => false,
        }
    }

    /// Whether it failed for lack of permission.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Read { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What the readers return.
pub type Result<T> = std::result::Result<T, HostError>;

/// The bytes of a file (already rooted).
///
/// # Errors
///
/// [`HostError::Read`] when it cannot be opened or read; [`HostError::Malformed`] past 64 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |cause| HostError::Read { path: path.to_path_buf(), cause };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(malformed(path, "larger than 64 MiB"));
    }
    Ok(bytes)
}

/// The text of a file (already rooted); what is not UTF-8 is replaced, because names chosen by
/// users appear in several of these files and must not hide the rest.
pub fn read_text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

/// A [`HostError::Malformed`].
fn malformed(path: &Path, what: &'static str) -> HostError {
    HostError::Malformed { path: path.to_path_buf(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let host = Host::new("/saved/node7");
        assert_eq!(host.proc("meminfo"), Path::new("/saved/node7/proc/meminfo"));
        assert_eq!(host.proc("/meminfo"), Path::new("/saved/node7/proc/meminfo"));
        assert_eq!(host.sys("kernel/slab"), Path::new("/saved/node7/sys/kernel/slab"));
        assert_eq!(
            host.join("/sys/fs/cgroup/../../../etc"),
            Path::new("/saved/node7/sys/fs/cgroup/etc")
        );
        assert!(!host.is_live());
    }

    #[test]
    fn the_default_is_the_running_system() {
        let host = Host::default();
        assert!(host.is_live() && host.is_own_root());
        assert_eq!(host.first_process(), "self");
        assert_eq!(host.proc("meminfo"), Path::new("/proc/meminfo"));
    }

    #[test]
    fn the_running_system_mounted_elsewhere() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("proc/1/root/sys/kernel")).unwrap();
        let host = Host::mounted(tree.path());
        assert!(host.is_live() && !host.is_own_root());
        assert_eq!(host.first_process(), "1");
        assert_eq!(host.proc("meminfo"), tree.path().join("proc/meminfo"));
        // With `proc` alone, the rest is what the first process sees.
        assert_eq!(host.sys("fs"), tree.path().join("proc/1/root/sys/fs"));
        std::fs::create_dir_all(tree.path().join("sys/kernel")).unwrap();
        let host = Host::mounted(tree.path());
        assert_eq!(host.join("/var/log"), tree.path().join("var/log"));
    }

    #[test]
    fn errors_name_the_path_and_the_kind() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("nothing");
        let error = read(&missing).unwrap_err();
        assert!(error.is_missing() && !error.is_denied());
        assert!(error.to_string().contains("nothing"), "{error}");
        assert!(!read(directory.path()).unwrap_err().is_missing());
    }
}
