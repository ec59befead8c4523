//! The lookup table in the kernel, and what it must hold: the one owner of both. It must not know what
//! the entries are for.
//!
//! Nothing here locks the program out: a record is written before the index tells of it, its key last,
//! and is out of the index before it is cleared; an entry changes so that it says the old or the new.

mod index;
mod near;

use super::mapped::Mapped;
use super::pins::Pins;
use super::record;
use super::slots::Slots;
use super::{Drift, table};
use crate::error::{Error, ErrorKind};
use agent_records::lookup::{Key, Lookup, Record, Seed};
use agent_records::{Entry, mask};
use index::{Index, order};
use near::Near;
use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::mem::{offset_of, size_of};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// What the table must hold.
type Held = HashMap<Key, Place>;

/// An entry and the number of its record.
#[derive(Debug, Clone, Copy)]
struct Place {
    entry: Entry,
    record: u32,
}

pub(super) struct LookupTable {
    header: Mapped,
    index: Index,
    near: Near,
    records: Mapped,
    free: Slots,
    held: Held,
    /// Keys of IPv4.
    keys4: usize,
    /// How many keys need each bit of the masks.
    lengths: HashMap<(u32, u32), u64>,
    /// What the masks hold.
    words: [u64; mask::COUNT as usize],
}

impl LookupTable {
    /// Takes over the records that are pinned, but those that `is_ours` refuses. The program looks at
    /// what it did until everything else is built of them.
    pub(super) fn open(pins: &Pins, is_ours: impl Fn(&Key, &Entry) -> bool) -> Result<Self, Error> {
        let header = Mapped::open(pins, "lookup", size_of::<Lookup>())?;
        let index = Index::open(&header, pins)?;
        let near = Near::open(&header, pins)?;
        let records = Mapped::open(pins, "records", size_of::<Record>())?;
        let mut opened = Self {
            free: Slots::new(records.elements(), &HashSet::new(), false),
            header,
            index,
            near,
            records,
            held: Held::new(),
            keys4: 0,
            lengths: HashMap::new(),
            words: [0; mask::COUNT as usize],
        };
        opened.adopt(is_ours)?;
        Ok(opened)
    }

    fn adopt(&mut self, is_ours: impl Fn(&Key, &Entry) -> bool) -> Result<(), Error> {
        let mut taken = HashSet::new();
        for number in 0..self.records.elements() {
            let Record { key, entry, .. } = self.read(number);
            if key == Key::default() {
                continue;
            }
            if is_ours(&key, &entry) && !self.held.contains_key(&key) {
                self.note(key, Place { entry, record: number });
                taken.insert(number);
            } else {
                self.clear(number);
            }
        }
        self.free = Slots::new(self.records.elements(), &taken, false);
        let (keys4, keys6) = self.families();
        self.near.build(&self.header, &self.held, Some((order(keys4), order(keys6))));
        self.rebuild(order(self.held.len()))?;
        self.publish_lengths();
        Ok(())
    }

    /// Writes entries that others held.
    pub(super) fn carry(&mut self, entries: Vec<(Key, Entry)>) -> Result<(), Error> {
        let keys4 = entries.iter().filter(|(key, _)| key.version() == 4).count();
        self.reserve(keys4, entries.len() - keys4)?;
        for (key, entry) in entries {
            if self.get(&key).is_none() && self.len() == self.capacity() as usize {
                let why = "no room for what the layout before held beside what is there";
                return Err(Error::new(ErrorKind::Full, object(&self.records), why));
            }
            self.put(key, entry)?;
        }
        self.publish_lengths();
        Ok(())
    }

    /// Entries that it has room for.
    pub(super) fn capacity(&self) -> u32 {
        self.records.elements()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.held.get(key).map(|place| &place.entry)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.held.iter().map(|(key, place)| (key, &place.entry))
    }

    fn families(&self) -> (usize, usize) {
        (self.keys4, self.held.len() - self.keys4)
    }

    /// Makes the tables large enough for so many more keys of either family.
    pub(super) fn reserve(&mut self, more4: usize, more6: usize) -> Result<(), Error> {
        let (keys4, keys6) = self.families();
        self.near.reserve(&self.header, &self.held, keys4 + more4, keys6 + more6);
        let order = order(self.held.len() + more4 + more6);
        if order > self.index.order() { self.rebuild(order) } else { Ok(()) }
    }

    fn rebuild(&mut self, order: u32) -> Result<(), Error> {
        let keys = self.held.iter().map(|(key, place)| (*key, place.record));
        self.index.build(&self.header, order, keys)
    }

    /// Writes an entry. One of a length that had none counts from [`Self::publish_lengths`] on.
    pub(super) fn put(&mut self, key: Key, entry: Entry) -> Result<(), Error> {
        if let Some(place) = self.held.get_mut(&key) {
            let old = std::mem::replace(&mut place.entry, entry);
            let record = place.record;
            if old != entry {
                self.change(record, &entry);
            }
            return Ok(());
        }
        let record = self.free.take().expect("the caller knows the capacity").index;
        self.write(record, &key, &entry);
        self.note(key, Place { entry, record });
        self.near.add(&self.header, &key);
        if self.index.insert(&key, record) {
            return Ok(());
        }
        self.rebuild(self.index.order())
    }

    /// Removes an entry, if it is there.
    pub(super) fn take(&mut self, key: &Key) -> Option<Entry> {
        let place = self.held.remove(key)?;
        self.index.remove(key);
        self.clear(place.record);
        self.free.free(place.record);
        self.near.removed(key);
        self.keys4 -= usize::from(key.version() == 4);
        if let Some(count) = self.lengths.get_mut(&record::mask(key)) {
            *count -= 1;
        }
        Some(place.entry)
    }

    fn note(&mut self, key: Key, place: Place) {
        self.held.insert(key, place);
        self.keys4 += usize::from(key.version() == 4);
        *self.lengths.entry(record::mask(&key)).or_default() += 1;
    }

    /// Lets lengths count that have entries, and no others.
    pub(super) fn publish_lengths(&mut self) {
        let mut words = [0; mask::COUNT as usize];
        for ((word, bit), count) in &self.lengths {
            words[*word as usize] |= u64::from(*count > 0) << bit;
        }
        for (there, word) in self.masks().iter().zip(words) {
            there.store(word, Release);
        }
        self.words = words;
    }

    fn masks(&self) -> &[AtomicU64] {
        let place = offset_of!(Lookup, masks) / 8;
        &self.header.words()[place..place + mask::COUNT as usize]
    }

    /// Gives back what much smaller lists don't need.
    pub(super) fn tidy(&mut self) -> Result<(), Error> {
        let (keys4, keys6) = self.families();
        self.near.tidy(&self.header, &self.held, keys4, keys6);
        let order = order(self.held.len());
        if order + 3 <= self.index.order() { self.rebuild(order) } else { Ok(()) }
    }

    /// Mends the table and says how much was off.
    pub(super) fn verify(&mut self) -> Result<Drift, Error> {
        let mut drift = Drift::default();
        let mut owners = vec![None; self.records.elements() as usize];
        for (key, place) in &self.held {
            owners[place.record as usize] = Some((key, place.entry));
        }
        for (number, owner) in (0..).zip(owners) {
            let Record { key, entry, .. } = self.read(number);
            match owner {
                None if key == Key::default() => {}
                None => {
                    drift.foreign += 1;
                    self.clear(number);
                }
                Some((owner, wanted)) if *owner == key && entry == wanted => {}
                Some((owner, wanted)) => {
                    let gone = key == Key::default();
                    drift.missing += u64::from(gone);
                    drift.changed += u64::from(!gone);
                    self.write(number, owner, &wanted);
                }
            }
        }
        drift.changed += self.near.build(&self.header, &self.held, None);
        let masks = self.masks().iter().zip(self.words);
        drift.changed += masks.filter(|(it, word)| it.load(Relaxed) != *word).count() as u64;
        self.publish_lengths();
        let lost = self.held.iter().filter(|(key, it)| self.index.find(key) != Some(it.record));
        let wrong = lost.count() + self.index.len().saturating_sub(self.held.len());
        if wrong > 0 || !self.index.is_published(&self.header) {
            drift.changed += wrong.max(1) as u64;
            self.rebuild(order(self.held.len()))?;
        }
        Ok(drift)
    }

    fn record(&self, number: u32) -> &[AtomicU64] {
        const WORDS: usize = size_of::<Record>() / 8;
        &self.records.words()[number as usize * WORDS..][..WORDS]
    }

    fn read(&self, number: u32) -> Record {
        let words = self.record(number);
        let word = |index: usize| words[index].load(Relaxed);
        let [a, b, c, d, monitor_slot @ ..] = word(5).to_le_bytes();
        Record {
            key: Key { high: word(0), low: word(1), rest: word(2) },
            entry: Entry {
                drop_until: word(3),
                monitor_until: word(4),
                drop_slot: u32::from_le_bytes([a, b, c, d]),
                monitor_slot: u32::from_le_bytes(monitor_slot),
            },
            zero: [0; 2],
        }
    }

    /// Writes a record that the program has no way to, or that is not what it should be.
    fn write(&self, number: u32, key: &Key, entry: &Entry) {
        let words = self.record(number);
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
    fn change(&self, number: u32, entry: &Entry) {
        let words = self.record(number);
        words[5].store(slots(entry), Release);
        let mut actions = [(3, entry.drop_until), (4, entry.monitor_until)];
        if entry.monitor_until != 0 {
            actions.reverse();
        }
        for (word, until) in actions {
            words[word].store(until, Release);
        }
    }

    fn clear(&self, number: u32) {
        for word in [2, 0, 1, 3, 4, 5] {
            self.record(number)[word].store(0, Release);
        }
    }
}

/// Elements of the index and of each filter, for so many entries: two tables of the largest size, or a
/// table of each size.
pub(super) fn elements(max_entries: u32) -> u32 {
    2 << order(max_entries as usize)
}

fn slots(entry: &Entry) -> u64 {
    u64::from(entry.monitor_slot) << 32 | u64::from(entry.drop_slot)
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
