//! The records in the kernel's memory: what a rule is about and what it says. A record never moves.

use crate::Error;
use crate::filter::mapped::Mapped;
use crate::filter::pins::Pins;
use agent_records::Entry;
use agent_records::lookup::{Key, Record};
use std::mem::size_of;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// Words of a record.
const WORDS: usize = size_of::<Record>() / 8;

pub(super) struct Records(Mapped);

/// Records for so many entries, and for some that are gone and not told to the end.
pub(in crate::filter) fn records(max_entries: u32) -> u32 {
    max_entries.saturating_add(max_entries / 8).saturating_add(64)
}

/// Entries that so many records are for: of all such numbers the highest.
fn entries(records: u32) -> u32 {
    let most = records.saturating_sub(64);
    let about = most - most / 9;
    (about.saturating_sub(2)..=about + 2)
        .rev()
        .find(|it| self::records(*it) <= records)
        .unwrap_or(0)
}

impl Records {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self(Mapped::open(pins, "records", size_of::<Record>())?))
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.0.elements()
    }

    /// How many entries they are for.
    pub(super) fn max_entries(&self) -> u32 {
        entries(self.count())
    }

    pub(super) fn object(&self) -> String {
        super::object(&self.0)
    }

    fn words(&self, number: u32) -> &[AtomicU64] {
        &self.0.words()[number as usize * WORDS..][..WORDS]
    }

    /// What a record is about and what it says; of a free one, zeros.
    pub(super) fn read(&self, number: u32) -> (Key, Entry) {
        let words = self.words(number);
        let word = |index: usize| words[index].load(Relaxed);
        let [a, b, c, d, monitor_slot @ ..] = word(5).to_le_bytes();
        let key = Key { high: word(0), low: word(1), rest: word(2) };
        let entry = Entry {
            drop_until: word(3),
            monitor_until: word(4),
            drop_slot: u32::from_le_bytes([a, b, c, d]),
            monitor_slot: u32::from_le_bytes(monitor_slot),
        };
        (key, entry)
    }

    /// Writes a record that the program has no way to, or that is not what it should be.
    pub(super) fn write(&self, number: u32, key: &Key, entry: &Entry) {
        let words = self.words(number);
        words[2].store(0, Release);
        words[5].store(slots(entry), Release);
        words[3].store(entry.drop_until, Release);
        words[4].store(entry.monitor_until, Release);
        words[0].store(key.high, Release);
        words[1].store(key.low, Release);
        words[2].store(key.rest, Release);
    }

    /// Changes what a record says. The slot of an action is there before the action, and what drops is
    /// there before what monitors goes.
    pub(super) fn change(&self, number: u32, entry: &Entry) {
        let words = self.words(number);
        words[5].store(slots(entry), Release);
        let mut actions = [(3, entry.drop_until), (4, entry.monitor_until)];
        if entry.monitor_until != 0 {
            actions.reverse();
        }
        for (word, until) in actions {
            words[word].store(until, Release);
        }
    }

    /// The rule of a record is gone.
    pub(super) fn go(&self, number: u32, key: &Key) {
        self.words(number)[2].store(key.rest | Key::GONE, Release);
    }

    /// A record is free.
    pub(super) fn clear(&self, number: u32) {
        for word in [2, 0, 1, 3, 4, 5] {
            self.words(number)[word].store(0, Release);
        }
    }
}

fn slots(entry: &Entry) -> u64 {
    u64::from(entry.monitor_slot) << 32 | u64::from(entry.drop_slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_records_tells_the_number_of_entries() {
        for max_entries in (1..100).chain([1_000, 65_536, 99_999, 1_000_000, 16_777_216]) {
            assert_eq!(entries(records(max_entries)), max_entries);
        }
    }
}
