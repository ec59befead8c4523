//! Attributes of netlink messages, read where they lie: a table of 100,000 routes is read
//! without an allocation an attribute, and one that nobody asked for can't fail the rest. It must
//! not know what they are about.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// `struct nlattr`
const HEADER_BYTES: usize = 4;
/// Without the flags for nesting and byte order.
const KIND_MASK: u16 = 0x3fff;

/// The attributes in these bytes: kind and value.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = io::Result<(u16, &[u8])>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = || {
            let [l0, l1, k0, k1] = *rest.first_chunk::<HEADER_BYTES>()?;
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            let value = rest.get(HEADER_BYTES..length)?;
            Some((u16::from_ne_bytes([k0, k1]) & KIND_MASK, value))
        };
        let attribute = split();
        let length = attribute.map_or(rest.len(), |(_, value)| HEADER_BYTES + value.len());
        // Attributes start at multiples of four bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute.ok_or_else(cut_short))
    })
}

/// A fixed number of bytes at the beginning, a struct of the kernel's, and what comes after it.
pub(super) fn header<const N: usize>(bytes: &[u8]) -> io::Result<(&[u8; N], &[u8])> {
    bytes.split_first_chunk().ok_or_else(cut_short)
}

/// A small number.
pub(super) fn u8(value: &[u8]) -> io::Result<u8> {
    value.first().copied().ok_or_else(cut_short)
}

/// A number in the host's byte order.
pub(super) fn u32(value: &[u8]) -> io::Result<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or_else(cut_short)
}

/// A small number in network byte order, a port or an id.
pub(super) fn be16(value: &[u8]) -> io::Result<u16> {
    value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)).ok_or_else(cut_short)
}

/// A number in network byte order, as netfilter tells them.
pub(super) fn be32(value: &[u8]) -> io::Result<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(cut_short)
}

/// A counter in network byte order.
pub(super) fn be64(value: &[u8]) -> io::Result<u64> {
    value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).ok_or_else(cut_short)
}

/// A name, which ends at the first zero.
pub(super) fn text(value: &[u8]) -> String {
    let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// A link-layer address as people write it.
pub(super) fn link_address(value: &[u8]) -> String {
    let mut text = String::with_capacity(3 * value.len());
    for (at, byte) in value.iter().enumerate() {
        text.extend((at > 0).then_some(':'));
        let digits = [byte >> 4, byte & 0xf].map(u32::from);
        text.extend(digits.iter().filter_map(|digit| char::from_digit(*digit, 16)));
    }
    text
}

/// An address of either family, known by its length.
pub(super) fn address(value: &[u8]) -> io::Result<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(value).map(|v6| Ipv6Addr::from(v6).into()).map_err(|_| cut_short())
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an attribute is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_a_broken_one_ends_them() {
        let mut bytes = [5u16.to_ne_bytes(), 0x8003u16.to_ne_bytes()].concat();
        bytes.extend([9, 0, 0, 0]);
        bytes.extend([4u16.to_ne_bytes(), 7u16.to_ne_bytes()].concat());
        let read: Vec<_> = attributes(&bytes).map(|it| it.expect("whole")).collect();
        assert_eq!(read, [(3, &[9][..]), (7, &[])]);
        bytes.extend([9, 9]);
        assert!(attributes(&bytes).nth(2).is_some_and(|it| it.is_err()));
        for length in [0u16, 3, 99] {
            let bytes = [length.to_ne_bytes(), [0, 0]].concat();
            assert!(attributes(&bytes).all(|it| it.is_err()));
        }
    }

    #[test]
    fn a_link_address_has_two_digits_a_byte() {
        assert_eq!(link_address(&[0, 0x0a, 0xff]), "00:0a:ff");
        assert_eq!(link_address(&[]), "");
    }

    #[test]
    fn a_value_of_the_wrong_length_is_refused() {
        assert!(u32(&[1, 2, 3]).is_err());
        assert!(address(&[1, 2, 3]).is_err());
        assert_eq!(address(&[127, 0, 0, 1]).expect("valid"), IpAddr::from([127, 0, 0, 1]));
    }
}
