//! Finding the rules that match a packet.
//!
//! A search and its single steps are global functions, so that the verifier looks at each once and
//! not again for every way that leads there. What goes in and out must be plain numbers therefore.

use crate::context::Context;
use crate::family::Family;
use crate::lookup::{self, Home};
use crate::packet::{Kind, Packet};
use agent_records::lookup::{
    GUARD, INTERFACE, Lookup, Record, block, home, kind, near, protocol as protocol_bits,
};
use agent_records::{FOREVER, TCP, UDP};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

/// The rule that a packet counts on.
#[derive(Clone, Copy)]
pub struct Counted {
    /// Index of its counter.
    pub slot: u32,
    /// Length of its prefix.
    pub prefix_len: u32,
}

/// Bits of a found number above the slot: what the rule names, then the length of its prefix, then
/// whether it drops. So the larger of two is the one that counts.
const NAMES: u32 = 32;
const PREFIX_LEN: u32 = 38;
const MONITOR: u64 = 1 << 46;
/// It drops.
pub const DROP: u64 = 1 << 47;

/// What the rules near a source say of a packet, but those [at home](at_home): 0 for nothing, or else a
/// [drop](drops) or a monitor, and [`counted`].
#[inline(always)]
pub fn matching<F: Family>(
    ctx: &impl Context,
    lookup: &Lookup,
    near: u64,
    packet: &Packet<F>,
) -> u64 {
    let (source, transport) = (packet.source, &packet.transport);
    let mut found = F::search(source, near, 0, kind::ANY);
    if has_others::<F>(lookup, near) {
        let ifindex = ctx.interface();
        let service = match transport.kind {
            Kind::Other | Kind::Neighbour => 0,
            Kind::Ports => service(transport.protocol, transport.port()),
            Kind::Opaque => portless(transport.protocol),
            Kind::Unknown => portless(TCP),
        };
        found = larger(found, F::others(source, near, service, ifindex));
        if transport.kind == Kind::Unknown {
            // Either may be meant.
            found = larger(found, F::others(source, near, portless(UDP), ifindex));
        }
    }
    found
}

/// The home of the unexpired drop of a source and every packet. Most rules are such: they are asked without a
/// call, which costs as much as the asking. Not where such an address may have a rule of another kind too:
/// that comes first.
#[inline(always)]
pub fn at_home<F: Family>(lookup: &Lookup, source: F::Address, near: u64) -> Option<Home> {
    // The longest prefixes are of the first bit.
    if near & lookup.near[F::FAMILY] >> near::SINGLE & 1 == 0 {
        return None;
    }
    let found = F::home(lookup, source)?;
    let drops = found.says & home::DROPS != 0
        || is_ahead(lookup::drop_until(lookup::record(found.number())?));
    drops.then_some(found)
}

/// Whether rules of a service or an interface may be near.
#[inline(always)]
fn has_others<F: Family>(lookup: &Lookup, near: u64) -> bool {
    let mut lengths = 0;
    for word in 0..F::WORDS {
        lengths |= lookup.masks[(F::OTHER + word) as usize] & F::lengths(near, word);
    }
    lengths != 0
}

/// The rule that counts a packet that found this.
#[inline(always)]
pub fn counted(found: u64) -> Counted {
    Counted { slot: found as u32, prefix_len: (found >> PREFIX_LEN) as u32 & 0xff }
}

/// Whether what was found is a drop.
#[inline(always)]
pub fn drops(found: u64) -> bool {
    found & DROP != 0
}

/// In a service: where its protocol is in a key, and above that whether its port is known.
const PROTOCOL: u64 = 3 << 17;
const PORT: u64 = 1 << 20;
const PORTLESS: u64 = 1 << 21;

/// A service whose port is known.
#[inline(always)]
pub fn service(protocol: u8, port: u16) -> u64 {
    PORT | protocol_bits(protocol) | u64::from(port)
}

/// One of an unknown port.
#[inline(always)]
fn portless(protocol: u8) -> u64 {
    PORTLESS | protocol_bits(protocol)
}

/// The one that counts of two found numbers; the first of equals. A branch would be one more way for the
/// verifier to follow.
#[inline(always)]
fn larger(a: u64, b: u64) -> u64 {
    let lacks = ((a >> NAMES).wrapping_sub(b >> NAMES) >> 63).wrapping_neg();
    a ^ (a ^ b) & lacks
}

/// Asks for the rules that name something: one search for each kind that there is and that the packet can
/// match. With [`GUARD`] in the service, for what passes by it. So a list without such rules asks nothing,
/// and an inner rule never hides an outer one.
#[inline(always)]
pub fn others<F: Family>(source: F::Address, near: u64, service: u64, ifindex: u32) -> u64 {
    let there = lookup::kinds(F::FAMILY);
    // Port blocks of every length but the one without a port; or that one.
    let wanted = all(service & PORT) & (0xffff << (kind::BLOCK + 1))
        | all(service & PORTLESS) & 1 << kind::BLOCK;
    if service & GUARD != 0 {
        return each::<F>(source, near, service, there >> kind::GUARD & wanted, kind::GUARD);
    }
    let found = each::<F>(source, near, service, there & wanted, 0);
    let named = there >> kind::INTERFACE & (wanted | 1 << kind::ANY);
    if named == 0 {
        return found;
    }
    let interface = lookup::interface(ifindex);
    if interface == 0 {
        return found;
    }
    let service = service | interface << INTERFACE | ON_INTERFACE;
    larger(found, each::<F>(source, near, service, named, kind::INTERFACE))
}

/// Searches for each of these kinds, which lie `above` those of plain rules.
#[inline(always)]
fn each<F: Family>(source: F::Address, near: u64, service: u64, kinds: u64, above: u32) -> u64 {
    let mut left = kinds;
    let mut found = 0;
    for _ in 0..kind::INTERFACE {
        if left == 0 {
            break;
        }
        let bit = left & left.wrapping_neg();
        left ^= bit;
        let plain = place(bit);
        // The exacter the port, the more specific; then whether it names an interface.
        let names = (u64::from(plain) << (NAMES + 1)) | service & ON_INTERFACE;
        let about = all(u64::from(plain))
            & (service & PROTOCOL | block(service as u16, plain.wrapping_sub(kind::BLOCK) & 31));
        let about = about | names | service & (GUARD | 0xff << INTERFACE);
        found = larger(found, F::search(source, near, about, plain + above));
    }
    found
}

/// In what a search is about: the names of what it finds. A key has other things there.
const ON_INTERFACE: u64 = 1 << NAMES;
const NAMED: u64 = 0x3f << NAMES;

/// Looks for rules of one kind from the longest prefix length to the shortest, until a drop is found. So
/// an inner rule that has expired or monitors never hides an outer one.
#[inline(always)]
pub fn search<F: Family>(source: F::Address, near: u64, about: u64, kind: u32) -> u64 {
    let mut found = 0;
    for word in 0..F::WORDS {
        let mut left = F::kind_lengths(kind, word) & F::lengths(near, word);
        for _ in 0..F::WORD_BITS {
            if left == 0 {
                break;
            }
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let len = F::MAX_LEN.wrapping_sub(word * 64 + place(bit));
            let probed = F::probe(F::network(source, word, bit), len, about & !NAMED);
            let told = probed | about & NAMED | u64::from(len) << PREFIX_LEN;
            if probed & DROP != 0 {
                return told;
            }
            found = if found == 0 && probed != 0 { told } else { found };
        }
    }
    found
}

/// All bits where any is set, else none.
#[inline(always)]
fn all(bits: u64) -> u64 {
    ((bits | bits.wrapping_neg()) >> 63).wrapping_neg()
}

/// What one rule says: its unexpired drop, or else its unexpired monitor, or nothing.
#[inline(always)]
pub fn said(found: Option<*mut Record>) -> u64 {
    let Some(record) = found else { return 0 };
    let entry = lookup::said(record);
    if is_ahead(entry.drop_until) {
        DROP | u64::from(entry.drop_slot)
    } else if is_ahead(entry.monitor_until) {
        MONITOR | u64::from(entry.monitor_slot)
    } else {
        0
    }
}

/// The clock is read for a finite expiry only. It is not kept from one to the next: the verifier
/// would look at the loop again for every bound that a comparison told it of the time.
#[inline(always)]
fn is_ahead(until: u64) -> bool {
    if until == 0 || until == FOREVER {
        return until != 0;
    }
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() < until }
}

/// Place of the one set bit: how many bits are below it. Without a branch, because the verifier
/// would follow every one of them.
#[inline(always)]
fn place(bit: u64) -> u32 {
    let mut ones = bit.wrapping_sub(1);
    ones -= (ones >> 1) & 0x5555_5555_5555_5555;
    ones = (ones & 0x3333_3333_3333_3333) + ((ones >> 2) & 0x3333_3333_3333_3333);
    ones = (ones + (ones >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (ones.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}
