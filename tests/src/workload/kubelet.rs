//! The incident: a client that cannot reach its server dials again and again and never lets go of
//! the sockets it gave up on.
//!
//! The server's address is on a cable of the process's own network, resolved (for good) to a
//! hardware address nobody has, so that every packet is sent and dropped at the far end. Each
//! socket carries a filter whose text the kernel keeps in a 512-class object.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use nix::poll::PollTimeout;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::KubeletArgs;
use super::net::{self, FilteredSocket};
use super::protocol;

/// The server that never answers.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 97, 0, 2), 6443);

/// Tries, from `go` to the next line.
pub(super) fn run(args: &KubeletArgs) -> Result<()> {
    net::private_network(&[
        &format!("addr add 10.97.0.1/24 dev {}", net::NEAR),
        &format!("neigh add 10.97.0.2 lladdr 02:00:00:00:00:99 dev {} nud permanent", net::NEAR),
    ])?;
    let most = many_descriptors()?;
    protocol::ready(&[])?;
    if !protocol::wait_for_go()? {
        return Ok(());
    }
    let mut left_behind = Vec::with_capacity(most);
    let mut tries = 0;
    while !protocol::pending(PollTimeout::from(args.period_ms))? {
        give_up_on_answered(&left_behind)?;
        for _ in 0..args.dials {
            left_behind.push(dial().with_context(|| format!("try {tries}"))?);
        }
        tries += 1;
    }
    protocol::say(&format!("done tries={tries} kept={}", left_behind.len()))?;
    protocol::wait_for_exit()
}

fn dial() -> Result<FilteredSocket> {
    let socket = FilteredSocket::open()?;
    socket.attach(&net::filter())?;
    socket.give_up_early()?;
    socket.dial(SERVER)?;
    Ok(socket)
}

/// The premise: nobody answers. The newest socket stands for those of its try.
fn give_up_on_answered(sockets: &[FilteredSocket]) -> Result<()> {
    let Some(newest) = sockets.last() else {
        return Ok(());
    };
    let mut poll = libc::pollfd { fd: newest.fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: the pointer is to one live `pollfd`, as the count says.
    let events = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ensure!(events == 0, "{SERVER} answered, or an error came back: {:#x}", poll.revents);
    Ok(())
}

/// Allows as many descriptors as there may be, and has the kernel make the table for them now.
fn many_descriptors() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = hard.min(65_536);
    setrlimit(Resource::RLIMIT_NOFILE, most, hard).context("RLIMIT_NOFILE")?;
    let last = i32::try_from(most - 1)?;
    // SAFETY: takes and returns integers; nothing else in this process uses that descriptor.
    let result = unsafe { libc::dup2(0, last) };
    ensure!(result == last, "dup2: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor made above, which nobody else knows.
    let result = unsafe { libc::close(last) };
    ensure!(result == 0, "close: {}", std::io::Error::last_os_error());
    Ok(usize::try_from(most)?)
}
