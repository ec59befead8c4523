//! Objects of the kernel as messages. What there is none of is empty on the wire.

use crate::text::text as any_bytes;
use agent_kernel::netlink::{
    Addr, Connection, Family, Flow, Link, Neighbour, NextHop, Queue, Route, Rule, Socket,
    Statistics, TcpInfo,
};
use agent_kernel::proc::SocketHolder;
use kctl_proto::agent::v1 as pb;
use std::ops::RangeInclusive;

pub(crate) fn link(link: Link) -> pb::Link {
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
        statistics: link.statistics.map(statistics),
    }
}

pub(super) fn statistics(counted: Statistics) -> pb::link::Statistics {
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

pub(crate) fn addr(addr: Addr) -> pb::Addr {
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

pub(crate) fn route(route: Route) -> pb::Route {
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

pub(crate) fn neighbour(neighbour: Neighbour) -> pb::Neighbour {
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

pub(super) fn socket(socket: Socket) -> pb::Socket {
    let (rx_queue_bytes, tx_queue_bytes, backlog, backlog_limit) = match socket.queue {
        Queue::Bytes { rx, tx } => (Some(rx), Some(tx), None, None),
        Queue::Backlog { length, limit } => (None, None, Some(length), Some(limit)),
    };
    pb::Socket {
        protocol: socket.protocol.name().to_owned(),
        family: socket.family.map(family).unwrap_or_default(),
        r#type: socket.kind.into_owned(),
        state: socket.state.into_owned(),
        local_address: text(socket.local.map(|end| end.ip())),
        local_port: socket.local.map(|end| end.port().into()),
        peer_address: text(socket.peer.map(|end| end.ip())),
        peer_port: socket.peer.map(|end| end.port().into()),
        interface: socket.interface.unwrap_or_default(),
        path: socket.path.as_deref().map(any_bytes).unwrap_or_default(),
        peer_inode: socket.peer_inode.unwrap_or_default(),
        rx_queue_bytes,
        tx_queue_bytes,
        backlog,
        backlog_limit,
        uid: socket.uid,
        user: text(socket.user),
        inode: socket.inode.unwrap_or_default(),
        cookie: socket.cookie,
        tcp: socket.tcp.map(tcp),
        processes: socket.holders.list.into_iter().map(holder).collect(),
        processes_truncated: socket.holders.truncated,
    }
}

fn tcp(info: TcpInfo) -> pb::socket::Tcp {
    pb::socket::Tcp {
        rtt_us: info.rtt_us,
        rtt_var_us: info.rtt_var_us,
        congestion_window: info.congestion_window,
        retransmits: info.retransmits,
    }
}

fn holder(holder: SocketHolder) -> pb::socket::Process {
    pb::socket::Process { pid: holder.pid, comm: any_bytes(&holder.comm), fd: holder.fd }
}

pub(super) fn connection(connection: Connection) -> pb::Connection {
    pb::Connection {
        family: family(connection.family),
        protocol: connection.protocol.into_owned(),
        state: text(connection.state),
        original: Some(flow(connection.original)),
        reply: Some(flow(connection.reply)),
        timeout_seconds: connection.timeout_seconds,
        mark: connection.mark,
        zone: connection.zone.into(),
        status: words(connection.status),
        id: connection.id,
    }
}

fn flow(flow: Flow) -> pb::connection::Flow {
    pb::connection::Flow {
        src: flow.src.to_string(),
        dst: flow.dst.to_string(),
        src_port: flow.src_port.map(u32::from),
        dst_port: flow.dst_port.map(u32::from),
        icmp_type: flow.icmp_type.map(u32::from),
        icmp_code: flow.icmp_code.map(u32::from),
        icmp_id: flow.icmp_id.map(u32::from),
        packets: flow.packets,
        bytes: flow.bytes,
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
