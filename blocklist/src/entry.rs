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

/// Destination ports: `22/tcp`, or `22` for both protocols, or `8000-8999/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// 1 to 65535
    pub port: u16,
    /// The last port of a range; `port`, where it is one.
    pub last: u16,
    /// `None` means TCP and UDP.
    pub protocol: Option<Protocol>,
}

impl Service {
    /// One port.
    pub fn port(port: u16, protocol: Option<Protocol>) -> Self {
        Self { port, last: port, protocol }
    }

    /// Whether it has this port.
    pub fn contains(self, port: u16) -> bool {
        (self.port..=self.last).contains(&port)
    }

    /// Entries that a host's tables have for each protocol: the ports as aligned blocks.
    pub fn blocks(self) -> u32 {
        let (mut next, end, mut blocks) = (u32::from(self.port), u32::from(self.last) + 1, 0);
        while next < end {
            next += 1 << next.trailing_zeros().min((end - next).ilog2());
            blocks += 1;
        }
        blocks
    }

    /// `22`, `8000-8999`
    pub fn ports(self) -> String {
        if self.port == self.last {
            self.port.to_string()
        } else {
            format!("{}-{}", self.port, self.last)
        }
    }

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
            None => f.write_str(&self.ports()),
            Some(protocol) => write!(f, "{}/{}", self.ports(), protocol.name()),
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
    /// The interface that its packets enter by; `None` means any.
    pub interface: Option<String>,
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

impl EntryKey {
    /// ` port 22/tcp on eth1`, or nothing: what follows its prefix in a sentence.
    pub fn more(&self) -> String {
        more(self.service, self.interface.as_deref())
    }
}

/// See [`EntryKey::more`].
pub fn more(service: Option<Service>, interface: Option<&str>) -> String {
    let port = service.map(|service| format!(" port {service}")).unwrap_or_default();
    let on = interface.map(|interface| format!(" on {interface}")).unwrap_or_default();
    format!("{port}{on}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_few_aligned_blocks() {
        let blocks = |port, last| Service { port, last, protocol: None }.blocks();
        assert_eq!((blocks(22, 22), blocks(8_000, 8_063), blocks(8_000, 8_999)), (1, 1, 6));
        assert_eq!((blocks(1, 65_535), blocks(1, 65_534)), (16, 30));
    }

    #[test]
    fn ports_have_their_text() {
        let service = Service { port: 8_000, last: 8_999, protocol: Some(Protocol::Tcp) };
        assert_eq!(service.to_string(), "8000-8999/tcp");
        assert_eq!(Service::port(53, None).to_string(), "53");
        assert_eq!(more(Some(service), Some("eth1")), " port 8000-8999/tcp on eth1");
        assert_eq!(more(None, None), "");
    }
}
