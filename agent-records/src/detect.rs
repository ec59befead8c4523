//! What detection counts of TCP connection attempts, as the program writes it and user space reads it.
//!
//! All tables have a fixed size. Those of sources are sets of four ways: a source that is new to its set
//! takes the place of one that was not seen for a window, or else of the one with the fewest attempts. So
//! a flood of random sources pushes out its own and not one that is busy.
//!
//! Moments are ticks of CLOCK_MONOTONIC: they wrap after two years.

use crate::lookup::Seed;

/// Nanoseconds are shifted by that much to ticks of 17 ms.
pub const TICK_SHIFT: u32 = 24;
/// Places of a set.
pub const WAYS: usize = 4;
/// 2 to that many sets of sources: 8,192 sources.
pub const SOURCE_ORDER: u32 = 11;
/// 2 to that many sets of sources by destination port: 65,536 of these.
pub const SERVICE_ORDER: u32 = 14;
/// Ports of a source that are remembered, so the highest threshold there is.
pub const MAX_SCAN_PORTS: usize = 64;
/// Attempts of a source whose next packet is waited for.
pub const PENDING: usize = 16;
/// Size of the ring of alarms, bytes.
pub const ALARM_BYTES: u32 = 64 * 1024;
/// In [`Handshakes::watched`]: looked at in this window, and nothing wrong.
pub const CLEARED: u32 = u32::MAX;

/// What is detected and how, in the one element of an array. Whether anything is, and at which ports
/// handshakes are looked at, is in [`crate::lookup::Lookup`].
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Distinct ports of a source from which on it scans.
    pub scan_ports: u32,
    /// Within so many ticks; 0 for not at all, here and below.
    pub scan_window: u32,
    /// Attempts of a source at a port that are let be.
    pub connections: u32,
    /// Within so many ticks.
    pub connections_window: u32,
    /// Attempts at a port from which on it is suspect.
    pub flood_port: u32,
    /// Attempts of a source from which on it is suspect.
    pub flood_source: u32,
    /// Within so many ticks.
    pub flood_window: u32,
    /// Always 0.
    pub zero: u32,
    /// Secret of the tables.
    pub seed: Seed,
}

/// Which keys a set holds: one cache line.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Hashes; 0 where nothing is.
    pub prints: [u64; WAYS],
    /// When they were seen last.
    pub seen: [u32; WAYS],
    /// Attempts since they have their places.
    pub weights: [u32; WAYS],
}

/// Attempts and what became of them. Counts only grow; windows remember where they began.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handshakes {
    /// When the window began.
    pub since: u32,
    /// Since when it is suspect; 0 when it is not, or [`CLEARED`].
    pub watched: u32,
    /// SYNs.
    pub syns: u64,
    /// SYNs that were followed up, of those that came under suspicion.
    pub progress: u64,
    /// `syns` when the window began.
    pub base: u64,
    /// `syns` when suspicion began.
    pub watch_syns: u64,
    /// `progress` when suspicion began.
    pub watch_progress: u64,
}

/// What a destination port gets: one cache line.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct Port {
    /// Attempts.
    pub handshakes: Handshakes,
    /// Sources, each once a window.
    pub sources: u64,
    /// `sources` when the window began.
    pub base_sources: u64,
}

/// What a source does.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Its address in two halves in host byte order, IPv4 mapped into IPv6.
    pub address: [u64; 2],
    /// Attempts.
    pub handshakes: Handshakes,
    /// The port of the last one.
    pub port: u32,
    /// When its scan was told; 0 for never.
    pub told: u32,
    /// How many of the ports below there are.
    pub used: u32,
    /// The place of the last one.
    pub last: u32,
    /// Where the next pending attempt goes.
    pub next: u32,
    /// Always 0.
    pub zero: u32,
    /// Attempts that were not followed up: source port above destination port.
    pub pending: [u32; PENDING],
    /// When it tried each port last.
    pub ticks: [u32; MAX_SCAN_PORTS],
    /// Distinct destination ports.
    pub ports: [u16; MAX_SCAN_PORTS],
}

/// Some sources.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct SourceSet {
    /// Which.
    pub head: Head,
    /// What they do.
    pub sources: [Source; WAYS],
}

/// What one source does at one port.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// When the window began.
    pub since: u32,
    /// Attempts in it.
    pub count: u32,
    /// Whether that was told.
    pub told: u32,
    /// The window of the port that the source counts in.
    pub port_since: u32,
}

/// Some of these.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct ServiceSet {
    /// Which.
    pub head: Head,
    /// What is known of them.
    pub services: [Service; WAYS],
}

/// What the program tells at once, in the ring: no more than once a source and window.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boot_ns: u64,
    /// As in [`Source`].
    pub address: [u64; 2],
    /// Index of the interface that the last attempt came in by.
    pub ifindex: u32,
    /// Distinct ports, or attempts.
    pub count: u32,
    /// Destination port of the last attempt.
    pub port: u16,
    /// [`SCAN`] or [`CONNECTIONS`].
    pub kind: u16,
    /// How many of the ports below there are.
    pub first: u32,
    /// The first ports of a scan.
    pub ports: [u16; FIRST_PORTS],
}

/// Ports of a scan that are told one by one.
pub const FIRST_PORTS: usize = 8;
/// A source tried many ports.
pub const SCAN: u16 = 1;
/// A source tried one port often.
pub const CONNECTIONS: u16 = 2;
