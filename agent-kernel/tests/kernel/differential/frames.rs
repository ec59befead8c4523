//! Making frames: well-formed ones of every kind, then truncated and mutated.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Sources that frames have and rules are about: near to each other, so that prefixes nest.
pub(super) const SOURCES: [IpAddr; 12] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 4, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 7, 7)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 7, 8)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x102)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
];

const EXTENSIONS: [u8; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

/// One of a few ports, so that rules meet frames; 0 among them.
pub(super) fn port(random: &mut StdRng) -> u16 {
    *[0, 22, 53, 67, 68, 443, 546, 547, 7443].choose(random).expect("some")
}

/// A random frame of at least 14 bytes, as short as the kernel takes one.
pub(super) fn frame(random: &mut StdRng) -> Vec<u8> {
    let mut frame = vec![0x02; 12];
    for _ in 0..*[0, 0, 0, 1, 2, 3].choose(random).expect("some") {
        frame.extend(if random.random() { [0x81, 0] } else { [0x88, 0xa8] });
        frame.extend(random.random::<[u8; 2]>());
    }
    match *SOURCES.choose(random).expect("some") {
        _ if random.random_bool(0.02) => frame.extend([0x08, 0x06, 0, 1, 8, 0]),
        IpAddr::V4(source) => v4(random, source, &mut frame),
        IpAddr::V6(source) => v6(random, source, &mut frame),
    }
    if random.random_bool(0.5) {
        // As short frames come from the wire.
        frame.resize(frame.len().max(60), 0);
    }
    if random.random_bool(0.15) {
        let keep = random.random_range(14..=frame.len().max(14));
        frame.truncate(keep);
    }
    if random.random_bool(0.3) {
        for _ in 0..random.random_range(1..4) {
            let place = random.random_range(12..frame.len());
            frame[place] = random.random();
        }
    }
    frame.resize(frame.len().max(14), 0);
    frame
}

/// A TCP segment from a source, without anything odd.
pub(crate) fn plain(source: IpAddr) -> Vec<u8> {
    let mut frame = vec![0x02; 12];
    match source {
        IpAddr::V4(source) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend(source.octets());
            frame.extend([10, 9, 9, 9]);
        }
        IpAddr::V6(source) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(source.octets());
            frame.extend([9; 16]);
        }
    }
    frame.extend([0x9c, 0x40, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    frame
}

fn v4(random: &mut StdRng, source: Ipv4Addr, frame: &mut Vec<u8>) {
    let options = if random.random_bool(0.2) { random.random_range(0..=10) } else { 0 };
    let protocol = protocol(random);
    let fragment: u16 = match random.random_range(0..10) {
        0 => random.random_range(1..0x2000),
        1 => 0x2000,
        _ => 0x4000,
    };
    frame.extend([0x08, 0x00, 0x45 + options, 0, 0, 60, 0, 1]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(source.octets());
    frame.extend([10, 9, 9, 9]);
    frame.resize(frame.len() + usize::from(options) * 4, 1);
    transport(random, protocol, frame);
}

fn v6(random: &mut StdRng, source: Ipv6Addr, frame: &mut Vec<u8>) {
    let count = if random.random_bool(0.5) { 0 } else { random.random_range(1..11) };
    let mut chain: Vec<u8> =
        (0..count).map(|_| *EXTENSIONS.choose(random).expect("some")).collect();
    if random.random_bool(0.6) {
        // Else a chain nearly always ends in a later fragment.
        chain.retain(|kind| *kind != 44);
    }
    let protocol = protocol(random);
    let hop_limit = if random.random() { 255 } else { 64 };
    chain.push(if random.random_bool(0.05) { 59 } else { protocol });
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 60, chain[0], hop_limit]);
    frame.extend(source.octets());
    frame.extend([9; 16]);
    for pair in chain.windows(2) {
        let (kind, next) = (pair[0], pair[1]);
        match kind {
            44 => {
                let place: u16 = if random.random_bool(0.6) { 0 } else { random.random() };
                frame.extend([next, random.random()]);
                frame.extend(place.to_be_bytes());
                frame.extend([0, 0, 0, 1]);
            }
            kind => {
                let units: u8 = random.random_range(0..3);
                let unit = if kind == 51 { 4 } else { 8 };
                let bytes = (usize::from(units) + if kind == 51 { 2 } else { 1 }) * unit;
                frame.extend([next, units]);
                frame.resize(frame.len() + bytes - 2, 0);
            }
        }
    }
    transport(random, protocol, frame);
}

fn protocol(random: &mut StdRng) -> u8 {
    *[6, 6, 6, 17, 17, 17, 1, 58, 58, 50, 132, 255].choose(random).expect("some")
}

fn transport(random: &mut StdRng, protocol: u8, frame: &mut Vec<u8>) {
    match protocol {
        6 | 17 => {
            frame.extend(port(random).to_be_bytes());
            frame.extend(port(random).to_be_bytes());
            let flags = *[0x02, 0x12, 0x10, 0x42].choose(random).expect("some");
            frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        }
        _ => {
            frame.push(random.random_range(128..140));
            frame.extend([0; 19]);
        }
    }
}
