//! Rules as the kernel's records, and back. What comes from the kernel may be anybody's: it is
//! checked.

use super::{Action, Protocol, Rule, RuleKey, Until};
use agent_records::lookup::Key;
use agent_records::{Entry, mask};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A prefix and protocol whose services share one derived entry.
pub(super) type Group = (IpNet, Protocol);

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A rule.
    Rule(RuleKey),
    /// Packets whose ports can't be read, derived from the rules of a group.
    Derived(Group),
}

/// The key of a rule.
pub(super) fn key(key: &RuleKey) -> Key {
    let (protocol, port) = key.service.map_or((0, 0), |(p, port)| (p.number(), port));
    new(key.prefix, protocol, port)
}

/// The key of a group's derived entry.
pub(super) fn derived((prefix, protocol): Group) -> Key {
    new(prefix, protocol.number(), 0)
}

fn new(prefix: IpNet, protocol: u8, port: u16) -> Key {
    let service = u64::from(protocol) << 16 | u64::from(port);
    let len = prefix.prefix_len().into();
    match prefix.network() {
        IpAddr::V4(address) => {
            Key { high: address.to_bits().into(), low: 0, rest: Key::rest(4, len, service) }
        }
        IpAddr::V6(address) => {
            let (high, low) = halves(address);
            Key { high, low, rest: Key::rest(6, len, service) }
        }
    }
}

/// `None` when we would never have written it.
pub(super) fn meaning(key: &Key) -> Option<Meaning> {
    let len = u8::try_from(key.prefix_len()).ok()?;
    let prefix: IpNet = match key.version() {
        4 if key.low == 0 => {
            let address = u32::try_from(key.high).ok()?;
            Ipv4Net::new(Ipv4Addr::from_bits(address), len).ok()?.into()
        }
        6 => {
            let bits = u128::from(key.high) << 64 | u128::from(key.low);
            Ipv6Net::new(Ipv6Addr::from_bits(bits), len).ok()?.into()
        }
        _ => return None,
    };
    if prefix.addr() != prefix.network() {
        return None;
    }
    let [_, _, _, _, _, protocol, service @ ..] = key.rest.to_be_bytes();
    match (protocol, u16::from_be_bytes(service)) {
        (0, 0) => Some(Meaning::Rule(RuleKey { prefix, service: None })),
        (number, 0) => Some(Meaning::Derived((prefix, Protocol::from_number(number)?))),
        (number, port) => {
            let service = Some((Protocol::from_number(number)?, port));
            Some(Meaning::Rule(RuleKey { prefix, service }))
        }
    }
}

/// The mask word and bit that say that this prefix length has rules.
pub(super) fn mask(key: &Key) -> (u32, u32) {
    let (any, ports, longest) = if key.version() == 4 {
        (mask::ANY4, mask::PORT4, 32)
    } else {
        (mask::ANY6, mask::PORT6, 128)
    };
    let place = longest - key.prefix_len();
    let names_service = key.rest & 0xff_ffff != 0;
    (if names_service { ports } else { any } + place / 64, place % 64)
}

fn halves(address: Ipv6Addr) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = address.octets();
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(rest))
}

/// One action of one rule, which has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) key: RuleKey,
    pub(super) action: Action,
}

impl Owner {
    /// Whether packets of more than one source are counted on its slot.
    pub(super) fn is_wide(self) -> bool {
        self.key.prefix.prefix_len() != self.key.prefix.max_prefix_len()
    }
}

/// The owner of a slot of a record; `None` when it is none of that record's.
pub(super) fn owner(key: &Key, entry: &Entry, slot: u32) -> Option<Owner> {
    let Meaning::Rule(key) = meaning(&living(key))? else { return None };
    let action = if entry.drop_slot == slot {
        Action::Drop
    } else if entry.monitor_slot == slot {
        Action::Monitor
    } else {
        return None;
    };
    Some(Owner { key, action })
}

/// A key as it was when its rule was not gone.
pub(super) fn living(key: &Key) -> Key {
    Key { rest: key.rest & !Key::GONE, ..*key }
}

/// The address of a key of both families: an IPv6 packet too may come from a mapped IPv4 address.
pub(super) fn address(octets: [u8; 16], is_v4: bool) -> Option<IpAddr> {
    let address = Ipv6Addr::from(octets);
    if is_v4 { address.to_ipv4_mapped().map(IpAddr::V4) } else { Some(IpAddr::V6(address)) }
}

/// The rule of an entry; `None` when it says nothing.
pub(super) fn rule(entry: &Entry) -> Option<Rule> {
    let rule = Rule {
        drop: Until::from_record(entry.drop_until),
        monitor: Until::from_record(entry.monitor_until),
    };
    (rule.drop.is_some() || rule.monitor.is_some()).then_some(rule)
}

/// An expiry as the kernel's record.
pub(super) fn until(until: Option<Until>) -> u64 {
    until.map_or(0, Until::boot_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<RuleKey> {
        let mut keys = Vec::new();
        for prefix in
            ["0.0.0.0/0", "10.1.0.0/16", "10.1.2.3/32", "::/0", "::ffff:0:0/96", "::1/128"]
        {
            let prefix = prefix.parse().expect("valid");
            keys.push(RuleKey { prefix, service: None });
            keys.push(RuleKey { prefix, service: Some((Protocol::Udp, 53)) });
        }
        keys
    }

    #[test]
    fn a_rule_key_survives_the_kernel() {
        for key in keys() {
            assert_eq!(meaning(&super::key(&key)), Some(Meaning::Rule(key)));
        }
        let group = ("2001:db8::/33".parse().expect("valid"), Protocol::Tcp);
        assert_eq!(meaning(&derived(group)), Some(Meaning::Derived(group)));
    }

    #[test]
    fn a_slot_has_an_owner_while_its_record_is_in_use() {
        let entry = Entry { drop_slot: 3, monitor_slot: 5, ..Entry::default() };
        for rule_key in keys() {
            let key = key(&rule_key);
            let gone = Key { rest: key.rest | Key::GONE, ..key };
            assert_eq!(meaning(&gone), None, "no rule");
            for key in [key, gone] {
                let owner = |slot| owner(&key, &entry, slot).map(|it| (it.key, it.action));
                assert_eq!(owner(3), Some((rule_key, Action::Drop)));
                assert_eq!(owner(5), Some((rule_key, Action::Monitor)));
                assert_eq!(owner(4), None);
            }
        }
    }

    #[test]
    fn keys_that_nobody_would_write_mean_nothing() {
        let good = Key { high: 0x0a00_0000, low: 0, rest: Key::rest(4, 8, 0) };
        assert!(meaning(&good).is_some());
        for bad in [
            Key { high: 0x0a00_0001, ..good },
            Key { high: 0x1_0a00_0000, ..good },
            Key { low: 1, ..good },
            Key { rest: Key::rest(4, 33, 0), ..good },
            Key { rest: Key::rest(5, 8, 0), ..good },
            Key { rest: Key::rest(4, 8, 1 << 16), ..good },
            Key { rest: Key::rest(4, 8, 22), ..good },
            Key { rest: good.rest | 1 << 40, ..good },
            Key::default(),
        ] {
            assert_eq!(meaning(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_longest_length_has_the_lowest_bit_of_the_first_word() {
        let mask = |prefix: &str, service| {
            mask(&key(&RuleKey { prefix: prefix.parse().expect("valid"), service }))
        };
        assert_eq!(mask("10.0.0.1/32", None), (mask::ANY4, 0));
        assert_eq!(mask("0.0.0.0/0", Some((Protocol::Tcp, 1))), (mask::PORT4, 32));
        assert_eq!(mask("::1/128", None), (mask::ANY6, 0));
        assert_eq!(mask("::/64", None), (mask::ANY6 + 1, 0));
        assert_eq!(mask("::/0", Some((Protocol::Udp, 1))), (mask::PORT6 + 2, 0));
    }
}
