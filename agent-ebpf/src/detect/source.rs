//! What one source does at all ports: its scan, and its part in a flood.

use super::alarm::{alarm, tell};
use super::handshakes::{self, attempt};
use super::scan::scanned;
use super::table::{again, place, take};
use crate::maps;
use agent_records::detect::{Alarm, Handshakes, PENDING, SCAN, SOURCE_ORDER, Source};

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
            (*source).handshakes = Handshakes { since: now, ..handshakes::NONE };
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
