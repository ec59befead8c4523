//! What kctl prints: rows as JSON has them (keys are stable), made from messages, and their tables for
//! people. It asks nobody anything.

pub(crate) mod change;
pub(crate) mod cpufreq;
pub(crate) mod detection;
pub(crate) mod disk;
pub(crate) mod entry;
pub(crate) mod event;
pub(crate) mod feed;
pub(crate) mod file;
pub(crate) mod host;
pub(crate) mod ipc;
pub(crate) mod module;
pub(crate) mod net;
pub(crate) mod perf;
pub(crate) mod proc;
pub(crate) mod process;
pub(crate) mod read;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod value;

use kctl_blocklist::{Action, Protocol};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;
use std::collections::BTreeMap;

/// An error as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorView {
    code: String,
    pub(crate) message: String,
}

impl ErrorView {
    /// Whether it is about a way to the host, or its time, rather than about what was asked.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.code.as_str(), "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "UNKNOWN" | "CANCELLED")
    }
}

impl From<pb::Error> for ErrorView {
    fn from(error: pb::Error) -> Self {
        Self { code: error.code, message: error.message }
    }
}

/// `{"all":true}`, `{"names":[…]}` or `{"selector":"role=web"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SelectionView {
    All(bool),
    Names(Vec<String>),
    Selector(String),
}

impl SelectionView {
    pub(crate) fn of(selection: pb::Selection) -> Option<Self> {
        selection.hosts.map(|hosts| match hosts {
            pb::selection::Hosts::All(all) => Self::All(all),
            pb::selection::Hosts::Names(names) => Self::Names(names.names),
            pb::selection::Hosts::Selector(selector) => Self::Selector(selector),
        })
    }
}

impl std::fmt::Display for SelectionView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All(_) => f.write_str("all"),
            Self::Names(names) => f.write_str(&names.join(",")),
            Self::Selector(selector) => f.write_str(selector),
        }
    }
}

/// One chosen interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct InterfaceView {
    pub(crate) name: String,
    /// `None` when nothing is attached.
    pub(crate) mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Why the mode is not one that would be tried first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl From<pb::filter_status::Interface> for InterfaceView {
    fn from(interface: pb::filter_status::Interface) -> Self {
        Self {
            name: interface.name,
            mode: some(interface.mode),
            error: some(interface.error),
            reason: some(interface.reason),
        }
    }
}

/// The modes of these interfaces for people: `xdp-native`, `none`.
pub(crate) fn modes(interfaces: &[InterfaceView]) -> String {
    let mode = |interface: &InterfaceView| interface.mode.clone().unwrap_or("none".to_owned());
    let mut modes: Vec<_> = interfaces.iter().map(mode).collect();
    modes.sort();
    modes.dedup();
    if modes.is_empty() { "none".to_owned() } else { modes.join(",") }
}

/// Empty means unknown on the wire.
pub(crate) fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// An optional number for people.
pub(crate) fn cell<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Two digits after the point are more than anybody measures.
pub(crate) fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// A size for people: `512B`, `1.7M`, `12G`.
pub(crate) fn size(bytes: u64) -> String {
    let mut tenths = u128::from(bytes) * 10;
    let mut units = ["B", "K", "M", "G", "T", "P", "E"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while tenths >= 10_240 {
        // Rounded, so that 1,023.96 K is 1 M.
        tenths = (tenths + 512) / 1_024;
        unit = units.next().unwrap_or_default();
    }
    match (unit, tenths) {
        ("B", _) | (_, 100..) => format!("{}{unit}", tenths / 10),
        _ => format!("{}.{}{unit}", tenths / 10, tenths % 10),
    }
}

/// `role=web,zone=a`
pub(crate) fn labels_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Of an action as it came; one of a newer version is `unknown`.
pub(crate) fn action_name(action: i32) -> &'static str {
    Action::from_proto(action).ok().flatten().map_or(UNKNOWN, Action::name)
}

/// Of a protocol as it came.
pub(crate) fn protocol_name(protocol: i32) -> Option<&'static str> {
    match pb::Protocol::try_from(protocol) {
        Ok(pb::Protocol::Unspecified) => None,
        Ok(pb::Protocol::Tcp) => Some(Protocol::Tcp.name()),
        Ok(pb::Protocol::Udp) => Some(Protocol::Udp.name()),
        Err(_) => Some(UNKNOWN),
    }
}

/// What only a newer version has a name for.
pub(crate) const UNKNOWN: &str = "unknown";

/// `22/tcp`, `22`, `8000-8999/tcp`, or nothing.
pub(crate) fn service_text(port: Option<u32>, last: Option<u32>, protocol: Option<&str>) -> String {
    let Some(port) = port else { return String::new() };
    let last = last.map(|last| format!("-{last}")).unwrap_or_default();
    let protocol = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
    format!("{port}{last}{protocol}")
}

/// Port 0 means every packet.
pub(crate) fn port(port: u32) -> Option<u32> {
    (port != 0).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_at_least() {
        for (bytes, text) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1.0K"),
            (1_740_000, "1.7M"),
            (15 << 20, "15M"),
            (1_048_575, "1.0M"),
            (12 << 30, "12G"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
