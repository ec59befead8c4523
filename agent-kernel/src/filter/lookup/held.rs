//! What the lookup table must hold, by the numbers of the records and by key. It must not know the
//! kernel's memory.

use super::index;
use crate::Error;
use agent_records::Entry;
use agent_records::lookup::{Key, Seed};
use hashbrown::HashTable;

#[derive(Debug)]
pub(super) struct Held {
    /// In no order; an unused one has a key of zeros, one with [`Key::GONE`] a rule that is gone.
    rows: Vec<Row>,
    unused: Vec<u32>,
    /// Rows of records, by the record's number.
    places: Vec<u32>,
    /// Rows of the keys that are not gone.
    keys: HashTable<u32>,
    seed: Seed,
}

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    number: u32,
    /// Number of its home, and one; 0 where it has none.
    home: u32,
    key: Key,
    entry: Entry,
}

/// In the place of a row: the record is free.
const NONE: u32 = u32::MAX;

impl Held {
    pub(super) fn new() -> Result<Self, Error> {
        let (rows, unused, places) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { rows, unused, places, keys: HashTable::new(), seed: super::seed()? })
    }

    pub(super) fn hash(&self, key: &Key) -> u64 {
        hash(&self.seed, key)
    }

    /// Makes room for so many more keys.
    pub(super) fn reserve(&mut self, more: usize) {
        let (rows, seed) = (&self.rows, &self.seed);
        self.keys.reserve(more, |row| hash(seed, &rows[*row as usize].key));
    }

    /// Keys that are not gone.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    fn row(&self, number: u32) -> Option<u32> {
        self.places.get(number as usize).copied().filter(|row| *row != NONE)
    }

    /// What a record must hold.
    pub(super) fn at(&self, number: u32) -> (Key, Entry) {
        let row = self.row(number).map(|row| self.rows[row as usize]).unwrap_or_default();
        (row.key, row.entry)
    }

    /// The home of a record.
    pub(super) fn home(&self, number: u32) -> Option<u32> {
        self.rows[self.row(number)? as usize].home.checked_sub(1)
    }

    /// A record has that home.
    pub(super) fn settle(&mut self, number: u32, home: u32) {
        if let Some(row) = self.row(number) {
            self.rows[row as usize].home = home + 1;
        }
    }

    fn find(&self, key: &Key) -> Option<&Row> {
        let same = |row: &u32| self.rows[*row as usize].key == *key;
        Some(&self.rows[*self.keys.find(hash(&self.seed, key), same)? as usize])
    }

    pub(super) fn number(&self, key: &Key) -> Option<u32> {
        self.find(key).map(|row| row.number)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.find(key).map(|row| &row.entry)
    }

    /// All that are not free.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Key, &Entry)> + Clone {
        let all = self.rows.iter().map(|row| (row.number, &row.key, &row.entry));
        all.filter(|(_, key, _)| **key != Key::default())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Key, &Entry)> + Clone {
        self.all().filter(|(_, key, _)| key.rest & Key::GONE == 0)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.iter().map(|(_, key, _)| key)
    }

    /// Puts a key that is not there into a free record; or one that is gone.
    pub(super) fn insert(&mut self, number: u32, key: Key, entry: Entry) {
        let new = u32::try_from(self.rows.len()).expect("no more than records");
        let row = self.unused.pop().unwrap_or(new);
        if row == new {
            self.rows.push(Row::default());
        }
        self.rows[row as usize] = Row { number, home: 0, key, entry };
        let place = number as usize;
        if self.places.len() <= place {
            self.places.resize(place + 1, NONE);
        }
        self.places[place] = row;
        if key.rest & Key::GONE == 0 {
            let (rows, seed) = (&self.rows, &self.seed);
            let of = |row: &u32| hash(seed, &rows[*row as usize].key);
            self.keys.insert_unique(hash(seed, &key), row, of);
        }
    }

    pub(super) fn change(&mut self, number: u32, entry: Entry) {
        if let Some(row) = self.row(number) {
            self.rows[row as usize].entry = entry;
        }
    }

    /// Takes a key away; its record is marked as gone.
    pub(super) fn go(&mut self, key: &Key) -> Option<u32> {
        let rows = &self.rows;
        let same = |row: &u32| rows[*row as usize].key == *key;
        let (row, _) = self.keys.find_entry(hash(&self.seed, key), same).ok()?.remove();
        let row = &mut self.rows[row as usize];
        row.key.rest |= Key::GONE;
        Some(row.number)
    }

    /// A record is free.
    pub(super) fn free(&mut self, number: u32) {
        if let Some(row) = self.row(number) {
            self.rows[row as usize] = Row::default();
            self.places[number as usize] = NONE;
            self.unused.push(row);
        }
    }

    /// Gives back what much smaller lists don't need.
    pub(super) fn shrink(&mut self) {
        if self.keys.len() < self.keys.capacity() / 8 {
            let (rows, seed) = (&self.rows, &self.seed);
            self.keys.shrink_to_fit(|row| hash(seed, &rows[*row as usize].key));
        }
    }
}

/// The table takes the highest and the lowest bits.
fn hash(seed: &Seed, key: &Key) -> u64 {
    let hash = index::hash(seed, key);
    hash ^ hash >> 32
}
