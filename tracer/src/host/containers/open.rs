//! Opening files whose place others may have a say in: within the machine's root, whatever links
//! say, and without waiting for anything.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

use super::super::Host;

/// Most bytes read of one file: a container's configuration is some 20 KB, podman's list of 1,000
/// containers some 700.
const MOST_BYTES: u64 = 4 << 20;

/// The bytes of a regular file of at most 4 MiB. The last part of its path is not followed if it is
/// a link, and links before it lead nowhere out of the machine's root.
pub(super) fn read(host: &Host, path: &str) -> io::Result<Vec<u8>> {
    let mut file = File::from(open_in(host, path, OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)?);
    let about = file.metadata()?;
    if !about.is_file() || about.len() > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    file.by_ref().take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(bytes)
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Names that are UTF-8, and whether each is of a directory (`None`: the file system does not
    /// say).
    pub(super) entries: Vec<(String, Option<bool>)>,
    /// Whether there are more than were asked for.
    pub(super) cut: bool,
}

/// The first `most` entries of a directory, in the file system's order.
pub(super) fn list(host: &Host, path: &str, most: usize) -> io::Result<Listing> {
    let mut directory = Dir::from_fd(open_in(host, path, OFlag::O_DIRECTORY)?)?;
    let mut listing = Listing::default();
    for (count, entry) in directory.iter().enumerate() {
        // Two of them are the directory and its parent.
        if count >= most + 2 {
            listing.cut = true;
            break;
        }
        let entry = entry?;
        let is_directory = entry.file_type().map(|kind| kind == Type::Directory);
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            listing.entries.push((name.to_owned(), is_directory));
        }
    }
    Ok(listing)
}

/// Opens an absolute path of the machine.
fn open_in(host: &Host, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let place = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(&host.join("/"), place, Mode::empty())?;
    let inside: PathBuf =
        Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    match openat2(root.as_fd(), &inside, OpenHow::new().flags(flags).resolve(resolve)) {
        // Before 5.6, or a sandbox that does not know the call: only where a link means the same.
        Err(Errno::ENOSYS | Errno::EPERM) if host.is_own_root() => {
            Ok(open(&host.join(path), flags, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Host) {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path().join("root"));
        std::fs::create_dir_all(host.join("/data/docker")).unwrap();
        std::fs::create_dir_all(host.join("/var/lib")).unwrap();
        std::fs::write(tree.path().join("outside"), "secret").unwrap();
        (tree, host)
    }

    #[test]
    fn links_stay_within_the_root() {
        let (tree, host) = tree();
        std::fs::write(host.join("/data/docker/file"), "inside").unwrap();
        // As administrators make them: absolute, in terms of that machine.
        symlink("/data/docker", host.join("/var/lib/docker")).unwrap();
        assert_eq!(read(&host, "/var/lib/docker/file").unwrap(), b"inside");
        // Out of the root, by either way.
        symlink("../../../..", host.join("/var/up")).unwrap();
        assert!(read(&host, "/var/up/outside").is_err());
        symlink(tree.path(), host.join("/var/abs")).unwrap();
        assert!(read(&host, "/var/abs/outside").is_err());
    }

    #[test]
    fn only_regular_files_of_a_sensible_size_are_read() {
        let (_tree, host) = tree();
        symlink("file", host.join("/data/link")).unwrap();
        std::fs::write(host.join("/data/file"), "x").unwrap();
        assert!(read(&host, "/data/link").is_err());
        // A FIFO without a writer would be waited for.
        nix::unistd::mkfifo(&host.join("/data/fifo"), Mode::S_IRWXU).unwrap();
        assert!(read(&host, "/data/fifo").is_err());
        assert!(read(&host, "/data").is_err());
        let large = File::create(host.join("/data/large")).unwrap();
        large.set_len(MOST_BYTES + 1).unwrap();
        assert!(read(&host, "/data/large").is_err());
        large.set_len(MOST_BYTES).unwrap();
        assert!(read(&host, "/data/large").is_ok());
    }

    #[test]
    fn listings_are_bounded() {
        let (_tree, host) = tree();
        for number in 0..10 {
            std::fs::write(host.join(format!("/data/docker/{number}")), "").unwrap();
        }
        let all = list(&host, "/data/docker", 10).unwrap();
        assert_eq!((all.entries.len(), all.cut), (10, false));
        let some = list(&host, "/data/docker", 5).unwrap();
        assert!(some.cut && some.entries.len() <= 7, "{some:?}");
        assert!(list(&host, "/nowhere", 5).is_err());
        assert!(list(&host, "/data/docker/1", 5).is_err());
    }
}
