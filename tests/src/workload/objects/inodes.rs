//! What hangs on files: access control lists and other extended attributes.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Objects, check};

/// Where [`private_tmpfs`] is.
pub(in crate::workload) const PRIVATE: &str = "/tmp";

/// An attribute that only the superuser sees; tmpfs has had this kind for longest.
const TRUSTED: &std::ffi::CStr = c"trusted.kleak";
const ACL: &std::ffi::CStr = c"system.posix_acl_access";

/// One attribute each on files that were made beforehand, have no name, and live in the
/// private tmpfs.
pub(super) struct Attributes {
    files: Vec<File>,
    name: &'static std::ffi::CStr,
    value: Vec<u8>,
    set: usize,
}

impl Attributes {
    /// Access control lists.
    pub(super) fn acls(most: usize) -> Result<Self> {
        Self::new(most, ACL, access_list())
    }

    /// Attributes of 200 bytes.
    pub(super) fn plain(most: usize) -> Result<Self> {
        Self::new(most, TRUSTED, vec![b'k'; 200])
    }

    fn new(most: usize, name: &'static std::ffi::CStr, value: Vec<u8>) -> Result<Self> {
        let nameless = || {
            let mut options = File::options();
            options.read(true).write(true).custom_flags(libc::O_TMPFILE);
            options.open(PRIVATE).context("a file without a name")
        };
        let files = (0..most).map(|_| nameless()).collect::<Result<_>>()?;
        Ok(Self { files, name, value, set: 0 })
    }
}

impl Objects for Attributes {
    fn make(&mut self) -> Result<()> {
        let file = self.files.get(self.set).context("no more files")?;
        // SAFETY: a name that ends in NUL, and a live buffer with its length, are only read.
        let result = unsafe {
            libc::fsetxattr(
                file.as_raw_fd(),
                self.name.as_ptr(),
                self.value.as_ptr().cast(),
                self.value.len(),
                0,
            )
        };
        check(result).with_context(|| format!("fsetxattr({:?})", self.name))?;
        self.set += 1;
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        let set = std::mem::take(&mut self.set);
        for file in &self.files[..set] {
            // SAFETY: a name that ends in NUL is only read.
            let result = unsafe { libc::fremovexattr(file.as_raw_fd(), self.name.as_ptr()) };
            check(result).with_context(|| format!("fremovexattr({:?})", self.name))?;
        }
        Ok(set)
    }
}

/// A list in the form of `setxattr(2)` (`include/uapi/linux/posix_acl_xattr.h`): version 2, then
/// tag, permissions, id of each entry. Two users beside the owner, or the kernel would turn it into
/// a mode and keep nothing.
fn access_list() -> Vec<u8> {
    const ANYBODY: u32 = u32::MAX;
    let entries =
        [(0x01, 6, ANYBODY), (0x02, 4, 1), (0x02, 4, 2), (0x04, 4, ANYBODY), (0x10, 4, ANYBODY)];
    let entries = entries.into_iter().chain([(0x20, 4, ANYBODY)]);
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(u16::to_le_bytes(tag));
        list.extend(u16::to_le_bytes(permissions));
        list.extend(u32::to_le_bytes(id));
    }
    list
}

/// Gives this thread, and those it starts, a tmpfs of their own at [`PRIVATE`]: what is made there
/// goes with the last of them, however they end.
pub(in crate::workload) fn private_tmpfs() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS)")?;
    let nothing = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing).context("making mounts private")?;
    mount(Some("kleak"), PRIVATE, Some("tmpfs"), MsFlags::empty(), nothing)
        .with_context(|| format!("mounting a tmpfs at {PRIVATE}"))
}
