//! What the lookup table must hold, by the numbers of the records and by key. It must not know the
//! kernel's memory.

use super::index;
use crate::Error;
use agent_records::Entry;
use agent_records::lookup::{Key, Seed};
use hashbrown::HashTable;

#[derive(Debug)]
pub(super) struct Held {
    /// By number; a key of zeros where a record is free, and one with [`Key::GONE`] where its rule is gone.
    records: Vec<(Key, Entry)>,
    /// Numbers of the keys that are not gone.
    numbers: HashTable<u32>,
    seed: Seed,
}

impl Held {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { records: Vec::new(), numbers: HashTable::new(), seed: super::seed()? })
    }

    pub(super) fn hash(&self, key: &Key) -> u64 {
        hash(&self.seed, key)
    }

    /// Makes room for so many more keys.
    pub(super) fn reserve(&mut self, more: usize) {
        let (records, seed) = (&self.records, &self.seed);
        self.numbers.reserve(more, |number| hash(seed, &records[*number as usize].0));
    }

    /// Keys that are not gone.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// What a record must hold.
    pub(super) fn at(&self, number: u32) -> (Key, Entry) {
        self.records.get(number as usize).copied().unwrap_or_default()
    }

    pub(super) fn number(&self, key: &Key) -> Option<u32> {
        let same = |number: &u32| self.records[*number as usize].0 == *key;
        self.numbers.find(hash(&self.seed, key), same).copied()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        Some(&self.records[self.number(key)? as usize].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Key, &Entry)> + Clone {
        let all = (0..).zip(&self.records).map(|(number, (key, entry))| (number, key, entry));
        all.filter(|(_, key, _)| **key != Key::default() && key.rest & Key::GONE == 0)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.iter().map(|(_, key, _)| key)
    }

    /// Puts a key that is not there into a free record; or one that is gone.
    pub(super) fn insert(&mut self, number: u32, key: Key, entry: Entry) {
        let place = number as usize;
        if self.records.len() <= place {
            self.records.resize(place + 1, <(Key, Entry)>::default());
        }
        self.records[place] = (key, entry);
        if key.rest & Key::GONE == 0 {
            let (records, seed) = (&self.records, &self.seed);
            let of = |number: &u32| hash(seed, &records[*number as usize].0);
            self.numbers.insert_unique(hash(seed, &key), number, of);
        }
    }

    pub(super) fn change(&mut self, number: u32, entry: Entry) {
        self.records[number as usize].1 = entry;
    }

    /// Takes a key away; its record is marked as gone.
    pub(super) fn go(&mut self, key: &Key) -> Option<u32> {
        let records = &self.records;
        let same = |number: &u32| records[*number as usize].0 == *key;
        let (number, _) = self.numbers.find_entry(hash(&self.seed, key), same).ok()?.remove();
        self.records[number as usize].0.rest |= Key::GONE;
        Some(number)
    }

    /// A record is free.
    pub(super) fn free(&mut self, number: u32) {
        self.records[number as usize] = <(Key, Entry)>::default();
    }

    /// Gives back what much smaller lists don't need.
    pub(super) fn shrink(&mut self) {
        if self.numbers.len() < self.numbers.capacity() / 8 {
            let (records, seed) = (&self.records, &self.seed);
            self.numbers.shrink_to_fit(|number| hash(seed, &records[*number as usize].0));
        }
    }
}

/// The table takes the highest and the lowest bits.
fn hash(seed: &Seed, key: &Key) -> u64 {
    let hash = index::hash(seed, key);
    hash ^ hash >> 32
}
