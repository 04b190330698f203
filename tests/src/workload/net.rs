//! A network of this process's own, and sockets in it.

use std::io;
use std::mem::size_of_val;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};

/// The near end of the cable.
pub(super) const NEAR: &str = "kleak0";

/// The far end.
pub(super) const FAR: &str = "kleak1";

/// Instructions of a filter: 8 bytes each, so that their text takes a 512-class object.
const INSTRUCTIONS: u32 = 50;

/// Enters a new network namespace, with a cable (a veth pair) whose two ends are up and where each
/// command given has been run: words of `ip`.
pub(super) fn private_network(commands: &[&str]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET)")?;
    ip(&format!("link add {NEAR} type veth peer name {FAR}"))?;
    for device in ["lo", NEAR, FAR] {
        ip(&format!("link set {device} up"))?;
    }
    commands.iter().try_for_each(|command| ip(command))
}

/// Enters a new network namespace, in which loopback is up. Needs no program.
pub(super) fn private_loopback() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET)")?;
    // SAFETY: takes and returns integers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "socket: {}", io::Error::last_os_error());
    // SAFETY: `fd` is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from)?;
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_MULTICAST)?;
    // SAFETY: the pointer is to a live `ifreq`, which the kernel reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    ensure!(result == 0, "bringing loopback up: {}", io::Error::last_os_error());
    Ok(())
}

fn ip(command: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(command.split_whitespace())
        .output()
        .context("running `ip` (package iproute2)")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {command}: {}", error.trim());
    Ok(())
}

/// A filter that lets everything pass, long enough for a 512-class object.
pub(super) fn filter() -> Vec<libc::sock_filter> {
    let load = |k| libc::sock_filter { code: 0, jt: 0, jf: 0, k };
    let accept = libc::sock_filter { code: 6, jt: 0, jf: 0, k: u32::MAX };
    (1..INSTRUCTIONS).map(load).chain([accept]).collect()
}

/// A TCP socket that does not block.
#[derive(Debug)]
pub(super) struct FilteredSocket(OwnedFd);

impl FilteredSocket {
    /// A new one.
    pub(super) fn open() -> Result<Self> {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes and returns integers.
        let fd = unsafe { libc::socket(libc::AF_INET, kind, 0) };
        ensure!(fd >= 0, "socket: {}", io::Error::last_os_error());
        // SAFETY: `fd` is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Its descriptor.
    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Attaches a filter in place of the one there.
    pub(super) fn attach(&self, filter: &[libc::sock_filter]) -> Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len())?,
            filter: filter.as_ptr().cast_mut(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).context("SO_ATTACH_FILTER")
    }

    /// Sends the first packet of a connection so often that giving up comes early.
    pub(super) fn give_up_early(&self) -> Result<()> {
        self.set(libc::IPPROTO_TCP, libc::TCP_SYNCNT, &1_i32).context("TCP_SYNCNT")
    }

    /// Begins to connect.
    pub(super) fn dial(&self, server: SocketAddrV4) -> Result<()> {
        let address = libc::sockaddr_in {
            sin_family: libc::sa_family_t::try_from(libc::AF_INET)?,
            sin_port: server.port().to_be(),
            sin_addr: in_addr(*server.ip()),
            sin_zero: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of_val(&address))?;
        // SAFETY: the pointer and the length are those of a live `sockaddr_in`.
        let result = unsafe { libc::connect(self.fd(), (&raw const address).cast(), length) };
        let error = io::Error::last_os_error();
        ensure!(
            result < 0 && error.raw_os_error() == Some(libc::EINPROGRESS),
            "connect to {server}: {error}; it should be under way, without an answer"
        );
        Ok(())
    }

    fn set<T>(&self, level: i32, option: i32, value: &T) -> Result<()> {
        let length = libc::socklen_t::try_from(size_of_val(value))?;
        // SAFETY: the pointer and the length are those of a live value, which the kernel reads.
        let result = unsafe {
            libc::setsockopt(self.fd(), level, option, (&raw const *value).cast(), length)
        };
        ensure!(result == 0, "setsockopt: {}", io::Error::last_os_error());
        Ok(())
    }
}

fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from(address).to_be() }
}
