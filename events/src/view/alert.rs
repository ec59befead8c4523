//! Values that crossed their thresholds.

use super::{ProcessView, process::process, some, time};
use kctl_proto::agent::v1::{AlertCause, AlertEvent, AlertState};
use schemars::JsonSchema;
use serde::Serialize;

/// A value of the host that is too high, or is no more.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Alert")]
pub struct AlertView<'a> {
    /// "syscalls", "faults", "switches", "cpu", "memory", "memory-pressure", "disk", "conntrack", "link"
    pub name: &'a str,
    /// "firing" or "cleared".
    pub state: &'static str,
    /// The newest value; null when what it was of is gone.
    pub value: Option<f64>,
    /// It fires from here on.
    pub threshold: f64,
    /// It is over only below this.
    pub clear_below: f64,
    /// Of these three: "/s", "%", "changes".
    pub unit: &'a str,
    /// The mount or link that it is of; null when it is of the whole host.
    pub object: Option<&'a str>,
    /// When the value reached the threshold: RFC 3339 in UTC with nanoseconds.
    pub since: String,
    /// What most likely made it fire; null where nothing can be blamed.
    pub cause: Option<CauseView<'a>>,
}

/// Who or what made the most of a value.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Cause")]
pub struct CauseView<'a> {
    /// With pid and name alone; the name is null when it ended meanwhile.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// How much of the value it made; for memory in percent of all memory.
    pub value: Option<f64>,
    /// The system call that was made the most.
    pub syscall: Option<&'a str>,
}

impl<'a> From<&'a AlertEvent> for AlertView<'a> {
    fn from(event: &'a AlertEvent) -> Self {
        let state = match event.state() {
            AlertState::Unspecified => "unknown",
            AlertState::Firing => "firing",
            AlertState::Cleared => "cleared",
        };
        Self {
            name: &event.name,
            state,
            value: event.value,
            threshold: event.threshold,
            clear_below: event.clear_below,
            unit: &event.unit,
            object: some(&event.object),
            since: time(event.since_unix_ns),
            cause: event.cause.as_ref().map(CauseView::from),
        }
    }
}

impl<'a> From<&'a AlertCause> for CauseView<'a> {
    fn from(cause: &'a AlertCause) -> Self {
        Self { process: process(&cause.process), value: cause.value, syscall: some(&cause.syscall) }
    }
}
