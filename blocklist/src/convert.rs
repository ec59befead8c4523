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
    pub fn from_proto(port: u32, protocol: pb::Protocol) -> Result<Option<Self>, InvalidEntry> {
        let protocol = match protocol {
            pb::Protocol::Unspecified => None,
            pb::Protocol::Tcp => Some(Protocol::Tcp),
            pb::Protocol::Udp => Some(Protocol::Udp),
        };
        match (u16::try_from(port), protocol) {
            (Ok(0), None) => Ok(None),
            (Ok(0), Some(_)) => Err(InvalidEntry::Field("protocol: wants a port beside it")),
            (Ok(port), protocol) => Ok(Some(Self { port, protocol })),
            (Err(_), _) => Err(InvalidEntry::Field("port: must be 1 to 65535")),
        }
    }

    /// Port and protocol of an optional service.
    pub fn to_proto(service: Option<Self>) -> (u32, pb::Protocol) {
        let Some(service) = service else { return (0, pb::Protocol::Unspecified) };
        let protocol = match service.protocol {
            None => pb::Protocol::Unspecified,
            Some(Protocol::Tcp) => pb::Protocol::Tcp,
            Some(Protocol::Udp) => pb::Protocol::Udp,
        };
        (service.port.into(), protocol)
    }
}

impl Action {
    /// `None` for unspecified.
    pub fn from_proto(action: pb::Action) -> Option<Self> {
        match action {
            pb::Action::Unspecified => None,
            pb::Action::Drop => Some(Self::Drop),
            pb::Action::Monitor => Some(Self::Monitor),
            pb::Action::Protect => Some(Self::Protect),
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
        let service = Service::from_proto(key.port, key.protocol())?;
        let action =
            Action::from_proto(key.action()).ok_or(InvalidEntry::Field("action: is missing"))?;
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
        let (port, protocol) = Service::to_proto(key.service);
        Self {
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
                service: Some(Service { port: 8080, protocol: Some(Protocol::Tcp) }),
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
    fn malformed_parts_are_named() {
        let protocol = pb::Protocol::Tcp;
        assert!(
            Service::from_proto(0, protocol).expect_err("no port").to_string().contains("port")
        );
        assert!(Service::from_proto(65_536, protocol).is_err());
        assert!(Selection::try_from(pb::Selection { hosts: None }).is_err());
        assert!(EntryKey::try_from(pb::EntryKey::default()).is_err());
    }
}
