//! Lists over routing netlink, compared field by field with what ip(8) says of the same namespace.

mod connection;
mod large;
mod rule;
mod socket;

use crate::support::{World, json, run};
use agent_kernel::filter::Mode;
use agent_kernel::netlink::{
    Addr, AddrFilter, Family, Link, Neighbour, NeighbourFilter, NextHop, Route, RouteFilter, addrs,
    links, neighbours, routes,
};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Links of the kinds that this kernel has, addresses and routes of both families, rules, neighbours.
fn fill() -> World {
    let world = World::new();
    world.veth();
    for line in [
        "link add br0 type bridge",
        "link add mv0 link kt0 type macvlan mode bridge",
        "link add vx0 type vxlan id 42 dstport 4789 local 10.9.0.1 dev kt0",
        "link add ifb7 type ifb",
        "tuntap add dev tap0 mode tap",
        "link set tap0 master br0",
        "link set br0 up mtu 1400",
        "link set ifb7 up",
        "link set vx0 up",
        "addr add 192.0.2.1/24 dev br0",
        "addr add 192.0.2.7/24 dev br0",
        "addr add 198.51.100.1 peer 198.51.100.9/32 dev br0 label br0:x",
        "addr add fd22::1/64 dev br0 nodad",
        "addr add fd23::1/64 dev br0 nodad valid_lft 5000 preferred_lft 4000",
        "route add default via 10.9.0.2",
        "route add 203.0.113.0/24 via 10.9.0.2 metric 77 proto static src 10.9.0.1",
        "route add 203.0.113.0/24 via 10.9.0.3 metric 78 proto bird onlink dev kt0",
        "route add 10.50.0.0/16 nexthop via 10.9.0.2 weight 3 nexthop via 10.9.0.3",
        "route add 10.52.0.0/16 via inet6 fd09::9 dev kt0",
        "route add 10.53.0.0/16 dev ifb7 proto 199 scope link",
        "route add blackhole 10.51.0.0/16 table 100 metric 5",
        "route add unreachable 10.54.0.0/16",
        "route add prohibit 10.55.0.0/16",
        "route add throw 10.56.0.0/16 table 4000000000",
        "-6 route add default via fd09::2 dev kt0 proto ra",
        "-6 route add fd50::/64 nexthop via fd09::2 weight 2 nexthop via fd09::3",
        "-6 route add fd51::/64 from fd09::/64 via fd09::2 dev kt0",
        "-6 route add blackhole fd52::/64 table 100",
        "nexthop add id 9 via 10.9.0.2 dev kt0",
        "route add 10.57.0.0/16 nhid 9",
        "neigh add 10.9.0.77 lladdr 02:00:00:00:00:01 dev kt0 nud permanent",
        "neigh add 10.9.0.78 lladdr 02:00:00:00:00:02 dev kt0 nud stale",
        "neigh add fd09::77 lladdr 02:00:00:00:00:03 dev kt0 nud permanent router",
        "neigh add fd22::78 dev br0 lladdr 02:00:00:00:00:04 nud noarp extern_learn",
        "neigh add 10.9.0.79 dev kt0 lladdr 02:00:00:00:00:05 nud noarp",
        "rule add from 10.0.0.0/8 to 10.50.0.0/16 fwmark 0x10/0xff lookup 100 priority 50",
        "rule add iif kt0 ipproto tcp sport 7 dport 80-90 lookup 4000000000 priority 51 proto bird",
        "rule add not oif br0 tos 0x10 goto 32766 priority 52",
        "rule add uidrange 5-9 blackhole priority 53",
        "rule add lookup main suppress_prefixlength 0 priority 54",
        "rule add l3mdev priority 55",
        "-6 rule add from fd00::/8 prohibit priority 56",
        "-6 rule add nop priority 57",
    ] {
        run(&format!("ip {line}"));
    }
    world
}

/// The same objects in any order; what only one side has shows.
fn assert_same(ours: Vec<Value>, theirs: Vec<Value>) {
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

fn list(line: &str) -> Vec<Value> {
    json(line).as_array().expect("a list").clone()
}

fn all_routes(filter: RouteFilter) -> Vec<Route> {
    try_routes(filter).expect("routes")
}

fn try_routes(filter: RouteFilter) -> Result<Vec<Route>, agent_kernel::Error> {
    routes(filter)?.collect()
}

/// A route as `ip -j -d -N` has it, without what we don't tell.
fn route_as_ip(route: &Route) -> Value {
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
        let gateway = hop.gateway.map(|it| it.to_string());
        json!({"gateway": gateway, "dev": hop.interface, "weight": hop.weight, "flags": hop.flags})
    };
    let hops: Vec<_> = route.nexthops.iter().map(hop).collect();
    set("nexthops", (!hops.is_empty()).then_some(hops.into()));
    value
}

fn routes_of_ip(filter: &str) -> Vec<Value> {
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

#[test]
fn routes_are_those_that_ip_shows() {
    let _world = fill();
    let ours = all_routes(RouteFilter::default());
    assert_same(ours.iter().map(route_as_ip).collect(), routes_of_ip(""));
}

#[test]
fn filtered_routes_are_those_of_all_that_match() {
    let _world = fill();
    let all = all_routes(RouteFilter::default());
    let check = |filter: RouteFilter, keep: &dyn Fn(&Route) -> bool| {
        let expected: Vec<_> = all.iter().filter(|route| keep(route)).cloned().collect();
        assert_eq!(all_routes(filter.clone()), expected, "{filter:?}");
        expected.len()
    };
    for family in [Family::Inet, Family::Inet6] {
        let filter = RouteFilter { family: Some(family), ..RouteFilter::default() };
        assert!(check(filter, &|route| route.family == family) > 10);
    }
    for (table, some) in [(100, true), (254, true), (255, true), (4_000_000_000, true), (7, false)]
    {
        let filter = RouteFilter { table: Some(table), ..RouteFilter::default() };
        assert_eq!(check(filter, &|route| route.table == table) > 0, some, "{table}");
    }
    let interface = Some("kt0".to_owned());
    let filter = RouteFilter { interface: interface.clone(), ..RouteFilter::default() };
    let through = |route: &Route| {
        route.interface == interface || route.nexthops.iter().any(|hop| hop.interface == interface)
    };
    assert!(check(filter, &through) > 10);
    let none = RouteFilter { interface: Some("eth7".to_owned()), ..RouteFilter::default() };
    let error = routes(none).map(drop).expect_err("no such link");
    assert_eq!(error.to_string(), "link \"eth7\": no such device");
}

#[test]
fn addresses_are_those_that_ip_shows() {
    let _world = fill();
    let ours = addrs(AddrFilter::default()).expect("addresses");
    let ours: Vec<Addr> = ours.collect::<Result<_, _>>().expect("whole addresses");
    let mut theirs = Vec::new();
    for link in list("ip -j -d addr show") {
        for mut addr in link["addr_info"].as_array().expect("a list").clone() {
            addr["dev"] = link["ifname"].clone();
            theirs.push(addr);
        }
    }
    let ours_as_ip = |addr: &Addr| {
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
    };
    // A second can pass between the two questions.
    let rounded = |mut value: Value| {
        for key in ["valid_life_time", "preferred_life_time"] {
            let seconds = value[key].as_u64().expect("a number");
            value[key] = ((seconds + 50) / 100).into();
        }
        value
    };
    assert_same(
        ours.iter().map(ours_as_ip).map(rounded).collect(),
        theirs.into_iter().map(rounded).collect(),
    );
    let of_br0 = AddrFilter { family: Some(Family::Inet), interface: Some("br0".to_owned()) };
    let filtered = addrs(of_br0).expect("addresses");
    let filtered: Vec<_> = filtered.collect::<Result<_, _>>().expect("whole addresses");
    let expected: Vec<_> = ours
        .into_iter()
        .filter(|addr| addr.family == Family::Inet && addr.interface == "br0")
        .collect();
    assert_eq!((filtered.len(), filtered), (3, expected));
}

#[test]
fn links_are_those_that_ip_shows() {
    let world = fill();
    let mut filter = world.filter(1);
    filter.attach("kt0", Mode::Generic).expect("attached");
    run("ip link set vx0 down");
    let read = |name: Option<&str>| -> Vec<Link> {
        let links = links(name.map(str::to_owned)).expect("links");
        links.collect::<Result<_, _>>().expect("whole links")
    };
    let as_ip = |link: &Link| {
        let counted = link.statistics;
        let mut value = json!({
            "ifname": link.name, "ifindex": link.index, "operstate": link.state,
            "flags": link.flags, "mtu": link.mtu, "address": link.mac, "kind": link.kind,
            "master": link.master, "link": link.link,
            "rx": [counted.rx_bytes, counted.rx_packets, counted.rx_errors, counted.rx_dropped,
                counted.multicast],
            "tx": [counted.tx_bytes, counted.tx_packets, counted.tx_errors, counted.tx_dropped,
                counted.collisions],
        });
        value["xdp"] = link.xdp.first().map(|xdp| json!([xdp.mode, xdp.id])).into();
        value
    };
    let theirs = || -> Vec<Value> {
        list("ip -j -d -s link show")
            .into_iter()
            .map(|link| {
                let (rx, tx) = (&link["stats64"]["rx"], &link["stats64"]["tx"]);
                let mut value = json!({
                    "kind": link["linkinfo"]["info_kind"],
                    "rx": [rx["bytes"], rx["packets"], rx["errors"], rx["dropped"], rx["multicast"]],
                    "tx": [tx["bytes"], tx["packets"], tx["errors"], tx["dropped"], tx["collisions"]],
                });
                for key in
                    ["ifname", "ifindex", "operstate", "flags", "mtu", "address", "master", "link"]
                {
                    value[key] = link[key].clone();
                }
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
            })
            .collect()
    };
    // Counters move by themselves for a while: until both say the same, or the difference shows.
    let (mut ours, mut before) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        before = theirs();
        ours = read(None).iter().map(as_ip).collect();
        if before == theirs() {
            break;
        }
    }
    assert_same(ours, before);
    let kt0 = read(Some("kt0"));
    assert_eq!(kt0.len(), 1);
    assert_eq!(kt0[0].xdp.first().map(|xdp| xdp.id), Some(filter.program_id()));
    let error = links(Some("eth7".to_owned())).map(drop).expect_err("no such link");
    assert_eq!(error.to_string(), "link \"eth7\": no such device");
}

#[test]
fn neighbours_are_those_that_ip_shows() {
    let _world = fill();
    let as_ip = |neighbour: &Neighbour| {
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
    };
    // Those that the test made; others come and go.
    let made = |value: &Value| {
        value["lladdr"].as_str().is_some_and(|mac| mac.starts_with("02:00:00:00:00:"))
    };
    let read = |filter: NeighbourFilter| -> Vec<Neighbour> {
        let found = neighbours(filter).expect("neighbours");
        found.collect::<Result<_, _>>().expect("whole neighbours")
    };
    for (all, line, count) in
        [(false, "ip -j neigh show", 4), (true, "ip -j neigh show nud all", 5)]
    {
        let ours = read(NeighbourFilter { all, ..NeighbourFilter::default() });
        let ours: Vec<_> = ours.iter().map(as_ip).filter(made).collect();
        assert_eq!(ours.len(), count);
        assert_same(ours, list(line).into_iter().filter(made).collect());
    }
    let interface = Some("br0".to_owned());
    let of_br0 = read(NeighbourFilter { interface, ..NeighbourFilter::default() });
    assert!(!of_br0.is_empty() && of_br0.iter().all(|it| it.interface == "br0"));
}
