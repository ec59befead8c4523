//! Routing netlink, compared with what ip(8) says.

use crate::support::{World, json, run};
use agent_kernel::netlink::{Change, Interface, Watch, default_gateways, interfaces};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    // Its blocking threads inherit this thread's namespaces.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

fn find<'a>(all: &'a [Interface], name: &str) -> &'a Interface {
    all.iter().find(|interface| interface.name == name).expect(name)
}

#[test]
fn interfaces_are_those_that_ip_shows() {
    let world = World::new();
    world.veth();
    run("ip link add br0 type bridge");
    run("ip link add vx0 type veth peer name vx1");
    run("ip link set vx0 master br0 up");
    run("ip addr add 192.0.2.1 peer 192.0.2.9/32 dev br0");
    let mut filter = world.filter(1);
    filter.attach("kt0", agent_kernel::filter::Mode::Auto).expect("attached");

    let ours = interfaces().expect("interfaces");
    let shown = json("ip -j -d addr show");
    let shown = shown.as_array().expect("a list");
    assert_eq!(ours.len(), shown.len());
    for theirs in shown {
        let interface = find(&ours, theirs["ifname"].as_str().expect("a name"));
        let has =
            |flag: &str| theirs["flags"].as_array().is_some_and(|all| all.contains(&flag.into()));
        assert_eq!(theirs["ifindex"], interface.index);
        assert_eq!(has("UP"), interface.up, "{}", interface.name);
        assert_eq!(has("LOOPBACK"), interface.loopback);
        assert_eq!(theirs["linkinfo"]["info_kind"].as_str(), interface.kind.as_deref());
        assert_eq!(theirs["linkinfo"]["info_slave_kind"] == "bridge", interface.bridge_port);
        let addresses: BTreeSet<_> = theirs["addr_info"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| {
                (it["local"].to_string(), it["prefixlen"].to_string(), it["scope"] == "global")
            })
            .collect();
        let known: BTreeSet<_> = interface
            .addresses
            .iter()
            .map(|it| {
                (format!("\"{}\"", it.net.addr()), it.net.prefix_len().to_string(), it.global)
            })
            .collect();
        assert_eq!(addresses, known, "{}", interface.name);
    }
    assert_eq!(
        find(&ours, "kt0").xdp_program,
        filter.program_id(agent_kernel::filter::Hook::Xdp).ok()
    );
    assert_eq!(find(&ours, "lo").xdp_program, None);
}

#[test]
fn default_gateways_of_every_table_and_hop_are_found() {
    let world = World::new();
    world.veth();
    for route in [
        "ip route add default via 10.9.0.2",
        "ip route add default table 77 nexthop via 10.9.0.3 nexthop via 10.9.0.4",
        "ip -6 route add default via fd09::2 dev kt0",
        "ip route add 10.77.0.0/16 via 10.9.0.9",
        "ip route add blackhole default table 78",
    ] {
        run(route);
    }
    let expected: BTreeSet<IpAddr> = ["10.9.0.2", "10.9.0.3", "10.9.0.4", "fd09::2"]
        .map(|address| address.parse().expect("valid"))
        .into();
    assert_eq!(default_gateways().expect("routes"), expected);
}

#[test]
fn changes_of_links_addresses_and_routes_are_told() {
    let world = World::new();
    world.veth();
    block_on(async {
        let mut watch = Watch::open().expect("a watch");
        for (line, kind) in [
            ("ip link set kt0 mtu 1400", Change::Link),
            ("ip addr add 10.9.5.1/24 dev kt0", Change::Addr),
            ("ip -6 addr add fd55::1/64 dev kt0 nodad", Change::Addr),
            ("ip route add 10.99.0.0/16 via 10.9.0.2", Change::Route),
            ("ip -6 route add fd99::/64 via fd09::2", Change::Route),
            ("ip link del kt0", Change::Link),
        ] {
            run(line);
            let told = async { while !watch.next().await.expect("changes").contains(&kind) {} };
            tokio::time::timeout(Duration::from_secs(5), told).await.expect(line);
        }
        // More at once than the socket holds: then everything may have changed.
        let routes: String = (0..20_000)
            .map(|i| format!("route add blackhole 10.{}.{}.0/24\n", 128 + i / 250, i % 250))
            .collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), routes).expect("written");
        run(&format!("ip -force -batch {}", file.path().display()));
        let told = watch.next().await.expect("changes");
        assert_eq!(told, [Change::Link, Change::Addr, Change::Route].into());
    });
}
