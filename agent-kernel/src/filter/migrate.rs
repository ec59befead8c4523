//! Taking over what agents of the layouts before this one left pinned. It knows those layouts' maps,
//! and must not know this one's.
//!
//! The old program filters until each link has the new one, which knows all that it knew by then. What
//! the layouts have alike is one map under two names, so no count is lost, whichever program counts.
//! An open that ends midway is done again by the next.

use super::pins::{Pin, Pins};
use super::record;
use super::table::{Pinned, object};
use crate::Error;
use agent_records::lookup::Key;
use agent_records::{Entry, NO_SLOT, Told};
use aya::maps::MapData;

/// Maps that only old layouts have, or that were other ones there.
const REPLACED: [&str; 13] = [
    "rules4",
    "rules6",
    "masks",
    "sources",
    "lookup",
    "filter4",
    "filter6",
    "exact4",
    "index",
    "records",
    "told",
    "retired",
    "unsighted",
];

/// What is pinned in an old layout.
pub(super) struct Old {
    layout: u32,
    pins: Pins,
}

/// What this layout gets from old ones.
#[derive(Default)]
pub(super) struct Carried {
    /// Rules and derived entries, and rules that are gone and not told to the end.
    pub(super) entries: Vec<(Key, Entry)>,
    /// What is told, by slot.
    pub(super) told: Vec<(u32, Told)>,
}

impl Carried {
    /// Of layouts from the oldest on.
    pub(super) fn from(layouts: &[Old]) -> Result<Self, Error> {
        let mut carried = Self::default();
        for old in layouts {
            carried.entries.extend(old.entries()?);
            carried.entries.extend(old.retired()?);
            carried.told.extend(old.dump::<u32, Told>("told")?);
        }
        Ok(carried)
    }
}

impl Old {
    /// Whatever is there of them, the oldest first.
    pub(super) fn all(pins: &Pins) -> Vec<Self> {
        let old = pins.before().into_iter();
        old.map(|(layout, pins)| Self { layout, pins }).collect()
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// How many entries it had room for.
    pub(super) fn max_entries(&self) -> Result<Option<u32>, Error> {
        let name = if self.layout == 1 { "rules4" } else { "records" };
        if !self.has(name)? {
            return Ok(None);
        }
        Pinned::open(&self.pins, name)?.max_entries().map(Some)
    }

    fn has(&self, name: &str) -> Result<bool, Error> {
        Ok(self.pins.list()?.contains(&Pin::Map(name.to_owned())))
    }

    /// Pins what both layouts have in this layout's folder too.
    pub(super) fn share(&self, pins: &Pins) -> Result<(), Error> {
        let there = pins.list()?;
        for pin in self.pins.list()? {
            let Pin::Map(name) = &pin else { continue };
            if REPLACED.contains(&name.as_str()) || there.contains(&pin) {
                continue;
            }
            let map = MapData::from_pin(self.pins.path(&pin))
                .map_err(|error| Error::wrapped(object(name), error))?;
            map.pin(pins.path(&pin)).map_err(|error| Error::wrapped(object(name), error))?;
        }
        Ok(())
    }

    /// What a map holds, if it is there.
    fn dump<K: aya::Pod, V: aya::Pod>(&self, name: &'static str) -> Result<Vec<(K, V)>, Error> {
        if !self.has(name)? {
            return Ok(Vec::new());
        }
        Pinned::open(&self.pins, name)?.dump()
    }

    /// Its rules and derived entries.
    fn entries(&self) -> Result<Vec<(Key, Entry)>, Error> {
        let mut entries = Vec::new();
        if self.layout == 1 {
            let rules = self.dump::<[u8; 8], Entry>("rules4")?.into_iter();
            entries.extend(rules.map(|(key, entry)| (key4(key), entry)));
            let rules = self.dump::<[u8; 24], Entry>("rules6")?.into_iter();
            entries.extend(rules.map(|(key, entry)| (key6(key), entry)));
        } else {
            let records = self.dump::<u32, [u64; 8]>("records")?.into_iter();
            let records = records.filter(|(_, words)| words[2] != 0);
            entries.extend(records.map(|(_, words)| key_and_entry(words)));
        }
        for (_, entry) in &mut entries {
            // The number of an action that went is another's by now, or will be.
            if entry.drop_until == 0 {
                entry.drop_slot = NO_SLOT;
            }
            if entry.monitor_until == 0 {
                entry.monitor_slot = NO_SLOT;
            }
        }
        Ok(entries)
    }

    /// Actions that are gone and not told to the end, as rules that are.
    fn retired(&self) -> Result<Vec<(Key, Entry)>, Error> {
        let retired = self.dump::<u32, [u8; 24]>("retired")?;
        Ok(retired.into_iter().filter_map(|(slot, it)| gone(slot, it)).collect())
    }

    /// Moves the links' pins, which have the new program, and removes the rest.
    pub(super) fn end(self, pins: &Pins) -> Result<(), Error> {
        for pin in self.pins.list()? {
            match &pin {
                Pin::Link(..) => self.pins.hand_over(&pin, pins)?,
                Pin::Map(_) => self.pins.remove(&pin)?,
            }
        }
        self.pins.remove_folder()
    }
}

/// An address in host byte order, then the service and the prefix length.
fn key4(key: [u8; 8]) -> Key {
    let [a, b, c, d, service @ ..] = key;
    let address = u32::from_ne_bytes([a, b, c, d]);
    Key { high: address.into(), low: 0, rest: rest(4, service) }
}

fn key6(key: [u8; 24]) -> Key {
    let word =
        |from: usize| u64::from_ne_bytes(key[from..from + 8].try_into().expect("eight bytes"));
    let service = [key[16], key[17], key[18], key[19]];
    Key { high: word(0), low: word(8), rest: rest(6, service) }
}

/// A destination port in host byte order, the protocol, and the prefix length.
fn rest(version: u64, [low, high, protocol, len]: [u8; 4]) -> u64 {
    let port = u16::from_ne_bytes([low, high]);
    Key::rest(version, len.into(), u64::from(protocol) << 16 | u64::from(port))
}

/// A record of the second layout.
fn key_and_entry(
    [high, low, rest, drop_until, monitor_until, slots, ..]: [u64; 8],
) -> (Key, Entry) {
    let [a, b, c, d, monitor_slot @ ..] = slots.to_ne_bytes();
    let drop_slot = u32::from_ne_bytes([a, b, c, d]);
    let monitor_slot = u32::from_ne_bytes(monitor_slot);
    (Key { high, low, rest }, Entry { drop_until, monitor_until, drop_slot, monitor_slot })
}

/// The address, IPv4 mapped into IPv6; destination port and protocol; prefix length, IP version, whether
/// it monitored. `None` when no agent would have written it.
fn gone(slot: u32, bytes: [u8; 24]) -> Option<(Key, Entry)> {
    let [address @ .., low, high, protocol, len, version, monitors, _, _] = bytes;
    let address = record::address(address, version == 4)?;
    let prefix = ipnet::IpNet::new(address, len).ok()?;
    let service = match (protocol, u16::from_ne_bytes([low, high])) {
        (0, 0) => None,
        (number, port) => Some((super::Protocol::from_number(number)?, port)),
    };
    let key = record::key(&super::RuleKey { prefix, service });
    let (drop_slot, monitor_slot) = if monitors == 0 { (slot, NO_SLOT) } else { (NO_SLOT, slot) };
    let key = Key { rest: key.rest | Key::GONE, ..key };
    Some((key, Entry { drop_until: 0, monitor_until: 0, drop_slot, monitor_slot }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_is_the_same_rule() {
        let key = key4([1, 0, 0, 10, 22, 0, 6, 32]);
        let rule = crate::filter::RuleKey {
            prefix: "10.0.0.1/32".parse().expect("valid"),
            service: Some((crate::filter::Protocol::Tcp, 22)),
        };
        assert_eq!(key, record::key(&rule));
        let mut bytes = [0; 24];
        bytes[4..8].copy_from_slice(&[0xb8, 0x0d, 0x01, 0x20]);
        bytes[19] = 32;
        let rule = crate::filter::RuleKey {
            prefix: "2001:db8::/32".parse().expect("valid"),
            service: None,
        };
        assert_eq!(key6(bytes), record::key(&rule));
    }

    #[test]
    fn an_action_that_is_gone_is_a_record_that_is() {
        let mut bytes = [0; 24];
        bytes[10..16].copy_from_slice(&[0xff, 0xff, 10, 1, 0, 0]);
        bytes[16..22].copy_from_slice(&[22, 0, 6, 16, 4, 1]);
        let (key, entry) = gone(7, bytes).expect("an agent wrote it");
        let rule = crate::filter::RuleKey {
            prefix: "10.1.0.0/16".parse().expect("valid"),
            service: Some((crate::filter::Protocol::Tcp, 22)),
        };
        let owner = record::owner(&key, &entry, 7).expect("its slot");
        assert_eq!((owner.key, owner.action), (rule, crate::filter::Action::Monitor));
        assert!(key.rest & Key::GONE != 0);
    }
}
