//! TCP connections.

use super::{ProcessView, names, process::process, some};
use kctl_proto::agent::v1::{CloseEvent, ConnectionEvent};
use schemars::JsonSchema;
use serde::Serialize;
use std::borrow::Cow;

/// A connection that was made, or could not be.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Connection")]
pub struct ConnectionView<'a> {
    /// Who made or took it.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// Who began it: address and port.
    pub src: Option<&'a str>,
    /// Port of who began it.
    pub src_port: Option<u32>,
    /// Who was asked: address and port.
    pub dst: Option<&'a str>,
    /// Port of who was asked.
    pub dst_port: Option<u32>,
    /// Why it was not made, "ECONNREFUSED"; null when it was.
    pub error: Option<Cow<'static, str>>,
}

/// A connection that ended.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Close")]
pub struct CloseView<'a> {
    /// Who had it.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// As when it was made, here and below.
    pub src: Option<&'a str>,
    /// Port of `src`.
    pub src_port: Option<u32>,
    /// The other end.
    pub dst: Option<&'a str>,
    /// Port of `dst`.
    pub dst_port: Option<u32>,
    /// Payload that the other end acknowledged.
    pub bytes_sent: Option<u64>,
    /// Payload that was received.
    pub bytes_received: Option<u64>,
    /// Since it was made, nanoseconds.
    pub duration_ns: Option<u64>,
    /// The other end made it.
    pub accepted: Option<bool>,
}

/// 0 is no port.
fn port(port: u32) -> Option<u32> {
    (port != 0).then_some(port)
}

impl<'a> From<&'a ConnectionEvent> for ConnectionView<'a> {
    fn from(event: &'a ConnectionEvent) -> Self {
        Self {
            process: process(&event.process),
            src: some(&event.src),
            src_port: port(event.src_port),
            dst: some(&event.dst),
            dst_port: port(event.dst_port),
            error: event.error.map(names::error),
        }
    }
}

impl<'a> From<&'a CloseEvent> for CloseView<'a> {
    fn from(event: &'a CloseEvent) -> Self {
        Self {
            process: process(&event.process),
            src: some(&event.src),
            src_port: port(event.src_port),
            dst: some(&event.dst),
            dst_port: port(event.dst_port),
            bytes_sent: event.bytes_sent,
            bytes_received: event.bytes_received,
            duration_ns: event.duration_ns,
            accepted: event.accepted,
        }
    }
}
