//! Netlink as a source: changes of the network, and what the kernel tells of devices.

use super::{Content, Source, lost, now_unix_ns};
use crate::service::netlink::convert;
use agent_kernel::Error;
use agent_kernel::netlink::{Changes, DeviceEvent, NetChange, NetEvent, Uevent, Uevents};
use kctl_events::{Kind, Kinds};
use kctl_proto::agent::v1::{self as pb, event::Payload};

/// Tells of links, addresses, routes and neighbours.
pub(super) async fn run(
    mut source: Source,
    mut changes: Changes,
    kinds: Kinds,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            readable = changes.readable() => readable?,
            () = source.asked() => {}
        }
        let look = source.look();
        // It may ask for a list, which blocks.
        let drained = tokio::task::spawn_blocking(move || (changes.drain(), changes));
        let Ok((events, taken)) = drained.await else { return Ok(()) };
        changes = taken;
        let payloads = events?.into_iter().map(payload);
        source.push(told(payloads.filter(|payload| wanted(kinds, payload))));
        source.done(look);
    }
}

/// Tells of devices.
pub(super) async fn devices(mut source: Source, mut uevents: Uevents) -> Result<(), Error> {
    loop {
        tokio::select! {
            readable = uevents.readable() => readable?,
            () = source.asked() => {}
        }
        let look = source.look();
        let events = uevents.drain()?.into_iter().map(|event| match event {
            DeviceEvent::Device(uevent) => Payload::Uevent(device(uevent)),
            DeviceEvent::Lost(count) => Payload::Lost(lost("netlink", "uevents", count)),
        });
        source.push(told(events));
        source.done(look);
    }
}

/// Netlink tells no time.
fn told(payloads: impl Iterator<Item = Payload>) -> Content {
    let time_unix_ns = now_unix_ns();
    let event =
        |payload| pb::Event { time_unix_ns, payload: Some(payload), ..pb::Event::default() };
    Content::Told(payloads.map(event).collect())
}

/// One socket tells all of these.
fn wanted(kinds: Kinds, payload: &Payload) -> bool {
    match payload {
        Payload::Link(_) => kinds.contains(Kind::Link),
        Payload::Addr(_) => kinds.contains(Kind::Addr),
        Payload::Route(_) => kinds.contains(Kind::Route),
        Payload::Neigh(_) => kinds.contains(Kind::Neigh),
        _ => true,
    }
}

fn payload(event: NetEvent) -> Payload {
    match event {
        NetEvent::Link { change, link } => {
            let (change, link) = (became(change).into(), Some(convert::link(link)));
            Payload::Link(pb::LinkEvent { change, link })
        }
        NetEvent::Addr { change, addr } => {
            let (change, addr) = (became(change).into(), Some(convert::addr(addr)));
            Payload::Addr(pb::AddrEvent { change, addr })
        }
        NetEvent::Route { change, route } => {
            let (change, route) = (became(change).into(), Some(convert::route(route)));
            Payload::Route(pb::RouteEvent { change, route })
        }
        NetEvent::Neigh { change, neighbour } => {
            let (change, neighbour) = (became(change).into(), Some(convert::neighbour(neighbour)));
            Payload::Neigh(pb::NeighEvent { change, neighbour })
        }
        NetEvent::Lost(count) => Payload::Lost(lost("netlink", "netlink", count)),
    }
}

fn became(change: NetChange) -> pb::NetChange {
    match change {
        NetChange::Added => pb::NetChange::Added,
        NetChange::Changed => pb::NetChange::Changed,
        NetChange::Removed => pb::NetChange::Removed,
    }
}

fn device(uevent: Uevent) -> pb::UeventEvent {
    pb::UeventEvent {
        action: uevent.action,
        devpath: uevent.devpath,
        subsystem: uevent.subsystem,
        devname: uevent.devname.unwrap_or_default(),
        devtype: uevent.devtype.unwrap_or_default(),
        properties: uevent.properties.into_iter().collect(),
    }
}
