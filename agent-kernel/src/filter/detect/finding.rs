//! What is looked for and what was found. Plain data, without the kernel.

use crate::error::{Error, ErrorKind};
use crate::filter::tell::Names;
use agent_records::detect::{Alarm, CONNECTIONS, FIRST_PORTS, MAX_SCAN_PORTS, SCAN, TICK_SHIFT};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// What to look for; absent for not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Detection {
    /// A source that tries so many distinct TCP ports or more within a window; 2 to 64.
    pub scan: Option<Limit>,
    /// A source that makes more TCP connection attempts than that at one port within a window.
    pub connections: Option<Limit>,
    /// A flood of SYNs that are not followed up.
    pub flood: Option<FloodLimits>,
}

/// So many within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// At least 1.
    pub count: u32,
    /// 100 ms to 1 h.
    pub window: Duration,
}

/// How many SYNs within a window may be without progress. From half of it on, what becomes of each SYN is
/// looked at; when another half of it, and a quarter of all looked at, was not followed up after a
/// second, it is a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimits {
    /// At one destination port, of all sources together; at least 2.
    pub port: u32,
    /// Of one source, at all ports together; at least 2.
    pub source: u32,
    /// 3 s to 1 h.
    pub window: Duration,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// When, nanoseconds of CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// What.
    pub found: Found,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A source tried as many distinct ports as the limit says. Told once a window.
    Scan {
        /// Whose address the packets bear.
        src: IpAddr,
        /// Distinct ports.
        ports: u32,
        /// Some of them, the first to come where the source was not seen before.
        first: Vec<u16>,
        /// Where the last attempt came in; absent also when that is gone.
        interface: Option<String>,
    },
    /// A source made more attempts at a port than the limit says. Told once a window.
    Connections {
        /// Whose address the packets bear.
        src: IpAddr,
        /// Destination port.
        port: u16,
        /// Attempts in the window so far.
        connections: u32,
        /// Where the last attempt came in; absent also when that is gone.
        interface: Option<String>,
    },
    /// SYNs without progress, at a port or of a source. Told once a window for as long as it goes on,
    /// with what came since it was told last.
    Flood {
        /// Of that one source; absent where it is about all sources of a port.
        src: Option<IpAddr>,
        /// The port; of a source that of its last SYN.
        port: u16,
        /// SYNs.
        syns: u64,
        /// How many of those that were looked at were followed up.
        progress: u64,
        /// How many sources there were at the port in one window; 1 of a source.
        sources: u64,
        /// The time that the SYNs came in.
        over: Duration,
    },
}

impl Finding {
    /// `None` for what another version tells.
    pub(super) fn new(alarm: &Alarm, names: &mut Names) -> Option<Self> {
        let src = address(alarm.address);
        let interface = names.name(alarm.ifindex);
        let found = match alarm.kind {
            SCAN => {
                let many = (alarm.count as usize).min(FIRST_PORTS);
                let mut first = alarm.ports[..many].to_vec();
                first.sort_unstable();
                Found::Scan { src, ports: alarm.count, first, interface }
            }
            CONNECTIONS => {
                Found::Connections { src, port: alarm.port, connections: alarm.count, interface }
            }
            _ => return None,
        };
        Some(Self { boot_ns: alarm.boot_ns, found })
    }
}

impl Detection {
    /// Whether the program can do it.
    ///
    /// `Invalid` for what is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let fits = |what: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let why = format!("{value}: must be {least} to {most}");
            Err(Error::new(ErrorKind::Invalid, format!("detection of {what}"), why))
        };
        let window = |what: &str, window: Duration, least_ms| {
            let ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
            fits(&format!("{what}, window in ms"), ms, least_ms, 3_600_000)
        };
        if let Some(limit) = self.scan {
            fits("scans, ports", limit.count.into(), 2, MAX_SCAN_PORTS as u64)?;
            window("scans", limit.window, 100)?;
        }
        if let Some(limit) = self.connections {
            fits("connections", limit.count.into(), 1, u32::MAX.into())?;
            window("connections", limit.window, 100)?;
        }
        if let Some(limits) = self.flood {
            fits("floods of a port", limits.port.into(), 2, u32::MAX.into())?;
            fits("floods of a source", limits.source.into(), 2, u32::MAX.into())?;
            window("floods", limits.window, 3_000)?;
        }
        Ok(())
    }
}

/// An address as the program tells it.
pub(super) fn address([high, low]: [u64; 2]) -> IpAddr {
    let address = u128::from(high) << 64 | u128::from(low);
    IpAddr::from(Ipv6Addr::from(address)).to_canonical()
}

/// A time in the program's ticks, rounded up.
pub(super) fn ticks(time: Duration) -> u32 {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    u32::try_from(ns.div_ceil(1 << TICK_SHIFT)).unwrap_or(u32::MAX)
}

/// Ticks of the program as a time.
pub(super) fn time(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) << TICK_SHIFT)
}
