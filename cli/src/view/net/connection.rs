//! Tracked connections.

use super::{cell, family_name};
use crate::view::{read::Record, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One tracked connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ConnectionView {
    family: &'static str,
    protocol: String,
    state: Option<String>,
    #[serde(flatten)]
    original: FlowView,
    reply: FlowView,
    timeout_seconds: Option<u32>,
    mark: u32,
    zone: u32,
    status: Vec<String>,
    id: u32,
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct FlowView {
    src: String,
    dst: String,
    src_port: Option<u32>,
    dst_port: Option<u32>,
    icmp_type: Option<u32>,
    icmp_code: Option<u32>,
    icmp_id: Option<u32>,
    packets: Option<u64>,
    bytes: Option<u64>,
}

impl From<pb::connection::Flow> for FlowView {
    fn from(flow: pb::connection::Flow) -> Self {
        Self {
            src: flow.src,
            dst: flow.dst,
            src_port: flow.src_port,
            dst_port: flow.dst_port,
            icmp_type: flow.icmp_type,
            icmp_code: flow.icmp_code,
            icmp_id: flow.icmp_id,
            packets: flow.packets,
            bytes: flow.bytes,
        }
    }
}

impl From<pb::Connection> for ConnectionView {
    fn from(connection: pb::Connection) -> Self {
        Self {
            family: family_name(connection.family()),
            protocol: connection.protocol,
            state: some(connection.state),
            original: connection.original.unwrap_or_default().into(),
            reply: connection.reply.unwrap_or_default().into(),
            timeout_seconds: connection.timeout_seconds,
            mark: connection.mark,
            zone: connection.zone,
            status: connection.status,
            id: connection.id,
        }
    }
}

impl Record for ConnectionView {
    const NOUN: &'static str = "conntrack";
    const COLUMNS: &'static [&'static str] =
        &["PROTOCOL", "STATE", "SRC", "DST", "PACKETS", "REPLIES", "TIMEOUT", "STATUS"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["REPLY SRC", "REPLY DST", "BYTES", "REPLY BYTES", "MARK", "ZONE", "ID"];

    fn cells(&self) -> Vec<String> {
        let (original, reply) = (&self.original, &self.reply);
        // What every connection that carries anything has says nothing.
        let told = self
            .status
            .iter()
            .filter(|word| !matches!(word.as_str(), "CONFIRMED" | "SRC_NAT_DONE" | "DST_NAT_DONE"));
        let status: Vec<_> = told.map(String::as_str).collect();
        vec![
            self.protocol.clone(),
            cell(self.state.as_ref()),
            super::end(&original.src, original.src_port),
            super::end(&original.dst, original.dst_port),
            cell(original.packets),
            cell(reply.packets),
            cell(self.timeout_seconds),
            status.join(","),
            super::end(&reply.src, reply.src_port),
            super::end(&reply.dst, reply.dst_port),
            cell(original.bytes),
            cell(reply.bytes),
            self.mark.to_string(),
            self.zone.to_string(),
            self.id.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_both_directions_and_null_for_what_is_not_told() {
        let flow = |src: &str, dst: &str, src_port, dst_port| pb::connection::Flow {
            src: src.to_owned(),
            dst: dst.to_owned(),
            src_port: Some(src_port),
            dst_port: Some(dst_port),
            ..Default::default()
        };
        let connection = pb::Connection {
            family: pb::Family::Inet6.into(),
            protocol: "udp".to_owned(),
            original: Some(flow("fd09::1", "fd09::2", 9, 53)),
            reply: Some(flow("fd09::2", "fd09::1", 53, 9)),
            timeout_seconds: Some(29),
            status: vec!["CONFIRMED".to_owned(), "SEEN_REPLY".to_owned()],
            id: 7,
            ..Default::default()
        };
        let view = ConnectionView::from(connection);
        let cells = view.cells();
        let columns = ConnectionView::COLUMNS.len() + ConnectionView::WIDE_COLUMNS.len();
        assert_eq!(cells.len(), columns);
        assert_eq!((cells[2].as_str(), cells[7].as_str()), ("[fd09::1]:9", "SEEN_REPLY"));
        let json = serde_json::to_value(view).expect("json");
        let expected = serde_json::json!({
            "family": "inet6", "protocol": "udp", "state": null,
            "src": "fd09::1", "dst": "fd09::2", "src_port": 9, "dst_port": 53,
            "icmp_type": null, "icmp_code": null, "icmp_id": null, "packets": null, "bytes": null,
            "reply": {
                "src": "fd09::2", "dst": "fd09::1", "src_port": 53, "dst_port": 9,
                "icmp_type": null, "icmp_code": null, "icmp_id": null, "packets": null,
                "bytes": null,
            },
            "timeout_seconds": 29, "mark": 0, "zone": 0, "status": ["CONFIRMED", "SEEN_REPLY"],
            "id": 7,
        });
        assert_eq!(json, expected);
    }
}
