//! One line of a blocklist.

use crate::Selection;
use ipnet::IpNet;
use std::fmt;

/// What a matching packet meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// It is dropped and counted.
    Drop,
    /// It is counted, reported, and passes.
    Monitor,
    /// It passes whatever any other entry says.
    Protect,
}

impl Action {
    /// `drop`, `monitor` or `protect`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Monitor => "monitor",
            Self::Protect => "protect",
        }
    }
}

/// A transport protocol with ports, by its IP protocol number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A destination port: `22/tcp`, or `22` for both protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// 1 to 65535
    pub port: u16,
    /// `None` means TCP and UDP.
    pub protocol: Option<Protocol>,
}

impl Service {
    /// The protocols that it is about.
    pub fn protocols(self) -> &'static [Protocol] {
        match self.protocol {
            None => &[Protocol::Tcp, Protocol::Udp],
            Some(Protocol::Tcp) => &[Protocol::Tcp],
            Some(Protocol::Udp) => &[Protocol::Udp],
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            None => write!(f, "{}", self.port),
            Some(protocol) => write!(f, "{}/{}", self.port, protocol.name()),
        }
    }
}

/// What makes an entry one entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey {
    /// Source addresses, without host bits.
    pub prefix: IpNet,
    /// `None` means every packet of the source.
    pub service: Option<Service>,
    /// What its packets meet.
    pub action: Action,
    /// Who made it: `user:NAME`, `feed:NAME`, `local:UID`, `auto:WHY`.
    pub source: String,
    /// The hosts that it is for.
    pub selection: Selection,
}

impl EntryKey {
    /// Whether a host made it for itself: somebody there, or its detection. What the controller makes of
    /// such a detection is for every host and not for one by its name.
    pub fn is_local(&self) -> bool {
        self.source.starts_with(LOCAL_SOURCE) || self.is_auto()
    }

    /// Whether a host's detection made it.
    pub fn is_auto(&self) -> bool {
        self.source.starts_with(AUTO_SOURCE) && matches!(self.selection, Selection::Names(_))
    }
}

/// What the sources of entries begin with that somebody on a host made there.
const LOCAL_SOURCE: &str = "local:";
/// What the sources of entries begin with that detection made, or that the controller made of these.
pub const AUTO_SOURCE: &str = "auto:";

/// One line of a blocklist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What makes it this one.
    pub key: EntryKey,
    /// Free text of whoever made it.
    pub reason: String,
    /// Wall clock of its making, milliseconds since 1970.
    pub created_unix_ms: i64,
    /// Wall clock of its end, milliseconds since 1970; `None` means never.
    pub expires_unix_ms: Option<i64>,
    /// Hosts of the selection that are excepted from it.
    pub exceptions: Vec<Selection>,
}

impl Entry {
    /// Whether a host of this name and these labels must have it.
    pub fn concerns(
        &self,
        name: &str,
        labels: &std::collections::BTreeMap<String, String>,
    ) -> bool {
        self.key.selection.matches(name, labels)
            && !self.exceptions.iter().any(|exception| exception.matches(name, labels))
    }
}
