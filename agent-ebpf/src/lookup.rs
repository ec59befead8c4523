//! The lookup table: whether a rule is near a source, and what the rule of a key says. It must not
//! know packets or verdicts; agent-records tells how the table is made.

use crate::maps;
use agent_records::Entry;
use agent_records::lookup::{
    CLASSES6, GUARD_NEAR, HOMES, KINDS, Key, LANES, Lookup, Record, Seed, guard_bit, home, lane,
    near, near4, near6, place, places,
};
use aya_ebpf::maps::Array;
use core::ptr::read_volatile;

/// Whatever can be near.
pub const EVERYWHERE: u64 = 0xf;

/// Bits of a word of IPv4 lengths, by what is near.
const LENGTHS4: [u64; 2] = [(1 << 9) - 1, (1 << 33) - (1 << 9)];
/// Bits of the second word of IPv6 lengths (64 to 1), by what is near.
const LENGTHS6: [u64; 4] = [1, (1 << 17) - (1 << 1), (1 << 33) - (1 << 17), u64::MAX << 33];

/// The lengths that rules near an IPv4 source may have.
#[inline(always)]
pub fn lengths4(near: u64) -> u64 {
    all(near, 0) & LENGTHS4[0] | all(near, 1) & LENGTHS4[1]
}

/// The lengths that rules near an IPv6 source may have, in a word of them.
#[inline(always)]
pub fn lengths6(near: u64, word: u32) -> u64 {
    match word {
        0 => all(near, 0),
        1 => {
            all(near, 0) & LENGTHS6[0]
                | all(near, 1) & LENGTHS6[1]
                | all(near, 2) & LENGTHS6[2]
                | all(near, 3) & LENGTHS6[3]
        }
        _ => all(near, 3) & 1,
    }
}

/// All bits, or none, as one bit is. A branch would be one more way for the verifier to follow.
#[inline(always)]
fn all(near: u64, place: u32) -> u64 {
    (near >> place & 1).wrapping_neg()
}

/// What is near an IPv4 source; nothing but with rules of such lengths.
#[inline(always)]
pub fn around4(lookup: &Lookup, source: u32) -> u64 {
    let can = lookup.near[0];
    let mut found = 0;
    if can & 1 << near::LONG != 0 {
        let hash = lookup.filter_seed.hash1(near4(source));
        found |= passes(&maps::FILTER4, hash, lookup.filter4);
    }
    if can & 1 << near::SHORT != 0 && is_set(&lookup.wide4, source >> 16) != 0 {
        found |= in_exact(source >> 8) << near::SHORT;
    }
    found
}

/// What is near an IPv6 source.
#[inline(always)]
pub fn around6(lookup: &Lookup, high: u64) -> u64 {
    let can = lookup.near[1];
    let mut found = 0;
    for class in 0..CLASSES6.len() {
        if can & 1 << class != 0 {
            let hash = lookup.filter_seed.hash1(near6(high, CLASSES6[class]));
            found |= passes(&maps::FILTER6, hash, lookup.filter6) << class;
        }
    }
    if can & 1 << near::WIDE != 0 {
        found |= is_set(&lookup.wide6, (high >> 48) as u32) << near::WIDE;
    }
    found
}

/// What guard entries are near an IPv4 source.
#[inline(always)]
pub fn guards_around4(lookup: &Lookup, source: u32) -> u64 {
    let can = lookup.near[0] >> near::GUARD;
    let mut found = 0;
    if can & 1 << near::LONG != 0 {
        found |= guarded(lookup, 0, near4(source), &maps::FILTER4, lookup.filter4);
    }
    if can & 1 << near::SHORT != 0 {
        found |= is_set(&lookup.guard_wide[0], source >> 16) << near::SHORT;
    }
    found
}

/// What guard entries are near an IPv6 source.
#[inline(always)]
pub fn guards_around6(lookup: &Lookup, high: u64) -> u64 {
    let can = lookup.near[1] >> near::GUARD;
    let mut found = 0;
    for class in 0..CLASSES6.len() {
        if can & 1 << class != 0 {
            let near = near6(high, CLASSES6[class]);
            found |= guarded(lookup, 1, near, &maps::FILTER6, lookup.filter6) << class;
        }
    }
    if can & 1 << near::WIDE != 0 {
        found |= is_set(&lookup.guard_wide[1], (high >> 48) as u32) << near::WIDE;
    }
    found
}

/// 1 when a guard entry may have this in common with a source; else 0.
#[inline(always)]
fn guarded(lookup: &Lookup, family: usize, near: u64, filter: &Array<u64>, order: u64) -> u64 {
    let bit = guard_bit(lookup.filter_seed.hash1(near));
    if lookup.guarded.prefixes[family] & bit == 0 {
        return 0;
    }
    passes(filter, lookup.filter_seed.hash1(near ^ GUARD_NEAR), order)
}

/// 1 when a filter has all the bits of a hash, or is not as the lookup says; else 0.
#[inline(always)]
fn passes(filter: &Array<u64>, hash: u64, order: u64) -> u64 {
    let (word, places) = places(hash, order as u32 & 31);
    let Some(word) = filter.get(word) else { return 1 };
    word >> places[0] & word >> places[1] & word >> places[2] & 1
}

#[inline(always)]
fn is_set(bitmap: &[u64; 1024], place: u32) -> u64 {
    bitmap[(place >> 6) as usize & 1023] >> (place & 63) & 1
}

#[inline(always)]
fn in_exact(place: u32) -> u64 {
    maps::EXACT4.get(place >> 6).map_or(1, |word| word >> (place & 63) & 1)
}

/// What there is to know of the tables.
#[inline(always)]
pub fn lookup() -> Option<&'static Lookup> {
    maps::LOOKUP.get(0)
}

/// The kinds of keys that a family has.
#[inline(always)]
pub fn kinds(family: usize) -> u64 {
    lookup().map_or(0, |lookup| lookup.kinds[family])
}

/// The prefix lengths of IPv4 keys of a kind.
#[inline(always)]
pub fn kind_lengths4(kind: u32) -> u64 {
    lookup().map_or(0, |lookup| lookup.lengths4[kind as usize & (KINDS - 1)])
}

/// The same of IPv6, in a word of them.
#[inline(always)]
pub fn kind_lengths6(kind: u32, word: u32) -> u64 {
    lookup().map_or(0, |lookup| lookup.lengths6[kind as usize & (KINDS - 1)][word as usize & 3])
}

/// Number of the interface of this index; 0 when no rule names it.
#[inline(always)]
pub fn interface(ifindex: u32) -> u64 {
    // SAFETY: read once; user space replaces whole numbers.
    unsafe { maps::INTERFACES.get(&ifindex) }.map_or(0, |number| u64::from(*number))
}

/// The record of a rule about one address and every packet, if it is at home.
#[inline(always)]
pub fn at_home(lookup: &Lookup, hash: u64, key: &Key) -> Option<*mut Record> {
    let home = home(hash, lookup.homes);
    for other in 0..HOMES {
        let record = record(home ^ other)?;
        // SAFETY: a checked pointer into a map's value.
        if unsafe { is_about(record, key) } {
            return Some(record);
        }
    }
    None
}

/// Whether a record is that of a key. What it says is read later: it is there before the key, and nobody
/// else gets the record while a program may have it in sight.
///
/// # Safety
///
/// `record` points into a map's value.
#[inline(always)]
unsafe fn is_about(record: *const Record, key: &Key) -> bool {
    // SAFETY: the caller's promise; read once each, because user space may change them.
    unsafe {
        let found = &raw const (*record).key;
        // Of IPv4 the rest says that there is no more.
        read_volatile(&raw const (*found).high) == key.high
            && (key.version() == 4 || read_volatile(&raw const (*found).low) == key.low)
            && read_volatile(&raw const (*found).rest) == key.rest
    }
}

/// Until when a record drops; see [`Entry`].
#[inline(always)]
pub fn drop_until(record: *mut Record) -> u64 {
    // SAFETY: a checked pointer into a map's value.
    unsafe { read_volatile(&raw const (*record).entry.drop_until) }
}

/// What a record says.
#[inline(always)]
pub fn said(record: *mut Record) -> Entry {
    // SAFETY: a checked pointer into a map's value.
    unsafe {
        let entry = &raw const (*record).entry;
        Entry {
            drop_until: read_volatile(&raw const (*entry).drop_until),
            monitor_until: read_volatile(&raw const (*entry).monitor_until),
            drop_slot: read_volatile(&raw const (*entry).drop_slot),
            monitor_slot: read_volatile(&raw const (*entry).monitor_slot),
        }
    }
}

/// The record of an IPv4 key, with its number.
#[inline(always)]
pub fn find4(address: u32, rest: u64) -> Option<(u32, *mut Record)> {
    let half = half()?;
    let key = Key { high: u64::from(address), low: 0, rest };
    find(&half, half.seed.hash4(key.high, rest), &key)
}

/// The record of an IPv6 key, with its number.
#[inline(always)]
pub fn find6(high: u64, low: u64, rest: u64) -> Option<(u32, *mut Record)> {
    let half = half()?;
    find(&half, half.seed.hash6(high, low, rest), &Key { high, low, rest })
}

/// The record of a number.
#[inline(always)]
pub fn record(number: u32) -> Option<*mut Record> {
    maps::RECORDS.get_ptr_mut(number)
}

/// The half of the index that counts.
struct Half {
    start: u32,
    order: u32,
    seed: &'static Seed,
}

#[inline(always)]
fn half() -> Option<Half> {
    let lookup = lookup()?;
    // SAFETY: a field of a map's value; read once, because user space may change it.
    let index = unsafe { read_volatile(&raw const lookup.index) };
    let start = (index >> 32) as u32;
    let seed = &lookup.index_seeds[(start != 0) as usize];
    Some(Half { start, order: index as u32 & 31, seed })
}

#[inline(always)]
fn find(half: &Half, hash: u64, key: &Key) -> Option<(u32, *mut Record)> {
    let (print, first, second) = place(hash, half.order);
    let number = match in_bucket(half.start + first, print) {
        Some(number) => number,
        None => in_bucket(half.start + second, print)?,
    };
    let record = record(number)?;
    // SAFETY: a checked pointer into a map's value.
    unsafe { is_about(record, key) }.then_some((number, record))
}

#[inline(always)]
fn in_bucket(bucket: u32, print: u32) -> Option<u32> {
    let bucket = maps::INDEX.get(bucket)?;
    let own = lane(print);
    if bucket.prints[own] == print {
        return Some(bucket.records[own]);
    }
    for lane in 0..LANES {
        if bucket.prints[lane] == print {
            return Some(bucket.records[lane]);
        }
    }
    None
}
