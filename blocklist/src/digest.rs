//! One number that two sides compare to know that they hold the same entries.

use crate::{Action, EntryKey, FeedHead, Prefixes, Protocol};
use ipnet::IpNet;
use xxhash_rust::xxh3::xxh3_128;

/// An order-free sum over entry keys, so that adding and removing one entry costs one hash whatever
/// the size of the set. It covers keys, not reasons and clocks. It finds mistakes and drift; it is no
/// defence against somebody who makes collisions on purpose (who would be root on the host anyway).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(u128);

impl Digest {
    /// Adds a key that is not yet in the set.
    pub fn add(&mut self, key: &EntryKey) {
        self.0 = self.0.wrapping_add(hash(key));
    }

    /// Takes away a key that is in the set.
    pub fn remove(&mut self, key: &EntryKey) {
        self.0 = self.0.wrapping_sub(hash(key));
    }

    /// Adds keys that are not yet in the set.
    pub fn add_all(&mut self, keys: Self) {
        self.0 = self.0.wrapping_add(keys.0);
    }

    /// Takes away keys that are in the set.
    pub fn remove_all(&mut self, keys: Self) {
        self.0 = self.0.wrapping_sub(keys.0);
    }

    /// Over the keys of a feed's entries, without making them.
    pub fn of_feed(head: &FeedHead, prefixes: &Prefixes) -> Self {
        let mut bytes = Vec::with_capacity(128);
        let Some(first) = prefixes.as_slice().first() else { return Self::default() };
        write_prefix(&mut bytes, *first);
        let mut length = bytes.len();
        write_rest(&mut bytes, &head.key(*first));
        let mut sum = 0_u128;
        let mut part = Vec::with_capacity(18);
        for &prefix in prefixes.as_slice() {
            part.clear();
            write_prefix(&mut part, prefix);
            if part.len() == length {
                bytes[..length].copy_from_slice(&part);
            } else {
                bytes.splice(..length, part.iter().copied());
                length = part.len();
            }
            sum = sum.wrapping_add(xxh3_128(&bytes));
        }
        Self(sum)
    }

    /// Its 16 bytes, big endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads what [`Digest::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u128::from_be_bytes).map(Self)
    }
}

impl<'a> FromIterator<&'a EntryKey> for Digest {
    fn from_iter<I: IntoIterator<Item = &'a EntryKey>>(keys: I) -> Self {
        let mut digest = Self::default();
        keys.into_iter().for_each(|key| digest.add(key));
        digest
    }
}

fn hash(key: &EntryKey) -> u128 {
    let mut bytes = Vec::with_capacity(64);
    write_prefix(&mut bytes, key.prefix);
    write_rest(&mut bytes, key);
    xxh3_128(&bytes)
}

fn write_prefix(bytes: &mut Vec<u8>, prefix: IpNet) {
    match prefix {
        IpNet::V4(v4) => {
            bytes.push(4);
            bytes.extend(v4.network().octets());
        }
        IpNet::V6(v6) => {
            bytes.push(6);
            bytes.extend(v6.network().octets());
        }
    }
    bytes.push(prefix.prefix_len());
}

/// All but the prefix.
fn write_rest(bytes: &mut Vec<u8>, key: &EntryKey) {
    let (port, protocol) = match key.service {
        None => (0, 0),
        Some(service) => (
            service.port,
            match service.protocol {
                None => 0,
                Some(Protocol::Tcp) => 6,
                Some(Protocol::Udp) => 17,
            },
        ),
    };
    bytes.extend(port.to_be_bytes());
    bytes.push(protocol);
    bytes.push(match key.action {
        Action::Drop => 1,
        Action::Monitor => 2,
        Action::Protect => 3,
    });
    bytes.extend(key.source.as_bytes());
    // No source holds a zero byte, so nothing of one field can be read as part of the next.
    bytes.push(0);
    bytes.extend(key.selection.to_string().as_bytes());
    // Only where they are: the digest of everything else is that of before there were such entries.
    let last = key.service.filter(|service| service.last != service.port).map(|it| it.last);
    if last.is_some() || key.interface.is_some() {
        bytes.push(0);
        bytes.extend(last.unwrap_or(0).to_be_bytes());
        bytes.extend(key.interface.as_deref().unwrap_or_default().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Selection, parse_prefix};

    fn key(prefix: &str, source: &str) -> EntryKey {
        EntryKey {
            prefix: parse_prefix(prefix).expect("valid"),
            service: None,
            interface: None,
            action: Action::Drop,
            source: source.to_owned(),
            selection: Selection::All,
        }
    }

    #[test]
    fn ports_and_interfaces_tell_entries_apart() {
        let plain = key("10.0.0.1", "user:a");
        let service = |port, last| Some(crate::Service { port, last, protocol: None });
        let on = |interface: &str| Some(interface.to_owned());
        let keys = [
            EntryKey { service: service(8000, 8000), ..plain.clone() },
            EntryKey { service: service(8000, 8001), ..plain.clone() },
            EntryKey { interface: on("eth0"), ..plain.clone() },
            EntryKey { interface: on("eth1"), ..plain.clone() },
            EntryKey { service: service(8000, 8001), interface: on("eth1"), ..plain.clone() },
            plain,
        ];
        let digests: std::collections::BTreeSet<_> =
            keys.iter().map(|key| Digest::from_iter([key]).to_bytes()).collect();
        assert_eq!(digests.len(), keys.len());
    }

    #[test]
    fn order_does_not_matter_and_removal_undoes_addition() {
        let (a, b, c) =
            (key("10.0.0.1", "user:a"), key("::1", "user:a"), key("10.0.0.1", "user:b"));
        let one: Digest = [&a, &b, &c].into_iter().collect();
        let mut two: Digest = [&c, &a].into_iter().collect();
        assert_ne!(one, two);
        two.add(&b);
        assert_eq!(one, two);
        two.remove(&c);
        assert_eq!(two, [&b, &a].into_iter().collect());
        assert_eq!(Digest::from_bytes(&two.to_bytes()), Some(two));
    }
}
