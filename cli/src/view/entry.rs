//! One line of the blocklist.

use super::{SelectionView, action_name, cell, port, protocol_name, service_text};
use crate::{
    output::{Format, Table},
    time::{relative, rfc3339},
};
use kctl_proto::{agent::v1 as pb, controller::v1::list_blocklist_response::Item};
use serde::Serialize;

/// One row of `blocklist`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EntryRow {
    pub(crate) prefix: String,
    port: Option<u32>,
    /// Of a range.
    port_last: Option<u32>,
    protocol: Option<&'static str>,
    interface: Option<String>,
    action: &'static str,
    reason: String,
    pub(crate) source: String,
    created: Option<String>,
    #[serde(skip)]
    created_unix_ms: i64,
    expires: Option<String>,
    #[serde(skip)]
    expires_unix_ms: i64,
    hosts: Option<SelectionView>,
    exceptions: Vec<SelectionView>,
    /// The host that holds it, for a local entry.
    host: Option<String>,
    /// `None` where no host was asked.
    pub(crate) packets: Option<u64>,
    bytes: Option<u64>,
    /// Hosts where it was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hits: Option<Vec<HostHits>>,
    /// Hosts where a local `unblock --force` has suspended it.
    suspended_on: Vec<String>,
}

/// One host's share of an entry's hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HostHits {
    host: String,
    packets: u64,
    bytes: u64,
}

impl EntryRow {
    /// An entry whose time left was measured at `now_unix_ms`, without numbers of hosts.
    pub(crate) fn of_entry(entry: pb::Entry, now_unix_ms: i64) -> Self {
        let key = entry.key.unwrap_or_default();
        let left = |ttl: u64| now_unix_ms.saturating_add(i64::try_from(ttl).unwrap_or(i64::MAX));
        let expires_unix_ms = entry.ttl_ms.map_or(0, left);
        Self {
            port: port(key.port),
            port_last: port(key.port_last),
            interface: super::some(key.interface.clone()),
            protocol: protocol_name(key.protocol),
            action: action_name(key.action),
            prefix: key.prefix,
            reason: entry.reason,
            source: key.source,
            created: rfc3339(entry.created_unix_ms),
            created_unix_ms: entry.created_unix_ms,
            expires: rfc3339(expires_unix_ms),
            expires_unix_ms,
            hosts: key.selection.and_then(SelectionView::of),
            exceptions: entry.exceptions.into_iter().filter_map(SelectionView::of).collect(),
            host: None,
            packets: None,
            bytes: None,
            hits: None,
            suspended_on: Vec::new(),
        }
    }

    /// An entry and what the asked hosts said of it.
    pub(crate) fn of_item(item: Item, asked: bool, now_unix_ms: i64) -> Self {
        let mut row = Self::of_entry(item.entry.unwrap_or_default(), now_unix_ms);
        row.host = super::some(item.host);
        row.suspended_on = item.suspended_on;
        if asked {
            row.packets = Some(item.hits.iter().map(|hits| hits.packets).sum());
            row.bytes = Some(item.hits.iter().map(|hits| hits.bytes).sum());
            let hits =
                |hits: kctl_proto::controller::v1::list_blocklist_response::item::HostHits| {
                    HostHits { host: hits.host, packets: hits.packets, bytes: hits.bytes }
                };
            row.hits = Some(item.hits.into_iter().map(hits).collect());
        }
        row
    }

    fn service(&self) -> String {
        service_text(self.port, self.port_last, self.protocol)
    }

    fn hosts_text(&self) -> String {
        let mut text = self.host.clone().unwrap_or_else(|| cell(self.hosts.as_ref()));
        for exception in &self.exceptions {
            text = format!("{text} except {exception}");
        }
        if !self.suspended_on.is_empty() {
            text = format!("{text} (suspended on {})", self.suspended_on.join(","));
        }
        text
    }

    /// One line that `block --file` reads: the prefix, and the rest as a comment. An entry that does
    /// not drop every packet is a comment as a whole, or blocking the file would block more than it did.
    pub(crate) fn export_line(&self) -> String {
        let mut comment = vec![self.action.to_owned()];
        let mut say = |name: &str, value: String| {
            if !value.is_empty() {
                comment.push(format!("{name}={value}"));
            }
        };
        say("port", self.service());
        say("interface", cell(self.interface.as_ref()));
        say("hosts", self.hosts_text());
        say("source", self.source.clone());
        say("expires", cell(self.expires.as_ref()));
        say("reason", self.reason.clone());
        // A reason of several lines must not become prefixes.
        let is_part = self.port.is_some() || self.interface.is_some() || self.action != "drop";
        let only = if is_part { "# " } else { "" };
        format!("{only}{} # {}", self.prefix, crate::output::plain(&comment.join(" ")))
    }

    /// One line for a warning: `10.0.0.0/24 drop of feed:x on all`.
    pub(crate) fn phrase(&self) -> String {
        let service = self.service();
        let port = if service.is_empty() { service } else { format!(" port {service}") };
        let interface = self.interface.as_ref().map(|it| format!(" interface {it}"));
        let port = format!("{port}{}", interface.unwrap_or_default());
        format!("{}{port} {} by {} on {}", self.prefix, self.action, self.source, self.hosts_text())
    }
}

/// Rows for people.
pub(crate) fn table(rows: &[EntryRow], format: Format, now_unix_ms: i64) -> Table {
    let narrow = |row: &EntryRow| {
        [
            row.prefix.clone(),
            row.service(),
            cell(row.interface.as_ref()),
            row.action.to_owned(),
            row.hosts_text(),
            cell(row.packets),
            cell(row.bytes),
            relative(row.expires_unix_ms, now_unix_ms),
            row.source.clone(),
            row.reason.clone(),
        ]
    };
    if format == Format::Wide {
        let mut table = Table::new(&[
            "PREFIX",
            "PORT",
            "INTERFACE",
            "ACTION",
            "HOSTS",
            "PACKETS",
            "BYTES",
            "EXPIRES",
            "SOURCE",
            "REASON",
            "CREATED",
        ]);
        for row in rows {
            let [a, b, c, d, e, f, g, h, i, j] = narrow(row);
            let created = relative(row.created_unix_ms, now_unix_ms);
            table.row([a, b, c, d, e, f, g, h, i, j, created]);
        }
        return table;
    }
    let mut table = Table::new(&[
        "PREFIX",
        "PORT",
        "INTERFACE",
        "ACTION",
        "HOSTS",
        "PACKETS",
        "BYTES",
        "EXPIRES",
        "SOURCE",
        "REASON",
    ]);
    rows.iter().for_each(|row| table.row(narrow(row)));
    table
}

/// For `--hits`: a row a host that hit an entry.
pub(crate) fn hits_table(rows: &[EntryRow]) -> Table {
    let mut table = Table::new(&[
        "PREFIX",
        "PORT",
        "INTERFACE",
        "ACTION",
        "HOST",
        "PACKETS",
        "BYTES",
        "REASON",
    ]);
    for row in rows {
        for hits in row.hits.iter().flatten() {
            table.row([
                row.prefix.clone(),
                row.service(),
                cell(row.interface.as_ref()),
                row.action.to_owned(),
                hits.host.clone(),
                hits.packets.to_string(),
                hits.bytes.to_string(),
                row.reason.clone(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_proto::controller::v1::list_blocklist_response::item::HostHits as Hits;

    fn item() -> Item {
        let key = pb::EntryKey {
            prefix: "10.0.0.5/32".to_owned(),
            port: 0,
            port_last: 0,
            interface: String::new(),
            protocol: 0,
            action: pb::Action::Drop.into(),
            source: "user:admin".to_owned(),
            selection: Some(pb::Selection { hosts: Some(pb::selection::Hosts::All(true)) }),
        };
        let entry = pb::Entry {
            key: Some(key),
            reason: "scanner\n10.9.9.9".to_owned(),
            created_unix_ms: 1_767_323_045_678,
            ttl_ms: None,
            exceptions: Vec::new(),
        };
        let hits = |host: &str, packets, bytes| Hits { host: host.to_owned(), packets, bytes };
        Item {
            entry: Some(entry),
            hits: vec![hits("web-1", 40, 2_560), hits("web-2", 2, 128)],
            ..Item::default()
        }
    }

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let json = serde_json::to_value(EntryRow::of_item(item(), true, 0)).expect("json");
        let contract = serde_json::json!({
            "prefix": "10.0.0.5/32", "port": null, "protocol": null, "action": "drop",
            "reason": "scanner\n10.9.9.9", "source": "user:admin",
            "created": "2026-01-02T03:04:05.678Z", "expires": null, "hosts": {"all": true},
            "packets": 42, "bytes": 2688,
        });
        for (key, value) in contract.as_object().expect("object") {
            assert_eq!(&json[key], value, "{key}");
        }
    }

    #[test]
    fn selections_and_ports_have_their_forms() {
        let mut item = item();
        let entry = item.entry.as_mut().expect("entry");
        entry.ttl_ms = Some(60_000);
        let key = entry.key.as_mut().expect("key");
        key.port = 22;
        key.protocol = pb::Protocol::Tcp.into();
        let names = pb::selection::Names { names: vec!["web-1".to_owned()] };
        key.selection = Some(pb::Selection { hosts: Some(pb::selection::Hosts::Names(names)) });
        let row = EntryRow::of_item(item, false, 1_767_323_045_678);
        let json = serde_json::to_value(&row).expect("json");
        assert_eq!(json["hosts"], serde_json::json!({"names": ["web-1"]}));
        assert_eq!((&json["port"], &json["protocol"]), (&22.into(), &"tcp".into()));
        assert_eq!((&json["port_last"], &json["interface"]), (&().into(), &().into()));
        assert_eq!(json["expires"], "2026-01-02T03:05:05.678Z");
        assert!(json["packets"].is_null());
    }

    #[test]
    fn an_export_is_one_line_whatever_the_reason() {
        let line = EntryRow::of_item(item(), true, 0).export_line();
        assert_eq!(
            line,
            "10.0.0.5/32 # drop hosts=all source=user:admin reason=scanner\\n10.9.9.9"
        );
    }

    #[test]
    fn an_export_never_blocks_more_than_the_entries_did() {
        let mut port = item();
        port.entry.as_mut().and_then(|entry| entry.key.as_mut()).expect("key").port = 22;
        let mut monitor = item();
        monitor.entry.as_mut().and_then(|entry| entry.key.as_mut()).expect("key").action =
            pb::Action::Monitor.into();
        for item in [port, monitor] {
            let line = EntryRow::of_item(item, false, 0).export_line();
            assert!(line.starts_with("# 10.0.0.5/32 # "), "{line}");
        }
    }
}
