//! What became of a change, on each host.

use super::{ErrorView, cell, entry::EntryRow, protocol_name, service_text, some};
use crate::{exit::Exit, output::Table};
use kctl_proto::agent::v1::{Peers, peers};
use kctl_proto::controller::v1 as pb;
use serde::Serialize;

/// One host's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HostResultRow {
    pub(crate) host: String,
    /// `applied`, `pending` or `failed`.
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) elapsed_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ErrorView>,
    /// Interfaces that the host does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

pub(crate) const APPLIED: &str = "applied";
pub(crate) const PENDING: &str = "pending";
pub(crate) const FAILED: &str = "failed";

impl From<pb::HostResult> for HostResultRow {
    fn from(result: pb::HostResult) -> Self {
        let status = match result.status() {
            pb::host_result::Status::Applied => APPLIED,
            pb::host_result::Status::Failed => FAILED,
            pb::host_result::Status::Pending | pb::host_result::Status::Unspecified => PENDING,
        };
        Self {
            host: result.host,
            status,
            // A pending host has not answered, so nothing elapsed until its answer.
            elapsed_ms: (status != PENDING).then(|| microseconds(result.elapsed_ms)),
            error: result.error.map(ErrorView::from),
            warnings: result.warnings,
        }
    }
}

/// Milliseconds with three decimals: more would be noise.
pub(crate) fn microseconds(ms: f64) -> f64 {
    (ms * 1_000.0).round() / 1_000.0
}

/// 0 when every host did it.
pub(crate) fn exit(hosts: &[HostResultRow]) -> Exit {
    if hosts.iter().all(|host| host.status == APPLIED) { Exit::Done } else { Exit::Partial }
}

/// Answers for people.
pub(crate) fn table(hosts: &[HostResultRow]) -> Table {
    let mut table = Table::new(&["HOST", "STATUS", "ELAPSED", "ERROR"]);
    for host in hosts {
        table.row([
            host.host.clone(),
            host.status.to_owned(),
            host.elapsed_ms.map_or_else(String::new, |ms| format!("{ms:.1} ms")),
            host.error.as_ref().map_or_else(String::new, |error| error.message.clone()),
        ]);
    }
    table
}

/// What was recorded: the first half of a change's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Recorded {
    /// `None` for a local change: only the controller's store has revisions.
    pub(crate) revision: Option<u64>,
    /// Empty for an import.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) prefixes: Vec<String>,
    /// After an import.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) feed: Option<FeedView>,
    pub(crate) warnings: Vec<String>,
    /// After `unblock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) still_blocked_by: Option<Vec<EntryRow>>,
    pub(crate) dry_run: bool,
}

/// What became of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FeedView {
    pub(crate) name: String,
    pub(crate) entries: u64,
    pub(crate) added: u64,
    pub(crate) removed: u64,
}

/// What a dry run says of one host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct ForecastRow {
    host: String,
    added: u64,
    removed: u64,
    covered: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorView>,
    /// Peers that would be hit, those with the most sockets first, at most 20; null where they are not
    /// known.
    peers: Option<Vec<PeerRow>>,
    /// How many there are.
    peers_total: Option<u64>,
    /// Why they are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    peers_error: Option<ErrorView>,
}

/// A peer of a host's sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PeerRow {
    address: String,
    sockets: u64,
    /// The host's own port.
    port: u32,
    protocol: Option<&'static str>,
    process: Option<String>,
    pid: Option<u32>,
}

impl From<peers::Peer> for PeerRow {
    fn from(peer: peers::Peer) -> Self {
        Self {
            sockets: peer.sockets,
            port: peer.port,
            protocol: protocol_name(peer.protocol),
            address: peer.address,
            process: some(peer.process),
            pid: (peer.pid != 0).then_some(peer.pid),
        }
    }
}

impl From<pb::HostForecast> for ForecastRow {
    fn from(forecast: pb::HostForecast) -> Self {
        let pb::HostForecast { host, added, removed, covered, error, peers, peers_error } =
            forecast;
        let peers_error = peers_error.map(ErrorView::from);
        let row = Self {
            host,
            added,
            removed,
            covered,
            error: error.map(ErrorView::from),
            ..Self::default()
        };
        Self { peers_error, ..row.with(peers) }
    }
}

impl ForecastRow {
    /// What one agent said of itself: it does not compare with what it has.
    pub(crate) fn of_agent(host: String, recorded: &Recorded, peers: Peers) -> Self {
        let added = recorded.prefixes.len() as u64;
        Self { host, added, ..Self::default() }.with(Some(peers))
    }

    fn with(self, peers: Option<Peers>) -> Self {
        let Some(peers) = peers else { return self };
        let rows = peers.peers.into_iter().map(PeerRow::from).collect();
        Self { peers: Some(rows), peers_total: Some(peers.total), ..self }
    }
}

/// 3 when a host would refuse it.
pub(crate) fn forecast_exit(forecast: &[ForecastRow]) -> Exit {
    if forecast.iter().all(|row| row.error.is_none()) { Exit::Done } else { Exit::Partial }
}

/// Forecasts for people: what would change, then who would be hit.
pub(crate) fn foreseen(forecast: &[ForecastRow]) -> String {
    let changes = forecast_table(forecast).to_string();
    let mut peers = Table::new(&["HOST", "WOULD HIT", "SOCKETS", "PORT", "PROCESS"]);
    let mut is_empty = true;
    for row in forecast {
        for peer in row.peers.iter().flatten() {
            is_empty = false;
            peers.row([
                row.host.clone(),
                peer.address.clone(),
                peer.sockets.to_string(),
                service_text(Some(peer.port), None, peer.protocol),
                cell(peer.process.as_ref()),
            ]);
        }
        let listed = row.peers.as_ref().map_or(0, Vec::len) as u64;
        if let Some(more) = row.peers_total.and_then(|total| total.checked_sub(listed))
            && more > 0
        {
            let [a, b, c] = std::array::from_fn(|_| String::new());
            peers.row([row.host.clone(), format!("and {more} more"), a, b, c]);
        }
        if let Some(error) = &row.peers_error {
            is_empty = false;
            let [a, b, c] = std::array::from_fn(|_| String::new());
            peers.row([row.host.clone(), format!("not known: {}", error.message), a, b, c]);
        }
    }
    if is_empty { changes } else { format!("{changes}\n{peers}") }
}

fn forecast_table(forecast: &[ForecastRow]) -> Table {
    let mut table = Table::new(&["HOST", "WOULD ADD", "REMOVE", "ALREADY COVERED", "ERROR"]);
    for row in forecast {
        table.row([
            row.host.clone(),
            row.added.to_string(),
            row.removed.to_string(),
            row.covered.to_string(),
            row.error.as_ref().map_or_else(String::new, |error| error.message.clone()),
        ]);
    }
    table
}

/// The whole answer, one document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Change<'a> {
    #[serde(flatten)]
    pub(crate) recorded: &'a Recorded,
    pub(crate) hosts: &'a [HostResultRow],
    /// After a dry run.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) forecast: &'a [ForecastRow],
}

/// One host's part of a dry run, one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ForecastLine<'a> {
    pub(crate) revision: Option<u64>,
    #[serde(flatten)]
    pub(crate) forecast: &'a ForecastRow,
}

/// One host's part of it, one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ChangeLine<'a> {
    pub(crate) revision: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) prefixes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) feed: Option<&'a FeedView>,
    #[serde(flatten)]
    pub(crate) host: &'a HostResultRow,
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_proto::agent::v1 as agent;

    #[test]
    fn json_is_that_of_the_contract() {
        let applied = pb::HostResult {
            host: "web-1".to_owned(),
            status: pb::host_result::Status::Applied.into(),
            elapsed_ms: 2.100_000_1,
            error: None,
            warnings: Vec::new(),
        };
        let message = "host \"web-2\" is not connected since 2026-01-02T03:00:00Z".to_owned();
        let pending = pb::HostResult {
            host: "web-2".to_owned(),
            status: pb::host_result::Status::Pending.into(),
            elapsed_ms: 0.0,
            warnings: Vec::new(),
            error: Some(agent::Error { code: "UNAVAILABLE".to_owned(), message }),
        };
        let hosts: Vec<_> = [applied, pending].map(HostResultRow::from).into();
        let recorded = Recorded {
            revision: Some(12),
            prefixes: vec!["10.0.0.5/32".to_owned()],
            feed: None,
            warnings: Vec::new(),
            still_blocked_by: None,
            dry_run: false,
        };
        let change = Change { recorded: &recorded, hosts: &hosts, forecast: &[] };
        let json = serde_json::to_value(change).expect("json");
        let contract = serde_json::json!({
            "revision": 12, "prefixes": ["10.0.0.5/32"], "warnings": [], "dry_run": false,
            "hosts": [
                {"host": "web-1", "status": "applied", "elapsed_ms": 2.1},
                {"host": "web-2", "status": "pending", "error": {"code": "UNAVAILABLE",
                    "message": "host \"web-2\" is not connected since 2026-01-02T03:00:00Z"}},
            ],
        });
        assert_eq!(json, contract);
        assert_eq!(exit(&hosts), Exit::Partial);
        assert_eq!(exit(&hosts[..1]), Exit::Done);
        assert_eq!(exit(&[]), Exit::Done);
    }
}
