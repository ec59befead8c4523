//! What becomes of the stream itself.

use super::some;
use kctl_proto::agent::v1::{HostEvent, LostEvent, host_event::State};
use schemars::JsonSchema;
use serde::Serialize;

/// What became of a host in the stream.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "HostState")]
pub struct HostView<'a> {
    /// The host that it is about.
    pub name: &'a str,
    /// "connected", "disconnected", "clock_off", "clock_right", "agent_started", "lags", "caught_up";
    /// "unknown" for a state of a later version.
    pub state: &'static str,
    /// Why.
    pub reason: Option<&'a str>,
    /// How far its clock is before the controller's, milliseconds.
    pub clock_offset_ms: Option<i64>,
}

/// Events that are not in the stream.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Lost")]
pub struct LostView<'a> {
    /// Where: "kernel_ring", "netlink", "agent_ring", "controller", "history", "subscriber".
    pub stage: &'a str,
    /// How many, of whatever type.
    pub count: u64,
    /// What they were about: "filter", "tracing", "tcp", "netlink".
    pub source: Option<&'a str>,
    /// The host that they were of, where another one tells it.
    pub name: Option<&'a str>,
}

impl<'a> From<&'a HostEvent> for HostView<'a> {
    fn from(event: &'a HostEvent) -> Self {
        Self {
            name: &event.name,
            state: match event.state() {
                State::Unspecified => "unknown",
                State::Connected => "connected",
                State::Disconnected => "disconnected",
                State::ClockOff => "clock_off",
                State::ClockRight => "clock_right",
                State::AgentStarted => "agent_started",
                State::Lags => "lags",
                State::CaughtUp => "caught_up",
            },
            reason: some(&event.reason),
            clock_offset_ms: event.clock_offset_ms,
        }
    }
}

impl<'a> From<&'a LostEvent> for LostView<'a> {
    fn from(event: &'a LostEvent) -> Self {
        Self {
            stage: &event.stage,
            count: event.count,
            source: some(&event.source),
            name: some(&event.name),
        }
    }
}
