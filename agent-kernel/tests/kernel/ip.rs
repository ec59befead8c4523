//! Objects of the network as ip(8) has them in JSON, from ours and from ip itself.

use crate::support::json;
use agent_kernel::netlink::{Addr, Family, Link, Neighbour, NextHop, Route};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The same objects in any order; what only one side has shows.
pub(crate) fn assert_same(ours: Vec<Value>, theirs: Vec<Value>) {
    let (mut only_ours, mut only_theirs) = (ours, Vec::new());
    for object in theirs {
        match only_ours.iter().position(|own| *own == object) {
            Some(at) => drop(only_ours.swap_remove(at)),
            None => only_theirs.push(object),
        }
    }
    assert!(
        only_ours.is_empty() && only_theirs.is_empty(),
        "only ours: {}\nonly theirs: {}",
        Value::from(only_ours),
        Value::from(only_theirs)
    );
}

pub(crate) fn list(line: &str) -> Vec<Value> {
    json(line).as_array().expect("a list").clone()
}

/// A route as `ip -j -d -N` has it, without what we don't tell.
pub(crate) fn route_as_ip(route: &Route) -> Value {
    let bare = |net: ipnet::IpNet| match net {
        net if net.prefix_len() == 0 => "default".to_owned(),
        net if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
        net => net.to_string(),
    };
    let mut value = json!({
        "type": route.kind, "dst": bare(route.dst), "table": route.table.to_string(),
        "protocol": route.protocol, "scope": route.scope, "flags": route.flags,
    });
    let mut set = |key: &str, field: Option<Value>| {
        if let Some(field) = field {
            value[key] = field;
        }
    };
    set("from", route.src.map(|src| bare(src).into()));
    set("metric", route.metric.map(Into::into));
    set("prefsrc", route.prefsrc.map(|it| it.to_string().into()));
    set("dev", route.interface.clone().map(Into::into));
    set("nhid", route.nexthop_id.map(Into::into));
    let other = |gateway: &IpAddr| gateway.is_ipv6() != (route.family == Family::Inet6);
    set("gateway", route.gateway.filter(|it| !other(it)).map(|it| it.to_string().into()));
    let via = |it: IpAddr| json!({"family": "inet6", "host": it.to_string()});
    set("via", route.gateway.filter(other).map(via));
    let hop = |hop: &NextHop| {
        let mut value = json!({"dev": hop.interface, "weight": hop.weight, "flags": hop.flags});
        if let Some(gateway) = hop.gateway {
            value["gateway"] = gateway.to_string().into();
        }
        value
    };
    let hops: Vec<_> = route.nexthops.iter().map(hop).collect();
    set("nexthops", (!hops.is_empty()).then_some(hops.into()));
    value
}

pub(crate) fn routes_of_ip(filter: &str) -> Vec<Value> {
    ["-4", "-6"]
        .iter()
        .flat_map(|family| list(&format!("ip -j -d {family} route show table all {filter}")))
        .map(|mut route| {
            let fields = route.as_object_mut().expect("an object");
            // The same for every route here, a clock, and what ip asks about the nexthop apart.
            fields.remove("pref");
            fields.remove("expires");
            fields.remove("nh_info");
            let number = |table: &str| match table {
                "main" => "254".to_owned(),
                "local" => "255".to_owned(),
                number => number.to_owned(),
            };
            let table = fields["table"].as_str().map(number);
            fields.insert("table".to_owned(), table.into());
            route
        })
        .collect()
}

/// An address as `ip -j -d addr` has it, with its link's name.
pub(crate) fn addr_as_ip(addr: &Addr) -> Value {
    let (address, peer) = (addr.address.to_string(), addr.peer.map(|it| it.to_string()));
    let lifetime = |seconds: Option<u32>| seconds.unwrap_or(u32::MAX);
    let mut value = json!({
        "family": if addr.family == Family::Inet { "inet" } else { "inet6" },
        "dev": addr.interface, "local": address, "prefixlen": addr.prefix_len,
        "scope": addr.scope, "valid_life_time": lifetime(addr.valid_seconds),
        "preferred_life_time": lifetime(addr.preferred_seconds),
    });
    let optional = [("address", peer), ("broadcast", addr.broadcast.map(|it| it.to_string()))];
    for (key, field) in optional.into_iter().chain([("label", addr.label.clone())]) {
        if let Some(field) = field {
            value[key] = field.into();
        }
    }
    for flag in &addr.flags {
        value[flag] = true.into();
    }
    value
}

pub(crate) fn addrs_of_ip() -> Vec<Value> {
    let mut theirs = Vec::new();
    for link in list("ip -j -d addr show") {
        for mut addr in link["addr_info"].as_array().expect("a list").clone() {
            addr["dev"] = link["ifname"].clone();
            theirs.push(addr);
        }
    }
    theirs
}

/// A neighbour as `ip -j neigh` has it.
pub(crate) fn neighbour_as_ip(neighbour: &Neighbour) -> Value {
    let mut value = json!({
        "dst": neighbour.address.to_string(), "dev": neighbour.interface,
        "state": [neighbour.state],
    });
    if let Some(mac) = &neighbour.mac {
        value["lladdr"] = mac.clone().into();
    }
    for flag in &neighbour.flags {
        value[flag] = Value::Null;
    }
    value
}

/// A link as [`link_of_ip`] has it.
pub(crate) fn link_as_ip(link: &Link) -> Value {
    let mut value = json!({
        "ifname": link.name, "ifindex": link.index, "operstate": link.state,
        "flags": link.flags, "mtu": link.mtu, "address": link.mac, "kind": link.kind,
        "master": link.master, "link": link.link,
    });
    value["xdp"] = link.xdp.first().map(|xdp| json!([xdp.mode, xdp.id])).into();
    value
}

/// What we tell of a link that `ip -j -d link` shows.
pub(crate) fn link_of_ip(link: &Value) -> Value {
    let mut value = json!({ "kind": link["linkinfo"]["info_kind"] });
    for key in ["ifname", "ifindex", "operstate", "flags", "mtu", "address", "master", "link"] {
        value[key] = link[key].clone();
    }
    // It says that of the link below, whose event has it.
    value["flags"].as_array_mut().expect("flags").retain(|flag| flag != "M-DOWN");
    let mode = match link["xdp"]["mode"].as_u64() {
        Some(1) => json!("xdp-native"),
        Some(2) => json!("xdp-generic"),
        _ => Value::Null,
    };
    value["xdp"] = match &mode {
        Value::Null => Value::Null,
        mode => json!([mode, link["xdp"]["prog"]["id"]]),
    };
    value
}
