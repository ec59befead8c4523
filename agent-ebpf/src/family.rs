//! What IPv4 and IPv6 differ in, so that the verdict is written once.

use crate::context::Context;
use crate::guard;
use crate::lookup::{self, Home};
use crate::packet::{read32, read64};
use crate::rules;
use agent_records::lookup::{Key, Lookup};
use agent_records::{mapped, mask};

/// An IP version.
pub trait Family {
    /// A source address.
    type Address: Copy;

    /// Its place among both.
    const FAMILY: usize;
    /// Length of a single address's prefix.
    const MAX_LEN: u32;
    /// Words of its masks.
    const WORDS: u32;
    /// Bits that a word has at most.
    const WORD_BITS: u32;
    /// First word of the lengths with rules for a service or an interface.
    const OTHER: u32;
    /// UDP source and destination port of a DHCP reply.
    const DHCP_REPLY: (u16, u16);

    /// What is near a source: 0 where no rule is.
    fn around(lookup: &Lookup, source: Self::Address) -> u64;
    /// The lengths that rules may have there, in a word of them.
    fn lengths(near: u64, word: u32) -> u64;
    /// The source without the host bits of a length that is told by its bit in a mask.
    fn network(source: Self::Address, word: u32, bit: u64) -> Self::Address;
    /// The lengths that keys of a kind have, in a word of them.
    fn kind_lengths(kind: u32, word: u32) -> u64;
    /// What the rule of this prefix about this says; see [`rules::said`].
    fn probe(network: Self::Address, len: u32, about: u64) -> u64;
    /// What guard entries are near a source: 0 where none is.
    fn guards_around(lookup: &Lookup, source: Self::Address) -> u64;
    /// Asks the guard; see [`guard::knows`].
    fn guarded(source: Self::Address, near: u64, port: u64) -> u64;
    /// The source as a key of both families.
    fn mapped(source: Self::Address) -> [u8; 16];
    /// The same in two halves in host byte order.
    fn halves(source: Self::Address) -> (u64, u64);
    /// The destination as a key in two words, of the header that begins there in the frame. Bytes would each
    /// take a register.
    fn destination(ctx: &impl Context, start: usize) -> Option<[u64; 2]>;
    /// The home of the rule about a source and every packet, if it has one.
    fn home(lookup: &Lookup, source: Self::Address) -> Option<Home>;
    /// Searches the family's rules of a kind; see [`rules::search`].
    fn search(source: Self::Address, near: u64, about: u64, kind: u32) -> u64;
    /// Searches those that name something; see [`rules::others`].
    fn others(source: Self::Address, near: u64, service: u64, ifindex: u32) -> u64;
}

/// IPv4; an address in host byte order.
pub struct V4;

impl Family for V4 {
    type Address = u32;

    const FAMILY: usize = 0;
    const MAX_LEN: u32 = 32;
    const WORDS: u32 = 1;
    const WORD_BITS: u32 = 33;
    const OTHER: u32 = mask::OTHER4;
    const DHCP_REPLY: (u16, u16) = (67, 68);

    #[inline(always)]
    fn around(lookup: &Lookup, source: u32) -> u64 {
        lookup::around4(lookup, source)
    }

    #[inline(always)]
    fn lengths(near: u64, _word: u32) -> u64 {
        lookup::lengths4(near)
    }

    #[inline(always)]
    fn network(source: u32, _word: u32, bit: u64) -> u32 {
        // The bit's place is the number of host bits, so its negative is the netmask.
        source & bit.wrapping_neg() as u32
    }

    #[inline(always)]
    fn kind_lengths(kind: u32, _word: u32) -> u64 {
        lookup::kind_lengths4(kind)
    }

    #[inline(always)]
    fn probe(network: u32, len: u32, about: u64) -> u64 {
        probe4(network, len, about)
    }

    #[inline(always)]
    fn guarded(source: u32, near: u64, port: u64) -> u64 {
        guarded4(source, near, port)
    }

    #[inline(always)]
    fn guards_around(lookup: &Lookup, source: u32) -> u64 {
        lookup::guards_around4(lookup, source)
    }

    #[inline(always)]
    fn mapped(source: u32) -> [u8; 16] {
        mapped(source.to_be_bytes())
    }

    #[inline(always)]
    fn halves(source: u32) -> (u64, u64) {
        (0, 0xffff << 32 | u64::from(source))
    }

    #[inline(always)]
    fn destination(ctx: &impl Context, start: usize) -> Option<[u64; 2]> {
        // As `mapped` has it, in words.
        Some([0, u64::from(read32(ctx, start + 16)?) << 32 | 0xffff_0000])
    }

    #[inline(always)]
    fn home(lookup: &Lookup, source: u32) -> Option<Home> {
        lookup::home4(lookup, source)
    }

    #[inline(always)]
    fn search(source: u32, near: u64, about: u64, kind: u32) -> u64 {
        search4(source, near, about, kind)
    }

    #[inline(always)]
    fn others(source: u32, near: u64, service: u64, ifindex: u32) -> u64 {
        others4(source, near, service, ifindex)
    }
}

/// IPv6; the two halves of an address in host byte order.
pub struct V6;

impl Family for V6 {
    type Address = (u64, u64);

    const FAMILY: usize = 1;
    const MAX_LEN: u32 = 128;
    const WORDS: u32 = 3;
    const WORD_BITS: u32 = 64;
    const OTHER: u32 = mask::OTHER6;
    const DHCP_REPLY: (u16, u16) = (547, 546);

    #[inline(always)]
    fn around(lookup: &Lookup, (high, _): (u64, u64)) -> u64 {
        lookup::around6(lookup, high)
    }

    #[inline(always)]
    fn lengths(near: u64, word: u32) -> u64 {
        lookup::lengths6(near, word)
    }

    #[inline(always)]
    fn network((high, low): (u64, u64), word: u32, bit: u64) -> (u64, u64) {
        // As for IPv4, within the half that the length ends in.
        match word {
            0 => (high, low & bit.wrapping_neg()),
            1 => (high & bit.wrapping_neg(), 0),
            _ => (0, 0),
        }
    }

    #[inline(always)]
    fn kind_lengths(kind: u32, word: u32) -> u64 {
        lookup::kind_lengths6(kind, word)
    }

    #[inline(always)]
    fn probe((high, low): (u64, u64), len: u32, about: u64) -> u64 {
        probe6(high, low, len, about)
    }

    #[inline(always)]
    fn guarded((high, low): (u64, u64), near: u64, port: u64) -> u64 {
        guarded6(high, low, near, port)
    }

    #[inline(always)]
    fn guards_around(lookup: &Lookup, (high, _): (u64, u64)) -> u64 {
        lookup::guards_around6(lookup, high)
    }

    #[inline(always)]
    fn mapped(source: (u64, u64)) -> [u8; 16] {
        let address = u128::from(source.0) << 64 | u128::from(source.1);
        address.to_be_bytes()
    }

    #[inline(always)]
    fn halves(source: (u64, u64)) -> (u64, u64) {
        source
    }

    #[inline(always)]
    fn destination(ctx: &impl Context, start: usize) -> Option<[u64; 2]> {
        Some([read64(ctx, start + 24)?, read64(ctx, start + 32)?])
    }

    #[inline(always)]
    fn home(lookup: &Lookup, (high, low): (u64, u64)) -> Option<Home> {
        lookup::home6(lookup, high, low)
    }

    #[inline(always)]
    fn search((high, low): (u64, u64), near: u64, about: u64, kind: u32) -> u64 {
        search6(high, low, near, about, kind)
    }

    #[inline(always)]
    fn others((high, low): (u64, u64), near: u64, service: u64, ifindex: u32) -> u64 {
        others6(high, low, near, service, ifindex)
    }
}

/// Asks the guard of an IPv4 source.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guarded4(source: u32, near: u64, port: u64) -> u64 {
    guard::knows::<V4>(source, near, port)
}

/// Asks the guard of an IPv6 source.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guarded6(high: u64, low: u64, near: u64, port: u64) -> u64 {
    guard::knows::<V6>((high, low), near, port)
}

/// Searches the IPv4 rules of a kind.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search4(source: u32, near: u64, about: u64, kind: u32) -> u64 {
    rules::search::<V4>(source, near, about, kind)
}

/// Searches the IPv6 rules of a kind.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search6(high: u64, low: u64, near: u64, about: u64, kind: u32) -> u64 {
    rules::search::<V6>((high, low), near, about, kind)
}

/// Searches the IPv4 rules that name something.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn others4(source: u32, near: u64, service: u64, ifindex: u32) -> u64 {
    rules::others::<V4>(source, near, service, ifindex)
}

/// Searches the IPv6 rules that name something.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn others6(high: u64, low: u64, near: u64, service: u64, ifindex: u32) -> u64 {
    rules::others::<V6>((high, low), near, service, ifindex)
}

/// Asks the IPv4 rule of one prefix.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn probe4(address: u32, len: u32, about: u64) -> u64 {
    rules::said(lookup::find4(address, Key::rest(4, len, about)))
}

/// Asks the IPv6 rule of one prefix.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn probe6(high: u64, low: u64, len: u32, about: u64) -> u64 {
    rules::said(lookup::find6(high, low, Key::rest(6, len, about)))
}
