//! What floods are told from: attempts, and how many of them are followed up, of ports and of sources.

use super::moment;
use super::table::place;
use crate::count::atomic_add;
use crate::maps;
use agent_records::detect::{CLEARED, Handshakes, PENDING, Port, SOURCE_ORDER, Settings, Source};
use core::ptr::{read_volatile, write_volatile};

pub const NONE: Handshakes = Handshakes {
    since: 0,
    watched: 0,
    syns: 0,
    progress: 0,
    base: 0,
    watch_syns: 0,
    watch_progress: 0,
};

/// Of a destination port among the suspects.
#[inline(always)]
pub fn bit(ports: u64) -> u64 {
    1 << (ports & 63)
}

/// Makes packets to a port be looked at. Another CPU may do so at the same moment; what is lost of that
/// the next attempt mends.
#[inline(always)]
pub fn suspect(bit: u64) {
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
pub fn is_over(it: &Handshakes, now: u32, window: u32) -> bool {
    now.wrapping_sub(it.since) >= window
}

/// Counts an attempt; whether it is under suspicion.
///
/// # Safety
///
/// `it` points into a map's value.
#[inline(always)]
pub unsafe fn attempt(it: *mut Handshakes, now: u32, settings: &Settings, suspect: u32) -> bool {
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
