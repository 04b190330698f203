//! Sockets, what waits in them, and multicast groups.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::Objects;
use super::descriptors::drop_all;

/// Groups that a socket may join (`net.ipv4.igmp_max_memberships`, by default).
const GROUPS_A_SOCKET: usize = 20;

/// Multicast groups joined, by sockets made beforehand.
pub(super) struct Groups {
    sockets: Vec<UdpSocket>,
    joined: usize,
}

impl Groups {
    pub(super) fn new(most: usize) -> Result<Self> {
        let sockets = (0..most.div_ceil(GROUPS_A_SOCKET))
            .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a socket for groups"))
            .collect::<Result<_>>()?;
        let mut groups = Self { sockets, joined: 0 };
        // With many groups the device gets a table of them, which stays.
        (0..most.min(GROUPS_A_SOCKET)).try_for_each(|_| groups.make())?;
        groups.destroy()?;
        Ok(groups)
    }

    fn member(&self, number: usize) -> Result<(&UdpSocket, Ipv4Addr)> {
        let socket = self.sockets.get(number / GROUPS_A_SOCKET).context("no more sockets")?;
        let [_, _, high, low] = u32::try_from(number)?.to_be_bytes();
        Ok((socket, Ipv4Addr::new(239, 98, high, low)))
    }
}

impl Objects for Groups {
    fn make(&mut self) -> Result<()> {
        let (socket, group) = self.member(self.joined)?;
        let joined = socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST);
        joined.with_context(|| format!("IP_ADD_MEMBERSHIP of {group}"))?;
        self.joined += 1;
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        for number in 0..self.joined {
            let (socket, group) = self.member(number)?;
            let left = socket.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST);
            left.with_context(|| format!("IP_DROP_MEMBERSHIP of {group}"))?;
        }
        Ok(std::mem::take(&mut self.joined))
    }
}

/// Pairs of local sockets, with a text and a descriptor under way.
#[derive(Default)]
pub(super) struct Pairs(Vec<(UnixStream, UnixStream)>);

impl Objects for Pairs {
    fn make(&mut self) -> Result<()> {
        let (left, right) = UnixStream::pair().context("socketpair")?;
        let passed = [std::os::fd::AsRawFd::as_raw_fd(&right.as_fd())];
        let text = [std::io::IoSlice::new(&[0; 192])];
        let descriptors = [ControlMessage::ScmRights(&passed)];
        let fd = std::os::fd::AsRawFd::as_raw_fd(&left);
        sendmsg::<()>(fd, &text, &descriptors, MsgFlags::empty(), None).context("sendmsg")?;
        self.0.push((left, right));
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        // A socket whose only descriptor waits in its own queue goes by garbage collection, which the
        // release of another starts (`unix_release_sock()`, net/unix/af_unix.c; up to 6.9 at no other
        // time): the last would wait for it.
        let destroyed = drop_all(&mut self.0);
        drop(UnixStream::pair().context("socketpair")?);
        Ok(destroyed)
    }
}

/// Connections over loopback, with something unread: softirqs make and free half of it.
pub(super) struct Connections {
    listener: TcpListener,
    made: Vec<(TcpStream, TcpStream)>,
}

impl Connections {
    pub(super) fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a listener")?;
        Ok(Self { listener, made: Vec::new() })
    }
}

impl Objects for Connections {
    fn make(&mut self) -> Result<()> {
        let address = self.listener.local_addr().context("the listener's address")?;
        let mut near = TcpStream::connect(address).context("connecting over loopback")?;
        let (mut far, _) = self.listener.accept().context("accepting over loopback")?;
        // Ends by a reset, which leaves nothing that waits for a minute.
        for end in [&near, &far] {
            let option = libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(end, nix::sys::socket::sockopt::Linger, &option)
                .context("SO_LINGER")?;
        }
        near.write_all(&[1; 3000]).context("sending over loopback")?;
        let mut some = [0; 1000];
        far.read_exact(&mut some).context("receiving over loopback")?;
        far.write_all(&some).context("sending back over loopback")?;
        self.made.push((near, far));
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        Ok(drop_all(&mut self.made))
    }
}

/// Datagrams over loopback that wait to be received.
pub(super) struct Datagrams {
    sender: UdpSocket,
    receiver: UdpSocket,
    sent: usize,
}

impl Datagrams {
    pub(super) fn new() -> Result<Self> {
        let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a datagram socket");
        let (sender, receiver) = (socket()?, socket()?);
        sender.connect(receiver.local_addr()?).context("connecting a datagram socket")?;
        receiver.set_nonblocking(true)?;
        Ok(Self { sender, receiver, sent: 0 })
    }
}

impl Objects for Datagrams {
    fn make(&mut self) -> Result<()> {
        let length = 100 + self.sent % 1200;
        self.sender.send(&vec![0; length]).context("sending a datagram")?;
        self.sent += 1;
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        let mut received = 0;
        let mut buffer = [0; 2048];
        while self.receiver.recv(&mut buffer).is_ok() {
            received += 1;
        }
        // The kernel may drop one when memory is short; it may not invent one.
        ensure!(received <= self.sent, "{received} of {} datagrams", self.sent);
        Ok(std::mem::take(&mut self.sent))
    }
}
