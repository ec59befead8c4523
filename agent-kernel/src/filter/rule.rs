//! What user space asks of the filter: rules and what the filter answers. Plain data,
//! without the kernel.

use super::Interface;
use ipnet::IpNet;
use std::net::IpAddr;

/// The end of a rule on CLOCK_BOOTTIME, which runs on through suspend. The program compares it with
/// every packet, so it holds with no agent running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Until(u64);

impl Until {
    /// Never.
    pub const FOREVER: Self = Self(u64::MAX);

    /// At that many nanoseconds after boot; see [`crate::sys::boottime_ns`].
    pub fn at(boot_ns: u64) -> Self {
        // Zero means "no such action" in the kernel's record.
        Self(boot_ns.max(1))
    }

    /// Nanoseconds after boot; `u64::MAX` for never.
    pub fn boot_ns(self) -> u64 {
        self.0
    }

    pub(super) fn from_record(value: u64) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
}

impl Protocol {
    /// Its IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// Destination ports of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port, at least 1.
    pub first: u16,
    /// The last port; the first, where it is one.
    pub last: u16,
}

impl Service {
    /// One port.
    pub fn port(protocol: Protocol, port: u16) -> Self {
        Self { protocol, first: port, last: port }
    }

    /// Whether it is one port.
    pub fn is_single(self) -> bool {
        self.first == self.last
    }
}

/// What makes a rule one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// Source addresses; host bits are ignored.
    pub prefix: IpNet,
    /// Destination ports; `None` means every packet of the source.
    pub service: Option<Service>,
    /// Packets that enter by this interface; `None` means by any.
    pub interface: Option<Interface>,
    /// Its packets pass whatever other rules say: its rule is [`Rule::PASS`].
    pub guards: bool,
}

impl RuleKey {
    /// Of every packet of a source.
    pub fn any(prefix: IpNet) -> Self {
        Self { prefix, service: None, interface: None, guards: false }
    }
}

/// What a matching packet meets; at least one of the two is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// It is dropped until then.
    pub drop: Option<Until>,
    /// It is counted until then, and passes unless a drop says otherwise.
    pub monitor: Option<Until>,
}

impl Rule {
    /// Of what always passes; also [`Rule::drop`] forever, under a key that guards.
    pub const PASS: Self = Self { drop: Some(Until::FOREVER), monitor: None };
}

/// A rule's action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The packet is dropped.
    Drop,
    /// The packet is counted and passes.
    Monitor,
}

/// Packets, and the bytes of their frames from the Ethernet header on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frames.
    pub bytes: u64,
}

/// What one action of one rule met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// The rule.
    pub key: RuleKey,
    /// Which of its actions.
    pub action: Action,
    /// Packets.
    pub packets: u64,
    /// Bytes of the frames.
    pub bytes: u64,
}

/// How often the filter decided how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// Passed, for whatever reason; `passed + dropped` is every packet.
    pub passed: Count,
    /// Dropped.
    pub dropped: Count,
    /// Passed and counted by a monitor rule; also in `passed`.
    pub monitored: Count,
    /// Passed by the guard although a rule matched; also in `passed`.
    pub guarded: Count,
    /// Without a readable source address; also in `passed`.
    pub malformed: Count,
}

/// Everything that the filter counted since it was first attached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Passed, for whatever reason; `passed + dropped` is every packet.
    pub passed: Count,
    /// Dropped.
    pub dropped: Count,
    /// Passed and counted by a monitor rule; also in `passed`.
    pub monitored: Count,
    /// Passed by the guard although a rule matched; also in `passed`.
    pub guarded: Count,
    /// Without a readable source address; also in `passed`.
    pub malformed: Count,
    /// By IP protocol number; only those seen.
    pub protocols: Vec<(u8, Count)>,
    /// Passed TCP connection attempts (SYN without ACK) by destination port, most first.
    pub connections: Vec<(u16, u64)>,
    /// Dropped packets by source, most first: single-address rules of now, and the sources that a
    /// wider prefix dropped most recently.
    pub sources: Vec<(IpAddr, Count)>,
}

/// How far the kernel's maps were from what they should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drift {
    /// Entries that were gone.
    pub missing: u64,
    /// Entries that nobody asked for.
    pub foreign: u64,
    /// Entries that held something else.
    pub changed: u64,
}

impl Drift {
    /// Whether nothing was off.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}
