//! What an event can be: names, defaults, and sets of kinds.

use kctl_proto::agent::v1::{Event, EventType, event::Payload};
use std::{fmt, str::FromStr};

/// What an event can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Dropped packets.
    Drop,
    /// Packets of a monitor entry.
    Monitor,
    /// A source that tries many ports.
    Scan,
    /// A flooded port, or a source that floods.
    Flood,
    /// A source that detection blocked.
    Autoblock,
    /// Another program.
    Exec,
    /// The end of a process.
    Exit,
    /// An opened file.
    Open,
    /// A TCP connection from here.
    Connect,
    /// A TCP connection to here.
    Accept,
    /// The end of a TCP connection.
    Close,
    /// Changed credentials.
    Cred,
    /// A kernel module.
    Module,
    /// A BPF program.
    Bpf,
    /// A tracer.
    Ptrace,
    /// A signal.
    Signal,
    /// A process killed for want of memory.
    Oom,
    /// A link.
    Link,
    /// An address.
    Addr,
    /// A route.
    Route,
    /// A neighbour.
    Neigh,
    /// A device.
    Uevent,
    /// A threshold.
    Alert,
    /// A host in the stream.
    Host,
    /// Lost events.
    Lost,
}

/// Every kind with its name and number.
const TABLE: [(Kind, &str, EventType); 25] = [
    (Kind::Drop, "drop", EventType::Drop),
    (Kind::Monitor, "monitor", EventType::Monitor),
    (Kind::Scan, "scan", EventType::Scan),
    (Kind::Flood, "flood", EventType::Flood),
    (Kind::Autoblock, "autoblock", EventType::Autoblock),
    (Kind::Exec, "exec", EventType::Exec),
    (Kind::Exit, "exit", EventType::Exit),
    (Kind::Open, "open", EventType::Open),
    (Kind::Connect, "connect", EventType::Connect),
    (Kind::Accept, "accept", EventType::Accept),
    (Kind::Close, "close", EventType::Close),
    (Kind::Cred, "cred", EventType::Cred),
    (Kind::Module, "module", EventType::Module),
    (Kind::Bpf, "bpf", EventType::Bpf),
    (Kind::Ptrace, "ptrace", EventType::Ptrace),
    (Kind::Signal, "signal", EventType::Signal),
    (Kind::Oom, "oom", EventType::Oom),
    (Kind::Link, "link", EventType::Link),
    (Kind::Addr, "addr", EventType::Addr),
    (Kind::Route, "route", EventType::Route),
    (Kind::Neigh, "neigh", EventType::Neigh),
    (Kind::Uevent, "uevent", EventType::Uevent),
    (Kind::Alert, "alert", EventType::Alert),
    (Kind::Host, "host", EventType::Host),
    (Kind::Lost, "lost", EventType::Lost),
];

/// A name that no kind has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("type {0:?}: unknown; there are {names}", names = names())]
pub struct UnknownKind(String);

fn names() -> String {
    TABLE.map(|(_, name, _)| name).join(", ")
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.into_iter().map(|(kind, ..)| kind)
    }

    /// As in JSON and on the command line.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// As on the wire.
    pub fn to_proto(self) -> EventType {
        TABLE[self as usize].2
    }

    /// `None` for a number of another version.
    pub fn from_proto(number: i32) -> Option<Self> {
        TABLE.into_iter().find_map(|(kind, _, wire)| (wire as i32 == number).then_some(kind))
    }

    /// `None` for an event of another version.
    pub fn of(event: &Event) -> Option<Self> {
        Some(match event.payload.as_ref()? {
            Payload::Drop(_) => Self::Drop,
            Payload::Monitor(_) => Self::Monitor,
            Payload::Scan(_) => Self::Scan,
            Payload::Flood(_) => Self::Flood,
            Payload::Autoblock(_) => Self::Autoblock,
            Payload::Exec(_) => Self::Exec,
            Payload::Exit(_) => Self::Exit,
            Payload::Open(_) => Self::Open,
            Payload::Connect(_) => Self::Connect,
            Payload::Accept(_) => Self::Accept,
            Payload::Close(_) => Self::Close,
            Payload::Cred(_) => Self::Cred,
            Payload::Module(_) => Self::Module,
            Payload::Bpf(_) => Self::Bpf,
            Payload::Ptrace(_) => Self::Ptrace,
            Payload::Signal(_) => Self::Signal,
            Payload::Oom(_) => Self::Oom,
            Payload::Link(_) => Self::Link,
            Payload::Addr(_) => Self::Addr,
            Payload::Route(_) => Self::Route,
            Payload::Neigh(_) => Self::Neigh,
            Payload::Uevent(_) => Self::Uevent,
            Payload::Alert(_) => Self::Alert,
            Payload::Host(_) => Self::Host,
            Payload::Lost(_) => Self::Lost,
        })
    }

    /// Whether a host makes these unless it is told otherwise.
    pub fn is_default(self) -> bool {
        !matches!(self, Self::Open | Self::Signal)
    }

    /// Whether these pass every filter of types: they are about the stream itself.
    pub fn is_about_the_stream(self) -> bool {
        matches!(self, Self::Host | Self::Lost)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let known = TABLE.into_iter().find_map(|(kind, name, _)| (name == text).then_some(kind));
        known.ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Kinds(u32);

impl Kinds {
    /// Every kind.
    pub fn all() -> Self {
        Kind::all().collect()
    }

    /// Those that a host makes unless it is told otherwise.
    pub fn default_on() -> Self {
        Kind::all().filter(|kind| kind.is_default()).collect()
    }

    /// Whether the kind is in it.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u32 != 0
    }

    /// Whether every kind of `other` is in it.
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its kinds.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::all().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | 1 << kind as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_at_its_place_and_survives_its_names() {
        for (at, (kind, name, wire)) in TABLE.into_iter().enumerate() {
            assert_eq!((kind as usize, kind.name(), kind.to_proto()), (at, name, wire));
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(Kind::from_proto(wire.into()), Some(kind));
            assert_eq!(wire.as_str_name(), format!("EVENT_TYPE_{}", name.to_uppercase()));
        }
        assert_eq!(Kind::from_proto(0), None);
        let error = "dorp".parse::<Kind>().expect_err("unknown").to_string();
        assert!(error.starts_with("type \"dorp\": unknown; there are drop, monitor"), "{error}");
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let kinds: Kinds = [Kind::Drop, Kind::Lost].into_iter().collect();
        assert!(kinds.contains(Kind::Lost) && !kinds.contains(Kind::Host));
        assert_eq!(kinds.iter().collect::<Vec<_>>(), [Kind::Drop, Kind::Lost]);
        assert!(Kinds::all().covers(kinds) && !kinds.covers(Kinds::all()));
        assert!(!Kinds::default_on().contains(Kind::Open));
        assert!(Kinds::default_on().contains(Kind::Exec));
        assert!(Kinds::default().is_empty());
    }
}
