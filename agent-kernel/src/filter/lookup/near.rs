//! What tells the program that no rule is near a source: a filter for each family, and bitmaps for
//! short prefixes. A bit that no rule needs any more costs time and nothing else, so bits go by and by.

use super::held::Held;
use super::index::order;
use crate::Error;
use crate::filter::mapped::Mapped;
use crate::filter::pins::Pins;
use agent_records::lookup::{
    CLASSES6, EXACT_WORDS, GUARD_NEAR, Key, LONG4, Lookup, MIN_ORDER, Seed, WIDE_WORDS, bits,
    guard_bit, line, near4, near6,
};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// Bits of removed keys that are left in a filter at most, beside as many as it holds.
const STALE: usize = 4096;

/// Which bits a key needs. Those of guard entries are others than those of rules: only packets that a
/// rule matches look for them.
enum Spot {
    /// In the filter of its family: the word that is hashed.
    Filtered(u64),
    /// In a bitmap of the first 16 bits of guard entries.
    GuardWide(Range<u32>),
    /// In the bitmap of the first 16 bits, and in that of the first 24 of IPv4.
    Wide(Range<u32>, Range<u32>),
}

fn spot(key: &Key) -> Option<Spot> {
    let spot = spot_of_rule(key);
    match spot {
        // Guards with a port are told of by their ports.
        _ if key.guards() && key.block() != 0 => None,
        Spot::Filtered(near) if key.guards() => Some(Spot::Filtered(near ^ GUARD_NEAR)),
        Spot::Wide(first16, _) if key.guards() => Some(Spot::GuardWide(first16)),
        spot => Some(spot),
    }
}

fn spot_of_rule(key: &Key) -> Spot {
    let len = key.prefix_len();
    if key.version() == 4 {
        let address = u32::try_from(key.high).expect("an IPv4 address has 32 bits");
        if len >= LONG4 {
            return Spot::Filtered(near4(address));
        }
        return Spot::Wide(range(address, len, 16), range(address, len, 24));
    }
    match CLASSES6.into_iter().find(|class| len >= *class) {
        Some(class) => Spot::Filtered(near6(key.high, class)),
        None => Spot::Wide(range(upper(key.high), len, 16), 0..0),
    }
}

fn upper(word: u64) -> u32 {
    u32::try_from(word >> 32).expect("half of the bits")
}

/// The values of the first `bits` bits of an address that a prefix has.
fn range(address: u32, len: u32, bits: u32) -> Range<u32> {
    let first = address >> (32 - bits);
    first..first + (1 << bits.saturating_sub(len))
}

/// One family's filter.
#[derive(Debug)]
struct Filter {
    words: Mapped,
    order_place: usize,
    order: u32,
    max_order: u32,
    stale: usize,
}

impl Filter {
    fn open(pins: &Pins, name: &'static str, order_place: usize) -> Result<Self, Error> {
        let words = Mapped::open(pins, name, 8)?;
        let max_order = (words.elements() / 2).max(1).ilog2();
        Ok(Self { words, order_place, order: MIN_ORDER, max_order, stale: 0 })
    }

    fn region(&self) -> &[AtomicU64] {
        &self.words.words()[1 << self.order..2 << self.order]
    }

    /// Writes every word as these keys need it, and lets that count; how many words lacked bits.
    fn build(
        &mut self,
        header: &Mapped,
        seed: &Seed,
        order: u32,
        keys: impl Iterator<Item = Key>,
    ) -> u64 {
        self.order = order.min(self.max_order);
        let mut wanted = vec![0_u64; 1 << self.order];
        for key in keys {
            if let Some(Spot::Filtered(near)) = spot(&key) {
                let (word, bits) = bits(seed.hash1(near), self.order);
                wanted[word as usize - (1 << self.order)] |= bits;
            }
        }
        let lacking = write(self.region(), &wanted);
        header.words()[self.order_place / 8].store(self.order.into(), Release);
        self.stale = 0;
        lacking
    }

    fn add(&self, seed: &Seed, near: u64) {
        let (word, bits) = bits(seed.hash1(near), self.order);
        set(&self.words.words()[word as usize], bits);
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Near {
    seed: Seed,
    filter4: Filter,
    filter6: Filter,
    exact4: Mapped,
    /// Removed keys that had bits in bitmaps.
    stale_wide: usize,
}

impl Near {
    /// As it is pinned, with a secret of its own where none is; it must be built before it is used.
    pub(super) fn open(header: &Mapped, pins: &Pins) -> Result<Self, Error> {
        let place = offset_of!(Lookup, filter_seed);
        let mut seed = super::load_seed(header, place);
        if seed.last.is_multiple_of(2) {
            seed = super::seed()?;
            super::store_seed(header, place, &seed);
        }
        Ok(Self {
            seed,
            filter4: Filter::open(pins, "filter4", offset_of!(Lookup, filter4))?,
            filter6: Filter::open(pins, "filter6", offset_of!(Lookup, filter6))?,
            exact4: Mapped::open(pins, "exact4", 8)?,
            stale_wide: 0,
        })
    }

    /// Makes room in the filters for so many keys of each family, those that are held among them.
    pub(super) fn reserve(&mut self, header: &Mapped, held: &Held, keys4: usize, keys6: usize) {
        for (version, filter, keys) in
            [(4, &mut self.filter4, keys4), (6, &mut self.filter6, keys6)]
        {
            let order = order(keys).min(filter.max_order);
            if order > filter.order {
                filter.build(header, &self.seed, order, of(held, version));
            }
        }
    }

    /// The line, of so many, that the home of a rule about one address is looked for in first.
    pub(super) fn line(&self, key: &Key, lines: u32) -> u32 {
        let hash = match u32::try_from(key.high) {
            Ok(address) if key.version() == 4 => self.seed.single4(address),
            _ => self.seed.single6(key.high, key.low),
        };
        line(hash, lines.into())
    }

    pub(super) fn add(&self, header: &Mapped, key: &Key) {
        match (spot(key), key.version()) {
            (None, _) => {}
            (Some(Spot::Filtered(near)), version) => {
                let filter = if version == 4 { &self.filter4 } else { &self.filter6 };
                filter.add(&self.seed, near);
                if key.guards() {
                    set(guard_word(header, version), self.guard_bit(near));
                }
            }
            (Some(Spot::GuardWide(first16)), version) => {
                set_range(guard_bitmap(header, version), first16);
            }
            (Some(Spot::Wide(first16, first24)), version) => {
                // The program looks at the first bitmap first.
                set_range(self.exact4.words(), first24);
                set_range(bitmap(header, version), first16);
            }
        }
    }

    /// Notes that a key is gone.
    pub(super) fn removed(&mut self, key: &Key) {
        match (spot(key), key.version()) {
            (None, _) => {}
            (Some(Spot::Filtered(_)), 4) => self.filter4.stale += 1,
            (Some(Spot::Filtered(_)), _) => self.filter6.stale += 1,
            (Some(Spot::Wide(..) | Spot::GuardWide(_)), _) => self.stale_wide += 1,
        }
    }

    /// Takes old bits away where there are many of them, and room that is not used.
    pub(super) fn tidy(&mut self, header: &Mapped, held: &Held, keys4: usize, keys6: usize) {
        for (version, filter, keys) in
            [(4, &mut self.filter4, keys4), (6, &mut self.filter6, keys6)]
        {
            if filter.stale > keys + STALE {
                filter.build(header, &self.seed, order(keys), of(held, version));
            }
        }
        if self.stale_wide > STALE {
            self.build_bitmaps(header, held);
        }
    }

    /// Writes everything as it must be; how many words lacked bits, or were not the program's.
    pub(super) fn build(
        &mut self,
        header: &Mapped,
        held: &Held,
        orders: Option<(u32, u32)>,
    ) -> u64 {
        let place = offset_of!(Lookup, filter_seed);
        let mut wrong = u64::from(super::load_seed(header, place) != self.seed);
        super::store_seed(header, place, &self.seed);
        let (order4, order6) = orders.unwrap_or((self.filter4.order, self.filter6.order));
        for (version, order, filter) in
            [(4, order4, &mut self.filter4), (6, order6, &mut self.filter6)]
        {
            let told = header.words()[filter.order_place / 8].load(Relaxed);
            wrong += u64::from(told != u64::from(filter.order));
            wrong += filter.build(header, &self.seed, order, of(held, version));
        }
        wrong + self.build_bitmaps(header, held)
    }

    /// Told of the prefix itself, not of what it is filtered by.
    fn guard_bit(&self, near: u64) -> u64 {
        guard_bit(self.seed.hash1(near ^ GUARD_NEAR))
    }

    fn build_bitmaps(&mut self, header: &Mapped, held: &Held) -> u64 {
        let mut wide = [vec![0; WIDE_WORDS], vec![0; WIDE_WORDS]];
        let (mut guards, mut guard_words) = (wide.clone(), [0_u64; 2]);
        let mut exact = vec![0; EXACT_WORDS as usize];
        for key in held.keys() {
            let family = usize::from(key.version() != 4);
            match spot(key) {
                Some(Spot::Wide(first16, first24)) => {
                    fill(&mut wide[family], first16);
                    fill(&mut exact, first24);
                }
                Some(Spot::GuardWide(first16)) => fill(&mut guards[family], first16),
                Some(Spot::Filtered(near)) if key.guards() => {
                    guard_words[family] |= self.guard_bit(near);
                }
                _ => {}
            }
        }
        self.stale_wide = 0;
        let mut lacking = write(self.exact4.words(), &exact);
        for (family, version) in [(0, 4), (1, 6)] {
            lacking += write(bitmap(header, version), &wide[family])
                + write(guard_bitmap(header, version), &guards[family])
                + write(
                    std::slice::from_ref(guard_word(header, version)),
                    &guard_words[family..=family],
                );
        }
        lacking
    }
}

fn of(held: &Held, version: u64) -> impl Iterator<Item = Key> {
    held.keys().filter(move |key| key.version() == version).copied()
}

fn bitmap(header: &Mapped, version: u64) -> &[AtomicU64] {
    let place = if version == 4 { offset_of!(Lookup, wide4) } else { offset_of!(Lookup, wide6) };
    &header.words()[place / 8..place / 8 + WIDE_WORDS]
}

fn guard_bitmap(header: &Mapped, version: u64) -> &[AtomicU64] {
    let place = offset_of!(Lookup, guard_wide) / 8 + usize::from(version != 4) * WIDE_WORDS;
    &header.words()[place..place + WIDE_WORDS]
}

/// Which hashes of guard entries there are.
fn guard_word(header: &Mapped, version: u64) -> &AtomicU64 {
    &header.words()[offset_of!(Lookup, guarded.prefixes) / 8 + usize::from(version != 4)]
}

fn set(word: &AtomicU64, bits: u64) {
    // One writer: no read-modify-write.
    word.store(word.load(Relaxed) | bits, Release);
}

/// The words of a bitmap that a range of bits has a part in, with that part.
fn parts(range: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    let last = range.end.saturating_sub(1);
    let words = if range.is_empty() { 0..0 } else { range.start / 64..last / 64 + 1 };
    words.map(move |word| {
        let from = range.start.max(word * 64) % 64;
        let to = last.min(word * 64 + 63) % 64;
        (word as usize, u64::MAX << from & u64::MAX >> (63 - to))
    })
}

fn set_range(words: &[AtomicU64], range: Range<u32>) {
    for (word, bits) in parts(range) {
        set(&words[word], bits);
    }
}

fn fill(words: &mut [u64], range: Range<u32>) {
    for (word, bits) in parts(range) {
        words[word] |= bits;
    }
}

/// Writes what is wanted; how many words lacked something of it.
fn write(words: &[AtomicU64], wanted: &[u64]) -> u64 {
    let mut lacking = 0;
    for (word, wanted) in words.iter().zip(wanted) {
        let there = word.load(Relaxed);
        if there != *wanted {
            lacking += u64::from(wanted & !there != 0);
            word.store(*wanted, Release);
        }
    }
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_bits_is_whole_words_and_two_ends() {
        let parts = |range| parts(range).collect::<Vec<_>>();
        assert_eq!(parts(0..0), []);
        assert_eq!(parts(5..6), [(0, 1 << 5)]);
        assert_eq!(parts(63..65), [(0, 1 << 63), (1, 1)]);
        assert_eq!(parts(64..192), [(1, u64::MAX), (2, u64::MAX)]);
    }
}
