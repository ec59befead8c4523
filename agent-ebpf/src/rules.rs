//! Finding the rules that match a packet.
//!
//! A search and its single steps are global functions, so that the verifier looks at each once and
//! not again for every way that leads there. What goes in and out must be plain numbers therefore.

use crate::family::Family;
use crate::lookup;
use crate::packet::{Kind, Transport};
use agent_records::lookup::Record;
use agent_records::{Entry, FOREVER, TCP, UDP};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

/// What the rules say of a packet.
pub enum Match {
    /// Nothing.
    Nothing,
    /// An unexpired monitor matches, and no unexpired drop: the most specific one.
    Monitor(Counted),
    /// An unexpired drop matches: the most specific one.
    Drop(Counted),
    /// The same of a rule about one address and every packet, which counts in its record.
    Single(*mut Record),
}

/// The rule that a packet counts on.
#[derive(Clone, Copy)]
pub struct Counted {
    /// Index of its counter.
    pub slot: u32,
    /// Length of its prefix.
    pub prefix_len: u32,
}

/// Bits of a found number above the slot: whether the rule names a service, then the length of its
/// prefix, then whether it drops. So the larger of two is the one that counts.
const SERVICE: u64 = 1 << 32;
const PREFIX_LEN: u32 = 33;
const MONITOR: u64 = 1 << 41;
const DROP: u64 = 1 << 42;

/// What the rules say of a packet.
#[inline(always)]
pub fn matching<F: Family>(source: F::Address, transport: &Transport) -> Match {
    let near = F::around(source);
    if near == 0 {
        return Match::Nothing;
    }
    if let Some(record) = single::<F>(source, near) {
        return Match::Single(record);
    }
    let found = match transport.kind {
        Kind::Other => F::search(source, near, NO_SERVICE),
        // Port 0 with a protocol is the key of what has no ports.
        Kind::Ports if transport.port == 0 => F::search(source, near, NO_SERVICE),
        Kind::Ports => F::search(source, near, service(transport.protocol, transport.port)),
        Kind::Opaque => F::search(source, near, service(transport.protocol, 0)),
        Kind::Unknown => {
            let tcp = F::search(source, near, service(TCP, 0));
            let udp = F::search(source, near, service(UDP, 0));
            // Of two monitors neither names a service: they are the same rule.
            if udp >> 32 > tcp >> 32 { udp } else { tcp }
        }
    };
    let counted = Counted { slot: found as u32, prefix_len: (found >> PREFIX_LEN) as u32 & 0xff };
    if found & DROP != 0 {
        Match::Drop(counted)
    } else if found & MONITOR != 0 {
        Match::Monitor(counted)
    } else {
        Match::Nothing
    }
}

/// Most rules are of one address and for every packet: those are asked without a call, which costs as
/// much as the asking. Where such an address has a rule for a service too, that comes first.
#[inline(always)]
fn single<F: Family>(source: F::Address, near: u64) -> Option<*mut Record> {
    let masks = lookup::masks()?;
    let lengths = F::lengths(near, 0);
    if masks[F::ANY as usize] & lengths & !masks[F::PORT as usize] & 1 == 0 {
        return None;
    }
    let (entry, record) = F::single(source)?;
    is_ahead(entry.drop_until).then_some(record)
}

/// A service that no rule names, because its packets have none.
const NO_SERVICE: u64 = 0;
/// In a service: rules that name one are looked at.
const NAMED: u64 = 1 << 24;

#[inline(always)]
fn service(protocol: u8, port: u16) -> u64 {
    NAMED | u64::from(protocol) << 16 | u64::from(port)
}

/// Looks from the longest prefix length to the shortest, and at each at the service before every
/// packet, until a drop is found. So an inner rule that has expired, monitors, or names
/// another service never hides an outer one.
#[inline(always)]
pub fn search<F: Family>(source: F::Address, near: u64, service: u64) -> u64 {
    let mut found = 0;
    let Some(masks) = lookup::masks() else { return 0 };
    for word in 0..F::WORDS {
        let lengths = F::lengths(near, word);
        let any = masks[(F::ANY + word) as usize] & lengths;
        // All ones or none. A branch would be one more way for the verifier to follow.
        let named = (service >> 24).wrapping_neg();
        let port = masks[(F::PORT + word) as usize] & lengths & named;
        let mut left = any | port;
        for _ in 0..F::WORD_BITS {
            if left == 0 {
                break;
            }
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let len = F::MAX_LEN.wrapping_sub(word * 64 + place(bit));
            let network = F::network(source, word, bit);
            if port & bit != 0 {
                let probed = F::probe(network, len, service);
                if probed & DROP != 0 {
                    return probed | SERVICE | u64::from(len) << PREFIX_LEN;
                }
                found = first(found, probed, len);
            }
            if any & bit != 0 {
                let probed = F::probe(network, len, NO_SERVICE);
                if probed & DROP != 0 {
                    return probed | u64::from(len) << PREFIX_LEN;
                }
                found = first(found, probed, len);
            }
        }
    }
    found
}

#[inline(always)]
fn first(found: u64, probed: u64, len: u32) -> u64 {
    if found == 0 && probed != 0 { probed | u64::from(len) << PREFIX_LEN } else { found }
}

/// What one rule says: its unexpired drop, or else its unexpired monitor, or nothing.
#[inline(always)]
pub fn said(found: Option<(Entry, *mut Record)>) -> u64 {
    let Some((entry, _)) = found else { return 0 };
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
