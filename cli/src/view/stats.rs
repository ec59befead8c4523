//! One host's packet counters.

use super::{
    ErrorView, InterfaceView, action_name, modes, port, protocol_name, service_text, some,
};
use crate::output::Table;
use kctl_proto::agent::v1 as pb;
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _};

/// One row of `stats`: counters, or why there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StatsRow {
    pub(crate) host: String,
    #[serde(flatten)]
    pub(crate) result: StatsResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum StatsResult {
    Counters(Box<Counters>),
    Failed { error: ErrorView },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Counters {
    interfaces: Vec<InterfaceView>,
    packets: Verdicts,
    bytes: Verdicts,
    protocols: BTreeMap<String, Count>,
    ports: Vec<PortRow>,
    rules: Vec<RuleRow>,
    top_sources: Vec<SourceRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Verdicts {
    passed: u64,
    dropped: u64,
    monitored: u64,
    guarded: u64,
    malformed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Count {
    packets: u64,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PortRow {
    port: u32,
    protocol: Option<&'static str>,
    connections: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RuleRow {
    prefix: String,
    port: Option<u32>,
    port_last: Option<u32>,
    protocol: Option<&'static str>,
    interface: Option<String>,
    action: &'static str,
    packets: u64,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SourceRow {
    src: String,
    packets: u64,
    bytes: u64,
}

impl From<pb::Stats> for Counters {
    fn from(stats: pb::Stats) -> Self {
        let verdicts = |value: fn(&pb::PacketCount) -> u64| {
            let of = |count: &Option<pb::PacketCount>| count.as_ref().map_or(0, value);
            Verdicts {
                passed: of(&stats.passed),
                dropped: of(&stats.dropped),
                monitored: of(&stats.monitored),
                guarded: of(&stats.guarded),
                malformed: of(&stats.malformed),
            }
        };
        Self {
            packets: verdicts(|count| count.packets),
            bytes: verdicts(|count| count.bytes),
            interfaces: stats.interfaces.into_iter().map(InterfaceView::from).collect(),
            protocols: stats
                .protocols
                .into_iter()
                .map(|protocol| {
                    let count = protocol.count.unwrap_or_default();
                    (protocol.name, Count { packets: count.packets, bytes: count.bytes })
                })
                .collect(),
            ports: stats.ports.iter().map(PortRow::from).collect(),
            rules: stats.rules.into_iter().map(RuleRow::from).collect(),
            top_sources: stats.top_sources.into_iter().map(SourceRow::from).collect(),
        }
    }
}

impl From<&pb::stats::PortCount> for PortRow {
    fn from(count: &pb::stats::PortCount) -> Self {
        let protocol = protocol_name(count.protocol);
        Self { port: count.port, protocol, connections: count.connections }
    }
}

impl From<pb::list_hits_response::Hit> for RuleRow {
    fn from(hit: pb::list_hits_response::Hit) -> Self {
        Self {
            port: port(hit.port),
            port_last: port(hit.port_last),
            interface: some(hit.interface.clone()),
            protocol: protocol_name(hit.protocol),
            action: action_name(hit.action),
            prefix: hit.prefix,
            packets: hit.packets,
            bytes: hit.bytes,
        }
    }
}

impl From<pb::stats::SourceCount> for SourceRow {
    fn from(source: pb::stats::SourceCount) -> Self {
        let count = source.count.unwrap_or_default();
        Self { src: source.src, packets: count.packets, bytes: count.bytes }
    }
}

/// A line a host.
pub(crate) fn table(rows: &[StatsRow]) -> Table {
    let mut table = Table::new(&[
        "HOST",
        "MODE",
        "PASSED",
        "DROPPED",
        "DROPPED BYTES",
        "MONITORED",
        "GUARDED",
        "MALFORMED",
        "ERROR",
    ]);
    for row in rows {
        let host = row.host.clone();
        match &row.result {
            StatsResult::Counters(counters) => table.row([
                host,
                modes(&counters.interfaces),
                counters.packets.passed.to_string(),
                counters.packets.dropped.to_string(),
                counters.bytes.dropped.to_string(),
                counters.packets.monitored.to_string(),
                counters.packets.guarded.to_string(),
                counters.packets.malformed.to_string(),
                String::new(),
            ]),
            StatsResult::Failed { error } => {
                let [a, b, c, d, e, f, g] = std::array::from_fn(|_| String::new());
                table.row([host, a, b, c, d, e, f, g, error.message.clone()]);
            }
        }
    }
    table
}

/// Rules, sources, protocols and ports of every host, for people.
pub(crate) fn details(rows: &[StatsRow]) -> String {
    let mut rules =
        Table::new(&["HOST", "RULE", "PORT", "INTERFACE", "ACTION", "PACKETS", "BYTES"]);
    let mut sources = Table::new(&["HOST", "SOURCE", "DROPPED", "BYTES"]);
    let mut protocols = Table::new(&["HOST", "PROTOCOL", "PACKETS", "BYTES"]);
    let mut ports = Table::new(&["HOST", "PORT", "CONNECTIONS"]);
    let mut filled = [false; 4];
    for row in rows {
        let StatsResult::Counters(counters) = &row.result else { continue };
        let host = || row.host.clone();
        for rule in &counters.rules {
            rules.row([
                host(),
                rule.prefix.clone(),
                service_text(rule.port, rule.port_last, rule.protocol),
                rule.interface.clone().unwrap_or_default(),
                rule.action.to_owned(),
                rule.packets.to_string(),
                rule.bytes.to_string(),
            ]);
        }
        for source in &counters.top_sources {
            let (packets, bytes) = (source.packets.to_string(), source.bytes.to_string());
            sources.row([host(), source.src.clone(), packets, bytes]);
        }
        for (name, count) in &counters.protocols {
            let (packets, bytes) = (count.packets.to_string(), count.bytes.to_string());
            protocols.row([host(), name.clone(), packets, bytes]);
        }
        for port in &counters.ports {
            let service = service_text(Some(port.port), None, port.protocol);
            ports.row([host(), service, port.connections.to_string()]);
        }
        filled[0] |= !counters.rules.is_empty();
        filled[1] |= !counters.top_sources.is_empty();
        filled[2] |= !counters.protocols.is_empty();
        filled[3] |= !counters.ports.is_empty();
    }
    let mut text = String::new();
    for (table, _) in [rules, sources, protocols, ports].iter().zip(filled).filter(|(_, f)| *f) {
        // Writing to a string can't fail.
        let _ = write!(text, "\n{table}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let count = |packets, bytes| Some(pb::PacketCount { packets, bytes });
        let interface = pb::filter_status::Interface {
            name: "eth0".to_owned(),
            mode: "xdp-native".to_owned(),
            ..pb::filter_status::Interface::default()
        };
        let stats = pb::Stats {
            interfaces: vec![interface],
            passed: count(10, 900),
            dropped: count(42, 2_688),
            protocols: vec![pb::stats::ProtocolCount {
                number: 6,
                name: "tcp".to_owned(),
                count: count(50, 3_500),
            }],
            ports: vec![pb::stats::PortCount {
                port: 22,
                protocol: pb::Protocol::Tcp.into(),
                connections: 7,
            }],
            ..pb::Stats::default()
        };
        let result = StatsResult::Counters(Box::new(stats.into()));
        let json = serde_json::to_value(StatsRow { host: "web-1".to_owned(), result }).expect("j");
        assert_eq!(json["host"], "web-1");
        assert_eq!(json["interfaces"][0]["mode"], "xdp-native");
        assert_eq!(json["packets"]["dropped"], 42);
        assert_eq!(json["bytes"]["passed"], 900);
        let tcp = serde_json::json!({"tcp": {"packets": 50, "bytes": 3500}});
        assert_eq!(json["protocols"], tcp);
        let ports = serde_json::json!([{"port": 22, "protocol": "tcp", "connections": 7}]);
        assert_eq!(json["ports"], ports);
    }

    #[test]
    fn a_failed_host_is_a_row_with_its_error() {
        let error = pb::Error { code: "UNAVAILABLE".to_owned(), message: "gone".to_owned() };
        let result = StatsResult::Failed { error: error.into() };
        let row = StatsRow { host: "web-2".to_owned(), result };
        let json = serde_json::to_value(&row).expect("json");
        let error = serde_json::json!({"code": "UNAVAILABLE", "message": "gone"});
        assert_eq!(json, serde_json::json!({"host": "web-2", "error": error}));
        assert!(table(&[row]).to_string().contains("gone"));
    }
}
