//! Rules as the kernel's records, and back. What comes from the kernel may be anybody's: it is
//! checked.

use super::interface::{Interface, Numbers, numbered};
use super::{Action, Protocol, Rule, RuleKey, Service, Until};
use agent_records::lookup::{GUARD, INTERFACE, Key, block, kind, protocol};
use agent_records::{Entry, Retired, mapped};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Rules with a service that are alike but for their ports. Packets whose ports can't be read meet one
/// entry of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Group {
    pub(super) prefix: IpNet,
    pub(super) protocol: Protocol,
    pub(super) interface: Option<Interface>,
    pub(super) guards: bool,
}

impl Group {
    /// The group of a rule that has one.
    pub(super) fn of(key: &RuleKey) -> Option<(Self, Ports)> {
        let RuleKey { prefix, service, interface, guards } = *key;
        let service = service?;
        let group = Self { prefix, protocol: service.protocol, interface, guards };
        Some((group, (service.first, service.last)))
    }

    /// The rule of these ports.
    pub(super) fn rule(self, (first, last): Ports) -> RuleKey {
        let Self { prefix, protocol, interface, guards } = self;
        let service = Some(Service { protocol, first, last });
        RuleKey { prefix, service, interface, guards }
    }

    /// The key of a block of its ports.
    pub(super) fn key(self, block: u64, number: u8) -> Key {
        new(self.prefix, protocol(self.protocol.number()) | block, self.guards, number)
    }
}

/// The first port and the last.
pub(super) type Ports = (u16, u16);

/// The block of packets whose port can't be read.
pub(super) const PORTLESS: u64 = 1;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The rule of every packet.
    Any(RuleKey),
    /// Rules of a group: a block of ports that they have, or [`PORTLESS`].
    Block(Group, u64),
}

/// The key of a rule of every packet; `number` is that of its interface.
pub(super) fn key(key: &RuleKey, number: u8) -> Key {
    new(key.prefix, 0, key.guards, number)
}

/// The blocks that ports are made of: as few as can be, 30 at most.
pub(super) fn blocks((first, last): Ports) -> impl Iterator<Item = u64> {
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    std::iter::from_fn(move || {
        let port = u16::try_from(next).ok()?;
        let bits = (end.checked_sub(next)?.checked_ilog2()?).min(next.trailing_zeros());
        next += 1 << bits;
        Some(block(port, 16 - bits))
    })
}

/// The ports of a block.
pub(super) fn ports(block: u64) -> Ports {
    let len = block.max(1).ilog2();
    let first = (block - (1 << len)) << (16 - len);
    let port = |port: u64| u16::try_from(port).expect("a block has 17 bits");
    (port(first), port(first + (1 << (16 - len)) - 1))
}

fn new(prefix: IpNet, service: u64, guards: bool, number: u8) -> Key {
    let guard = if guards { GUARD } else { 0 };
    let about = u64::from(number) << INTERFACE | guard | service;
    let len = prefix.prefix_len().into();
    match prefix.network() {
        IpAddr::V4(address) => {
            Key { high: address.to_bits().into(), low: 0, rest: Key::rest(4, len, about) }
        }
        IpAddr::V6(address) => {
            let (high, low) = halves(address);
            Key { high, low, rest: Key::rest(6, len, about) }
        }
    }
}

/// `None` when we would never have written it.
pub(super) fn meaning(key: &Key, numbers: &Numbers) -> Option<Meaning> {
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
    let interface = numbered(numbers, u8::try_from(key.interface()).ok()?)?;
    let guards = key.guards();
    let (protocol, block) = (key.rest >> 17 & 3, u64::from(key.block()));
    if prefix.addr() != prefix.network() || key.rest & UNUSED != 0 {
        return None;
    }
    let protocol = match (protocol, block) {
        (0, 0) => return Some(Meaning::Any(RuleKey { prefix, service: None, interface, guards })),
        (1, 1..) => Protocol::Tcp,
        (2, 1..) => Protocol::Udp,
        _ => return None,
    };
    Some(Meaning::Block(Group { prefix, protocol, interface, guards }, block))
}

/// Bits of a key that nobody sets.
const UNUSED: u64 = 0xf << 20;

/// The kind of a key, and the word and the bit of its prefix length.
pub(super) fn length(key: &Key) -> (u32, u32, u32) {
    let longest = if key.version() == 4 { 32 } else { 128 };
    let place = longest - key.prefix_len();
    let plain = if key.block() == 0 { kind::ANY } else { kind::BLOCK + key.block().ilog2() };
    let more = match (key.guards(), key.interface()) {
        (true, _) => kind::GUARD,
        (false, 0) => 0,
        (false, _) => kind::INTERFACE,
    };
    (plain + more, place / 64, place % 64)
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

/// In the place of the number of an interface: the rule always passes, by every interface.
const GUARDS: u8 = 127;

/// The owner of a slot, for after its rule; `number` is that of its interface.
pub(super) fn retired(owner: &Owner, number: u8) -> Retired {
    let service = owner.key.service;
    let number = if owner.key.guards { GUARDS } else { number };
    let (protocol, port) = service.map_or((0, 0), |it| (it.protocol.number(), it.first));
    let prefix = owner.key.prefix;
    Retired {
        address: octets(prefix.network()),
        port,
        protocol,
        prefix_len: prefix.prefix_len(),
        family: if prefix.network().is_ipv4() { 4 } else { 6 },
        flags: number << 1 | u8::from(owner.action == Action::Monitor),
        port_last: service.filter(|it| !it.is_single()).map_or(0, |it| it.last),
    }
}

/// The owner of a slot of a record; `None` when it is none of that record's, or the record is not that of
/// a rule without ports.
pub(super) fn owner(key: &Key, entry: &Entry, slot: u32, numbers: &Numbers) -> Option<Owner> {
    let Meaning::Any(key) = meaning(&living(key), numbers)? else { return None };
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

/// The owner that a slot had; `None` when we would never have written it.
pub(super) fn retired_owner(retired: &Retired, numbers: &Numbers) -> Option<Owner> {
    let address = address(retired.address, retired.family == 4)?;
    let prefix = IpNet::new(address, retired.prefix_len).ok()?;
    let service = match (retired.protocol, retired.port, retired.port_last) {
        (0, 0, 0) => None,
        (number, first, 0) => Some(Service::port(Protocol::from_number(number)?, first)),
        (number, first, last) if first < last => {
            Some(Service { protocol: Protocol::from_number(number)?, first, last })
        }
        _ => return None,
    };
    let action = if retired.flags & 1 == 0 { Action::Drop } else { Action::Monitor };
    let (number, guards) = (retired.flags >> 1, retired.flags >> 1 == GUARDS);
    let interface = if guards { None } else { numbered(numbers, number)? };
    Some(Owner { key: RuleKey { prefix, service, interface, guards }, action })
}

/// An address as a key of both families.
pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of such a key: an IPv6 packet too may come from a mapped IPv4 address.
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
    use std::collections::BTreeMap;

    fn keys() -> Vec<RuleKey> {
        let mut keys = Vec::new();
        for prefix in
            ["0.0.0.0/0", "10.1.0.0/16", "10.1.2.3/32", "::/0", "::ffff:0:0/96", "::1/128"]
        {
            let any = RuleKey::any(prefix.parse().expect("valid"));
            let (protocol, interface) = (Protocol::Udp, Some(Interface::named("eth7")));
            keys.extend([any, RuleKey { interface, ..any }]);
            for (first, last) in [(53, 53), (1, 65_535), (8_000, 8_999)] {
                let service = Some(Service { protocol, first, last });
                keys.push(RuleKey { service, ..any });
                keys.push(RuleKey { service, interface, ..any });
            }
        }
        keys
    }

    fn interfaces() -> Numbers {
        BTreeMap::from([(7, Interface::named("eth7"))])
    }

    fn number(key: &RuleKey) -> u8 {
        if key.interface.is_some() { 7 } else { 0 }
    }

    #[test]
    fn a_rule_key_survives_the_kernel() {
        for key in keys() {
            for key in [key, RuleKey { guards: true, ..key }] {
                let Some((group, ports)) = Group::of(&key) else {
                    let there = super::key(&key, number(&key));
                    assert_eq!(meaning(&there, &interfaces()), Some(Meaning::Any(key)));
                    continue;
                };
                assert_eq!(group.rule(ports), key);
                for block in blocks(ports).chain([PORTLESS]) {
                    let meant = meaning(&group.key(block, number(&key)), &interfaces());
                    assert_eq!(meant, Some(Meaning::Block(group, block)));
                }
            }
        }
    }

    #[test]
    fn ports_are_few_blocks_side_by_side() {
        for both in [(22, 22), (1, 65_535), (8_000, 8_999), (1, 65_534), (1, 2), (65_535, 65_535)] {
            let blocks: Vec<_> = blocks(both).collect();
            assert!((1..=30).contains(&blocks.len()), "{both:?}: {blocks:?}");
            let mut next = u32::from(both.0);
            for block in blocks {
                let (first, last) = ports(block);
                assert_eq!(u32::from(first), next);
                let within = super::block(last, block.ilog2());
                assert_eq!(within, block);
                next = u32::from(last) + 1;
            }
            assert_eq!(next, u32::from(both.1) + 1);
        }
        assert_eq!(ports(PORTLESS), (0, 65_535));
    }

    #[test]
    fn a_retired_rule_survives_the_kernel() {
        for key in keys() {
            for action in [Action::Drop, Action::Monitor] {
                let known = Owner { key, action };
                let retired = retired(&known, number(&key));
                assert_eq!(retired_owner(&retired, &interfaces()), Some(known));
            }
        }
    }

    #[test]
    fn a_slot_has_an_owner_while_its_record_is_in_use() {
        let entry = Entry { drop_slot: 3, monitor_slot: 5, ..Entry::default() };
        for rule in keys().into_iter().filter(|key| key.service.is_none()) {
            let key = key(&rule, number(&rule));
            let gone = Key { rest: key.rest | Key::GONE, ..key };
            assert_eq!(meaning(&gone, &interfaces()), None, "no rule");
            for key in [key, gone] {
                let owner = |slot| owner(&key, &entry, slot, &interfaces());
                assert_eq!(owner(3), Some(Owner { key: rule, action: Action::Drop }));
                assert_eq!(owner(5), Some(Owner { key: rule, action: Action::Monitor }));
                assert_eq!(owner(4), None);
            }
        }
    }

    #[test]
    fn keys_that_nobody_would_write_mean_nothing() {
        let good = Key { high: 0x0a00_0000, low: 0, rest: Key::rest(4, 8, 0) };
        assert!(meaning(&good, &interfaces()).is_some());
        for bad in [
            Key { high: 0x0a00_0001, ..good },
            Key { high: 0x1_0a00_0000, ..good },
            Key { low: 1, ..good },
            Key { rest: Key::rest(4, 33, 0), ..good },
            Key { rest: Key::rest(5, 8, 0), ..good },
            Key { rest: Key::rest(4, 8, 1 << 17), ..good },
            Key { rest: Key::rest(4, 8, 3 << 17 | 1), ..good },
            Key { rest: Key::rest(4, 8, 22), ..good },
            Key { rest: good.rest | 1 << 20, ..good },
            Key { rest: good.rest | 6 << INTERFACE, ..good },
            Key { rest: good.rest | 1 << 50, ..good },
            Key::default(),
        ] {
            assert_eq!(meaning(&bad, &interfaces()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_longest_length_has_the_lowest_bit_of_the_first_word_of_its_kind() {
        let length = |prefix: &str, block: u64, guards, number| {
            let prefix = prefix.parse().expect("valid");
            let service = if block == 0 { 0 } else { protocol(6) | block };
            length(&new(prefix, service, guards, number))
        };
        assert_eq!(length("10.0.0.1/32", 0, false, 0), (kind::ANY, 0, 0));
        assert_eq!(length("0.0.0.0/0", block(1, 16), false, 0), (kind::BLOCK + 16, 0, 32));
        assert_eq!(length("::1/128", PORTLESS, false, 3), (kind::BLOCK + kind::INTERFACE, 0, 0));
        assert_eq!(length("::/64", 0, true, 0), (kind::GUARD, 1, 0));
        assert_eq!(length("::/0", block(1, 3), true, 0), (kind::GUARD + kind::BLOCK + 3, 2, 0));
    }
}
