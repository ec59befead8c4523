//! TCP connection attempts built by hand, of any source.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket,
};

use crate::{
    frame::{checksum, link},
    namespace::Namespace,
};

/// Puts SYNs on the wire of one place, all for another one.
#[derive(Debug)]
pub struct SynSender {
    socket: OwnedFd,
    link: LinkAddr,
    head: [u8; 12],
}

impl SynSender {
    /// Opens a packet socket on the namespace's one link.
    pub fn open(from: &Namespace, to: &Namespace) -> Result<Self> {
        let to = to.within(link)??.addr().context("a link without an address")?;
        from.within(|| {
            let none = None::<SockProtocol>;
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), none)?;
            let link = link()?;
            let from = link.addr().context("a link without an address")?;
            let mut head = [0; 12];
            head[..6].copy_from_slice(&to);
            head[6..].copy_from_slice(&from);
            Ok(Self { socket, link, head })
        })?
    }

    /// Sends one; the source need not be the sender's.
    pub fn send(&self, source: IpAddr, to: IpAddr, source_port: u16, port: u16) -> Result<()> {
        let frame = frame(self.head, source, to, source_port, port);
        sendto(self.socket.as_raw_fd(), &frame, &self.link, MsgFlags::empty())?;
        Ok(())
    }
}

/// A SYN in a frame that begins with these addresses of links.
pub(crate) fn frame(
    head: [u8; 12],
    source: IpAddr,
    to: IpAddr,
    source_port: u16,
    port: u16,
) -> Vec<u8> {
    let mut frame = head.to_vec();
    // What the checksum is over before the segment itself.
    let mut pseudo = Vec::with_capacity(60);
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
            header.extend(source.octets());
            header.extend(to.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            pseudo.extend(&header[12..]);
            frame.extend([0x08, 0x00]);
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(source.octets());
            frame.extend(to.octets());
            pseudo.extend(source.octets());
            pseudo.extend(to.octets());
        }
        _ => panic!("source and destination are of one family"),
    }
    let mut tcp = [source_port.to_be_bytes(), port.to_be_bytes()].concat();
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    pseudo.extend([0, 6, 0, 20]);
    pseudo.extend(&tcp);
    let sum = checksum(&pseudo);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    frame.extend(tcp);
    frame
}
