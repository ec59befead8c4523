//! Taking over what an agent of the layout before this one left pinned. It knows that layout's maps,
//! and must not know this one's.
//!
//! The old program filters until each link has the new one, which knows all that it knew by then. What
//! both layouts have alike is one map under two names, so no count is lost, whichever program counts.
//! An open that ends midway is done again by the next.

use super::pins::{Pin, Pins};
use super::table::{Pinned, object};
use crate::Error;
use agent_records::Entry;
use agent_records::lookup::Key;
use aya::maps::MapData;

/// Maps that only the old layout has.
const REPLACED: [&str; 4] = ["rules4", "rules6", "masks", "sources"];

/// What is pinned in the old layout.
pub(super) struct Old {
    pins: Pins,
}

impl Old {
    /// Whatever is there of it.
    pub(super) fn find(pins: &Pins) -> Option<Self> {
        pins.before().map(|pins| Self { pins })
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// How many entries it had room for.
    pub(super) fn max_entries(&self) -> Result<Option<u32>, Error> {
        if !self.has("rules4")? {
            return Ok(None);
        }
        Pinned::open(&self.pins, "rules4")?.max_entries().map(Some)
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

    /// Its rules.
    pub(super) fn entries(&self) -> Result<Vec<(Key, Entry)>, Error> {
        let mut entries = Vec::new();
        if self.has("rules4")? {
            let rules = Pinned::open(&self.pins, "rules4")?.dump::<[u8; 8], Entry>()?;
            entries.extend(rules.into_iter().map(|(key, entry)| (key4(key), entry)));
        }
        if self.has("rules6")? {
            let rules = Pinned::open(&self.pins, "rules6")?.dump::<[u8; 24], Entry>()?;
            entries.extend(rules.into_iter().map(|(key, entry)| (key6(key), entry)));
        }
        Ok(entries)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::record;

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
}
