//! One known host.

use super::{InterfaceView, cell, detection::DetectionView, labels_text, modes, some};
use crate::{
    output::{Format, Table, plain},
    time::{relative, rfc3339},
};
use kctl_events::view::AlertView;
use kctl_proto::{agent::v1 as agent, controller::v1 as controller};
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, fmt::Write as _};

/// One row of `hosts`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HostRow {
    pub(crate) name: String,
    /// `connected` or `disconnected` as the controller sees it; `local` when the agent itself answers.
    pub(crate) state: &'static str,
    since: Option<String>,
    #[serde(skip)]
    since_unix_ms: i64,
    labels: BTreeMap<String, String>,
    agent_version: Option<String>,
    kernel: Option<String>,
    boot_id: Option<String>,
    /// Where its connection comes from.
    peer: Option<String>,
    /// Why it is not in sync, and what to do.
    reason: Option<String>,
    /// Why its agent's version does not go with the controller's, and what to do.
    pub(crate) version_skew: Option<String>,
    pub(crate) filter: FilterView,
    detection: Option<DetectionView>,
    store_id: Option<String>,
    addresses: Vec<String>,
    protected: Vec<String>,
    management_ports: Vec<u32>,
    missing: Vec<MissingView>,
    /// Network settings that cut the host off and were put back.
    rolled_back: Vec<RolledBackView>,
    /// What fires now; nothing is known of a host that is not connected.
    #[serde(serialize_with = "alerts")]
    pub(crate) alerts: Vec<agent::AlertEvent>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct FilterView {
    pub(crate) interfaces: Vec<InterfaceView>,
    entries: Option<u64>,
    revision: Option<u64>,
    in_sync: Option<bool>,
    unfiltered_interfaces: Vec<String>,
    max_entries: Option<u64>,
    memory_bytes: Option<u64>,
    /// Entries that are never blocked; they take room as others do.
    protected: Option<u64>,
    /// Interfaces that entries name and that are not there.
    absent_interfaces: Vec<String>,
    local_entries: Option<u32>,
    suspended_entries: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct MissingView {
    what: String,
    why: String,
    remedy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RolledBackView {
    time: Option<String>,
    path: String,
    /// What it was put back to.
    value: String,
    /// Why it could not be.
    error: Option<String>,
}

impl From<controller::Host> for HostRow {
    fn from(host: controller::Host) -> Self {
        let state = match host.state() {
            controller::host::State::Connected => "connected",
            controller::host::State::Disconnected => "disconnected",
            controller::host::State::Unspecified => "unknown",
        };
        let mut row = Self::of_status(host.status);
        row.name = host.name;
        row.state = state;
        row.since = rfc3339(host.since_unix_ms);
        row.since_unix_ms = host.since_unix_ms;
        row.peer = some(host.peer);
        row.reason = some(host.reason);
        row.version_skew = some(host.version_skew);
        row.filter.in_sync = Some(host.in_sync);
        if state != "connected" {
            row.alerts.clear();
        }
        row
    }
}

impl From<agent::HostStatus> for HostRow {
    fn from(status: agent::HostStatus) -> Self {
        let not_enforced = status.not_enforced.as_ref().map(|error| error.message.clone());
        let reason = some(status.refusal.clone()).or(not_enforced);
        let mut row = Self::of_status(Some(status));
        // Whether the host is in sync only the controller knows, unless the host refuses.
        row.filter.in_sync = reason.is_some().then_some(false);
        row.reason = reason;
        row
    }
}

impl HostRow {
    fn of_status(status: Option<agent::HostStatus>) -> Self {
        let known = status.is_some();
        let status = status.unwrap_or_default();
        let filter = status.filter.unwrap_or_default();
        let store = status.store.filter(|store| !store.store_id.is_empty());
        Self {
            name: status.name,
            state: "local",
            since: None,
            since_unix_ms: 0,
            labels: status.labels.into_iter().collect(),
            agent_version: some(status.agent_version),
            kernel: some(status.kernel),
            boot_id: some(status.boot_id),
            peer: None,
            reason: None,
            version_skew: None,
            filter: FilterView {
                interfaces: filter.interfaces.into_iter().map(InterfaceView::from).collect(),
                entries: known.then_some(filter.entries),
                revision: store.as_ref().map(|store| store.revision),
                in_sync: None,
                unfiltered_interfaces: filter.unfiltered_interfaces,
                max_entries: known.then_some(filter.max_entries),
                memory_bytes: known.then_some(filter.memory_bytes),
                protected: known.then_some(filter.protected),
                absent_interfaces: filter.absent_interfaces,
                local_entries: known.then_some(status.local_entries),
                suspended_entries: known.then_some(status.suspended_entries),
            },
            detection: status.detection.map(DetectionView::from),
            store_id: store.map(|store| store.store_id),
            addresses: status.addresses,
            protected: status.protected,
            management_ports: status.management_ports,
            missing: status.missing.into_iter().map(MissingView::from).collect(),
            rolled_back: status.rolled_back.into_iter().map(RolledBackView::from).collect(),
            alerts: status.alerts,
        }
    }

    /// Notes whether the controller raises what the host's detection blocks to every host.
    pub(crate) fn with_escalation(mut self, escalates: bool) -> Self {
        if let Some(detection) = &mut self.detection {
            detection.escalate = Some(escalates);
        }
        self
    }

    fn sync_text(&self) -> &'static str {
        match self.filter.in_sync {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        }
    }
}

/// As in events.
fn alerts<S: Serializer>(alerts: &[agent::AlertEvent], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(alerts.iter().map(AlertView::from))
}

impl From<agent::Missing> for MissingView {
    fn from(missing: agent::Missing) -> Self {
        Self { what: missing.what, why: missing.why, remedy: missing.remedy }
    }
}

impl From<agent::RolledBack> for RolledBackView {
    fn from(setting: agent::RolledBack) -> Self {
        Self {
            time: rfc3339(setting.time_unix_ms),
            path: setting.path,
            value: setting.value,
            error: some(setting.error),
        }
    }
}

/// Rows for people.
pub(crate) fn table(rows: &[HostRow], format: Format, now_unix_ms: i64) -> Table {
    let narrow = |row: &HostRow| {
        [
            row.name.clone(),
            row.state.to_owned(),
            relative(row.since_unix_ms, now_unix_ms),
            cell(row.agent_version.as_ref()),
            cell(row.kernel.as_ref()),
            modes(&row.filter.interfaces),
            cell(row.filter.entries),
            cell(row.filter.revision),
            row.sync_text().to_owned(),
        ]
    };
    if format == Format::Wide {
        let mut table = Table::new(&[
            "NAME",
            "STATE",
            "SINCE",
            "AGENT",
            "KERNEL",
            "MODE",
            "ENTRIES",
            "REVISION",
            "IN SYNC",
            "LABELS",
            "PEER",
            "UNFILTERED",
            "REASON",
        ]);
        for row in rows {
            let [name, state, since, version, kernel, mode, entries, revision, sync] = narrow(row);
            table.row([
                name,
                state,
                since,
                version,
                kernel,
                mode,
                entries,
                revision,
                sync,
                labels_text(&row.labels),
                cell(row.peer.as_ref()),
                row.filter.unfiltered_interfaces.join(","),
                cell(row.reason.as_ref()),
            ]);
        }
        return table;
    }
    let mut table = Table::new(&[
        "NAME", "STATE", "SINCE", "AGENT", "KERNEL", "MODE", "ENTRIES", "REVISION", "IN SYNC",
    ]);
    rows.iter().for_each(|row| table.row(narrow(row)));
    table
}

/// Everything about one host, a line a fact.
pub(crate) fn description(row: &HostRow, now_unix_ms: i64) -> String {
    let mut text = String::new();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{name:<13} {}", plain(&value));
        }
    };
    let filter = &row.filter;
    fact("name:", row.name.clone());
    let since = relative(row.since_unix_ms, now_unix_ms);
    let since = if since.is_empty() { since } else { format!(", since {since}") };
    fact("state:", format!("{}{since}", row.state));
    fact("peer:", cell(row.peer.as_ref()));
    fact("agent:", cell(row.agent_version.as_ref()));
    fact("version:", cell(row.version_skew.as_ref()));
    fact("kernel:", cell(row.kernel.as_ref()));
    fact("boot id:", cell(row.boot_id.as_ref()));
    fact("labels:", labels_text(&row.labels));
    for interface in &filter.interfaces {
        let state = match (&interface.mode, &interface.error) {
            (Some(mode), _) => match &interface.reason {
                Some(why) => format!("{mode}, because {why}"),
                None => mode.clone(),
            },
            (None, Some(error)) => format!("not filtered: {error}"),
            (None, None) => "not filtered".to_owned(),
        };
        fact("interface:", format!("{} {state}", interface.name));
    }
    fact("unfiltered:", filter.unfiltered_interfaces.join(", "));
    fact("absent:", filter.absent_interfaces.join(", "));
    if let (Some(entries), Some(most)) = (filter.entries, filter.max_entries) {
        let memory = filter.memory_bytes.unwrap_or_default() / 1024;
        let never = filter.protected.filter(|protected| *protected > 0);
        let never = never.map(|it| format!(" and {it} never blocked")).unwrap_or_default();
        let text = format!("{entries}{never} of at most {most}, {memory} KiB of kernel memory");
        fact("entries:", text);
    }
    fact("local:", local(filter));
    fact("store:", cell(row.store_id.as_ref()));
    fact("revision:", cell(filter.revision));
    fact("in sync:", row.sync_text().to_owned());
    fact("reason:", cell(row.reason.as_ref()));
    fact("addresses:", row.addresses.join(", "));
    fact("protected:", row.protected.join(", "));
    let ports: Vec<_> = row.management_ports.iter().map(u32::to_string).collect();
    fact("kept ports:", ports.join(", "));
    for line in row.detection.iter().flat_map(DetectionView::lines) {
        fact("detection:", line);
    }
    for alert in &row.alerts {
        let since = relative(alert.since_unix_ns / 1_000_000, now_unix_ms);
        fact("alert:", format!("{}, since {since}", super::event::alert(&AlertView::from(alert))));
    }
    for missing in &row.missing {
        let MissingView { what, why, remedy } = missing;
        // Where nothing can be done about it there is none.
        let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
        fact("missing:", format!("{what}: {why}{remedy}"));
    }
    for setting in &row.rolled_back {
        let RolledBackView { time, path, value, error } = setting;
        let error = error.as_ref().map(|why| format!(" failed: {why}")).unwrap_or_default();
        let time = cell(time.as_ref());
        fact("put back:", format!("{path} to {value:?} at {time}: it cut the host off{error}"));
    }
    text
}

fn local(filter: &FilterView) -> String {
    match (filter.local_entries.unwrap_or(0), filter.suspended_entries.unwrap_or(0)) {
        (0, 0) => String::new(),
        (local, suspended) => format!("{local} own entries, {suspended} suspended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> controller::Host {
        let interface = agent::filter_status::Interface {
            name: "eth0".to_owned(),
            ifindex: 2,
            mode: "xdp-native".to_owned(),
            error: String::new(),
            reason: String::new(),
        };
        controller::Host {
            name: "web-1".to_owned(),
            state: controller::host::State::Connected.into(),
            since_unix_ms: 1_767_323_045_678,
            status: Some(agent::HostStatus {
                name: "web-1".to_owned(),
                agent_version: "0.1.0".to_owned(),
                kernel: "6.18.44".to_owned(),
                labels: [("role".to_owned(), "web".to_owned())].into(),
                filter: Some(agent::FilterStatus {
                    interfaces: vec![interface],
                    entries: 3,
                    max_entries: 1000,
                    ..agent::FilterStatus::default()
                }),
                store: Some(agent::StoreState {
                    store_id: "s".to_owned(),
                    revision: 12,
                    ..agent::StoreState::default()
                }),
                ..agent::HostStatus::default()
            }),
            in_sync: true,
            reason: String::new(),
            peer: "10.0.0.9:4000".to_owned(),
            version_skew: String::new(),
        }
    }

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let json = serde_json::to_value(HostRow::from(host())).expect("json");
        let contract = serde_json::json!({
            "name": "web-1", "state": "connected", "since": "2026-01-02T03:04:05.678Z",
            "labels": {"role": "web"}, "agent_version": "0.1.0", "kernel": "6.18.44",
        });
        for (key, value) in contract.as_object().expect("object") {
            assert_eq!(&json[key], value, "{key}");
        }
        let filter = &json["filter"];
        let interfaces = serde_json::json!([{"name": "eth0", "mode": "xdp-native"}]);
        assert_eq!(filter["interfaces"], interfaces);
        assert_eq!(filter["entries"], 3);
        assert_eq!(filter["revision"], 12);
        assert_eq!(filter["in_sync"], true);
        assert!(json["reason"].is_null());
    }

    #[test]
    fn a_host_that_never_connected_has_nulls() {
        let host = controller::Host {
            name: "web-2".to_owned(),
            state: controller::host::State::Disconnected.into(),
            reason: "never connected".to_owned(),
            ..controller::Host::default()
        };
        let row = HostRow::from(host);
        let json = serde_json::to_value(&row).expect("json");
        assert!(json["kernel"].is_null() && json["since"].is_null());
        assert!(json["filter"]["revision"].is_null());
        assert_eq!(json["filter"]["in_sync"], false);
        assert!(table(&[row], Format::Wide, 0).to_string().contains("never connected"));
    }

    #[test]
    fn a_description_says_what_is_known() {
        let text = description(&HostRow::from(host()), 1_767_323_225_678);
        assert!(text.contains("connected, since 3m ago"), "{text}");
        assert!(text.contains("eth0 xdp-native"), "{text}");
        assert!(!text.contains("missing"), "{text}");
        let mut host = host();
        let filter = host.status.as_mut().and_then(|it| it.filter.as_mut()).expect("known");
        filter.interfaces[0].mode = "tcx".to_owned();
        filter.interfaces[0].reason = "XDP program 7 of somebody else is attached".to_owned();
        let text = description(&HostRow::from(host.clone()), 1_767_323_225_678);
        assert!(text.contains("eth0 tcx, because XDP program 7 of somebody else"), "{text}");
        let json = serde_json::to_value(HostRow::from(host)).expect("json");
        assert_eq!(json["filter"]["interfaces"][0]["mode"], "tcx");
    }

    #[test]
    fn what_a_newer_version_says_is_shown_and_no_error() {
        let mut host = host();
        host.state = 77;
        host.version_skew = "too far apart".to_owned();
        let row = HostRow::from(host);
        let json = serde_json::to_value(&row).expect("json");
        assert_eq!(
            (&json["state"], &json["version_skew"]),
            (&"unknown".into(), &"too far apart".into())
        );
        assert!(description(&row, 0).contains("too far apart"));
    }

    #[test]
    fn what_fires_is_told_of_a_host_that_is_connected() {
        let mut host = host();
        let process = agent::EventProcess {
            pid: Some(812),
            comm: "perl".to_owned(),
            ..agent::EventProcess::default()
        };
        let cause = agent::AlertCause {
            process: Some(process),
            value: Some(240_000.0),
            syscall: "getppid".to_owned(),
        };
        host.status.as_mut().expect("known").alerts = vec![agent::AlertEvent {
            name: "syscalls".to_owned(),
            state: agent::AlertState::Firing.into(),
            value: Some(250_000.4),
            threshold: 200_000.0,
            clear_below: 160_000.0,
            unit: "/s".to_owned(),
            object: String::new(),
            since_unix_ns: 1_767_323_045_678_000_000,
            cause: Some(cause),
        }];
        let text = description(&HostRow::from(host.clone()), 1_767_323_225_678);
        let expected = "syscalls FIRING 250000/s, from 200000/s on: perl[812] with 240000/s, \
                        mostly getppid, since 3m ago";
        assert!(text.contains(expected), "{text}");
        let json = serde_json::to_value(HostRow::from(host.clone())).expect("json");
        let alert = &json["alerts"][0];
        assert_eq!((&alert["name"], &alert["state"]), (&"syscalls".into(), &"firing".into()));
        assert_eq!(alert["cause"]["comm"], "perl");
        host.state = controller::host::State::Disconnected.into();
        let json = serde_json::to_value(HostRow::from(host)).expect("json");
        assert_eq!(json["alerts"], serde_json::json!([]));
    }
}
