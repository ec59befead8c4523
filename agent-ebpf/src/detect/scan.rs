//! Scans: how many ports a source tries within a window.

use super::moment;
use agent_records::detect::{MAX_SCAN_PORTS, Settings, Source};
use core::arch::asm;

/// Notes a port of a source; how many distinct ones it tried within the window, where that is to be told.
///
/// As many ports are remembered as the threshold says, the least recent one goes: so when all of them
/// are recent, there were that many, whenever the window began.
///
/// # Safety
///
/// `source` points into a map's value.
#[inline(always)]
pub unsafe fn scanned(source: *mut Source, settings: &Settings, now: u32, port: u16) -> u32 {
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
