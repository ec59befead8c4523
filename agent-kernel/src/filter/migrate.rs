//! Taking over what an agent of the layout before this one left pinned. It knows that layout's maps,
//! and must not know this one's.
//!
//! The old program filters until each link has the new one, which knows all that it knew by then. What
//! both layouts have alike is one map under two names, so no count is lost, whichever program counts.
//! An open that ends midway is done again by the next.

use super::ledger::sum;
use super::pins::{Pin, Pins};
use super::record;
use super::table::{Pinned, object};
use super::{Protocol, Rule, RuleKey};
use crate::Error;
use agent_records::lookup::{self, Key};
use agent_records::{Entry, NO_SLOT, Tally, Told, Totals};
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Map, MapData, PerCpuArray};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Maps that only the old layout has, or has in another form.
const REPLACED: [&str; 13] = [
    "lookup",
    "filter4",
    "filter6",
    "exact4",
    "index",
    "records",
    "guard4",
    "guard6",
    "guard_ports",
    "told",
    "unsighted",
    "verdicts",
    "protocols",
];
/// A key, an entry, and zeros.
type OldRecord = [u64; 8];

/// What is pinned in the old layout.
pub(super) struct Old {
    pins: Pins,
}

/// What this layout gets from the old one.
#[derive(Default)]
pub(super) struct Carried {
    /// Rules, blocks of ports, and what passes.
    pub(super) entries: Vec<(Key, Entry)>,
    /// What is told, by slot.
    pub(super) told: Vec<(u32, Told)>,
}

impl Old {
    /// Whatever is there of it.
    pub(super) fn find(pins: &Pins) -> Option<Self> {
        pins.before().map(|pins| Self { pins })
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// How many entries the new layout needs room for, to have as much as the old one.
    pub(super) fn max_entries(&self) -> Result<Option<u32>, Error> {
        if !self.has("records")? {
            return Ok(None);
        }
        let max = Pinned::open(&self.pins, "records")?.max_entries()?;
        let held = u32::try_from(self.entries()?.len()).unwrap_or(u32::MAX);
        Ok(Some(max.max(held)))
    }

    fn has(&self, name: &str) -> Result<bool, Error> {
        Ok(self.pins.list()?.contains(&Pin::Map(name.to_owned())))
    }

    fn map(&self, name: &str) -> Result<MapData, Error> {
        MapData::from_pin(self.pins.path(&Pin::Map(name.to_owned())))
            .map_err(|error| Error::wrapped(object(name), error))
    }

    /// Pins what both layouts have in this layout's folder too.
    pub(super) fn share(&self, pins: &Pins) -> Result<(), Error> {
        let there = pins.list()?;
        for pin in self.pins.list()? {
            let Pin::Map(name) = &pin else { continue };
            if REPLACED.contains(&name.as_str()) || there.contains(&pin) {
                continue;
            }
            let map = self.map(name)?;
            map.pin(pins.path(&pin)).map_err(|error| Error::wrapped(object(name), error))?;
        }
        Ok(())
    }

    /// All that is not shared.
    pub(super) fn carried(&self) -> Result<Carried, Error> {
        let entries = self.entries()?;
        let told = match self.has("told")? {
            true => Pinned::open(&self.pins, "told")?.dump()?,
            false => Vec::new(),
        };
        Ok(Carried { entries, told })
    }

    /// What its program counted of all packets; to be asked when that runs no more.
    pub(super) fn totals(&self) -> Result<Totals, Error> {
        let mut totals = Totals::ZERO;
        self.sum_up("verdicts", &mut totals.verdicts)?;
        self.sum_up("protocols", &mut totals.protocols)?;
        Ok(totals)
    }

    /// Adds up what CPUs counted.
    fn sum_up(&self, name: &str, sums: &mut [Tally]) -> Result<(), Error> {
        if !self.has(name)? {
            return Ok(());
        }
        let failed = |error| Error::wrapped(object(name), error);
        let map = Map::PerCpuArray(self.map(name)?);
        let map = PerCpuArray::<_, Tally>::try_from(map).map_err(failed)?;
        for (index, total) in (0..).zip(sums) {
            for cpu in map.get(&index, 0).map_err(failed)?.iter() {
                *total = sum(*total, *cpu);
            }
        }
        Ok(())
    }

    /// Its rules, and what it lets pass.
    fn entries(&self) -> Result<Vec<(Key, Entry)>, Error> {
        let mut entries = Vec::new();
        if self.has("records")? {
            let records = Pinned::open(&self.pins, "records")?.dump::<u32, OldRecord>()?;
            entries.extend(records.into_iter().filter_map(|(_, record)| rule(record)));
        }
        let mut guards = Vec::new();
        if self.has("guard4")? {
            let nets = self.prefixes::<[u8; 4]>("guard4")?.into_iter();
            guards.extend(nets.filter_map(|(it, len)| Ipv4Net::new(it.into(), len).ok()).map(any));
        }
        if self.has("guard6")? {
            let nets = self.prefixes::<[u8; 16]>("guard6")?.into_iter();
            guards.extend(nets.filter_map(|(it, len)| Ipv6Net::new(it.into(), len).ok()).map(any));
        }
        if self.has("guard_ports")? {
            let ports = Pinned::open(&self.pins, "guard_ports")?.dump::<[u8; 4], u8>()?;
            guards.extend(ports.into_iter().flat_map(|(key, _)| port(key)));
        }
        let pass = Entry { drop_until: record::until(Rule::PASS.drop), ..Entry::default() };
        entries.extend(guards.into_iter().map(|key| (key, pass)));
        Ok(entries)
    }

    /// Keys of a trie.
    fn prefixes<K: aya::Pod>(&self, name: &str) -> Result<Vec<(K, u8)>, Error> {
        let failed = |error| Error::wrapped(object(name), error);
        let trie = Map::LpmTrie(self.map(name)?);
        let trie = LpmTrie::<_, K, u8>::try_from(trie).map_err(failed)?;
        let prefix = |key: Result<aya::maps::lpm_trie::Key<K>, _>| {
            let key = key.map_err(failed)?;
            Ok((key.data(), u8::try_from(key.prefix_len()).unwrap_or(u8::MAX)))
        };
        trie.keys().map(prefix).collect()
    }

    /// Moves the links' pins, which have the new program, and removes the rest.
    pub(super) fn end(self, pins: &Pins) -> Result<(), Error> {
        for pin in self.pins.list()? {
            match &pin {
                Pin::Link(..) | Pin::Counting(..) => self.pins.hand_over(&pin, pins)?,
                Pin::Map(_) => self.pins.remove(&pin)?,
            }
        }
        self.pins.remove_folder()
    }
}

/// A record that is in use: a destination port, from bit 16 on the protocol, from bit 24 on prefix
/// length and IP version.
fn rule(
    [high, low, rest, drop_until, monitor_until, slots, ..]: OldRecord,
) -> Option<(Key, Entry)> {
    if rest == 0 {
        return None;
    }
    let [.., protocol, port_high, port_low] = rest.to_be_bytes();
    let service = match (protocol, u16::from_be_bytes([port_high, port_low])) {
        (0, _) => 0,
        (number, 0) => lookup::protocol(number) | record::PORTLESS,
        (number, port) => lookup::protocol(number) | lookup::block(port, 16),
    };
    let key = Key { high, low, rest: rest & !0xff_ffff | service };
    let [a, b, c, d, monitor_slot @ ..] = slots.to_le_bytes();
    // The number of an action that went is another's by now, or will be.
    let slot = |until: u64, slot| if until == 0 { NO_SLOT } else { u32::from_le_bytes(slot) };
    let entry = Entry {
        drop_until,
        monitor_until,
        drop_slot: slot(drop_until, [a, b, c, d]),
        monitor_slot: slot(monitor_until, monitor_slot),
    };
    Some((key, entry))
}

fn any(prefix: impl Into<IpNet>) -> Key {
    record::key(&RuleKey { guards: true, ..RuleKey::any(prefix.into()) }, 0)
}

/// A port in host byte order and a protocol, of every source.
fn port([low, high, protocol, _]: [u8; 4]) -> Vec<Key> {
    let Some(protocol) = Protocol::from_number(protocol) else { return Vec::new() };
    let everyone = [Ipv4Net::default().into(), Ipv6Net::default().into()];
    let block = lookup::block(u16::from_ne_bytes([low, high]), 16);
    let group =
        |prefix| record::Group { prefix, protocol, interface: None, guards: true }.key(block, 0);
    everyone.map(group).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::interface::Numbers;
    use crate::filter::record::{Group, Meaning};

    #[test]
    fn an_old_record_is_the_same_rule() {
        let meaning = |rest: u64| {
            let (key, entry) = rule([0x0a00_0000, 0, rest, 9, 8, 7 << 32 | 6, 0, 0])?;
            assert_eq!((entry.drop_until, entry.monitor_until), (9, 8));
            assert_eq!((entry.drop_slot, entry.monitor_slot), (6, 7));
            record::meaning(&key, &Numbers::new())
        };
        let prefix = "10.0.0.0/8".parse().expect("valid");
        let group = Group { prefix, protocol: Protocol::Tcp, interface: None, guards: false };
        let rest = |service: u64| 4 << 32 | 8 << 24 | service;
        assert_eq!(meaning(rest(0)), Some(Meaning::Any(RuleKey::any(prefix))));
        let ssh = lookup::block(22, 16);
        assert_eq!(meaning(rest(6 << 16 | 22)), Some(Meaning::Block(group, ssh)));
        assert_eq!(meaning(rest(6 << 16)), Some(Meaning::Block(group, record::PORTLESS)));
        assert_eq!(meaning(0), None);
    }

    #[test]
    fn an_old_guard_passes() {
        let keys = port([22, 0, 6, 0]);
        let meanings: Vec<_> =
            keys.iter().filter_map(|key| record::meaning(key, &Numbers::new())).collect();
        assert_eq!(meanings.len(), 2);
        assert!(keys.iter().all(Key::guards));
        assert!(any(Ipv4Net::default()).guards());
    }
}
