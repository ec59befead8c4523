//! What the kernel's records say of TCP connections, as events.

use super::{Clock, processes::process};
use agent_kernel::trace::CgroupPaths;
use agent_kernel::trace::tcp::{Event, Records, What};
use kctl_proto::agent::v1::{self as pb, event::Payload};

/// A record that can't be read is an event without a payload, so that its number is not missed.
pub(super) fn events(records: &Records, cgroups: &CgroupPaths, clock: Clock) -> Vec<pb::Event> {
    let event = |event: Event| pb::Event {
        time_unix_ns: clock.unix_ns(event.boot_ns),
        payload: Some(payload(event, cgroups)),
        ..pb::Event::default()
    };
    records.events().map(|read| read.map(event).unwrap_or_default()).collect()
}

fn payload(event: Event, cgroups: &CgroupPaths) -> Payload {
    let process = event.process.map(|it| process(it, cgroups));
    let src = event.src.map(|address| address.to_string()).unwrap_or_default();
    let (dst, src_port, dst_port) =
        (event.dst.to_string(), event.src_port.into(), event.dst_port.into());
    let connection = |process, error| pb::ConnectionEvent {
        process,
        src: src.clone(),
        src_port,
        dst: dst.clone(),
        dst_port,
        error,
    };
    match event.what {
        What::Connect { error } => Payload::Connect(connection(process, error)),
        What::Accept => Payload::Accept(connection(process, None)),
        What::Close { sent_bytes, received_bytes, duration_ns, accepted } => {
            Payload::Close(pb::CloseEvent {
                process,
                src,
                src_port,
                dst,
                dst_port,
                bytes_sent: sent_bytes,
                bytes_received: received_bytes,
                duration_ns,
                accepted,
            })
        }
    }
}
