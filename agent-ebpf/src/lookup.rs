//! The lookup table: whether a rule is near a source, and what the rule of a key says. It must not
//! know packets or verdicts; agent-records tells how the table is made.

use crate::maps;
use agent_records::lookup::{
    CLASSES6, GUARD_NEAR, Guarded, KINDS, Key, LANES, Lookup, Record, Seed, bits, guard_bit, lane,
    near4, near6, place,
};
use agent_records::{Entry, mask};
use aya_ebpf::maps::Array;
use core::ptr::read_volatile;

/// Place of the bit that says that a short prefix is near an IPv4 source; at 0 is that of the others.
const SHORT: u32 = 1;
/// Place of the bit that says that a prefix of no class is near an IPv6 source; below it are those of the
/// classes, in their order.
const WIDE: u32 = 3;

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
pub fn around4(source: u32) -> u64 {
    let Some(lookup) = lookup() else { return 0 };
    let lengths = lookup.masks[mask::ANY4 as usize] | lookup.masks[mask::OTHER4 as usize];
    let mut near = 0;
    if lengths & LENGTHS4[0] != 0 {
        let hash = lookup.filter_seed.hash1(near4(source));
        near |= passes(&maps::FILTER4, hash, lookup.filter4);
    }
    if lengths & LENGTHS4[1] != 0 && is_set(&lookup.wide4, source >> 16) != 0 {
        near |= in_exact(source >> 8) << SHORT;
    }
    near
}

/// What is near an IPv6 source.
#[inline(always)]
pub fn around6(high: u64) -> u64 {
    let Some(lookup) = lookup() else { return 0 };
    let (any, port) = (mask::ANY6 as usize, mask::OTHER6 as usize);
    let long = lookup.masks[any] | lookup.masks[port];
    let lengths = lookup.masks[any + 1] | lookup.masks[port + 1];
    let all = lookup.masks[any + 2] | lookup.masks[port + 2];
    let mut near = 0;
    if long | (lengths & LENGTHS6[0]) != 0 {
        near |= in_class(lookup, high, 0);
    }
    if lengths & LENGTHS6[1] != 0 {
        near |= in_class(lookup, high, 1);
    }
    if lengths & LENGTHS6[2] != 0 {
        near |= in_class(lookup, high, 2);
    }
    if all | (lengths & LENGTHS6[3]) != 0 {
        near |= is_set(&lookup.wide6, (high >> 48) as u32) << WIDE;
    }
    near
}

/// What guard entries are near an IPv4 source.
#[inline(always)]
pub fn guards_around4(source: u32) -> u64 {
    let Some(lookup) = lookup() else { return 0 };
    let mut near = 0;
    let hash = lookup.filter_seed.hash1(near4(source) ^ GUARD_NEAR);
    if lookup.guarded.prefixes[0] & guard_bit(hash) != 0 {
        near |= passes(&maps::FILTER4, hash, lookup.filter4);
    }
    near | is_set(&lookup.guard_wide[0], source >> 16) << SHORT
}

/// What guard entries are near an IPv6 source.
#[inline(always)]
pub fn guards_around6(high: u64) -> u64 {
    let Some(lookup) = lookup() else { return 0 };
    let mut near = is_set(&lookup.guard_wide[1], (high >> 48) as u32) << WIDE;
    for class in 0..CLASSES6.len() {
        let hash = lookup.filter_seed.hash1(near6(high, CLASSES6[class]) ^ GUARD_NEAR);
        if lookup.guarded.prefixes[1] & guard_bit(hash) != 0 {
            near |= passes(&maps::FILTER6, hash, lookup.filter6) << class;
        }
    }
    near
}

#[inline(always)]
fn in_class(lookup: &Lookup, high: u64, class: usize) -> u64 {
    let hash = lookup.filter_seed.hash1(near6(high, CLASSES6[class]));
    passes(&maps::FILTER6, hash, lookup.filter6) << class
}

/// 1 when a filter has all the bits of a hash, or is not as the lookup says; else 0.
#[inline(always)]
fn passes(filter: &Array<u64>, hash: u64, order: u64) -> u64 {
    let (word, bits) = bits(hash, order as u32 & 31);
    let Some(word) = filter.get(word) else { return 1 };
    let lacking = !*word & bits;
    // The highest bit is that some are lacking.
    1 - ((lacking | lacking.wrapping_neg()) >> 63)
}

#[inline(always)]
fn is_set(bitmap: &[u64; 1024], place: u32) -> u64 {
    bitmap[(place >> 6) as usize & 1023] >> (place & 63) & 1
}

#[inline(always)]
fn in_exact(place: u32) -> u64 {
    maps::EXACT4.get(place >> 6).map_or(1, |word| word >> (place & 63) & 1)
}

#[inline(always)]
fn lookup() -> Option<&'static Lookup> {
    maps::LOOKUP.get(0)
}

/// The lengths that have rules, in words.
#[inline(always)]
pub fn masks() -> Option<&'static [u64; mask::COUNT as usize]> {
    Some(&lookup()?.masks)
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

/// What the guard has anything of.
#[inline(always)]
pub fn guarded() -> Option<&'static Guarded> {
    Some(&lookup()?.guarded)
}

/// The rule of an IPv4 key, and its record.
#[inline(always)]
pub fn find4(address: u32, rest: u64) -> Option<(Entry, *mut Record)> {
    let half = half()?;
    let key = Key { high: u64::from(address), low: 0, rest };
    find(&half, half.seed.hash4(key.high, rest), &key)
}

/// The rule of an IPv6 key, and its record.
#[inline(always)]
pub fn find6(high: u64, low: u64, rest: u64) -> Option<(Entry, *mut Record)> {
    let half = half()?;
    find(&half, half.seed.hash6(high, low, rest), &Key { high, low, rest })
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
fn find(half: &Half, hash: u64, key: &Key) -> Option<(Entry, *mut Record)> {
    let (print, first, second) = place(hash, half.order);
    let number = match record(half.start + first, print) {
        Some(number) => number,
        None => record(half.start + second, print)?,
    };
    let record = maps::RECORDS.get_ptr_mut(number)?;
    // SAFETY: a checked pointer into a map's value.
    unsafe {
        let entry = &raw const (*record).entry;
        let entry = Entry {
            drop_until: read_volatile(&raw const (*entry).drop_until),
            monitor_until: read_volatile(&raw const (*entry).monitor_until),
            drop_slot: read_volatile(&raw const (*entry).drop_slot),
            monitor_slot: read_volatile(&raw const (*entry).monitor_slot),
        };
        // Read last: user space writes a key last, so what was read before is this key's.
        let found = &raw const (*record).key;
        let same = read_volatile(&raw const (*found).rest) == key.rest
            && read_volatile(&raw const (*found).high) == key.high
            && read_volatile(&raw const (*found).low) == key.low;
        same.then_some((entry, record))
    }
}

#[inline(always)]
fn record(bucket: u32, print: u32) -> Option<u32> {
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
