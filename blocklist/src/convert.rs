//! From and to `kctl.agent.v1`.

use crate::{Action, Entry, EntryKey, Protocol, Selection, Service, parse_prefix};
use kctl_proto::agent::v1 as pb;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is wrong with an entry that came over the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// Its prefix.
    #[error(transparent)]
    Prefix(#[from] crate::InvalidPrefix),
    /// Its label selector.
    #[error(transparent)]
    Selector(#[from] crate::InvalidSelector),
    /// Anything else: the field and what is wrong with it.
    #[error("{0}")]
    Field(&'static str),
}

/// Wall clock, milliseconds since 1970.
pub fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Service {
    /// Port 0 without protocol is no service: every packet.
    /// A last port of 0 is that of a single one. The protocol is as it came: one that this version does not
    /// know must not become every protocol.
    pub fn from_proto(
        port: u32,
        port_last: u32,
        protocol: i32,
    ) -> Result<Option<Self>, InvalidEntry> {
        let protocol = match pb::Protocol::try_from(protocol) {
            Ok(pb::Protocol::Unspecified) => None,
            Ok(pb::Protocol::Tcp) => Some(Protocol::Tcp),
            Ok(pb::Protocol::Udp) => Some(Protocol::Udp),
            Err(_) => {
                return Err(InvalidEntry::Field("protocol: is not known to this version of kctl"));
            }
        };
        let last = if port_last == 0 { port } else { port_last };
        match (u16::try_from(port), u16::try_from(last), protocol) {
            (Ok(0), Ok(0), None) => Ok(None),
            (Ok(0), Ok(0), Some(_)) => Err(InvalidEntry::Field("protocol: wants a port beside it")),
            (Ok(port @ 1..), Ok(last), protocol) if port <= last => {
                Ok(Some(Self { port, last, protocol }))
            }
            _ => Err(InvalidEntry::Field("port: must be 1 to 65535, of a range the lower first")),
        }
    }

    /// Port, last port of a range, and protocol of an optional service.
    pub fn to_proto(service: Option<Self>) -> (u32, u32, pb::Protocol) {
        let Some(service) = service else { return (0, 0, pb::Protocol::Unspecified) };
        let last = if service.last == service.port { 0 } else { service.last };
        let protocol = match service.protocol {
            None => pb::Protocol::Unspecified,
            Some(Protocol::Tcp) => pb::Protocol::Tcp,
            Some(Protocol::Udp) => pb::Protocol::Udp,
        };
        (service.port.into(), last.into(), protocol)
    }
}

/// The name of an interface; empty is none. What Linux takes as one: 1 to 15 bytes without blanks, control
/// characters, slashes and colons, and not `.` or `..`.
pub fn interface_from_proto(name: String) -> Result<Option<String>, InvalidEntry> {
    let bad =
        |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"/:".contains(&byte);
    match name.as_str() {
        "" => Ok(None),
        "." | ".." => Err(InvalidEntry::Field(INTERFACE)),
        _ if name.len() > 15 || name.bytes().any(bad) => Err(InvalidEntry::Field(INTERFACE)),
        _ => Ok(Some(name)),
    }
}

const INTERFACE: &str =
    "interface: must be a name of 1 to 15 bytes without blanks, \"/\" and \":\"";

impl Action {
    /// As it came: `None` for unspecified, an error for what only a newer version knows.
    pub fn from_proto(action: i32) -> Result<Option<Self>, InvalidEntry> {
        match pb::Action::try_from(action) {
            Ok(pb::Action::Unspecified) => Ok(None),
            Ok(pb::Action::Drop) => Ok(Some(Self::Drop)),
            Ok(pb::Action::Monitor) => Ok(Some(Self::Monitor)),
            Ok(pb::Action::Protect) => Ok(Some(Self::Protect)),
            Err(_) => Err(InvalidEntry::Field("action: is not known to this version of kctl")),
        }
    }
}

impl From<Action> for pb::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Drop => Self::Drop,
            Action::Monitor => Self::Monitor,
            Action::Protect => Self::Protect,
        }
    }
}

impl TryFrom<pb::Selection> for Selection {
    type Error = InvalidEntry;

    fn try_from(selection: pb::Selection) -> Result<Self, InvalidEntry> {
        match selection.hosts {
            Some(pb::selection::Hosts::All(true)) => Ok(Self::All),
            Some(pb::selection::Hosts::Names(names)) if !names.names.is_empty() => {
                Ok(Self::Names(names.names.into_iter().collect()))
            }
            Some(pb::selection::Hosts::Selector(selector)) => Ok(Self::Selector(selector.parse()?)),
            Some(_) | None => Err(InvalidEntry::Field("selection: names no hosts")),
        }
    }
}

impl From<&Selection> for pb::Selection {
    fn from(selection: &Selection) -> Self {
        let hosts = match selection {
            Selection::All => pb::selection::Hosts::All(true),
            Selection::Names(names) => pb::selection::Hosts::Names(pb::selection::Names {
                names: names.iter().cloned().collect(),
            }),
            Selection::Selector(selector) => pb::selection::Hosts::Selector(selector.to_string()),
        };
        Self { hosts: Some(hosts) }
    }
}

impl TryFrom<pb::EntryKey> for EntryKey {
    type Error = InvalidEntry;

    fn try_from(key: pb::EntryKey) -> Result<Self, InvalidEntry> {
        let service = Service::from_proto(key.port, key.port_last, key.protocol)?;
        let interface = interface_from_proto(key.interface.clone())?;
        let action =
            Action::from_proto(key.action)?.ok_or(InvalidEntry::Field("action: is missing"))?;
        let valid_source = |source: &str| {
            source.len() <= 256
                && source.contains(':')
                && !source.bytes().any(|byte| byte.is_ascii_control())
        };
        if !valid_source(&key.source) {
            return Err(InvalidEntry::Field("source: must be like user:NAME or feed:NAME"));
        }
        Ok(Self {
            prefix: parse_prefix(&key.prefix)?,
            service,
            interface,
            action,
            source: key.source,
            selection: key
                .selection
                .ok_or(InvalidEntry::Field("selection: is missing"))?
                .try_into()?,
        })
    }
}

impl From<&EntryKey> for pb::EntryKey {
    fn from(key: &EntryKey) -> Self {
        let (port, port_last, protocol) = Service::to_proto(key.service);
        Self {
            port_last,
            interface: key.interface.clone().unwrap_or_default(),
            prefix: key.prefix.to_string(),
            port,
            protocol: protocol.into(),
            action: pb::Action::from(key.action).into(),
            source: key.source.clone(),
            selection: Some((&key.selection).into()),
        }
    }
}

impl Entry {
    /// Reads an entry whose time left was measured at `now_unix_ms`.
    pub fn from_proto(entry: pb::Entry, now_unix_ms: i64) -> Result<Self, InvalidEntry> {
        let ends =
            |ttl_ms: u64| now_unix_ms.saturating_add(i64::try_from(ttl_ms).unwrap_or(i64::MAX));
        Ok(Self {
            key: entry.key.ok_or(InvalidEntry::Field("key: is missing"))?.try_into()?,
            reason: entry.reason,
            created_unix_ms: entry.created_unix_ms,
            expires_unix_ms: entry.ttl_ms.map(ends),
            exceptions: entry
                .exceptions
                .into_iter()
                .map(Selection::try_from)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Writes the entry with the time left at `now_unix_ms`; one that is over has 0 left.
    pub fn to_proto(&self, now_unix_ms: i64) -> pb::Entry {
        let left = |ends: i64| u64::try_from(ends.saturating_sub(now_unix_ms)).unwrap_or(0);
        pb::Entry {
            key: Some((&self.key).into()),
            reason: self.reason.clone(),
            created_unix_ms: self.created_unix_ms,
            ttl_ms: self.expires_unix_ms.map(left),
            exceptions: self.exceptions.iter().map(pb::Selection::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_the_wire() {
        let entry = Entry {
            key: EntryKey {
                prefix: parse_prefix("2001:db8::/32").expect("valid"),
                service: Some(Service { port: 8080, last: 8089, protocol: Some(Protocol::Tcp) }),
                interface: Some("eth1".to_owned()),
                action: Action::Monitor,
                source: "user:admin".to_owned(),
                selection: Selection::Selector("role=web".parse().expect("valid")),
            },
            reason: "scanner".to_owned(),
            created_unix_ms: 1_000,
            expires_unix_ms: Some(61_000),
            exceptions: vec![Selection::Names(["web-1".to_owned()].into())],
        };
        let wire = entry.to_proto(31_000);
        assert_eq!(wire.ttl_ms, Some(30_000));
        assert_eq!(Entry::from_proto(wire, 31_000), Ok(entry));
    }

    #[test]
    fn what_only_a_newer_version_knows_is_refused() {
        let error = Service::from_proto(22, 0, 132).expect_err("SCTP, say").to_string();
        assert!(error.contains("protocol") && error.contains("this version"), "{error}");
        let error = Action::from_proto(9).expect_err("to slow down, say").to_string();
        assert!(error.contains("action") && error.contains("this version"), "{error}");
        assert_eq!(Action::from_proto(0), Ok(None));
    }

    #[test]
    fn malformed_parts_are_named() {
        let protocol = pb::Protocol::Tcp.into();
        assert!(
            Service::from_proto(0, 0, protocol).expect_err("no port").to_string().contains("port")
        );
        for (port, last) in [(65_536, 0), (1, 65_536), (0, 22), (22, 21)] {
            assert!(Service::from_proto(port, last, protocol).is_err(), "{port}-{last}");
        }
        let single = Service::port(22, Some(Protocol::Tcp));
        assert_eq!(Service::from_proto(22, 22, protocol), Ok(Some(single)));
        assert_eq!(Service::to_proto(Some(single)), (22, 0, pb::Protocol::Tcp));
        for name in [".", "a b", "a/b", "eth0:1", "sixteen-bytes-xx", "a\n"] {
            assert!(interface_from_proto(name.to_owned()).is_err(), "{name:?}");
        }
        let vlan = "eth0.100".to_owned();
        assert_eq!(interface_from_proto(vlan.clone()), Ok(Some(vlan)));
        assert!(Selection::try_from(pb::Selection { hosts: None }).is_err());
        assert!(EntryKey::try_from(pb::EntryKey::default()).is_err());
    }
}
