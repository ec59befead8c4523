//! Detection: scans, connection rates and what floods are told from, of TCP packets that pass. It counts
//! and tells; whether a port is flooded, and what follows, user space decides.
//!
//! A packet that is no connection attempt costs one load. Only where a port is suspect are its packets
//! looked at, for whether attempts are followed up.

use crate::context::Context;
use crate::count::{self, atomic_add};
use crate::family::Family;
use crate::maps;
use crate::packet::Packet;
use agent_records::detect::{
    Alarm, CLEARED, CONNECTIONS, FIRST_PORTS, Handshakes, Head, MAX_SCAN_PORTS, PENDING, Port,
    SCAN, SERVICE_ORDER, SOURCE_ORDER, Service, Settings, Source, TICK_SHIFT, WAYS,
};
use agent_records::lookup::Lookup;
use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns};
use core::arch::asm;
use core::mem::MaybeUninit;
use core::ptr::{read_volatile, write_volatile};

/// A packet passes.
#[inline(always)]
pub fn passed<F: Family>(ctx: &impl Context, lookup: &Lookup, packet: &Packet<F>) {
    let transport = &packet.transport;
    let ports = u64::from(transport.ports);
    if transport.syn() {
        if lookup.detects != 0 {
            let (high, low) = F::halves(packet.source);
            detect_syn(high, low, ports, ctx.interface());
        }
    } else if lookup.suspects & bit(ports) != 0
        && transport.flags().is_some_and(|flags| flags & NOT_FOLLOWED == ACK)
    {
        let (high, low) = F::halves(packet.source);
        detect_ack(high, low, ports);
    }
}

const ACK: u8 = 0x10;
/// An attempt is followed up with ACK, and without FIN, SYN or RST.
const NOT_FOLLOWED: u8 = ACK | 0x07;

/// Of a destination port among the suspects.
#[inline(always)]
fn bit(ports: u64) -> u64 {
    1 << (ports & 63)
}

/// Counts a connection attempt.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn detect_syn(high: u64, low: u64, ports: u64, ifindex: u32) -> u64 {
    let Some(settings) = maps::DETECT.get(0) else { return 0 };
    // SAFETY: a helper without arguments. Its clock is some milliseconds late, and cheap.
    let now = (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32;
    let port = ports as u16;
    let mut watched = false;
    if settings.flood_window != 0
        && let Some(found) = maps::DETECT_PORTS.get_ptr_mut(u32::from(port))
    {
        // SAFETY: a checked pointer into a map's value, here and below; other CPUs write there too, and
        // the worst of it is a window that begins a SYN early or late.
        unsafe {
            if is_over(&(*found).handshakes, now, settings.flood_window) {
                (*found).base_sources = (*found).sources;
            }
            watched = attempt(&raw mut (*found).handshakes, now, settings, settings.flood_port);
        }
    }
    if settings.connections_window | settings.flood_window != 0 {
        let count = detect_service(high, low, ports, now);
        if count != 0 {
            let mut alarm = Alarm { count: count as u32, ..alarm(high, low, port, ifindex) };
            alarm.kind = CONNECTIONS;
            tell(&alarm, &[0; MAX_SCAN_PORTS]);
        }
    }
    if settings.scan_window | settings.flood_window != 0 {
        let when = u64::from(ifindex) << 32 | u64::from(now);
        let is_suspect = detect_source(high, low, ports, when, u64::from(watched));
        if is_suspect != 0 {
            suspect(bit(ports));
        }
    }
    0
}

/// Makes packets to a port be looked at. Another CPU may do so at the same moment; what is lost of that
/// the next attempt mends.
#[inline(always)]
fn suspect(bit: u64) {
    if let Some(lookup) = maps::LOOKUP.get_ptr_mut(0) {
        // SAFETY: a checked pointer into a map's value.
        unsafe {
            if (*lookup).suspects & bit == 0 {
                (*lookup).suspects |= bit;
            }
        }
    }
}

#[inline(always)]
fn is_over(it: &Handshakes, now: u32, window: u32) -> bool {
    now.wrapping_sub(it.since) >= window
}

/// Counts an attempt; whether it is under suspicion.
///
/// # Safety
///
/// `it` points into a map's value.
#[inline(always)]
unsafe fn attempt(it: *mut Handshakes, now: u32, settings: &Settings, suspect: u32) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if is_over(&*it, now, settings.flood_window) {
            (*it).since = now;
            (*it).base = (*it).syns;
            (*it).watched = 0;
        }
        atomic_add(&raw mut (*it).syns, 1);
        let watched = read_volatile(&raw const (*it).watched);
        if watched != 0 {
            return watched != CLEARED;
        }
        let syns = read_volatile(&raw const (*it).syns);
        if syns.wrapping_sub((*it).base) < u64::from(suspect) {
            return false;
        }
        // This one is looked at already.
        (*it).watch_syns = syns.wrapping_sub(1);
        (*it).watch_progress = (*it).progress;
        write_volatile(&raw mut (*it).watched, moment(now));
        true
    }
}

/// 0 says that there was none.
#[inline(always)]
fn moment(now: u32) -> u32 {
    if now == 0 { 1 } else { now }
}

/// The place of a key in its set, and whether it has it. `stale` is how long a place is kept at least.
#[inline(always)]
fn place(head: &Head, print: u64, now: u32, stale: u32) -> (usize, bool) {
    let (mut victim, mut least) = (0, u64::MAX);
    for way in 0..WAYS {
        if head.prints[way] == print {
            return (bounded(way), true);
        }
        let age = now.wrapping_sub(head.seen[way]);
        // What is over goes first, the oldest of it at the very first; else who did the least.
        let worth =
            if age >= stale { u64::from(!age) } else { 1 << 32 | u64::from(head.weights[way]) };
        // Among equals by lot: the newest would always make room for the next.
        let worth = worth << 2 | (way as u64 ^ print >> 1 & 3);
        if worth < least {
            (victim, least) = (way, worth);
        }
    }
    (bounded(victim), false)
}

/// Forgets how a place was found: the verifier would go on separately for each.
#[inline(always)]
fn bounded(way: usize) -> usize {
    let mut way = way;
    // SAFETY: arithmetic on a register.
    unsafe { asm!("{0} &= 3", inout(reg) way) };
    way & 3
}

/// Gives a place to a key.
///
/// # Safety
///
/// `head` points into a map's value.
#[inline(always)]
unsafe fn take(head: *mut Head, way: usize, print: u64, now: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*head).prints[way] = print;
        (*head).seen[way] = now;
        (*head).weights[way] = 1;
    }
}

/// Another attempt of who has a place.
///
/// # Safety
///
/// `head` points into a map's value.
#[inline(always)]
unsafe fn again(head: *mut Head, way: usize, now: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*head).seen[way] = now;
        (*head).weights[way] = (*head).weights[way].saturating_add(1);
    }
}

/// Counts an attempt of a source at a port; how many there are, where that is to be told.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn detect_service(high: u64, low: u64, ports: u64, now: u32) -> u64 {
    let Some(settings) = maps::DETECT.get(0) else { return 0 };
    let port = ports & 0xffff;
    let print = settings.seed.hash6(high, low, port | 1 << 16) | 1;
    let index = (print >> (64 - SERVICE_ORDER)) as u32;
    let Some(set) = maps::DETECT_SERVICES.get_ptr_mut(index) else { return 0 };
    let window = settings.connections_window;
    let stale = if window > settings.flood_window { window } else { settings.flood_window };
    // SAFETY: a checked pointer into a map's value, here and below.
    unsafe {
        let (way, is_known) = place(&(*set).head, print, now, stale);
        let service: *mut Service = &raw mut (*set).services[way];
        if is_known {
            again(&raw mut (*set).head, way, now);
        } else {
            take(&raw mut (*set).head, way, print, now);
            *service = Service { since: now, count: 0, told: 0, port_since: 0 };
        }
        if settings.flood_window != 0
            && let Some(at) = maps::DETECT_PORTS.get_ptr_mut(port as u32)
        {
            let at: *mut Port = at;
            // A window that began with the clock's first tick is no exception worth a word.
            let since = (*at).handshakes.since | 1;
            if (*service).port_since != since {
                (*service).port_since = since;
                atomic_add(&raw mut (*at).sources, 1);
            }
        }
        if window == 0 {
            return 0;
        }
        if now.wrapping_sub((*service).since) >= window {
            (*service).since = now;
            (*service).count = 0;
            (*service).told = 0;
        }
        (*service).count = (*service).count.saturating_add(1);
        let count = (*service).count;
        if count <= settings.connections || (*service).told != 0 {
            return 0;
        }
        (*service).told = 1;
        u64::from(count)
    }
}

/// Counts an attempt of a source, and tells of its scan; whether the source or its port is suspect.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn detect_source(high: u64, low: u64, ports: u64, when: u64, watched: u64) -> u64 {
    let Some(settings) = maps::DETECT.get(0) else { return 0 };
    let (ifindex, now) = ((when >> 32) as u32, when as u32);
    let print = settings.seed.hash6(high, low, 0) | 1;
    let index = (print >> (64 - SOURCE_ORDER)) as u32;
    let Some(set) = maps::DETECT_SOURCES.get_ptr_mut(index) else { return 0 };
    let (scan, flood) = (settings.scan_window, settings.flood_window);
    // SAFETY: a checked pointer into a map's value, here and below.
    unsafe {
        let (way, is_known) =
            place(&(*set).head, print, now, if scan > flood { scan } else { flood });
        let source: *mut Source = &raw mut (*set).sources[way];
        if is_known {
            again(&raw mut (*set).head, way, now);
        } else {
            take(&raw mut (*set).head, way, print, now);
            (*source).address = [high, low];
            (*source).handshakes = Handshakes { since: now, ..NONE };
            ((*source).told, (*source).used, (*source).last, (*source).next) = (0, 0, 0, 0);
            (*source).pending = [0; PENDING];
        }
        (*source).port = ports as u32 & 0xffff;
        let mut suspect = watched != 0;
        if flood != 0 {
            let handshakes = &raw mut (*source).handshakes;
            suspect |= attempt(handshakes, now, settings, settings.flood_source);
        }
        if suspect {
            let next = (*source).next;
            (*source).pending[next as usize & (PENDING - 1)] = ports as u32;
            (*source).next = next.wrapping_add(1);
        }
        if scan != 0 {
            let count = scanned(source, settings, now, ports as u16);
            if count != 0 {
                let alarm = Alarm { count, kind: SCAN, ..alarm(high, low, ports as u16, ifindex) };
                tell(&alarm, &(*source).ports);
            }
        }
        u64::from(suspect)
    }
}

const NONE: Handshakes = Handshakes {
    since: 0,
    watched: 0,
    syns: 0,
    progress: 0,
    base: 0,
    watch_syns: 0,
    watch_progress: 0,
};

/// Notes a port of a source; how many distinct ones it tried within the window, where that is to be told.
///
/// As many ports are remembered as the threshold says, the least recent one goes: so when all of them
/// are recent, there were that many, whenever the window began.
///
/// # Safety
///
/// `source` points into a map's value.
#[inline(always)]
unsafe fn scanned(source: *mut Source, settings: &Settings, now: u32, port: u16) -> u32 {
    let window = settings.scan_window;
    // SAFETY: the caller's promise.
    unsafe {
        let (told, used) = ((*source).told, (*source).used);
        if told != 0 && now.wrapping_sub(told) < window {
            return 0;
        }
        let last = (*source).last as usize & (MAX_SCAN_PORTS - 1);
        if used != 0 && (*source).ports[last] == port {
            (*source).ticks[last] = now;
            return 0;
        }
        let known = if used < settings.scan_ports { used } else { settings.scan_ports };
        // How many others are recent; and the slot to write, under how much it is the one: that of this
        // port, or else the least recent. Without branches, which the verifier would follow in every
        // combination.
        let (mut recent, mut best) = (0, 0);
        for i in 0..MAX_SCAN_PORTS {
            if i as u32 >= known {
                break;
            }
            let age = u64::from(now.wrapping_sub((*source).ticks[i]));
            let same = negative(u64::from((*source).ports[i] ^ port).wrapping_sub(1));
            recent += negative(age.wrapping_sub(u64::from(window))) & (same ^ 1);
            let its = (same << 32 | age) << 6 | i as u64;
            best ^= (best ^ its) & negative(best.wrapping_sub(its)).wrapping_neg();
        }
        let mut slot = best as usize;
        if known < settings.scan_ports && best >> 38 == 0 {
            slot = known as usize;
            (*source).used = known + 1;
        }
        let slot = slot & (MAX_SCAN_PORTS - 1);
        (*source).ports[slot] = port;
        (*source).ticks[slot] = now;
        (*source).last = slot as u32;
        let count = recent as u32 + 1;
        if count < settings.scan_ports {
            return 0;
        }
        (*source).told = moment(now);
        count
    }
}

/// 1 for a negative number, else 0; the compiler must not make a branch of it.
#[inline(always)]
fn negative(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: arithmetic on a register.
    unsafe { asm!("{0} >>= 63", inout(reg) number) };
    number
}

#[inline(always)]
fn alarm(high: u64, low: u64, port: u16, ifindex: u32) -> Alarm {
    Alarm {
        // SAFETY: a helper without arguments.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        address: [high, low],
        ifindex,
        count: 0,
        port,
        kind: 0,
        first: 0,
        ports: [0; FIRST_PORTS],
    }
}

#[inline(always)]
fn tell(alarm: &Alarm, ports: &[u16; MAX_SCAN_PORTS]) {
    let Some(mut entry) = maps::ALARMS.reserve::<Alarm>(0) else {
        count::unalarmed();
        return;
    };
    let mut first = [0; FIRST_PORTS];
    for (place, port) in first.iter_mut().zip(ports) {
        *place = *port;
    }
    let room: &mut MaybeUninit<Alarm> = &mut entry;
    room.write(Alarm { ports: first, ..*alarm });
    entry.submit(0);
}

/// A packet of a port that is suspect may follow up an attempt.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn detect_ack(high: u64, low: u64, ports: u64) -> u64 {
    let Some(settings) = maps::DETECT.get(0) else { return 0 };
    let print = settings.seed.hash6(high, low, 0) | 1;
    let index = (print >> (64 - SOURCE_ORDER)) as u32;
    let Some(set) = maps::DETECT_SOURCES.get_ptr_mut(index) else { return 0 };
    // SAFETY: a checked pointer into a map's value, here and below.
    unsafe {
        let (way, is_known) = place(&(*set).head, print, 0, 0);
        if !is_known {
            return 0;
        }
        let source: *mut Source = &raw mut (*set).sources[way];
        let mut found = false;
        for i in 0..PENDING {
            if (*source).pending[i] == ports as u32 {
                (*source).pending[i] = 0;
                found = true;
            }
        }
        if found {
            atomic_add(&raw mut (*source).handshakes.progress, 1);
            if let Some(at) = maps::DETECT_PORTS.get_ptr_mut(ports as u32 & 0xffff) {
                let at: *mut Port = at;
                atomic_add(&raw mut (*at).handshakes.progress, 1);
            }
        }
        u64::from(found)
    }
}
