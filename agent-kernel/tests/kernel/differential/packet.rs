//! The reference's own reading of a frame, from the RFCs and not from the program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    /// No source can be read.
    Malformed,
    NotIp,
    Ip(Packet),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) protocol: u8,
    pub(super) transport: Transport,
    /// Neighbour or router discovery of this link.
    pub(super) discovery: bool,
    /// A TCP SYN without ACK.
    pub(super) attempt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Ports {
        source: u16,
        destination: u16,
    },
    /// TCP or UDP, but its ports are not here.
    Portless,
    /// No ports at all.
    Other,
    /// Anything may follow.
    Unknown,
}

pub(super) fn parse(frame: &[u8]) -> Parsed {
    parse_ip(frame).unwrap_or(Parsed::Malformed)
}

fn word(bytes: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(place..place + 2)?.try_into().ok()?))
}

/// `None` where the frame ends too early for a source.
fn parse_ip(frame: &[u8]) -> Option<Parsed> {
    let mut kind = word(frame, 12)?;
    let mut rest = &frame[14..];
    let mut tags = 0;
    while tags < 2 && (kind == 0x8100 || kind == 0x88a8) {
        kind = word(rest, 2)?;
        rest = &rest[4..];
        tags += 1;
    }
    match kind {
        0x0800 => v4(rest),
        0x86dd => v6(rest),
        _ => Some(Parsed::NotIp),
    }
}

fn v4(bytes: &[u8]) -> Option<Parsed> {
    let header = bytes.get(..20)?;
    let length = usize::from(header[0] % 16) * 4;
    if header[0] / 16 != 4 || length < 20 || bytes.len() < length {
        return None;
    }
    let source: [u8; 4] = header[12..16].try_into().ok()?;
    let first = word(header, 6)? % 0x2000 == 0;
    let (transport, attempt) = transport(header[9], first, &bytes[length..]);
    Some(Parsed::Ip(Packet {
        source: Ipv4Addr::from(source).into(),
        protocol: header[9],
        transport,
        discovery: false,
        attempt,
    }))
}

fn transport(protocol: u8, first: bool, payload: &[u8]) -> (Transport, bool) {
    if protocol != 6 && protocol != 17 {
        return (Transport::Other, false);
    }
    match (first, word(payload, 0), word(payload, 2)) {
        (true, Some(source), Some(destination)) => {
            let syn = protocol == 6 && payload.get(13).is_some_and(|flags| flags & 0x12 == 0x02);
            (Transport::Ports { source, destination }, syn)
        }
        _ => (Transport::Portless, false),
    }
}

fn v6(bytes: &[u8]) -> Option<Parsed> {
    let header = bytes.get(..40)?;
    if header[0] / 16 != 6 {
        return None;
    }
    let source: [u8; 16] = header[8..24].try_into().ok()?;
    let mut packet = Packet {
        source: Ipv6Addr::from(source).into(),
        protocol: header[6],
        transport: Transport::Unknown,
        discovery: false,
        attempt: false,
    };
    let mut place = 40;
    for step in 0..=8 {
        let is_extension = [0, 43, 44, 51, 60, 135, 139, 140].contains(&packet.protocol);
        if !is_extension {
            let payload = bytes.get(place..).unwrap_or_default();
            (packet.transport, packet.attempt) = transport(packet.protocol, true, payload);
            let kind = payload.first().copied().unwrap_or(0);
            packet.discovery =
                packet.protocol == 58 && header[7] == 255 && (133..137).contains(&kind);
            break;
        }
        let extension = bytes.get(place..place + 2);
        let (Some(extension), true) = (extension, step < 8) else { break };
        let size = usize::from(extension[1]);
        place += match packet.protocol {
            44 => {
                let Some(fragment) = word(bytes, place + 2) else { break };
                if fragment >= 8 {
                    packet.protocol = extension[0];
                    packet.transport = match packet.protocol {
                        6 | 17 => Transport::Portless,
                        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => Transport::Unknown,
                        _ => Transport::Other,
                    };
                    break;
                }
                8
            }
            51 => size * 4 + 8,
            _ => size * 8 + 8,
        };
        packet.protocol = extension[0];
    }
    Some(Parsed::Ip(packet))
}
