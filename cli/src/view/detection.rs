//! What a host's detection looks for, and what follows.

use crate::time::exact;
use kctl_proto::agent::v1::{self as agent, detection_status as pb};
use serde::Serialize;

/// All of it. What is not looked for has no numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DetectionView {
    portscan: PortscanView,
    connections: ConnectionsView,
    synflood: SynfloodView,
    max_blocks: u32,
    max_blocks_per_second: u32,
    /// What is blocked here is blocked on every host; only the controller knows.
    pub(crate) escalate: Option<bool>,
}

/// What is done, and within how long it must be met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RuleView {
    action: &'static str,
    /// For how long a source is blocked.
    duration_ms: Option<u64>,
    window_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PortscanView {
    #[serde(flatten)]
    rule: RuleView,
    /// From how many on.
    ports: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ConnectionsView {
    #[serde(flatten)]
    rule: RuleView,
    /// Beyond how many.
    limit: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SynfloodView {
    #[serde(flatten)]
    rule: RuleView,
    /// From how many SYNs at a port on.
    port: Option<u32>,
    /// From how many of one source on.
    source: Option<u32>,
}

impl From<agent::DetectionStatus> for DetectionView {
    fn from(told: agent::DetectionStatus) -> Self {
        let [scan, connections, flood] =
            [told.portscan, told.connections, told.synflood].map(Option::unwrap_or_default);
        Self {
            portscan: PortscanView { rule: RuleView::of(&scan), ports: scan.count },
            connections: ConnectionsView {
                rule: RuleView::of(&connections),
                limit: connections.count,
            },
            synflood: SynfloodView {
                rule: RuleView::of(&flood),
                port: flood.count,
                source: flood.source_count,
            },
            max_blocks: told.max_blocks,
            max_blocks_per_second: told.max_blocks_per_second,
            escalate: None,
        }
    }
}

impl RuleView {
    fn of(rule: &pb::Rule) -> Self {
        let action = match rule.action() {
            pb::Action::Unspecified => "unknown",
            pb::Action::Off => "off",
            pb::Action::Report => "report",
            pb::Action::Block => "block",
        };
        Self { action, duration_ms: rule.block_ms, window_ms: rule.window_ms }
    }

    /// `block for 5m, from 20 ports on within 10s`
    fn text(&self, from: Option<String>) -> String {
        let time = self.duration_ms.map(|ms| format!(" for {}", exact(ms))).unwrap_or_default();
        let within = self.window_ms.map(|ms| format!(" within {}", exact(ms))).unwrap_or_default();
        let from = from.map(|it| format!(", {it}{within}")).unwrap_or_default();
        format!("{}{time}{from}", self.action)
    }
}

impl DetectionView {
    /// A line a fact.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Self { portscan, connections, synflood, max_blocks, max_blocks_per_second, .. } = self;
        let ports = portscan.ports.map(|it| format!("from {it} ports on"));
        let beyond = connections.limit.map(|it| format!("beyond {it} to a port"));
        let syns = synflood.port.zip(synflood.source);
        let syns = syns.map(|(port, source)| {
            format!("from {port} not followed up at a port on, {source} of a source,")
        });
        let mut lines = vec![
            format!("portscan: {}", portscan.rule.text(ports)),
            format!("connections: {}", connections.rule.text(beyond)),
            format!("synflood: {}", synflood.rule.text(syns)),
        ];
        let rules = [&portscan.rule, &connections.rule, &synflood.rule];
        if rules.iter().any(|rule| rule.action == "block") {
            let fleet = match self.escalate {
                Some(true) => "; blocked on every host then",
                Some(false) => "; blocked on this host alone",
                None => "",
            };
            lines.push(format!(
                "blocks {max_blocks} sources at most, {max_blocks_per_second} new ones a second{fleet}"
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told() -> agent::DetectionStatus {
        let rule = |action: pb::Action, block_ms, count, source_count| pb::Rule {
            action: action.into(),
            block_ms,
            count: Some(count),
            source_count,
            window_ms: Some(10_000),
        };
        agent::DetectionStatus {
            portscan: Some(rule(pb::Action::Block, Some(300_000), 20, None)),
            connections: Some(pb::Rule { action: pb::Action::Off.into(), ..Default::default() }),
            synflood: Some(rule(pb::Action::Report, None, 5_000, Some(500))),
            max_blocks: 1_000,
            max_blocks_per_second: 10,
        }
    }

    #[test]
    fn what_is_off_has_no_numbers() {
        let json = serde_json::to_value(DetectionView::from(told())).expect("json");
        let wanted = json!({
            "portscan": {"action": "block", "duration_ms": 300_000, "window_ms": 10_000, "ports": 20},
            "connections": {"action": "off", "duration_ms": null, "window_ms": null, "limit": null},
            "synflood": {"action": "report", "duration_ms": null, "window_ms": 10_000,
                "port": 5_000, "source": 500},
            "max_blocks": 1_000, "max_blocks_per_second": 10, "escalate": null,
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn people_read_a_line_a_fact() {
        let mut view = DetectionView::from(told());
        view.escalate = Some(true);
        let wanted = [
            "portscan: block for 5m, from 20 ports on within 10s",
            "connections: off",
            "synflood: report, from 5000 not followed up at a port on, 500 of a source, within 10s",
            "blocks 1000 sources at most, 10 new ones a second; blocked on every host then",
        ];
        assert_eq!(view.lines(), wanted);
        let mut told = told();
        told.portscan = told.connections;
        assert_eq!(DetectionView::from(told).lines().len(), 3, "nobody is blocked");
    }
}
