//! Connection rates: how many attempts a source makes at one port.

use super::table::{again, place, take};
use crate::count::atomic_add;
use crate::maps;
use agent_records::detect::{Port, SERVICE_ORDER, Service};

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
