//! The records of the kernel's maps, as the eBPF programs and user space both see them.
//!
//! It owns their layout and nothing else: no parsing, no policy. Whatever changes the meaning of a
//! pinned map changes [`LAYOUT`] too, because maps outlive the agent that made them.
#![no_std]

pub mod counters;
pub mod detect;
pub mod lookup;
pub mod ring;
pub mod tcp;
pub mod trace;

/// Name of the folder that maps and links of this layout are pinned in.
pub const LAYOUT: &str = "v3";

/// Sources that wide prefixes meet, at most, one for each rule and action; the least recent ones go.
pub const MAX_TALKERS: u32 = 16_384;
/// Sources of one slot that are told of in one cycle, at most.
pub const MAX_SIGHTED: u32 = 32;
/// Size of the ring of sightings, bytes.
pub const RING_BYTES: u32 = 256 * 1024;
/// Whoever was not seen for that many cycles is news: its sighting wakes the reader.
pub const QUIET_CYCLES: u32 = 60;
/// Uplinks, at most.
pub const MAX_UPLINKS: u32 = 1_024;

/// In the place of a slot: there was no such action yet.
pub const NO_SLOT: u32 = u32::MAX;

/// "Never", as an expiry.
pub const FOREVER: u64 = u64::MAX;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// What a rule says. It holds no counters, because an update replaces it whole.
///
/// An expiry is in nanoseconds of CLOCK_BOOTTIME; 0 means no such action, [`FOREVER`] no expiry.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Entry {
    /// Packets are dropped until then.
    pub drop_until: u64,
    /// Packets are counted until then.
    pub monitor_until: u64,
    /// Index of its drop counter, or [`NO_SLOT`].
    pub drop_slot: u32,
    /// Index of its monitor counter, or [`NO_SLOT`].
    pub monitor_slot: u32,
}

/// Packets, and the bytes of their frames from the Ethernet header on.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What is counted of all packets; each CPU has its own.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// By [`verdict`].
    pub verdicts: [Tally; verdict::COUNT],
    /// By IP protocol number.
    pub protocols: [Tally; 256],
}

impl Totals {
    /// Nothing was counted.
    pub const ZERO: Self = Self {
        verdicts: [Tally { packets: 0, bytes: 0 }; verdict::COUNT],
        protocols: [Tally { packets: 0, bytes: 0 }; 256],
    };
    /// Place of what the programs count.
    pub const NOW: u32 = 0;
    /// Place of what those of the layout before counted, on any CPU.
    pub const BEFORE: u32 = 1;
}

/// Key of a source that a wide prefix meets.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TalkerKey {
    /// Slot of the rule's action, with [`MONITOR_SLOT`] where it monitors.
    pub slot: u32,
    /// Source address in network byte order, IPv4 mapped into IPv6.
    pub source: [u8; 16],
}

/// What one source met by one action of one rule, since it got its place in the table.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Talker {
    /// Packets and bytes.
    pub tally: Tally,
    /// The cycle that it was last seen in.
    pub epoch: u32,
    /// Always 0.
    pub zero: u32,
}

/// In a [`TalkerKey`] and a [`Sighting`]: the slot is one of a monitor action.
pub const MONITOR_SLOT: u32 = 1 << 31;

/// How much was told of a slot in its last cycle, by slot.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// The cycle that it was last seen in.
    pub epoch: u32,
    /// Sources of a wide prefix in that cycle. One that lost its place in the table counts again.
    pub sources: u32,
}

/// The cycle of telling; user space alone writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cycle {
    /// Nanoseconds of CLOCK_BOOTTIME: what was sighted until then may be part of a summary already.
    pub settled_ns: u64,
    /// Number of the cycle.
    pub epoch: u32,
    /// Always 0.
    pub zero: u32,
}

/// When the ring of sightings had no room, by CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crowd {
    /// Sightings that had no room, or were not tried.
    pub unsighted: u64,
    /// The cycle that the last one had no room in.
    pub epoch: u32,
    /// How many are not tried any more in that cycle before the next one is.
    pub pause: u32,
}

impl Crowd {
    /// Sightings that are not tried after one had no room.
    pub const PAUSE: u32 = 63;
}

/// A packet that met a rule, in the ring. It is written before the packet is counted.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boot_ns: u64,
    /// Of its frame.
    pub bytes: u64,
    /// What its source's [`Talker`] held before; zero where there was none.
    pub before: Tally,
    /// Source address in network byte order, IPv4 mapped into IPv6.
    pub source: [u8; 16],
    /// Destination address likewise.
    pub destination: [u8; 16],
    /// Slot that it is counted on, with [`MONITOR_SLOT`] where that is of a monitor action.
    pub slot: u32,
    /// Index of the interface that it came in by.
    pub ifindex: u32,
    /// Source port, where [`has::PORTS`].
    pub source_port: u16,
    /// Destination port likewise.
    pub port: u16,
    /// IP protocol number, where [`has::PROTOCOL`].
    pub protocol: u8,
    /// Flags byte of the TCP header, where [`has::FLAGS`].
    pub tcp_flags: u8,
    /// Which of these could be read.
    pub has: u8,
    /// Always 0.
    pub zero: u8,
}

/// Bits that say what of a [`Sighting`] could be read.
pub mod has {
    /// The protocol.
    pub const PROTOCOL: u8 = 1;
    /// Both ports.
    pub const PORTS: u8 = 2;
    /// The flags of TCP.
    pub const FLAGS: u8 = 4;
}

/// How far a slot was told, by slot; user space alone writes it. Counters of slots never go back: a
/// rule that gets a used one counts from its base on. Where a record counts too, that is in both.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// What of the slot's counter is told.
    pub told: Tally,
    /// What it held when its rule got it.
    pub base: Tally,
}

/// The rule that had a slot, until all of that is told; user space alone writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retired {
    /// Prefix, IPv4 mapped into IPv6.
    pub address: [u8; 16],
    /// First destination port of its service; 0 where it names none.
    pub port: u16,
    /// IP protocol number of its service; 0 where it names none.
    pub protocol: u8,
    /// Length of the prefix in its own family.
    pub prefix_len: u8,
    /// 4 or 6.
    pub family: u8,
    /// Bit 0 is set where the action monitors; above is the number of its interface, 0 where it names none.
    pub flags: u8,
    /// Last destination port; 0 where that is the first.
    pub port_last: u16,
}

/// An action of a rule of several ports, by slot: its blocks don't tell where it begins and ends. For
/// user space alone.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// The rule and the action.
    pub rule: Retired,
    /// Until when it is in force; as in [`Entry`].
    pub until: u64,
}

/// Name of an interface, with zeros to its end, by its number in keys. For user space alone.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct InterfaceName(pub [u8; 16]);

/// Key of an uplink.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uplink {
    /// Source address in network byte order, IPv4 mapped into IPv6 (RFC 4291, 2.5.5.2).
    pub address: [u8; 16],
    /// TCP source port in host byte order.
    pub port: u16,
}

/// Maps an IPv4 address into IPv6, as keys of both families need it.
#[inline(always)]
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Indexes of the verdict counters.
pub mod verdict {
    /// Passed, for whatever reason.
    pub const PASSED: usize = 0;
    /// Dropped.
    pub const DROPPED: usize = 1;
    /// Passed and counted by a monitor action.
    pub const MONITORED: usize = 2;
    /// Passed by the guard although a rule matched.
    pub const GUARDED: usize = 3;
    /// Passed because no source address could be read.
    pub const MALFORMED: usize = 4;
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// Indexes into the words that say which prefix lengths have rules.
///
/// The bit of a length is the family's longest length minus it, counted through the family's words
/// from the first word's lowest bit on: the lowest set bit is the longest length.
pub mod mask {
    /// IPv4 lengths with rules for every packet of every interface.
    pub const ANY4: u32 = 0;
    /// IPv4 lengths with rules for a service or an interface.
    pub const OTHER4: u32 = 1;
    /// First of the three words of IPv6 lengths with rules for every packet of every interface.
    pub const ANY6: u32 = 2;
    /// First of the three words of IPv6 lengths with rules for a service or an interface.
    pub const OTHER6: u32 = 5;
    /// How many words there are.
    pub const COUNT: u32 = 8;
}

#[cfg(feature = "user")]
mod user {
    #![expect(unsafe_code, reason = "aya moves records in and out of the kernel as bytes")]

    use super::{
        Crowd, Cycle, Entry, InterfaceName, Pace, Range, Retired, Sighting, Talker, TalkerKey,
        Tally, Told, Totals, Uplink,
    };
    use super::{counters, detect, trace};

    // SAFETY: repr(C), integers only, and no padding: 4 * 4 bytes, then words of 8.
    unsafe impl aya::Pod for counters::Cpu {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 4 * 8 bytes.
    unsafe impl aya::Pod for counters::Process {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 6 * 4 bytes.
    unsafe impl aya::Pod for counters::Settings {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 8 + 4 + 4 bytes.
    unsafe impl aya::Pod for Entry {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 8 bytes.
    unsafe impl aya::Pod for Tally {}
    // SAFETY: repr(C), integers only, and no padding: 5 and 256 times 16 bytes.
    unsafe impl aya::Pod for Totals {}
    // SAFETY: repr(C), integers only, and no padding: 24 + 8 bytes.
    unsafe impl aya::Pod for Range {}
    // SAFETY: repr(C), integers only, and no padding: 16 bytes.
    unsafe impl aya::Pod for InterfaceName {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 2 bytes.
    unsafe impl aya::Pod for Uplink {}
    // SAFETY: repr(C), integers only, and no padding: 4 + 16 bytes.
    unsafe impl aya::Pod for TalkerKey {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 4 + 4 bytes.
    unsafe impl aya::Pod for Talker {}
    // SAFETY: repr(C), integers only, and no padding: 4 + 4 bytes.
    unsafe impl aya::Pod for Pace {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 4 + 4 bytes.
    unsafe impl aya::Pod for Cycle {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 4 + 4 bytes.
    unsafe impl aya::Pod for Crowd {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 8 + 16 + 16 + 16 + 4 + 4 + 2 + 2 + 4 bytes.
    unsafe impl aya::Pod for Sighting {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 16 bytes.
    unsafe impl aya::Pod for Told {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 2 + 4 + 2 bytes.
    unsafe impl aya::Pod for Retired {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 16 + 2 * 4 + 2 * 2 + 4 + 16 bytes.
    unsafe impl aya::Pod for detect::Alarm {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 6 * 4 bytes.
    unsafe impl aya::Pod for trace::Settings {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 40 + 16 + 4 * 4 bytes.
    unsafe impl aya::Pod for trace::Exec {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 40 + 8 + 2 * 4 bytes.
    unsafe impl aya::Pod for trace::Exit {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 40 + 8 + 4 * 4 bytes.
    unsafe impl aya::Pod for trace::Open {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 40 + 2 * 24 bytes.
    unsafe impl aya::Pod for trace::Cred {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 40 + 56 + 2 * 4 bytes.
    unsafe impl aya::Pod for trace::Module {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 40 + 2 * 4 + 16 bytes.
    unsafe impl aya::Pod for trace::Bpf {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 2 * 40 + 2 * 4 bytes.
    unsafe impl aya::Pod for trace::Ptrace {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 2 * 40 + 4 * 4 bytes.
    unsafe impl aya::Pod for trace::Signal {}
    // SAFETY: repr(C), integers only, and no padding: 16 + 40 + 5 * 8 bytes.
    unsafe impl aya::Pod for trace::Oom {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 2 * 4 bytes.
    unsafe impl aya::Pod for trace::Header {}
}
