//! The lookup table in the kernel, and what it must hold: the one owner of both. It must not know what
//! the entries are for.
//!
//! Nothing here locks the program out: a record is written before the index tells of it, its key last,
//! and is out of the index before it is cleared; an entry changes so that it says the old or the new.

mod held;
mod homes;
mod index;
mod lengths;
mod near;
mod places;
mod records;

pub(super) use homes::{lines4, lines6};
pub(super) use records::records;

use super::mapped::Mapped;
use super::pins::Pins;
use super::{Drift, table};
use crate::error::{Error, ErrorKind};
use agent_records::lookup::{Key, Lookup, Seed};
use agent_records::{Entry, Tally};
use held::Held;
use homes::Homes;
use index::{Index, order};
use lengths::Lengths;
use near::Near;
use places::Places;
use records::Records;
use std::io::Read as _;
use std::mem::size_of;
use std::sync::atomic::Ordering::{Relaxed, Release};

pub(super) struct LookupTable {
    header: Mapped,
    index: Index,
    near: Near,
    records: Records,
    homes: Homes,
    places: Places,
    held: Held,
    /// Keys of IPv4.
    keys4: usize,
    lengths: Lengths,
}

impl LookupTable {
    /// Takes over the records that are pinned, but those that `is_ours` refuses. The program looks at
    /// what it did until everything else is built of them.
    pub(super) fn open(pins: &Pins, is_ours: impl Fn(&Key, &Entry) -> bool) -> Result<Self, Error> {
        let header = Mapped::open(pins, "lookup", size_of::<Lookup>())?;
        let index = Index::open(&header, pins)?;
        let near = Near::open(&header, pins)?;
        let records = Records::open(pins)?;
        let homes = Homes::open(pins)?;
        let mut opened = Self {
            places: Places::new(records.count()),
            header,
            index,
            near,
            records,
            homes,
            held: Held::new()?,
            keys4: 0,
            lengths: Lengths::default(),
        };
        opened.adopt(is_ours)?;
        Ok(opened)
    }

    fn adopt(&mut self, is_ours: impl Fn(&Key, &Entry) -> bool) -> Result<(), Error> {
        self.homes.publish(&self.header);
        for number in 0..self.records.count() {
            let (key, entry) = self.records.read(number);
            if key == Key::default() {
                continue;
            }
            if is_ours(&key, &entry) && self.held.number(&key).is_none() {
                self.places.claim(number);
                self.note(number, key, entry);
            } else {
                self.records.clear(number);
            }
        }
        self.homes.adopt(&mut self.held, &self.near);
        let (keys4, keys6) = self.families();
        self.near.build(&self.header, &self.held, Some((order(keys4), order(keys6))));
        self.rebuild(order(self.held.len()))?;
        self.publish_lengths();
        Ok(())
    }

    /// Writes entries that others held, with those that are gone.
    pub(super) fn carry(&mut self, entries: Vec<(Key, Entry)>) -> Result<(), Error> {
        let keys4 = entries.iter().filter(|(key, _)| key.version() == 4).count();
        self.reserve(keys4, entries.len() - keys4)?;
        for (key, entry) in entries {
            let is_gone = key.rest & Key::GONE != 0;
            if self.get(&key).is_none() && self.available() == 0 {
                let why = "no room for what the layout before held beside what is there";
                return Err(Error::new(ErrorKind::Full, self.records.object(), why));
            }
            if is_gone {
                let number = self.places.take().expect("there is room");
                self.records.write(number, &key, &entry);
                self.note(number, key, entry);
            } else {
                self.put(key, entry)?;
            }
        }
        self.publish_lengths();
        Ok(())
    }

    /// Entries that it is made for.
    pub(super) fn max_entries(&self) -> u32 {
        self.records.max_entries()
    }

    /// Records that are free.
    pub(super) fn available(&self) -> usize {
        self.places.available()
    }

    /// Keys that are not gone.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.held.get(key)
    }

    /// Hash of a key, this process's own.
    pub(super) fn hash(&self, key: &Key) -> u64 {
        self.held.hash(key)
    }

    /// What a record is about; of a free one, a key of zeros.
    pub(super) fn at(&self, number: u32) -> (Key, Entry) {
        self.held.at(number)
    }

    /// Records that are not free, and not gone.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Key, &Entry)> {
        self.held.iter()
    }

    /// Numbers of the records that are gone.
    pub(super) fn gone(&self) -> Vec<u32> {
        let is_gone = |number: &u32| self.held.at(*number).0.rest & Key::GONE != 0;
        (0..self.records.count()).filter(is_gone).collect()
    }

    fn families(&self) -> (usize, usize) {
        (self.keys4, self.held.len() - self.keys4)
    }

    /// Makes the tables large enough for so many more keys of either family.
    pub(super) fn reserve(&mut self, more4: usize, more6: usize) -> Result<(), Error> {
        let (keys4, keys6) = self.families();
        self.held.reserve(more4 + more6);
        self.near.reserve(&self.header, &self.held, keys4 + more4, keys6 + more6);
        let order = order(self.held.len() + more4 + more6);
        if order > self.index.order() { self.rebuild(order) } else { Ok(()) }
    }

    fn rebuild(&mut self, order: u32) -> Result<(), Error> {
        let keys = self.held.iter().map(|(number, key, _)| (*key, number));
        self.index.build(&self.header, order, keys)
    }

    /// Writes an entry, and says where. One of a length that had none counts from
    /// [`Self::publish_lengths`] on.
    pub(super) fn put(&mut self, key: Key, entry: Entry) -> Result<u32, Error> {
        if let Some(number) = self.held.number(&key) {
            if self.held.at(number).1 != entry {
                self.held.change(number, entry);
                self.change(number, &key, &entry);
            }
            return Ok(number);
        }
        let number = self.places.take().expect("the caller knows the capacity");
        self.records.write(number, &key, &entry);
        self.note(number, key, entry);
        if let Some(home) = self.homes.house(&mut self.held, &self.near, number, &key, &entry) {
            home.say(homes::says(number, &key, &entry));
        }
        self.near.add(&self.header, &key);
        if !self.index.add(&key, number) {
            self.rebuild(self.index.order())?;
        }
        Ok(number)
    }

    /// Changes what a record says. Its home never says that packets are dropped for good while the record says
    /// something else.
    fn change(&mut self, number: u32, key: &Key, entry: &Entry) {
        let home = self.homes.house(&mut self.held, &self.near, number, key, entry);
        let says = homes::says(number, key, entry);
        if let Some(home) = &home {
            home.say(home.says() & says);
        }
        self.records.change(number, entry);
        if let Some(home) = home {
            home.say(says);
        }
    }

    /// Puts an entry out of force, if it is there; its record stays, with what it saw, until it is
    /// [given back](Self::give_back).
    pub(super) fn take(&mut self, key: &Key) -> Option<u32> {
        let number = self.held.go(key)?;
        self.index.remove(key);
        if let Some(home) = self.homes.home(&self.held, number) {
            home.leave(number);
        }
        self.records.go(number, key);
        self.near.removed(key);
        self.keys4 -= usize::from(key.version() == 4);
        self.lengths.remove(key);
        Some(number)
    }

    /// The record of an entry that was taken is free, as no program can have it in sight any more.
    pub(super) fn give_back(&mut self, number: u32) {
        self.records.clear(number);
        if let Some(home) = self.homes.home(&self.held, number) {
            home.free();
        }
        self.held.free(number);
        self.places.free(number);
    }

    /// What a record's home counted.
    pub(super) fn seen(&self, number: u32) -> Tally {
        let home = self.homes.home(&self.held, number);
        home.map_or_else(Tally::default, |home| home.seen())
    }

    fn note(&mut self, number: u32, key: Key, entry: Entry) {
        self.held.insert(number, key, entry);
        if key.rest & Key::GONE == 0 {
            self.keys4 += usize::from(key.version() == 4);
            self.lengths.add(&key);
        }
    }

    /// Lets lengths count that have entries, and no others.
    pub(super) fn publish_lengths(&mut self) {
        self.lengths.publish(&self.header);
    }

    /// Gives back what much smaller lists don't need.
    pub(super) fn tidy(&mut self) -> Result<(), Error> {
        let (keys4, keys6) = self.families();
        self.near.tidy(&self.header, &self.held, keys4, keys6);
        self.held.shrink();
        let order = order(self.held.len());
        if order + 3 <= self.index.order() { self.rebuild(order) } else { Ok(()) }
    }

    /// Mends the table and says how much was off.
    pub(super) fn verify(&mut self) -> Result<Drift, Error> {
        let mut drift = Drift::default();
        for number in 0..self.records.count() {
            let (there, wanted) = (self.records.read(number), self.held.at(number));
            if there == wanted || there.0 == wanted.0 && wanted.0 == Key::default() {
                continue;
            }
            if wanted.0 == Key::default() {
                drift.foreign += 1;
                self.records.clear(number);
                continue;
            }
            let missing = there.0 == Key::default();
            drift.missing += u64::from(missing);
            drift.changed += u64::from(!missing);
            self.records.write(number, &wanted.0, &wanted.1);
        }
        drift.changed += self.near.build(&self.header, &self.held, None);
        drift.changed += self.lengths.publish(&self.header) + self.homes.publish(&self.header);
        drift.foreign += self.homes.sweep(&self.held);
        drift.changed += self.homes.mend(&self.held);
        let lost = self.held.iter();
        let lost = lost.filter(|(number, key, _)| self.index.find(key) != Some(*number));
        let wrong = lost.count() + self.index.len().saturating_sub(self.held.len());
        if wrong > 0 || !self.index.is_published(&self.header) {
            drift.changed += wrong.max(1) as u64;
            self.rebuild(order(self.held.len()))?;
        }
        Ok(drift)
    }
}

/// Elements of the index and of each filter, for so many entries: two tables of the largest size, or a
/// table of each size.
pub(super) fn elements(max_entries: u32) -> u32 {
    2 << order(max_entries as usize)
}

/// A secret.
pub(super) fn seed() -> Result<Seed, Error> {
    let mut bytes = [0; size_of::<Seed>()];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::io("/dev/urandom", error))?;
    let mut words =
        bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")));
    let mut word = || words.next().expect("as many as a seed has");
    let start = word();
    Ok(Seed { start, factors: [word() | 1, word() | 1, word() | 1], last: word() | 1 })
}

fn load_seed(header: &Mapped, place: usize) -> Seed {
    let word = |index: usize| header.words()[place / 8 + index].load(Relaxed);
    Seed { start: word(0), factors: [word(1), word(2), word(3)], last: word(4) }
}

fn store_seed(header: &Mapped, place: usize, seed: &Seed) {
    let Seed { start, factors: [a, b, c], last } = *seed;
    for (index, word) in [start, a, b, c, last].into_iter().enumerate() {
        header.words()[place / 8 + index].store(word, Release);
    }
}

fn object(map: &Mapped) -> String {
    table::object(map.name())
}
