//! What detection found, and what the host did about it.

use super::some;
use kctl_proto::agent::v1::{AutoblockEvent, FloodEvent, FloodKind, ScanEvent};
use schemars::JsonSchema;
use serde::Serialize;

/// A source that tries many ports.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Scan")]
pub struct ScanView<'a> {
    /// Whose address the packets bear.
    pub src: Option<&'a str>,
    /// Distinct destination ports within the window.
    pub ports: u32,
    /// Some of them.
    pub first_ports: &'a [u32],
    /// Where the last one came in.
    pub interface: Option<&'a str>,
    /// How long the window is.
    pub window_ms: u64,
}

/// A flooded port, or a source that floods.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Flood")]
pub struct FloodView<'a> {
    /// "syn" or "connections".
    pub kind: &'static str,
    /// Null when it is about all sources of a port.
    pub src: Option<&'a str>,
    /// The port; of a source that floods with SYNs, that of its last one.
    pub dst_port: u32,
    /// Connection attempts.
    pub syns: u64,
    /// How many of those that were looked at were followed up; null for connections.
    pub progress: Option<u64>,
    /// How many sources sent to the port in one window.
    pub sources: u64,
    /// Where the last one came in; null for SYNs.
    pub interface: Option<&'a str>,
    /// The time that they came in; for connections, how long the window is.
    pub duration_ms: u64,
}

/// A source that detection blocked.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Autoblock")]
pub struct AutoblockView<'a> {
    /// Null where entries were not made.
    pub src: Option<&'a str>,
    /// Source of the entry: "auto:portscan"; null where entries were not made.
    pub source: Option<&'a str>,
    /// What was found, or why entries were not made.
    pub reason: Option<&'a str>,
    /// How long it is blocked; null where entries were not made.
    pub ttl_ms: Option<u64>,
    /// So many entries were not made; null where one was.
    pub not_made: Option<u64>,
}

impl<'a> From<&'a ScanEvent> for ScanView<'a> {
    fn from(event: &'a ScanEvent) -> Self {
        Self {
            src: some(&event.src),
            ports: event.ports,
            first_ports: &event.first_ports,
            interface: some(&event.interface),
            window_ms: event.window_ms,
        }
    }
}

impl<'a> From<&'a FloodEvent> for FloodView<'a> {
    fn from(event: &'a FloodEvent) -> Self {
        let kind = match event.kind() {
            FloodKind::Unspecified => "unknown",
            FloodKind::Syn => "syn",
            FloodKind::Connections => "connections",
        };
        Self {
            kind,
            src: some(&event.src),
            dst_port: event.dst_port,
            syns: event.syns,
            progress: event.progress,
            sources: event.sources,
            interface: some(&event.interface),
            duration_ms: event.duration_ms,
        }
    }
}

impl<'a> From<&'a AutoblockEvent> for AutoblockView<'a> {
    fn from(event: &'a AutoblockEvent) -> Self {
        let is_made = event.not_made == 0;
        Self {
            src: some(&event.src),
            source: some(&event.source),
            reason: some(&event.reason),
            ttl_ms: is_made.then_some(event.ttl_ms),
            not_made: (!is_made).then_some(event.not_made),
        }
    }
}
