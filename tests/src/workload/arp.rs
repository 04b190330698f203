//! Objects that an interrupt allocates while this process happens to run.
//!
//! For every ARP request from an address it does not know, the kernel makes a `struct neighbour`
//! when the packet arrives: in the softirq that empties the cable's queue, on the back of whatever
//! process that interrupts. Here it is the sender.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};

use super::ArpArgs;
use super::net;
use super::protocol::{self, Order};

/// Address of the far end, asked for by everybody.
const TARGET: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);

/// Sends its requests on `go`.
pub(super) fn run(args: &ArpArgs) -> Result<()> {
    net::private_network(&[&format!("addr add {TARGET}/16 dev {}", net::FAR)])?;
    let (socket, address) = packet_socket()?;
    protocol::ready(&[])?;
    loop {
        match protocol::next()? {
            Order::Go(None) => {
                for sender in 0..args.count {
                    send(&socket, &address, &request(sender))?;
                }
                protocol::say(&format!("done count={}", neighbours()?))?;
            }
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for ARP"),
        }
    }
}

/// Neighbours the kernel has by now, by its own list.
fn neighbours() -> Result<usize> {
    let list = std::fs::read_to_string("/proc/thread-self/net/arp").context("the ARP table")?;
    Ok(list.lines().filter(|line| line.starts_with("10.98.")).count())
}

/// An Ethernet frame with the request of sender number `sender`.
fn request(sender: u16) -> Vec<u8> {
    let [high, low] = sender.to_be_bytes();
    let hardware = [0x02, 0, 0, 1, high, low];
    let address = [10, 98, 1 + high, low];
    let mut frame = vec![0xff; 6];
    frame.extend(hardware);
    // ARP; Ethernet, IPv4, their lengths; a request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(hardware);
    frame.extend(address);
    frame.extend([0; 6]);
    frame.extend(TARGET.octets());
    frame
}

fn packet_socket() -> Result<(OwnedFd, libc::sockaddr_ll)> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: takes and returns integers. Protocol 0: it receives nothing.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    ensure!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
    // SAFETY: `fd` is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let index = nix::net::if_::if_nametoindex(net::NEAR).context(net::NEAR)?;
    // SAFETY: all zeroes is a valid value of that plain C struct.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::c_ushort::try_from(libc::AF_PACKET)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ARP)?.to_be();
    address.sll_ifindex = i32::try_from(index)?;
    address.sll_halen = 6;
    address.sll_addr = [0xff; 8];
    Ok((socket, address))
}

fn send(socket: &OwnedFd, address: &libc::sockaddr_ll, frame: &[u8]) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(address))?;
    // SAFETY: pointers and lengths are those of a live slice and a live `sockaddr_ll`.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const *address).cast(),
            length,
        )
    };
    ensure!(usize::try_from(sent) == Ok(frame.len()), "sendto: {}", io::Error::last_os_error());
    Ok(())
}
