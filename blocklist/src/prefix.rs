//! Prefixes as people write them.

use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

/// What is wrong with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {why}")]
pub struct InvalidPrefix {
    text: String,
    why: &'static str,
}

/// Reads `10.0.0.5`, `10.0.0.0/24`, `2001:db8::1` or `2001:db8::/32`.
///
/// Host bits are cleared, and an IPv4-mapped IPv6 prefix (RFC 4291 section 2.5.5.2) becomes the IPv4
/// prefix that it stands for, since packets on the wire carry that one.
pub fn parse_prefix(text: &str) -> Result<IpNet, InvalidPrefix> {
    let invalid = |why| InvalidPrefix { text: text.to_owned(), why };
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr =
        address.parse().map_err(|_| invalid("not an IPv4 or IPv6 address or prefix"))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|&length| length <= longest)
            .ok_or_else(|| invalid(too_long(address)))?,
        Some(_) => return Err(invalid("the prefix length is not a number")),
    };
    let prefix = IpNet::new(address, length).map_err(|_| invalid(too_long(address)))?.trunc();
    Ok(unmap(prefix))
}

fn too_long(address: IpAddr) -> &'static str {
    if address.is_ipv4() {
        "the prefix length of an IPv4 prefix is 0 to 32"
    } else {
        "the prefix length of an IPv6 prefix is 0 to 128"
    }
}

fn unmap(prefix: IpNet) -> IpNet {
    let IpNet::V6(v6) = prefix else { return prefix };
    let (Some(v4), Some(length)) = (v6.network().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
    else {
        return prefix;
    };
    Ipv4Net::new(v4, length).map_or(prefix, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_prefixes_of_both_families() {
        for (text, canonical) in [
            ("10.0.0.5", "10.0.0.5/32"),
            ("10.0.0.5/24", "10.0.0.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::1", "2001:db8::1/128"),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.5", "10.0.0.5/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            assert_eq!(parse_prefix(text).expect(text).to_string(), canonical);
        }
    }

    #[test]
    fn refuses_what_is_neither() {
        for text in [
            "",
            "not-an-ip",
            "10.0.0.5/33",
            "10.0.0/24",
            "10.0.0.5/",
            "10.0.0.5/+8",
            "::/129",
            "fe80::1%eth0",
            " 10.0.0.5",
            "10.0.0.5/24/8",
            "010.0.0.5",
            "10.0.0.5/-1",
            "10.0.0.5/999",
        ] {
            let error = parse_prefix(text).expect_err(text).to_string();
            assert!(error.starts_with(&format!("{text:?}: ")), "{error}");
        }
    }
}
