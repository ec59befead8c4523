//! The lookup table: whether a rule is near a source, and what the rule of a key says. It must not
//! know packets or verdicts; agent-records tells how the table is made.

use crate::maps;
use agent_records::Entry;
use agent_records::lookup::{
    CLASSES6, GUARD_NEAR, KINDS, Key, LANES, Lookup, PRINT, Record, Seed, Seen, guard_bit, home,
    line, near, near4, near6, place, places,
};
use aya_ebpf::maps::Array;
use core::arch::asm;
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

/// The slot that the drops of a record are counted on.
#[inline(always)]
pub fn drop_slot(number: u32) -> Option<u32> {
    let record = record(number)?;
    // SAFETY: a checked pointer into a map's value.
    Some(unsafe { read_volatile(&raw const (*record).entry.drop_slot) })
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

/// A home with a rule in force.
#[derive(Clone, Copy)]
pub struct Home {
    /// What it says; see [`home`].
    pub says: u32,
    /// What it dropped.
    pub seen: *mut Seen,
    /// The bytes of that.
    pub bytes: *mut u32,
}

impl Home {
    /// Number of its record.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.says & home::NUMBER
    }
}

/// The home of the rule about an IPv4 address and every packet, if it has one.
#[inline(always)]
pub fn home4(lookup: &Lookup, address: u32) -> Option<Home> {
    let first = line(lookup.filter_seed.single4(address), lookup.homes[0]);
    in_line4(first, address).or_else(|| in_line4(first ^ 1, address))
}

/// The same of an IPv6 address.
#[inline(always)]
pub fn home6(lookup: &Lookup, high: u64, low: u64) -> Option<Home> {
    let first = line(lookup.filter_seed.single6(high, low), lookup.homes[1]);
    in_line6(first, high, low).or_else(|| in_line6(first ^ 1, high, low))
}

/// The home in a line that has the address; a free one has none. Without a branch for each: which one it is
/// can't be foretold, and the processor goes on to the next packet while this one waits for memory.
#[inline(always)]
fn in_line4(number: u32, address: u32) -> Option<Home> {
    let line = maps::HOMES4.get_ptr_mut(number)?;
    // SAFETY: a field of a map's value; read once, because user space may change it.
    let there = |lane| unsafe {
        read_volatile((&raw const (*line).addresses).cast::<u32>().add(lane)) ^ address
    };
    let mut lane = all_if_none(there(1).into()) & 1;
    lane ^= (lane ^ 2) & all_if_none(there(2).into());
    // The verifier must see that it stays in the line. That of Linux 6.1 follows no exclusive or, and the
    // compiler knows better that nothing is masked away.
    // SAFETY: arithmetic.
    unsafe { asm!("{0} &= 3", inout(reg) lane, options(pure, nomem, nostack)) };
    if there(lane as usize) != 0 {
        return None;
    }
    // SAFETY: a checked pointer into a map's value, and a lane that the line has.
    unsafe {
        let (seen, bytes) = (&raw mut (*line).seen, &raw mut (*line).bytes);
        in_lane((&raw const (*line).records).cast(), seen.cast(), bytes.cast(), lane)
    }
}

#[inline(always)]
fn in_line6(number: u32, high: u64, low: u64) -> Option<Home> {
    let line = maps::HOMES6.get_ptr_mut(number)?;
    // SAFETY: as above.
    let there = |lane| unsafe {
        read_volatile((&raw const (*line).high).cast::<u64>().add(lane)) ^ high
            | read_volatile((&raw const (*line).low).cast::<u64>().add(lane)) ^ low
    };
    let differs = there(1);
    let lane = all_if_none(differs >> 1 | differs & 1) & 1;
    if there(lane as usize) != 0 {
        return None;
    }
    // SAFETY: as above.
    unsafe {
        let (seen, bytes) = (&raw mut (*line).seen, &raw mut (*line).bytes);
        in_lane((&raw const (*line).records).cast(), seen.cast(), bytes.cast(), lane)
    }
}

/// # Safety
///
/// The others are parts of a line of homes, which has such a lane.
#[inline(always)]
unsafe fn in_lane(
    records: *const u32,
    seen: *mut Seen,
    bytes: *mut u32,
    lane: u64,
) -> Option<Home> {
    let lane = lane as usize;
    // SAFETY: the caller's promise; read once, because user space may change it.
    unsafe {
        let says = read_volatile(records.add(lane));
        if says & home::THERE == 0 {
            return None;
        }
        Some(Home { says, seen: seen.add(lane), bytes: bytes.add(lane) })
    }
}

/// The record of an IPv4 key.
#[inline(always)]
pub fn find4(address: u32, rest: u64) -> Option<*mut Record> {
    let half = half(lookup()?);
    let key = Key { high: u64::from(address), low: 0, rest };
    find(&half, half.seed.hash4(key.high, rest), &key)
}

/// The record of an IPv6 key.
#[inline(always)]
pub fn find6(high: u64, low: u64, rest: u64) -> Option<*mut Record> {
    let half = half(lookup()?);
    find(&half, half.seed.hash6(high, low, rest), &Key { high, low, rest })
}

/// The record of a number.
#[inline(always)]
pub fn record(number: u32) -> Option<*mut Record> {
    maps::RECORDS.get_ptr_mut(number)
}

/// The half of the index that counts.
struct Half<'a> {
    start: u32,
    order: u32,
    seed: &'a Seed,
}

#[inline(always)]
fn half(lookup: &Lookup) -> Half<'_> {
    // SAFETY: a field of a map's value; read once, because user space may change it.
    let index = unsafe { read_volatile(&raw const lookup.index) };
    let start = (index >> 32) as u32;
    let seed = &lookup.index_seeds[(start != 0) as usize];
    Half { start, order: index as u32 & 31, seed }
}

#[inline(always)]
fn find(half: &Half, hash: u64, key: &Key) -> Option<*mut Record> {
    let (print, first, second) = place(hash, half.order);
    let number = match in_bucket(half.start + first, print) {
        Some(number) => number,
        None => in_bucket(half.start + second, print)?,
    };
    let record = record(number)?;
    // SAFETY: a checked pointer into a map's value.
    unsafe { is_about(record, key) }.then_some(record)
}

/// The record of a fingerprint.
#[inline(always)]
fn in_bucket(bucket: u32, print: u32) -> Option<u32> {
    let bucket = maps::INDEX.get(bucket)?;
    let wanted = u64::from(print) << PRINT;
    let mut found = wanted;
    for lane in 0..LANES {
        // SAFETY: a field of a map's value; read once, because user space may change it.
        let own = unsafe { read_volatile(&raw const bucket.lanes[lane]) } ^ wanted;
        // Without a branch, as above.
        found ^= (found ^ own) & all_if_none(own >> PRINT);
    }
    // No number has the bits of a print.
    (found >> PRINT == 0).then_some(found as u32)
}

/// All bits where a number below 2^63 is 0, else none.
#[inline(always)]
fn all_if_none(number: u64) -> u64 {
    let mut bits = number.wrapping_sub(1);
    // SAFETY: arithmetic. If the compiler knew what becomes of it, it would make a branch of it.
    unsafe { asm!("{0} s>>= 63", inout(reg) bits, options(pure, nomem, nostack)) };
    bits
}
