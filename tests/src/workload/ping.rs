//! Two processes that wait for each other, over a socket: every byte is a packet buffer that one
//! allocates and the other frees.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::PingPongArgs;
use super::protocol::{self, Order};

/// Exchanges `--count` bytes at each `go`.
pub(super) fn run(args: &PingPongArgs) -> Result<()> {
    let (mut near, far) = UnixStream::pair().context("socketpair")?;
    let mut other = Command::new(std::env::current_exe()?)
        .arg("echo")
        .stdin(Stdio::from(OwnedFd::from(far)))
        .spawn()
        .context("the other process")?;
    protocol::ready(&[])?;
    loop {
        match protocol::next()? {
            Order::Go(count) => {
                let count = count.unwrap_or(args.count);
                let mut byte = [0x6b];
                for _ in 0..count {
                    near.write_all(&byte).context("writing to the other process")?;
                    near.read_exact(&mut byte).context("reading from the other process")?;
                }
                protocol::say(&format!("done count={count}"))?;
            }
            Order::Exit => break,
            order => bail!("{order:?}: not an order for a ping-pong"),
        }
    }
    drop(near);
    let status = other.wait().context("the other process")?;
    ensure!(status.success(), "the other process ended with {status}");
    Ok(())
}

/// Writes what it reads to the socket that is its standard input, until that is closed.
pub(super) fn echo() -> Result<()> {
    let socket = nix::unistd::dup(io::stdin().as_fd()).context("standard input")?;
    let mut socket = UnixStream::from(socket);
    let mut bytes = [0; 64];
    loop {
        let read = socket.read(&mut bytes).context("reading")?;
        if read == 0 {
            return Ok(());
        }
        socket.write_all(&bytes[..read]).context("writing")?;
    }
}
