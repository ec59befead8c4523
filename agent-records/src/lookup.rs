//! The table that rules are looked up in, as user space writes it and the program reads it, at the
//! same time and without locks.
//!
//! A packet first asks the *filter* of its family, one bit pattern in one word, whether any rule is
//! near its source; nearly every packet that no rule is about ends there. A rule that drops every packet
//! of one address has a *home* in a line that follows from the address, or in the line beside it: the
//! processor loads that while it still waits for the filter, and it has all that such a packet needs, the
//! address, whether packets are dropped and what was. All others, and what found no room there, are found
//! by the *index*: buckets of one cache line each with fingerprints of keys, two buckets a key, which say
//! where its *record* is. The record has the whole key and all that the rule says.
//!
//! The index has two halves. It grows, and gets another seed, by building the other half and then
//! changing the one word that says which half counts. The filter's sizes lie one behind the other: the
//! words of a size start at that number. A word of the filter is always whole, so a rule never is
//! unseen because of its neighbours.

#![expect(
    clippy::cast_possible_truncation,
    reason = "hashes and keys are taken apart into their bits"
)]

use crate::Entry;

/// Smallest order of a table; a table of order `n` has 2 to the `n` buckets, or words.
pub const MIN_ORDER: u32 = 6;
/// Lanes of a bucket.
pub const LANES: usize = 8;
/// Keys that a bucket and a word are made for, on average, at most.
pub const LOAD: u32 = 4;

/// The shortest IPv4 prefixes that the filter tells of; bitmaps tell of shorter ones.
pub const LONG4: u32 = 24;
/// The shortest IPv6 prefixes of each class in the filter; a bitmap tells of prefixes shorter than all.
pub const CLASSES6: [u32; 3] = [64, 48, 32];
/// Words of a bitmap of the first 16 bits of addresses.
pub const WIDE_WORDS: usize = 1024;
/// Words of the bitmap of the first 24 bits of IPv4 addresses.
pub const EXACT_WORDS: u32 = 1 << 18;

/// What the program needs to know of the tables, in the one element of an array.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct Lookup {
    /// Order of the index; from bit 32 on, the bucket that the half that counts starts at.
    pub index: u64,
    /// Order of the IPv4 filter.
    pub filter4: u64,
    /// Order of the IPv6 filter.
    pub filter6: u64,
    /// Which prefix lengths have rules; see [`crate::mask`].
    pub masks: [u64; crate::mask::COUNT as usize],
    /// What can be near, of IPv4 and of IPv6; see [`near`].
    pub near: [u64; 2],
    /// Lines of homes of IPv4 and of IPv6; even numbers.
    pub homes: [u64; 2],
    /// Number of the cycle of telling.
    pub epoch: u64,
    /// 0 when no connection attempt is looked at; see [`crate::detect`].
    pub detects: u64,
    /// The last six bits of destination ports whose handshakes are looked at. The program writes it too.
    pub suspects: u64,
    /// What always passes; see [`Guarded`].
    pub guarded: Guarded,
    /// Secret of the filters.
    pub filter_seed: Seed,
    /// Secrets of the halves of the index: of the first, which starts at 0, and of the second.
    pub index_seeds: [Seed; 2],
    /// First 16 bits of IPv4 addresses that a prefix shorter than [`LONG4`] has.
    pub wide4: [u64; WIDE_WORDS],
    /// First 16 bits of IPv6 addresses that a prefix shorter than every class has.
    pub wide6: [u64; WIDE_WORDS],
    /// The same of guard entries, IPv4 and IPv6.
    pub guard_wide: [[u64; WIDE_WORDS]; 2],
    /// Which kinds of keys there are, a bit each; of IPv4 and of IPv6.
    pub kinds: [u64; 2],
    /// The prefix lengths that IPv4 keys of each kind have; a word as in [`crate::mask`].
    pub lengths4: [u64; KINDS],
    /// The same of IPv6, in three words.
    pub lengths6: [[u64; 4]; KINDS],
}

/// What the guard has anything of, so that most packets that a rule matches need not ask it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guarded {
    /// Bits of the hashes of IPv4 and of IPv6 prefixes that the filter tells of; see [`guard_bit`].
    pub prefixes: [u64; 2],
    /// The last six bits of destination ports.
    pub ports: u64,
    /// The last six bits of source ports of uplinks.
    pub uplinks: u64,
}

/// Bits of what is, or can be, near a source: of a rule, and [`near::GUARD`] places above of a guard
/// entry. Below are those of the classes of the filter, in their order.
pub mod near {
    /// An IPv4 prefix that the filter tells of.
    pub const LONG: u32 = 0;
    /// A shorter one.
    pub const SHORT: u32 = 1;
    /// An IPv6 prefix of no class.
    pub const WIDE: u32 = 3;
    /// There are rules about one address and every packet, and none of another kind about one address. It is
    /// told only of what can be near.
    pub const SINGLE: u32 = 4;
    /// Where those of guard entries begin.
    pub const GUARD: u32 = 8;
}

/// Kinds of keys. Each has its own prefix lengths, so that no packet asks for what no rule is about.
pub mod kind {
    /// Every packet of a source.
    pub const ANY: u32 = 0;
    /// The first of the kinds of port blocks: their lengths, 0 to 16, are added to it.
    pub const BLOCK: u32 = 1;
    /// Added for rules of one interface.
    pub const INTERFACE: u32 = 18;
    /// Added for what always passes.
    pub const GUARD: u32 = 36;
}

/// Room for kinds.
pub const KINDS: usize = 64;

/// In the rest of a key: it always passes.
pub const GUARD: u64 = 1 << 19;
/// In the rest of a key: where the number of an interface begins; 0 is every interface.
pub const INTERFACE: u32 = 40;
/// Numbers of interfaces, from 1 on.
pub const MAX_INTERFACES: u32 = 126;
/// What a guard entry's word of the filter differs by from a rule's.
pub const GUARD_NEAR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What makes a hash this host's own. Every number but the first is odd.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seed {
    /// Where it starts.
    pub start: u64,
    /// Factors of the words of a key.
    pub factors: [u64; 3],
    /// Factor of the end.
    pub last: u64,
}

/// A key in the table: a prefix and a service.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key {
    /// First 64 bits of an IPv6 address, in host byte order; of an IPv4 address, all of it.
    pub high: u64,
    /// Last 64 bits of an IPv6 address.
    pub low: u64,
    /// Port block, see [`block`]; protocol from bit 17 on, see [`protocol`]; [`GUARD`]; prefix length from bit
    /// 24 on; IP version from bit 32 on; interface from bit [`INTERFACE`] on. Zero in a record that is not
    /// in use.
    pub rest: u64,
}

/// A bucket of the index: one cache line.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    /// Where the records of as many keys are: above [`PRINT`] a key's fingerprint, below the number of its
    /// record; 0 where a lane is empty. One store changes all of it.
    pub lanes: [u64; LANES],
}

/// Where the fingerprint of a lane begins.
pub const PRINT: u32 = 32;

/// A rule, or an entry derived from rules.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// What it is about.
    pub key: Key,
    /// What it says.
    pub entry: Entry,
}

/// A line of homes of rules that drop every packet of one IPv4 address.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Homes4 {
    /// The addresses; 0 where there is none in force.
    pub addresses: [u32; HOMES4],
    /// Their records; see [`home`].
    pub records: [u32; HOMES4],
    /// What they dropped.
    pub seen: [Seen; HOMES4],
    /// The bytes of that.
    pub bytes: [u32; HOMES4],
    /// Always 0.
    pub zero: u32,
}

/// A line of homes of rules that drop every packet of one IPv6 address.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Homes6 {
    /// First 64 bits of the addresses; 0 where there is none in force.
    pub high: [u64; HOMES6],
    /// Last 64 bits.
    pub low: [u64; HOMES6],
    /// Their records; see [`home`].
    pub records: [u32; HOMES6],
    /// What they dropped.
    pub seen: [Seen; HOMES6],
    /// The bytes of that.
    pub bytes: [u32; HOMES6],
}

/// Homes in a line of IPv4.
pub const HOMES4: usize = 3;
/// Homes in a line of IPv6.
pub const HOMES6: usize = 2;

/// Bits of what a home says of its record; 0 where it is free.
pub mod home {
    /// Number of the record.
    pub const NUMBER: u32 = (1 << 29) - 1;
    /// It is not free.
    pub const TAKEN: u32 = 1 << 29;
    /// Packets are dropped and that does not expire; else the record says until when.
    pub const DROPS: u32 = 1 << 30;
    /// The rule is in force. Without it what was dropped may not be told to the end.
    pub const THERE: u32 = 1 << 31;
}

/// What a rule at home dropped on the CPU that owns this. Only that CPU writes it, so it need not lock;
/// other CPUs count by slot. The rule's counter is the sum of both.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Packets, below [`Seen::CARRY`].
    pub packets: u32,
    /// The owner, and the cycle that it last saw a packet in; see [`Seen::mark`].
    pub mark: u32,
}

impl Seen {
    /// As many packets, or bytes, go over to the counter of the slot.
    pub const CARRY: u64 = 1 << 31;
    /// Bits of a mark that say whose it is: a CPU's number and one, or 0 when it is nobody's.
    pub const OWNER: u32 = 1023;
    /// Bits of the cycle's number above those.
    pub const EPOCH_BITS: u32 = 22;

    /// The mark of a CPU and a cycle; of nobody for CPUs that own nothing.
    #[inline(always)]
    pub const fn mark(cpu: u32, epoch: u32) -> u32 {
        let owner = if cpu < Self::OWNER { cpu + 1 } else { 0 };
        epoch << 10 | owner
    }
}

impl Key {
    /// In the rest of a key: no packet looks for it any more, and what it counted is not told to the end.
    pub const GONE: u64 = 1 << 63;
    /// The rest of the key of a rule about one IPv4 address and every packet.
    pub const SINGLE4: u64 = Self::rest(4, 32, 0);
    /// The same of IPv6.
    pub const SINGLE6: u64 = Self::rest(6, 128, 0);

    /// The rest of a key; what it is about has everything but version and prefix length.
    #[inline(always)]
    pub const fn rest(version: u64, prefix_len: u32, about: u64) -> u64 {
        version << 32 | (prefix_len as u64) << 24 | about
    }

    /// IP version: 4 or 6.
    #[inline(always)]
    pub const fn version(&self) -> u64 {
        self.rest >> 32 & 0xff
    }

    /// Its port block; 0 for every packet.
    #[inline(always)]
    pub const fn block(&self) -> u32 {
        self.rest as u32 & 0x1_ffff
    }

    /// Number of its interface; 0 for every interface.
    #[inline(always)]
    pub const fn interface(&self) -> u32 {
        (self.rest >> INTERFACE) as u32
    }

    /// Whether it always passes.
    #[inline(always)]
    pub const fn guards(&self) -> bool {
        self.rest & GUARD != 0
    }

    /// Length of its prefix.
    #[inline(always)]
    pub const fn prefix_len(&self) -> u32 {
        (self.rest >> 24) as u32 & 0xff
    }
}

impl Seed {
    /// Hash of an IPv4 key.
    #[inline(always)]
    pub const fn hash4(&self, address: u64, rest: u64) -> u64 {
        // The address has 32 bits, and so has what tells IPv4 rules of one address apart, but for the
        // interface. Of a rule of every interface, known to be one, the second factor costs nothing.
        let word = (address | rest << 32).wrapping_mul(self.factors[0]);
        let interface = (rest >> INTERFACE).wrapping_mul(self.factors[1]);
        self.end(self.start.wrapping_add(word).wrapping_add(interface))
    }

    /// Hash of an IPv6 key.
    #[inline(always)]
    pub const fn hash6(&self, high: u64, low: u64, rest: u64) -> u64 {
        let [a, b, c] = self.factors;
        self.end(
            self.start
                .wrapping_add(high.wrapping_mul(a))
                .wrapping_add(low.wrapping_mul(b))
                .wrapping_add(rest.wrapping_mul(c)),
        )
    }

    /// Hash of a single IPv4 address.
    #[inline(always)]
    pub const fn single4(&self, address: u32) -> u64 {
        self.hash1(address as u64)
    }

    /// Hash of a single IPv6 address.
    #[inline(always)]
    pub const fn single6(&self, high: u64, low: u64) -> u64 {
        self.hash6(high, low, 0)
    }

    /// Hash of one word.
    #[inline(always)]
    pub const fn hash1(&self, word: u64) -> u64 {
        self.end(self.start.wrapping_add(word.wrapping_mul(self.factors[0])))
    }

    /// Carries the high bits, which are mixed best, down, and up again.
    #[inline(always)]
    const fn end(&self, sum: u64) -> u64 {
        (sum ^ sum >> 32).wrapping_mul(self.last)
    }
}

/// Where a hash is in an index of an order: its fingerprint and its two buckets.
#[inline(always)]
pub const fn place(hash: u64, order: u32) -> (u32, u32, u32) {
    let print = (hash >> 4) as u32 | 1 << 31;
    let first = (hash >> (64 - order)) as u32;
    // From the fingerprint alone, so that two keys with one print share both buckets or none.
    let other = (print.wrapping_mul(0x9e37_79b1) >> (32 - order)) | 1;
    (print, first, first ^ other)
}

/// The line of homes that an address with that hash is looked for in first, of so many. The second is the one
/// whose number differs in the last bit.
#[inline(always)]
pub const fn line(hash: u64, lines: u64) -> u32 {
    ((hash >> 32).wrapping_mul(lines) >> 32) as u32
}

/// Where a hash is in a filter of an order: the word, counted from the filter's start, and the places of
/// its bits.
#[inline(always)]
pub const fn places(hash: u64, order: u32) -> (u32, [u64; 3]) {
    let word = (hash >> (64 - order)) as u32 | 1 << order;
    (word, [hash >> 20 & 63, hash >> 26 & 63, hash >> 32 & 63])
}

/// The same with the bits themselves.
#[inline(always)]
pub const fn bits(hash: u64, order: u32) -> (u32, u64) {
    let (word, [a, b, c]) = places(hash, order);
    (word, 1 << a | 1 << b | 1 << c)
}

/// What an IPv4 prefix of [`LONG4`] bits or more has in common with every source in it: the word that
/// the filter hashes.
#[inline(always)]
pub const fn near4(address: u32) -> u64 {
    (address >> (32 - LONG4)) as u64
}

/// The same for an IPv6 prefix; its class is the first of [`CLASSES6`] that is not longer than it.
#[inline(always)]
pub const fn near6(high: u64, class: u32) -> u64 {
    // The class is told apart where it matters: no address of the longest has such high bits.
    high >> (64 - class) | (64 - class as u64) << 56
}

/// Bit in [`Guarded::prefixes`] of a guard entry whose prefix, as a rule's, has that hash.
#[inline(always)]
pub const fn guard_bit(hash: u64) -> u64 {
    1 << (hash >> 40 & 63)
}

/// The aligned block of 2 to the `16 - len` ports that a port is in. A block of length 16 is the port
/// itself; that of length 0 has every port, and stands for packets whose port can't be read.
#[inline(always)]
pub const fn block(port: u16, len: u32) -> u64 {
    1 << len | (port as u64) >> (16 - len)
}

/// A protocol with ports in the rest of a key.
#[inline(always)]
pub const fn protocol(number: u8) -> u64 {
    if number == crate::TCP { 1 << 17 } else { 2 << 17 }
}
