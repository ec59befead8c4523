//! Events as JSON has them: keys are stable, what is not known is null. These structs are the only
//! place where the keys are named; the schema and the fields of filters come from them.

mod alert;
mod connection;
mod detect;
mod names;
pub mod net;
mod packet;
mod process;
mod stream;
mod system;

pub use alert::{AlertView, CauseView};
pub use connection::{CloseView, ConnectionView};
pub use detect::{AutoblockView, FloodView, ScanView};
pub use names::protocol;
pub use packet::PacketView;
pub use process::{
    CredView, CredentialsView, ExecView, ExitView, OomView, OpenView, ProcessView, PtraceView,
    SignalView,
};
pub use stream::{HostView, LostView};
pub use system::{BpfView, ModuleView, UeventView};

use crate::Kind;
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use kctl_proto::agent::v1::{Event, Origin, event::Payload};
use net::{AddrView, ChangedView, LinkView, NeighView, RouteView};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(title = "An event of kctl", rename = "Event")]
pub struct EventView<'a> {
    /// When it happened by the host's clock: RFC 3339 in UTC with nanoseconds.
    pub time: String,
    /// Name of the host; "-" for the controller or kctl itself.
    pub host: &'a str,
    /// The kernel's boot id; for the controller and kctl an id of that run.
    pub boot_id: &'a str,
    /// Number of the event on its host and in this boot.
    pub seq: u64,
    /// It came too late to be in order.
    #[serde(skip_serializing_if = "is_false")]
    #[schemars(default)]
    pub late: bool,
    /// The host's clock is off, so the time says little.
    #[serde(skip_serializing_if = "is_false")]
    #[schemars(default)]
    pub clock_off: bool,
    /// What it is; "unknown" for an event of a later version, which has no payload here.
    #[serde(rename = "type")]
    #[schemars(schema_with = "type_schema")]
    pub kind: &'static str,
    /// Under the name of the type.
    #[serde(flatten)]
    pub payload: Option<PayloadView<'a>>,
}

/// What is special about an event. The key of `host` would be taken, so it is `host_state`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Payload")]
#[expect(missing_docs, reason = "named by kind")]
pub enum PayloadView<'a> {
    Drop(PacketView<'a>),
    Monitor(PacketView<'a>),
    Scan(ScanView<'a>),
    Flood(FloodView<'a>),
    Autoblock(AutoblockView<'a>),
    Exec(ExecView<'a>),
    Exit(ExitView<'a>),
    Open(OpenView<'a>),
    Connect(ConnectionView<'a>),
    Accept(ConnectionView<'a>),
    Close(CloseView<'a>),
    Cred(CredView<'a>),
    Module(ModuleView<'a>),
    Bpf(BpfView<'a>),
    Ptrace(PtraceView<'a>),
    Signal(SignalView<'a>),
    Oom(OomView<'a>),
    Link(ChangedView<LinkView>),
    Addr(ChangedView<AddrView>),
    Route(ChangedView<RouteView>),
    Neigh(ChangedView<NeighView>),
    Uevent(UeventView<'a>),
    Alert(AlertView<'a>),
    HostState(HostView<'a>),
    Lost(LostView<'a>),
}

fn is_false(value: &bool) -> bool {
    !value
}

fn type_schema(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<_> = Kind::all().map(Kind::name).chain([UNKNOWN]).collect();
    json_schema!({ "type": "string", "enum": names })
}

/// The type of an event whose payload this version does not know.
const UNKNOWN: &str = "unknown";

/// The key of a kind's payload.
pub fn payload_key(kind: Kind) -> &'static str {
    match kind {
        Kind::Host => "host_state",
        kind => kind.name(),
    }
}

/// Nanoseconds since 1970 as RFC 3339 in UTC with nanoseconds: `2026-01-02T03:04:05.678901234Z`.
pub fn time(unix_ns: i64) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(9));
    // Every 64-bit number of nanoseconds is a moment between 1677 and 2262.
    let time = Timestamp::from_nanosecond(unix_ns.into()).unwrap_or_default();
    PRINTER.timestamp_to_string(&time)
}

impl<'a> EventView<'a> {
    /// The view of an event.
    pub fn new(origin: &'a Origin, event: &'a Event) -> Self {
        Self {
            time: time(event.time_unix_ns),
            host: &origin.host,
            boot_id: &origin.boot_id,
            seq: event.seq,
            late: event.late,
            clock_off: event.clock_off,
            kind: Kind::of(event).map_or(UNKNOWN, Kind::name),
            payload: event.payload.as_ref().map(PayloadView::from),
        }
    }
}

impl<'a> From<&'a Payload> for PayloadView<'a> {
    fn from(payload: &'a Payload) -> Self {
        match payload {
            Payload::Drop(it) => Self::Drop(it.into()),
            Payload::Monitor(it) => Self::Monitor(it.into()),
            Payload::Scan(it) => Self::Scan(it.into()),
            Payload::Flood(it) => Self::Flood(it.into()),
            Payload::Autoblock(it) => Self::Autoblock(it.into()),
            Payload::Exec(it) => Self::Exec(it.into()),
            Payload::Exit(it) => Self::Exit(it.into()),
            Payload::Open(it) => Self::Open(it.into()),
            Payload::Connect(it) => Self::Connect(it.into()),
            Payload::Accept(it) => Self::Accept(it.into()),
            Payload::Close(it) => Self::Close(it.into()),
            Payload::Cred(it) => Self::Cred(it.into()),
            Payload::Module(it) => Self::Module(it.into()),
            Payload::Bpf(it) => Self::Bpf(it.into()),
            Payload::Ptrace(it) => Self::Ptrace(it.into()),
            Payload::Signal(it) => Self::Signal(it.into()),
            Payload::Oom(it) => Self::Oom(it.into()),
            Payload::Link(it) => Self::Link(ChangedView::new(it.change(), it.link.as_ref())),
            Payload::Addr(it) => Self::Addr(ChangedView::new(it.change(), it.addr.as_ref())),
            Payload::Route(it) => Self::Route(ChangedView::new(it.change(), it.route.as_ref())),
            Payload::Neigh(it) => Self::Neigh(ChangedView::new(it.change(), it.neighbour.as_ref())),
            Payload::Uevent(it) => Self::Uevent(it.into()),
            Payload::Alert(it) => Self::Alert(it.into()),
            Payload::Host(it) => Self::HostState(it.into()),
            Payload::Lost(it) => Self::Lost(it.into()),
        }
    }
}

/// Empty means unknown on the wire.
fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds_and_sort_as_text() {
        assert_eq!(time(1_767_323_045_678_901_234), "2026-01-02T03:04:05.678901234Z");
        assert_eq!(time(1_767_323_045_000_000_000), "2026-01-02T03:04:05.000000000Z");
        assert_eq!((time(i64::MAX).len(), time(i64::MIN).len()), (30, 30));
    }
}
