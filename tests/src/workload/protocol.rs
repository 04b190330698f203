//! One line in, one line out. Standard input is read a byte at a time and never ahead, so that a
//! busy workload can ask by `poll` whether a line has come.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What the harness asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Do the work, so many times if it says so.
    Go(Option<usize>),
    /// Undo it.
    Drain,
    /// Stop what `go` began and would not end by itself.
    Stop,
    /// End.
    Exit,
}

/// Prints a line.
pub(super) fn say(line: &str) -> Result<()> {
    let mut line = line.to_owned();
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).context("writing a line")
}

/// Prints a line to standard error, if anybody still listens.
pub(super) fn complain(line: &str) {
    let line = format!("kleak-workload: {line}\n");
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

/// `ready`, with this process's id and its queues.
pub(super) fn ready(queues: &[i32]) -> Result<()> {
    say(&format!("ready pid={} queues={}", std::process::id(), join(queues)))
}

/// Numbers with commas between them.
pub(super) fn join(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// Waits for the next order; the end of the input is an order to end.
pub(super) fn next() -> Result<Order> {
    let mut line = Vec::new();
    // Not `io::stdin()`: that one reads ahead.
    let input = nix::unistd::dup(io::stdin().as_fd()).context("standard input")?;
    let mut input = std::fs::File::from(input);
    loop {
        let mut byte = [0];
        if input.read(&mut byte).context("reading a line")? == 0 {
            return Ok(Order::Exit);
        }
        match byte {
            [b'\n'] => break,
            [byte] => line.push(byte),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let mut words = line.split_whitespace();
    let order = match (words.next(), words.next()) {
        (Some("go"), None) => Order::Go(None),
        (Some("go"), Some(count)) => {
            Order::Go(Some(count.parse().with_context(|| line.to_string())?))
        }
        (Some("drain"), None) => Order::Drain,
        (Some("stop"), None) => Order::Stop,
        (Some("exit"), None) => Order::Exit,
        _ => bail!("unknown order {line:?}"),
    };
    Ok(order)
}

/// Waits for the order to begin; false when it is to end.
pub(super) fn wait_for_go() -> Result<bool> {
    match next()? {
        Order::Go(None) => Ok(true),
        Order::Exit => Ok(false),
        order => bail!("{order:?} before the work began"),
    }
}

/// Waits for the order to end, the work being done.
pub(super) fn wait_for_exit() -> Result<()> {
    loop {
        match next()? {
            Order::Exit => return Ok(()),
            Order::Stop => {}
            order => bail!("{order:?} after the work was done"),
        }
    }
}

/// Whether an order (or the end of the input) is there, after waiting for one so long.
pub(super) fn pending(wait: PollTimeout) -> Result<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, wait).context("poll")? > 0)
}
