//! Telling user space who meets which rule: the first packet of a cycle, and of each source in it, as a
//! sighting in the ring. It decides neither what is news nor what is summed up; user space does.
//!
//! A sighting is written before its packet is counted, so whoever reads the counters and then the ring
//! has those of every packet counted.

use crate::context::Context;
use crate::count;
use crate::family::Family;
use crate::lookup::{self, Home};
use crate::maps;
use crate::packet::{Kind, Packet};
use crate::rules::Counted;
use agent_records::lookup::Seen;
use agent_records::{Crowd, MAX_SIGHTED, QUIET_CYCLES, Sighting, Talker, TalkerKey, Tally, has};
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};
use core::mem::MaybeUninit;
use core::ptr::{read_volatile, write_volatile};

/// What a packet's source was before it.
struct Known {
    before: Tally,
    epoch: u32,
}

const UNKNOWN: Known = Known { before: Tally { packets: 0, bytes: 0 }, epoch: 0 };

/// A packet met a rule, and is about to be counted; `kind` is what its slot is marked with.
#[inline(always)]
pub fn met<F: Family>(
    ctx: &impl Context,
    epoch: u32,
    packet: &Packet<F>,
    rule: Counted,
    kind: u32,
    size: Tally,
) {
    let Some(pace) = maps::PACES.get_ptr_mut(rule.slot) else { return };
    // SAFETY: a checked pointer into a map's value. Other CPUs write there too, and the worst of it is
    // a sighting more.
    let last = unsafe { (*pace).epoch };
    let known = if rule.prefix_len == F::MAX_LEN {
        if last == epoch {
            return;
        }
        UNKNOWN
    } else {
        let key = TalkerKey { slot: rule.slot | kind, source: F::mapped(packet.source) };
        let known = talker(&key, epoch, size);
        // The slot may be another rule's since the source was seen.
        if known.epoch == epoch && last == epoch {
            return;
        }
        known
    };
    // SAFETY: as above.
    let sources = unsafe {
        if last != epoch {
            (*pace).epoch = epoch;
            (*pace).sources = 0;
        }
        (*pace).sources += 1;
        (*pace).sources
    };
    if sources > MAX_SIGHTED {
        return;
    }
    let is_news = |seen: u32| epoch.wrapping_sub(seen) >= QUIET_CYCLES;
    let source_is_news = rule.prefix_len != F::MAX_LEN && is_news(known.epoch);
    let wakeup =
        if is_news(last) || source_is_news { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    sight(ctx, epoch, packet, rule.slot | kind, known.before, size, u64::from(wakeup));
}

/// A packet met a rule at home, and is counted. What it saw belongs to the CPU that saw the first of its
/// packets, as most sources come in by one queue.
#[inline(always)]
pub fn met_at_home<F: Family>(
    ctx: &impl Context,
    epoch: u32,
    packet: &Packet<F>,
    home: Home,
    size: Tally,
) {
    // SAFETY: a helper without arguments.
    let mark = Seen::mark(unsafe { bpf_get_smp_processor_id() }, epoch);
    // SAFETY: a checked pointer into a map's value.
    if unsafe { read_volatile(&raw const (*home.seen).mark) } != mark {
        let Some(slot) = lookup::drop_slot(home.number()) else { return };
        // SAFETY: as above.
        let (owns, first, wakeup) = unsafe { first_in_cycle(home.seen, slot, mark, epoch) };
        if first {
            sight(ctx, epoch, packet, slot, UNKNOWN.before, size, u64::from(wakeup));
        }
        if !owns {
            return count::hit(slot, size);
        }
    }
    // SAFETY: as above; it is this CPU's.
    unsafe { count::at_home(home, size) };
}

/// Bits of a cycle's number in a mark.
const EPOCHS: u32 = (1 << Seen::EPOCH_BITS) - 1;

/// Whether what was seen is this CPU's from now on; whether a packet is the first one in a cycle, and then
/// whether it wakes the reader.
///
/// # Safety
///
/// `seen` points into a map's value.
#[inline(always)]
unsafe fn first_in_cycle(seen: *mut Seen, slot: u32, mark: u32, epoch: u32) -> (bool, bool, u32) {
    // SAFETY: the caller's promise; packets and mark are one aligned word.
    unsafe {
        let pair = seen.cast::<u64>();
        let known = read_volatile(pair);
        let last = (known >> 32) as u32;
        let (owner, own) = (last & Seen::OWNER, mark & Seen::OWNER);
        let mut quiet = owner == 0;
        let cycles = (mark >> 10).wrapping_sub(last >> 10) & EPOCHS;
        quiet |= cycles >= QUIET_CYCLES;
        let mut first = owner == 0 || cycles != 0;
        let marked = known & u64::from(u32::MAX) | u64::from(mark) << 32;
        let owns = if owner == own {
            // Of none, as for a CPU that owns nothing.
            own != 0
        } else {
            owner == 0 && count::replace(pair, known, marked)
        };
        if owns {
            write_volatile(&raw mut (*seen).mark, mark);
        } else if let Some(pace) = maps::PACES.get_ptr_mut(slot) {
            let seen_here = (*pace).epoch;
            (*pace).epoch = epoch;
            first &= seen_here != epoch;
            quiet &= epoch.wrapping_sub(seen_here) >= QUIET_CYCLES;
        }
        (owns, first, if quiet { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
    }
}

/// Counts a source, and says what it was before.
#[inline(always)]
fn talker(key: &TalkerKey, epoch: u32, size: Tally) -> Known {
    if let Some(known) = again(key, epoch, size) {
        return known;
    }
    let new = Talker { tally: size, epoch, zero: 0 };
    if maps::TALKERS.insert(key, &new, u64::from(BPF_NOEXIST)).is_err() {
        // Another CPU was first; or there is no room, and the rule's own counter has to do.
        return again(key, epoch, size).unwrap_or(UNKNOWN);
    }
    UNKNOWN
}

#[inline(always)]
fn again(key: &TalkerKey, epoch: u32, size: Tally) -> Option<Known> {
    let talker = maps::TALKERS.get_ptr_mut(key)?;
    // SAFETY: a checked pointer into a map's value.
    unsafe {
        let known = Known { before: (*talker).tally, epoch: (*talker).epoch };
        if known.epoch != epoch {
            (*talker).epoch = epoch;
        }
        count::add_shared(&raw mut (*talker).tally, size);
        Some(known)
    }
}

#[inline(always)]
fn sight<F: Family>(
    ctx: &impl Context,
    epoch: u32,
    packet: &Packet<F>,
    slot: u32,
    before: Tally,
    size: Tally,
    wakeup: u64,
) {
    let Some(crowd) = maps::CROWDS.get_ptr_mut(0) else { return };
    // SAFETY: a checked pointer into this CPU's own value.
    let crowd = unsafe { &mut *crowd };
    if crowd.pause > 0 && crowd.epoch == epoch {
        crowd.pause -= 1;
        crowd.unsighted += 1;
        return;
    }
    let Some(mut entry) = maps::SIGHTINGS.reserve::<Sighting>(0) else {
        crowd.unsighted += 1;
        (crowd.pause, crowd.epoch) = (Crowd::PAUSE, epoch);
        return;
    };
    // The whole header was there when the source was read.
    let destination = F::destination(ctx, packet.start).unwrap_or_default();
    let transport = &packet.transport;
    let (mut known, mut tcp_flags) = (0, 0);
    if transport.kind != Kind::Unknown {
        known |= has::PROTOCOL;
    }
    if transport.kind == Kind::Ports {
        known |= has::PORTS;
    }
    if let Some(flags) = transport.flags() {
        known |= has::FLAGS;
        tcp_flags = flags;
    }
    let sighting: &mut MaybeUninit<Sighting> = &mut entry;
    sighting.write(Sighting {
        // SAFETY: a helper without arguments.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        // Several packets that came as one are told as the first of them; a sum has the others.
        bytes: size.bytes / size.packets,
        before,
        source: F::mapped(packet.source),
        destination: [0; 16],
        slot,
        ifindex: ctx.interface(),
        source_port: transport.source_port(),
        port: transport.port(),
        protocol: transport.protocol,
        tcp_flags,
        has: known,
        zero: 0,
    });
    // SAFETY: as large, and aligned as words are.
    unsafe {
        (&raw mut (*sighting.as_mut_ptr()).destination).cast::<[u64; 2]>().write(destination);
    }
    entry.submit(wakeup);
}
