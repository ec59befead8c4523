//! Telling user space at once.

use crate::count;
use crate::maps;
use agent_records::detect::{Alarm, FIRST_PORTS, MAX_SCAN_PORTS};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use core::mem::MaybeUninit;

#[inline(always)]
pub fn alarm(high: u64, low: u64, port: u16, ifindex: u32) -> Alarm {
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
pub fn tell(alarm: &Alarm, ports: &[u16; MAX_SCAN_PORTS]) {
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
