//! Pipes filled with pages: memory that is in no slab cache.

use std::io::Write as _;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::PipesArgs;
use super::protocol::{self, Order};

/// One end to write to, and the other.
struct Pipe {
    writer: std::fs::File,
    _reader: OwnedFd,
}

/// Fills its pipes on `go`, closes them on `drain`.
pub(super) fn run(args: &PipesArgs) -> Result<()> {
    let page = page_bytes()?;
    let full = vec![0x5a_u8; page];
    // Once for practice: the page tables and buffers of this process are there afterwards, so that
    // what `go` takes is what it says.
    fill(&mut open(args.count)?, args.pages, &full)?;
    let mut pipes = open(args.count)?;
    protocol::ready(&[])?;
    loop {
        match protocol::next()? {
            Order::Go(None) => {
                let pages = fill(&mut pipes, args.pages, &full)?;
                protocol::say(&format!("done pages={pages}"))?;
            }
            Order::Drain => {
                let count = pipes.len();
                pipes.clear();
                protocol::say(&format!("drained count={count}"))?;
            }
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for pipes"),
        }
    }
}

fn page_bytes() -> Result<usize> {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("page size")?;
    bytes.try_into().context("page size")
}

fn open(count: usize) -> Result<Vec<Pipe>> {
    (0..count)
        .map(|_| {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).context("pipe")?;
            Ok(Pipe { writer: writer.into(), _reader: reader })
        })
        .collect()
}

/// Writes so many whole pages into each: every one takes a page of its own.
fn fill(pipes: &mut [Pipe], pages: usize, full: &[u8]) -> Result<usize> {
    for pipe in &mut *pipes {
        for _ in 0..pages {
            let written = pipe.writer.write(full).context("a pipe has room for 16 pages")?;
            ensure!(written == full.len(), "{written} bytes written of a page");
        }
    }
    Ok(pipes.len() * pages)
}
