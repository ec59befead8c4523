//! Objects of the kernel as messages. What there is none of is empty on the wire.

use agent_kernel::netlink::{Addr, Family, Link, Neighbour, NextHop, Route, Rule, Statistics};
use kctl_proto::agent::v1 as pb;
use std::ops::RangeInclusive;

pub(super) fn link(link: Link) -> pb::Link {
    let xdp = |program: agent_kernel::netlink::XdpProgram| pb::link::Xdp {
        mode: program.mode.to_owned(),
        program: program.id,
    };
    pb::Link {
        name: link.name,
        index: link.index,
        kind: link.kind.unwrap_or_default(),
        state: link.state.into_owned(),
        flags: words(link.flags),
        mtu: link.mtu,
        mac: link.mac.unwrap_or_default(),
        master: link.master.unwrap_or_default(),
        link: link.link.unwrap_or_default(),
        vlan_id: link.vlan_id.map(u32::from),
        xdp: link.xdp.into_iter().map(xdp).collect(),
        statistics: Some(statistics(link.statistics)),
    }
}

fn statistics(counted: Statistics) -> pb::link::Statistics {
    pb::link::Statistics {
        rx_packets: counted.rx_packets,
        tx_packets: counted.tx_packets,
        rx_bytes: counted.rx_bytes,
        tx_bytes: counted.tx_bytes,
        rx_errors: counted.rx_errors,
        tx_errors: counted.tx_errors,
        rx_dropped: counted.rx_dropped,
        tx_dropped: counted.tx_dropped,
        multicast: counted.multicast,
        collisions: counted.collisions,
    }
}

pub(super) fn addr(addr: Addr) -> pb::Addr {
    pb::Addr {
        family: family(addr.family),
        interface: addr.interface,
        address: addr.address.to_string(),
        prefix_len: addr.prefix_len.into(),
        scope: addr.scope.into_owned(),
        peer: text(addr.peer),
        broadcast: text(addr.broadcast),
        label: addr.label.unwrap_or_default(),
        flags: words(addr.flags),
        valid_seconds: addr.valid_seconds,
        preferred_seconds: addr.preferred_seconds,
    }
}

pub(super) fn route(route: Route) -> pb::Route {
    pb::Route {
        family: family(route.family),
        dst: route.dst.to_string(),
        r#type: route.kind.into_owned(),
        table: route.table,
        protocol: route.protocol.into_owned(),
        scope: route.scope.into_owned(),
        metric: route.metric,
        prefsrc: text(route.prefsrc),
        gateway: text(route.gateway),
        interface: route.interface.unwrap_or_default(),
        flags: words(route.flags),
        nexthops: route.nexthops.into_iter().map(nexthop).collect(),
        src: text(route.src),
        nexthop_id: route.nexthop_id.unwrap_or_default(),
    }
}

fn nexthop(hop: NextHop) -> pb::route::NextHop {
    pb::route::NextHop {
        gateway: text(hop.gateway),
        interface: hop.interface.unwrap_or_default(),
        weight: hop.weight.into(),
        flags: words(hop.flags),
    }
}

pub(super) fn neighbour(neighbour: Neighbour) -> pb::Neighbour {
    pb::Neighbour {
        family: family(neighbour.family),
        interface: neighbour.interface,
        address: neighbour.address.to_string(),
        mac: neighbour.mac.unwrap_or_default(),
        state: neighbour.state.into_owned(),
        flags: words(neighbour.flags),
    }
}

pub(super) fn rule(rule: Rule) -> pb::Rule {
    pb::Rule {
        family: family(rule.family),
        priority: rule.priority,
        action: rule.action.into_owned(),
        table: rule.table.unwrap_or_default(),
        goto: rule.goto,
        inverted: rule.inverted,
        src: text(rule.src),
        dst: text(rule.dst),
        iif: rule.iif.unwrap_or_default(),
        oif: rule.oif.unwrap_or_default(),
        fwmark: rule.fwmark,
        fwmask: rule.fwmask,
        tos: rule.tos.into(),
        ip_protocol: rule.ip_protocol.unwrap_or_default().into(),
        sport: rule.sport.map(range),
        dport: rule.dport.map(range),
        uids: rule.uids.map(range),
        l3mdev: rule.l3mdev,
        suppress_prefix_len: rule.suppress_prefix_len,
        protocol: rule.protocol.into_owned(),
    }
}

fn range<T: Into<u32> + Copy>(range: RangeInclusive<T>) -> pb::rule::Range {
    pb::rule::Range { first: (*range.start()).into(), last: (*range.end()).into() }
}

fn family(family: Family) -> i32 {
    match family {
        Family::Inet => pb::Family::Inet.into(),
        Family::Inet6 => pb::Family::Inet6.into(),
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn words(words: Vec<&'static str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}
