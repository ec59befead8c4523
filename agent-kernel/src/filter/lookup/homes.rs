//! The homes of rules that drop every packet of one address: what such a packet needs, in one cache line.

use super::held::Held;
use super::near::Near;
use crate::Error;
use crate::filter::mapped::Mapped;
use crate::filter::pins::Pins;
use crate::filter::record::living;
use agent_records::lookup::{HOMES4, HOMES6, Homes4, Homes6, Key, Lookup, home};
use agent_records::{Entry, FOREVER, Tally};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Words of 32 bits in a line.
const LINE: usize = 16;

#[derive(Debug)]
pub(super) struct Homes {
    lines4: Lines,
    lines6: Lines,
}

/// Those of one family.
#[derive(Debug)]
pub(super) struct Lines {
    map: Mapped,
    shape: Shape,
}

/// Where the parts of a line are, in words of 32 bits.
#[derive(Debug)]
struct Shape {
    /// Homes in a line.
    homes: usize,
    /// Where the words of addresses are, from their first on, and how many an address has at each place.
    addresses: &'static [usize],
    words: usize,
    records: usize,
    seen: usize,
    bytes: usize,
}

const SHAPE4: Shape = Shape {
    homes: HOMES4,
    addresses: &[offset_of!(Homes4, addresses) / 4],
    words: 1,
    records: offset_of!(Homes4, records) / 4,
    seen: offset_of!(Homes4, seen) / 4,
    bytes: offset_of!(Homes4, bytes) / 4,
};
const SHAPE6: Shape = Shape {
    homes: HOMES6,
    addresses: &[offset_of!(Homes6, high) / 4, offset_of!(Homes6, low) / 4],
    words: 2,
    records: offset_of!(Homes6, records) / 4,
    seen: offset_of!(Homes6, seen) / 4,
    bytes: offset_of!(Homes6, bytes) / 4,
};

/// One of them.
pub(super) struct Home<'a> {
    words: &'a [AtomicU32],
    shape: &'a Shape,
    lane: usize,
}

/// Lines of IPv4 for so many entries: with 12 homes for five of them, one of 25 finds its first line full,
/// and hardly any the second too.
pub(in crate::filter) fn lines4(max_entries: u32) -> u32 {
    even(max_entries / 5 * 4)
}

/// Lines of IPv6: with five homes for two entries, one of 14 finds its first line full.
pub(in crate::filter) fn lines6(max_entries: u32) -> u32 {
    even(max_entries.saturating_add(max_entries / 4))
}

fn even(lines: u32) -> u32 {
    lines.max(2).next_multiple_of(2)
}

/// Whether the rule of a key may have a home. Not that of the address that stands for none.
pub(super) fn can_have(key: &Key) -> bool {
    matches!(key.rest, Key::SINGLE4 | Key::SINGLE6) && (key.high, key.low) != (0, 0)
}

/// What the home of a rule says.
pub(super) fn says(record: u32, key: &Key, entry: &Entry) -> u32 {
    if key.rest & Key::GONE != 0 {
        return gone(record);
    }
    let drops = if entry.drop_until == FOREVER { home::DROPS } else { 0 };
    home::THERE | drops | gone(record)
}

/// What it says when the rule is not in force any more, or not yet.
fn gone(record: u32) -> u32 {
    home::TAKEN | record
}

impl Homes {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            lines4: Lines {
                map: Mapped::open(pins, "homes4", size_of::<Homes4>())?,
                shape: SHAPE4,
            },
            lines6: Lines {
                map: Mapped::open(pins, "homes6", size_of::<Homes6>())?,
                shape: SHAPE6,
            },
        })
    }

    /// Says to the program how many lines there are; how often it was told something else.
    pub(super) fn publish(&self, header: &Mapped) -> u64 {
        let told = &header.words()[offset_of!(Lookup, homes) / 8..];
        let lines = [&self.lines4, &self.lines6].map(|it| u64::from(it.count()));
        let told = told.iter().zip(lines);
        told.map(|(told, lines)| u64::from(told.swap(lines, Release) != lines)).sum()
    }

    /// Those of the family of a key.
    pub(super) fn of(&self, key: &Key) -> &Lines {
        if key.version() == 4 { &self.lines4 } else { &self.lines6 }
    }

    /// The home of a record.
    pub(super) fn home(&self, held: &Held, record: u32) -> Option<Home<'_>> {
        self.of(&held.at(record).0).at(held.home(record)?)
    }

    /// The home of a record; one that drops and has none gets one where there is room, with nothing in force
    /// there yet.
    pub(super) fn house(
        &self,
        held: &mut Held,
        near: &Near,
        record: u32,
        key: &Key,
        entry: &Entry,
    ) -> Option<Home<'_>> {
        if !lacks_one(held, record, key, entry) {
            return self.home(held, record);
        }
        let lines = self.of(key);
        let (number, home) = lines.free(near.line(key, lines.count()))?;
        home.settle(record, key);
        held.settle(record, number);
        Some(home)
    }

    /// Takes over the homes of records, with what was counted there, and mends them.
    pub(super) fn adopt(&self, held: &mut Held, near: &Near) {
        self.keep(|version, number, record| {
            let key = held.at(record).0;
            let is_its = key.version() == version && can_have(&living(&key));
            let adopts = is_its && held.home(record).is_none();
            if adopts {
                held.settle(record, number);
            }
            adopts
        });
        let all = held.iter();
        let homeless = all.filter(|(record, key, entry)| lacks_one(held, *record, key, entry));
        let homeless: Vec<_> =
            homeless.map(|(record, key, entry)| (record, *key, *entry)).collect();
        for (record, key, entry) in homeless {
            self.house(held, near, record, &key, &entry);
        }
        self.mend(held);
    }

    /// Frees homes that are no record's; how many that were.
    pub(super) fn sweep(&self, held: &Held) -> u64 {
        self.keep(|version, number, record| {
            held.home(record) == Some(number) && held.at(record).0.version() == version
        })
    }

    /// Lets homes say what they should; how many did not.
    pub(super) fn mend(&self, held: &Held) -> u64 {
        let all = held.all();
        let homes = all.filter_map(|(record, key, entry)| {
            Some(self.home(held, record)?.mend(record, key, entry))
        });
        homes.sum()
    }

    /// Frees every home but those that are kept, by their families, numbers and records; how many that were.
    fn keep(&self, mut is_kept: impl FnMut(u64, u32, u32) -> bool) -> u64 {
        let mut freed = 0;
        for (version, lines) in [(4, &self.lines4), (6, &self.lines6)] {
            for number in lines.numbers(0..lines.count()) {
                let Some(home) = lines.at(number) else { continue };
                let says = home.says();
                if says != 0 && !is_kept(version, number, says & home::NUMBER) {
                    home.free();
                    freed += 1;
                }
            }
        }
        freed
    }
}

/// Whether a record should have a home, and has none.
fn lacks_one(held: &Held, record: u32, key: &Key, entry: &Entry) -> bool {
    entry.drop_until != 0 && can_have(key) && held.home(record).is_none()
}

impl Lines {
    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.map.elements() & !1
    }

    /// The home of a number.
    pub(super) fn at(&self, number: u32) -> Option<Home<'_>> {
        let number = number as usize;
        let (start, lane) = (number / self.shape.homes * LINE, number % self.shape.homes);
        let words = self.map.halves().get(start..start + LINE)?;
        Some(Home { words, shape: &self.shape, lane })
    }

    /// The numbers of the homes in lines.
    fn numbers(&self, lines: Range<u32>) -> Range<u32> {
        let homes = u32::try_from(self.shape.homes).expect("few");
        lines.start * homes..lines.end * homes
    }

    /// A free home in a line or the one beside it, with its number; `None` where there is no room.
    fn free(&self, line: u32) -> Option<(u32, Home<'_>)> {
        for number in [line, line ^ 1].into_iter().flat_map(|it| self.numbers(it..it + 1)) {
            let home = self.at(number)?;
            if home.says() == 0 {
                return Some((number, home));
            }
        }
        None
    }
}

impl Home<'_> {
    /// What it says of its record; see [`home`].
    pub(super) fn says(&self) -> u32 {
        self.words[self.shape.records + self.lane].load(Relaxed)
    }

    /// Says that from now on.
    pub(super) fn say(&self, says: u32) {
        self.words[self.shape.records + self.lane].store(says, Release);
    }

    /// It is a record's, whose rule is not in force yet.
    pub(super) fn settle(&self, record: u32, key: &Key) {
        self.say(gone(record));
        self.set_address(key);
    }

    /// Its rule is not in force any more.
    pub(super) fn leave(&self, record: u32) {
        self.say(gone(record));
        self.set_address(&Key::default());
    }

    /// Mends what is there; 1 when it was something else.
    pub(super) fn mend(&self, record: u32, key: &Key, entry: &Entry) -> u64 {
        let says = says(record, key, entry);
        let key = if says & home::THERE == 0 { &Key::default() } else { key };
        let is_right = self.address(key).all(|(word, part)| word.load(Relaxed) == part);
        if is_right && self.says() == says {
            return 0;
        }
        self.settle(record, key);
        self.say(says);
        1
    }

    fn set_address(&self, key: &Key) {
        for (word, part) in self.address(key) {
            word.store(part, Release);
        }
    }

    /// The words of the address, and what they are for a key.
    fn address(&self, key: &Key) -> impl Iterator<Item = (&AtomicU32, u32)> {
        let Shape { addresses, words, .. } = *self.shape;
        let places = addresses.iter().flat_map(move |first| {
            let first = first + self.lane * words;
            first..first + words
        });
        let halves = [key.high, key.low].into_iter().flat_map(|word| {
            let [a, b, c, d, upper @ ..] = word.to_ne_bytes();
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(upper)]
        });
        places.map(|place| &self.words[place]).zip(halves)
    }

    /// What was dropped; see [`agent_records::lookup::Seen`].
    pub(super) fn seen(&self) -> Tally {
        // Packets first; see the program's count.rs.
        let packets = self.words[self.shape.seen + 2 * self.lane].load(Acquire);
        let bytes = self.words[self.shape.bytes + self.lane].load(Relaxed);
        Tally { packets: packets.into(), bytes: bytes.into() }
    }

    /// Nobody's any more, as no program has it in sight.
    pub(super) fn free(&self) {
        let seen = self.shape.seen + 2 * self.lane;
        let records = self.shape.records + self.lane;
        self.set_address(&Key::default());
        for word in [seen, seen + 1, self.shape.bytes + self.lane, records] {
            self.words[word].store(0, Release);
        }
    }
}
