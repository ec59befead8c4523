//! Lists over routing netlink, compared field by field with what ip(8) says of the same namespace.

mod connection;
mod large;
mod rule;
mod socket;

use crate::ip::{
    addr_as_ip, addrs_of_ip, assert_same, link_as_ip, link_of_ip, list, neighbour_as_ip,
    route_as_ip, routes_of_ip,
};
use crate::support::{World, run};
use agent_kernel::filter::{Hook, Mode};
use agent_kernel::netlink::{
    Addr, AddrFilter, Family, Link, Neighbour, NeighbourFilter, Route, RouteFilter, addrs, links,
    neighbours, routes,
};
use serde_json::{Value, json};

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

fn all_routes(filter: RouteFilter) -> Vec<Route> {
    try_routes(filter).expect("routes")
}

fn try_routes(filter: RouteFilter) -> Result<Vec<Route>, agent_kernel::Error> {
    routes(filter)?.collect()
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
    // A second can pass between the two questions.
    let rounded = |mut value: Value| {
        for key in ["valid_life_time", "preferred_life_time"] {
            let seconds = value[key].as_u64().expect("a number");
            value[key] = ((seconds + 50) / 100).into();
        }
        value
    };
    assert_same(
        ours.iter().map(addr_as_ip).map(rounded).collect(),
        addrs_of_ip().into_iter().map(rounded).collect(),
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
        let counted = link.statistics.expect("counters");
        let mut value = link_as_ip(link);
        value["rx"] = json!([
            counted.rx_bytes,
            counted.rx_packets,
            counted.rx_errors,
            counted.rx_dropped,
            counted.multicast
        ]);
        value["tx"] = json!([
            counted.tx_bytes,
            counted.tx_packets,
            counted.tx_errors,
            counted.tx_dropped,
            counted.collisions
        ]);
        value
    };
    let theirs = || -> Vec<Value> {
        let with_counters = |link: &Value| {
            let mut value = link_of_ip(link);
            let (rx, tx) = (&link["stats64"]["rx"], &link["stats64"]["tx"]);
            value["rx"] =
                json!([rx["bytes"], rx["packets"], rx["errors"], rx["dropped"], rx["multicast"]]);
            value["tx"] =
                json!([tx["bytes"], tx["packets"], tx["errors"], tx["dropped"], tx["collisions"]]);
            value
        };
        list("ip -j -d -s link show").iter().map(with_counters).collect()
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
    assert_eq!(kt0[0].xdp.first().map(|xdp| xdp.id), filter.program_id(Hook::Xdp).ok());
    let error = links(Some("eth7".to_owned())).map(drop).expect_err("no such link");
    assert_eq!(error.to_string(), "link \"eth7\": no such device");
}

#[test]
fn neighbours_are_those_that_ip_shows() {
    let _world = fill();
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
        let ours: Vec<_> = ours.iter().map(neighbour_as_ip).filter(made).collect();
        assert_eq!(ours.len(), count);
        assert_same(ours, list(line).into_iter().filter(made).collect());
    }
    let interface = Some("br0".to_owned());
    let of_br0 = read(NeighbourFilter { interface, ..NeighbourFilter::default() });
    assert!(!of_br0.is_empty() && of_br0.iter().all(|it| it.interface == "br0"));
}
