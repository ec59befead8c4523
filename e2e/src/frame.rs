//! Frames built by hand: a sender on the wire of one place, and a listener behind the filter of
//! another. They tell what a packet socket tells, whatever VLANs the kernel knows.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, socket,
    },
};

use crate::{namespace::Namespace, wait::until};

const TYPE_VLAN: u16 = 0x8100;
const TYPE_QINQ: u16 = 0x88a8;
const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const UDP: u8 = 17;

/// A UDP datagram in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Source address; need not be the sender's.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// VLAN ids, outermost first; at most two make sense.
    pub vlans: Vec<u16>,
    /// What a [`Capture`] looks for.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Length of its frame in bytes, from the Ethernet header on.
    pub fn frame_length(&self) -> u64 {
        self.frame([0; 6], [0; 6]).len() as u64
    }

    fn frame(&self, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
        let mut frame = [to, from].concat();
        for (at, vlan) in self.vlans.iter().enumerate() {
            let outer_of_two = at == 0 && self.vlans.len() > 1;
            frame.extend(if outer_of_two { TYPE_QINQ } else { TYPE_VLAN }.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        let udp = self.udp();
        let length = u16::try_from(udp.len()).expect("a test's payload is short");
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(TYPE_IPV4.to_be_bytes());
                let mut header = vec![0x45, 0];
                header.extend((20 + length).to_be_bytes());
                header.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let checksum = checksum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(TYPE_IPV6.to_be_bytes());
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([UDP, 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => panic!("source and destination are of one family"),
        }
        frame.extend(udp);
        frame
    }

    /// Without a checksum: nothing but a packet socket reads it.
    fn udp(&self) -> Vec<u8> {
        let length = u16::try_from(8 + self.payload.len()).expect("a test's payload is short");
        let mut udp =
            [41_000_u16.to_be_bytes(), 9_u16.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        udp.extend(&self.payload);
        udp
    }
}

/// Puts frames on the wire of one place.
#[derive(Debug)]
pub struct FrameSender {
    socket: OwnedFd,
    link: LinkAddr,
}

impl FrameSender {
    /// Opens a packet socket on the namespace's one link.
    pub fn open(from: &Namespace) -> Result<Self> {
        from.within(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::empty(),
                None::<SockProtocol>,
            )?;
            Ok(Self { socket, link: link()? })
        })?
    }

    /// Sends a datagram as one frame to the link of another namespace.
    pub fn send(&self, datagram: &Datagram, to: &Namespace) -> Result<()> {
        let to = to.within(link)??.addr().context("a link without an address")?;
        let from = self.link.addr().context("a link without an address")?;
        let frame = datagram.frame(from, to);
        sendto(self.socket.as_raw_fd(), &frame, &self.link, MsgFlags::empty())?;
        Ok(())
    }
}

/// The one link of the calling thread's namespace that is no loopback.
pub(crate) fn link() -> Result<LinkAddr> {
    getifaddrs()?
        .filter(|interface| interface.interface_name != "lo")
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .context("a namespace without a link")
}

/// Sees every frame that reaches a namespace's network stack, that is, what its filter lets through.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    /// A packet socket sees what leaves as well, an ICMP error that quotes a frame, say.
    own: [u8; 6],
    seen: Vec<Vec<u8>>,
}

impl Capture {
    /// Begins to listen.
    pub fn start(at: &Namespace) -> Result<Self> {
        at.within(|| {
            let flags = SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            let own = link()?.addr().context("a link without an address")?;
            Ok(Self { socket, own, seen: Vec::new() })
        })?
    }

    /// How many frames so far ended with a payload.
    pub fn count(&mut self, payload: &[u8]) -> usize {
        let mut buffer = [0; 2048];
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            if buffer.starts_with(&self.own) {
                self.seen.push(buffer[..length].to_vec());
            }
        }
        self.seen.iter().filter(|frame| frame.ends_with(payload)).count()
    }

    /// Waits until a payload was seen `count` times.
    pub fn wait(&mut self, payload: &[u8], count: usize, within: Duration) -> Result<()> {
        let what = format!("{count} frames with {:?}", String::from_utf8_lossy(payload));
        until(&what, within, || Ok(self.count(payload) >= count)).map(drop)
    }
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_stand_between_addresses_and_type() {
        let datagram = Datagram {
            source: IpAddr::from([10, 0, 0, 1]),
            destination: IpAddr::from([10, 0, 0, 2]),
            vlans: vec![5, 7],
            payload: b"x".to_vec(),
        };
        let frame = datagram.frame([1; 6], [2; 6]);
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 5, 0x81, 0, 0, 7, 8, 0]);
        assert_eq!(frame.len(), 12 + 8 + 2 + 20 + 8 + 1);
    }

    #[test]
    fn checksums_are_those_of_the_rfc() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
