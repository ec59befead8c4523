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

pub(super) use homes::{lines4, lines6};

use super::mapped::Mapped;
use super::pins::Pins;
use super::{Drift, record, table};
use crate::error::{Error, ErrorKind};
use agent_records::lookup::{Key, Lookup, Record, Seed, home};
use agent_records::{Entry, Tally};
use held::Held;
use homes::Homes;
use index::{Index, order};
use lengths::Lengths;
use near::Near;
use places::Places;
use std::io::Read as _;
use std::mem::size_of;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// Words of a record.
const WORDS: usize = size_of::<Record>() / 8;

pub(super) struct LookupTable {
    header: Mapped,
    index: Index,
    near: Near,
    records: Mapped,
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
        let records = Mapped::open(pins, "records", size_of::<Record>())?;
        let homes = Homes::open(pins)?;
        let mut opened = Self {
            places: Places::new(records.elements()),
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
        for number in 0..self.records.elements() {
            let (key, entry) = self.read(number);
            if key == Key::default() {
                continue;
            }
            if is_ours(&key, &entry) && self.held.number(&key).is_none() {
                self.places.claim(number);
                self.note(number, key, entry);
            } else {
                self.clear(number);
            }
        }
        self.adopt_homes();
        self.mend_homes();
        let (keys4, keys6) = self.families();
        self.near.build(&self.header, &self.held, Some((order(keys4), order(keys6))));
        self.rebuild(order(self.held.len()))?;
        self.publish_lengths();
        Ok(())
    }

    /// Takes over the homes of records, with what was counted there; those of no record are free.
    fn adopt_homes(&mut self) {
        let Self { homes, held, .. } = self;
        homes.sweep(|version, number, says| {
            let record = says & home::NUMBER;
            let key = held.at(record).0;
            let is_its = key.version() == version && homes::can_have(&record::living(&key));
            let adopts = is_its && held.home(record).is_none();
            if adopts {
                held.settle(record, number);
            }
            adopts
        });
        let all = self.held.iter();
        let homeless = all.filter(|(number, key, entry)| self.lacks_home(*number, key, entry));
        let homeless: Vec<_> = homeless.map(|(number, key, _)| (number, *key)).collect();
        for (number, key) in homeless {
            self.house(number, &key);
        }
    }

    /// Frees homes that are no record's; how many that were.
    fn sweep(&self) -> u64 {
        self.homes.sweep(|version, number, says| {
            let record = says & home::NUMBER;
            self.held.home(record) == Some(number) && self.held.at(record).0.version() == version
        })
    }

    /// Lets homes say what they should; how many did not.
    fn mend_homes(&self) -> u64 {
        let mut wrong = 0;
        for (number, key, entry) in self.held.all() {
            wrong += self.home(number, key).map_or(0, |home| home.mend(number, key, entry));
        }
        wrong
    }

    /// The home of a record.
    fn home(&self, number: u32, key: &Key) -> Option<homes::Home<'_>> {
        self.homes.at(key, self.held.home(number)?)
    }

    /// Whether a record should have a home, and has none.
    fn lacks_home(&self, number: u32, key: &Key, entry: &Entry) -> bool {
        entry.drop_until != 0 && homes::can_have(key) && self.held.home(number).is_none()
    }

    /// Gives a record a home where there is room, with nothing in force there yet.
    fn house(&mut self, number: u32, key: &Key) {
        let lines = self.homes.of(key);
        let Some(free) = lines.free(self.near.line(key, lines.count())) else { return };
        if let Some(home) = lines.at(free) {
            home.settle(number, key);
        }
        self.held.settle(number, free);
    }

    /// Writes entries that others held, with those that are gone.
    pub(super) fn carry(&mut self, entries: Vec<(Key, Entry)>) -> Result<(), Error> {
        let keys4 = entries.iter().filter(|(key, _)| key.version() == 4).count();
        self.reserve(keys4, entries.len() - keys4)?;
        for (key, entry) in entries {
            let is_gone = key.rest & Key::GONE != 0;
            if self.get(&key).is_none() && self.available() == 0 {
                let why = "no room for what the layout before held beside what is there";
                return Err(Error::new(ErrorKind::Full, object(&self.records), why));
            }
            if is_gone {
                let number = self.places.take().expect("there is room");
                self.write(number, &key, &entry);
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
        entries(self.records.elements())
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
        (0..self.records.elements()).filter(is_gone).collect()
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

    /// Looks at what putting these keys will look at. One key's looks wait for one another, but those
    /// of several keys don't: so the processor fetches them side by side, and most of the wait for memory is
    /// over when they are put.
    pub(super) fn look_ahead(&self, keys: impl Iterator<Item = Key>) {
        for key in keys {
            std::hint::black_box(self.held.number(&key));
            std::hint::black_box(self.index.look(&key));
            std::hint::black_box(self.near.look(&key));
            if homes::can_have(&key) {
                let lines = self.homes.of(&key);
                std::hint::black_box(lines.free(self.near.line(&key, lines.count())));
            }
        }
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
        self.write(number, &key, &entry);
        self.note(number, key, entry);
        if self.lacks_home(number, &key, &entry) {
            self.house(number, &key);
        }
        if let Some(home) = self.home(number, &key) {
            home.say(homes::says(number, &key, &entry));
        }
        self.near.add(&self.header, &key);
        if !self.index.add(&key, number) {
            self.rebuild(self.index.order())?;
        }
        Ok(number)
    }

    /// Puts an entry out of force, if it is there; its record stays, with what it saw, until it is
    /// [given back](Self::give_back).
    pub(super) fn take(&mut self, key: &Key) -> Option<u32> {
        let number = self.held.go(key)?;
        self.index.remove(key);
        if let Some(home) = self.home(number, key) {
            home.leave(number);
        }
        self.record(number)[2].store(key.rest | Key::GONE, Release);
        self.near.removed(key);
        self.keys4 -= usize::from(key.version() == 4);
        self.lengths.remove(key);
        Some(number)
    }

    /// The record of an entry that was taken is free, as no program can have it in sight any more.
    pub(super) fn give_back(&mut self, number: u32) {
        self.clear(number);
        if let Some(home) = self.home(number, &self.held.at(number).0) {
            home.free();
        }
        self.held.free(number);
        self.places.free(number);
    }

    /// What a record's home counted.
    pub(super) fn seen(&self, number: u32) -> Tally {
        let home = self.home(number, &self.held.at(number).0);
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
        for number in 0..self.records.elements() {
            let (there, wanted) = (self.read(number), self.held.at(number));
            if there == wanted || there.0 == wanted.0 && wanted.0 == Key::default() {
                continue;
            }
            if wanted.0 == Key::default() {
                drift.foreign += 1;
                self.clear(number);
                continue;
            }
            let missing = there.0 == Key::default();
            drift.missing += u64::from(missing);
            drift.changed += u64::from(!missing);
            self.write(number, &wanted.0, &wanted.1);
        }
        drift.changed += self.near.build(&self.header, &self.held, None);
        drift.changed += self.lengths.publish(&self.header) + self.homes.publish(&self.header);
        drift.foreign += self.sweep();
        drift.changed += self.mend_homes();
        let lost = self.held.iter();
        let lost = lost.filter(|(number, key, _)| self.index.find(key) != Some(*number));
        let wrong = lost.count() + self.index.len().saturating_sub(self.held.len());
        if wrong > 0 || !self.index.is_published(&self.header) {
            drift.changed += wrong.max(1) as u64;
            self.rebuild(order(self.held.len()))?;
        }
        Ok(drift)
    }

    fn record(&self, number: u32) -> &[AtomicU64] {
        &self.records.words()[number as usize * WORDS..][..WORDS]
    }

    fn read(&self, number: u32) -> (Key, Entry) {
        let words = self.record(number);
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
    /// there before what monitors goes. Its home never says that packets are dropped for good while the
    /// record says something else.
    fn change(&mut self, number: u32, key: &Key, entry: &Entry) {
        if self.lacks_home(number, key, entry) {
            self.house(number, key);
        }
        let says = homes::says(number, key, entry);
        if let Some(home) = self.home(number, key) {
            home.say(home.says() & says);
        }
        let words = self.record(number);
        words[5].store(slots(entry), Release);
        let mut actions = [(3, entry.drop_until), (4, entry.monitor_until)];
        if entry.monitor_until != 0 {
            actions.reverse();
        }
        for (word, until) in actions {
            words[word].store(until, Release);
        }
        if let Some(home) = self.home(number, key) {
            home.say(says);
        }
    }

    fn clear(&self, number: u32) {
        for word in [2, 0, 1, 3, 4, 5] {
            self.record(number)[word].store(0, Release);
        }
    }
}

/// Records for so many entries, and for some that are gone and not told to the end.
pub(super) fn records(max_entries: u32) -> u32 {
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
