//! Pages of user memory, and huge ones that are freed in parts.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::MemoryArgs;
use super::protocol::{self, Order};

/// Bytes of a huge page (x86-64, and arm64 with pages of 4 KiB).
const HUGE: usize = 2 << 20;

/// Touches its memory on `go`; on `drain` gives back the first half of every huge page of it, and
/// says what is left by the file system's count.
pub(super) fn run(args: &MemoryArgs) -> Result<()> {
    let bytes = args.mib << 20;
    let file = if args.huge { Some(huge_file(bytes)?) } else { None };
    protocol::ready(&[])?;
    let mut memory = Vec::new();
    loop {
        match protocol::next()? {
            Order::Go(None) => {
                match &file {
                    Some(file) => fallocate(file, FallocateFlags::empty(), 0, bytes.try_into()?)
                        .context("fallocate")?,
                    // Fresh from mmap, as it is large.
                    None => memory = vec![0x5a_u8; bytes],
                }
                protocol::say(&format!(
                    "done bytes={bytes} first={}",
                    memory.first().unwrap_or(&0)
                ))?;
            }
            Order::Drain => {
                let file = file.as_ref().context("only of a file")?;
                let hole =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                for at in (0..bytes).step_by(HUGE) {
                    fallocate(file, hole, at.try_into()?, (HUGE / 2).try_into()?)
                        .context("hole")?;
                }
                protocol::say(&format!("drained count={}", file.metadata()?.blocks() * 512))?;
            }
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for memory"),
        }
    }
}

/// A file in a tmpfs of our own, made of huge pages where the kernel has some.
fn huge_file(bytes: usize) -> Result<File> {
    ensure!(bytes.is_multiple_of(HUGE), "not a whole number of huge pages");
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of our own")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("private mounts")?;
    let directory = tempfile::tempdir()?;
    mount(none, directory.path(), Some("tmpfs"), MsFlags::empty(), Some("huge=always"))
        .context("a tmpfs of huge pages")?;
    let file = File::create_new(directory.path().join("huge")).context("a file")?;
    // The file system lives on as long as the file is open.
    umount2(directory.path(), MntFlags::MNT_DETACH).context("umount")?;
    Ok(file)
}
