//! Which prefix lengths have keys, of each kind: what tells the program where to look.

use crate::filter::mapped::Mapped;
use crate::filter::record;
use agent_records::lookup::{CLASSES6, KINDS, Key, LONG4, Lookup, kind, near};
use agent_records::mask;
use std::collections::HashMap;
use std::mem::offset_of;
use std::sync::atomic::Ordering::Release;

/// How many keys need each bit.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    counts: HashMap<Bit, u64>,
    /// How many guard keys name each port with its last six bits.
    ports: HashMap<u64, u64>,
}

/// A bit of the words of a family: whether it is IPv6, the kind, the word, the place.
type Bit = (bool, u32, u32, u32);

/// What the program is told.
struct Words {
    masks: [u64; mask::COUNT as usize],
    near: [u64; 2],
    ports: u64,
    kinds: [u64; 2],
    lengths4: [u64; KINDS],
    lengths6: [u64; 4 * KINDS],
}

impl Lengths {
    pub(super) fn add(&mut self, key: &Key) {
        *self.counts.entry(bit(key)).or_default() += 1;
        if let Some(bits) = guarded(key) {
            *self.ports.entry(bits).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, key: &K) {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
        less(&mut self.counts, &bit(key));
        if let Some(bits) = guarded(key) {
            less(&mut self.ports, &bits);
        }
    }

    /// Lets lengths count that have keys, and no others; how many words said something else.
    pub(super) fn publish(&self, header: &Mapped) -> u64 {
        let words = self.words();
        // A packet looks for rules of a service once it is told that there are any: told last.
        write(header, offset_of!(Lookup, lengths4), &words.lengths4)
            + write(header, offset_of!(Lookup, lengths6), &words.lengths6)
            + write(header, offset_of!(Lookup, kinds), &words.kinds)
            + write(header, offset_of!(Lookup, guarded.ports), &[words.ports])
            + write(header, offset_of!(Lookup, masks), &words.masks)
            + write(header, offset_of!(Lookup, near), &words.near)
    }

    fn words(&self) -> Words {
        let mut words = Words {
            masks: [0; mask::COUNT as usize],
            near: [0; 2],
            ports: self.ports.keys().fold(0, |all, bits| all | bits),
            kinds: [0; 2],
            lengths4: [0; KINDS],
            lengths6: [0; 4 * KINDS],
        };
        for (is_v6, kind, word, place) in self.counts.keys().copied() {
            words.kinds[usize::from(is_v6)] |= 1 << kind;
            let lengths = if is_v6 {
                &mut words.lengths6[(kind * 4 + word) as usize]
            } else {
                &mut words.lengths4[kind as usize]
            };
            *lengths |= 1 << place;
            let near = &mut words.near[usize::from(is_v6)];
            if kind == kind::GUARD {
                *near |= 1 << (near::GUARD + class(is_v6, word, place));
            }
            if kind < kind::GUARD {
                *near |= 1 << class(is_v6, word, place);
                let first = match (is_v6, kind == kind::ANY) {
                    (false, true) => mask::ANY4,
                    (false, false) => mask::OTHER4,
                    (true, true) => mask::ANY6,
                    (true, false) => mask::OTHER6,
                };
                words.masks[(first + word) as usize] |= 1 << place;
            }
        }
        for (near, any, other) in [(0, mask::ANY4, mask::OTHER4), (1, mask::ANY6, mask::OTHER6)] {
            let singles = words.masks[any as usize] & !words.masks[other as usize] & 1;
            words.near[near] |= singles << near::SINGLE;
        }
        words
    }
}

/// Which of what can be near a source a prefix length is.
fn class(is_v6: bool, word: u32, place: u32) -> u32 {
    let len = if is_v6 { 128 - word * 64 - place } else { 32 - place };
    match CLASSES6.into_iter().position(|class| len >= class) {
        _ if !is_v6 && len >= LONG4 => near::LONG,
        _ if !is_v6 => near::SHORT,
        Some(class) => u32::try_from(class).expect("few"),
        None => near::WIDE,
    }
}

fn bit(key: &Key) -> Bit {
    let (kind, word, place) = record::length(key);
    (key.version() == 6, kind, word, place)
}

/// The last six bits of the ports of a guard key, a bit each.
fn guarded(key: &Key) -> Option<u64> {
    if !key.guards() || key.block() == 0 {
        return None;
    }
    let (first, last) = record::ports(key.block().into());
    Some((first..=last).take(64).fold(0, |bits, port| bits | 1 << (port & 63)))
}

fn write(header: &Mapped, place: usize, words: &[u64]) -> u64 {
    let there = header.words()[place / 8..][..words.len()].iter().zip(words);
    there.map(|(there, word)| u64::from(there.swap(*word, Release) != *word)).sum()
}
