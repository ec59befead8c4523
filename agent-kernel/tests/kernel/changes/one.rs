//! One change after the other, of every kind that this kernel has.

use super::{Listener, quiet, summary};
use crate::support::run;
use agent_kernel::netlink::NetChange::{self, Added, Changed, Removed};
use agent_kernel::netlink::NetEvent;

/// Commands, and what becomes of objects of that kind. After each of them the picture is what ip shows.
fn steps(listener: &mut Listener, kind: &str, steps: &[(&str, &[NetChange])]) {
    for (line, expected) in steps {
        let of_kind = |heard: &[NetEvent]| -> Vec<_> {
            let of_kind = summary(heard).into_iter().filter(|it| it.0 == kind);
            of_kind.map(|(_, change)| change).collect()
        };
        let is_enough = |heard: &[NetEvent]| of_kind(heard).len() >= expected.len();
        let heard = listener.told(&format!("ip {line}"), is_enough);
        let changes = of_kind(&heard);
        assert_eq!(changes, *expected, "{line}: {heard:#?}");
    }
}

#[test]
fn a_link_is_told_whatever_happens_to_it() {
    let _world = quiet();
    let mut listener = Listener::new();
    steps(
        &mut listener,
        "link",
        &[
            ("link add br0 type bridge", &[Added]),
            ("link add ifb9 type ifb", &[Added]),
            ("tuntap add dev tap0 mode tap", &[Added]),
            // The end that is told first does not know the other yet.
            ("link add kt0 type veth peer name kt1", &[Added, Added, Changed]),
            ("link add mv0 link kt0 type macvlan mode bridge", &[Added]),
            ("link add vx0 type vxlan id 42 dstport 4789 local 10.9.0.1 dev kt0", &[Added]),
            ("link set kt0 mtu 1400", &[Changed, Changed]),
            ("link set ifb9 name ifb10", &[Changed]),
            ("link set tap0 address 02:00:00:00:00:09", &[Changed]),
            ("link set tap0 alias nothing", &[]),
            ("link set ifb10 up", &[Changed]),
            ("link set ifb10 down", &[Changed]),
            ("link set tap0 master br0", &[Changed, Changed]),
            ("link set tap0 nomaster", &[Changed, Changed]),
            ("link del mv0", &[Removed]),
            ("link del kt1", &[Removed, Removed, Removed]),
        ],
    );
}

#[test]
fn an_address_is_told_until_its_link_goes() {
    let _world = quiet();
    run("ip link add kt0 type veth peer name kt1");
    run("ip link set kt1 up");
    run("ip link set kt0 up");
    let mut listener = Listener::new();
    steps(
        &mut listener,
        "addr",
        &[
            ("addr add 10.9.0.1/24 dev kt0", &[Added]),
            ("addr add 10.9.0.1/16 dev kt0", &[Added]),
            ("addr add 10.9.0.2/24 dev kt0 label kt0:x", &[Added]),
            ("addr add 198.51.100.1 peer 198.51.100.9/32 dev kt0", &[Added]),
            ("addr add fd09::1/64 dev kt0 nodad", &[Added]),
            // Looked for on the link first, and then not tentative any more.
            ("addr add fd09::2/64 dev kt0", &[Added, Changed]),
            ("addr change fd09::1/64 dev kt0 preferred_lft 100 valid_lft 200", &[Changed]),
            ("addr change fd09::1/64 dev kt0 preferred_lft 300 valid_lft 400", &[]),
            // The second of a subnet goes with the first.
            ("addr del 10.9.0.1/24 dev kt0", &[Removed, Removed]),
            ("addr del fd09::2/64 dev kt0", &[Removed]),
            ("link del kt0", &[Removed, Removed, Removed]),
        ],
    );
}

#[test]
fn a_route_is_told_of_every_table_and_kind() {
    let _world = quiet();
    for line in [
        "link add kt0 type veth peer name kt1",
        "link set kt1 up",
        "link set kt0 up",
        "link add ifb9 type ifb",
        "link set ifb9 up",
        "addr add 10.9.0.1/24 dev kt0",
        "addr add fd09::1/64 dev kt0 nodad",
    ] {
        run(&format!("ip {line}"));
    }
    let mut listener = Listener::new();
    steps(
        &mut listener,
        "route",
        &[
            ("route add 10.50.0.0/16 via 10.9.0.2", &[Added]),
            ("route replace 10.50.0.0/16 via 10.9.0.3", &[Changed]),
            ("route replace 10.50.0.0/16 via 10.9.0.3", &[]),
            ("route append 10.50.0.0/16 via 10.9.0.4", &[Added]),
            ("route prepend 10.50.0.0/16 via 10.9.0.5", &[Added]),
            // The first of three: nobody could tell which one changed.
            ("route replace 10.50.0.0/16 via 10.9.0.6", &[Removed, Added]),
            ("route del 10.50.0.0/16 via 10.9.0.3", &[Removed]),
            ("route add 10.50.0.0/16 via 10.9.0.2 metric 7 proto bird", &[Added]),
            ("route add 10.51.0.0/16 nexthop via 10.9.0.2 weight 3 nexthop dev ifb9", &[Added]),
            ("route change 10.51.0.0/16 nexthop via 10.9.0.2 nexthop dev ifb9", &[Changed]),
            ("route add blackhole 10.52.0.0/16 table 100", &[Added]),
            ("route add unreachable 10.53.0.0/16 table 4000000000", &[Added]),
            ("route del blackhole 10.52.0.0/16 table 100", &[Removed]),
            ("route add 10.54.0.0/16 via inet6 fd09::9 dev kt0", &[Added]),
            ("-6 route add fd50::/64 via fd09::2", &[Added]),
            ("-6 route append fd50::/64 via fd09::3", &[Changed]),
            ("-6 route append fd50::/64 via fd09::4", &[Changed]),
            ("-6 route del fd50::/64 via fd09::2", &[Changed]),
            ("-6 route del fd50::/64 via fd09::4", &[Changed]),
            ("-6 route replace fd50::/64 via fd09::5", &[Changed]),
            ("-6 route add fd51::/64 nexthop via fd09::2 weight 2 nexthop via fd09::3", &[Added]),
            ("-6 route replace fd51::/64 nexthop via fd09::4 nexthop via fd09::5", &[Changed]),
            ("-6 route del fd51::/64", &[Removed]),
            ("-6 route add fd52::/64 dev kt0", &[Added]),
            ("-6 route append fd52::/64 dev ifb9", &[Added]),
            ("-6 route del fd52::/64 dev kt0", &[Removed]),
            ("-6 route add fd53::/64 from fd09::/64 via fd09::2", &[Added]),
            ("-6 route add blackhole fd54::/64 table 100", &[Added]),
            ("nexthop add id 9 via 10.9.0.2 dev kt0", &[]),
            ("route add 10.57.0.0/16 nhid 9", &[Added]),
            ("nexthop replace id 9 via 10.9.0.3 dev kt0", &[Changed]),
            // From here on what the kernel does without a word.
            ("nexthop del id 9", &[Removed]),
        ],
    );
    // Every route through it goes but the multipath one; each kind of silence at once.
    let heard = listener.told("ip link set kt0 down", |_| true);
    assert!(summary(&heard).contains(&("route", Removed)), "{heard:#?}");
    let heard = listener.told("ip link del kt0", |_| true);
    assert!(summary(&heard).contains(&("link", Removed)), "{heard:#?}");
}

#[test]
fn a_neighbour_is_told_and_not_that_it_was_seen_again() {
    let _world = quiet();
    run("ip link add kt0 type veth peer name kt1");
    run("ip link set kt1 up");
    run("ip link set kt0 up");
    run("ip addr add 10.9.0.1/24 dev kt0");
    let mut listener = Listener::new();
    steps(
        &mut listener,
        "neigh",
        &[
            ("neigh add 10.9.0.7 lladdr 02:00:00:00:00:01 dev kt0 nud permanent", &[Added]),
            ("neigh add fd09::7 lladdr 02:00:00:00:00:02 dev kt0 nud permanent router", &[Added]),
            ("neigh replace 10.9.0.7 lladdr 02:00:00:00:00:03 dev kt0 nud permanent", &[Changed]),
            ("neigh replace 10.9.0.7 lladdr 02:00:00:00:00:03 dev kt0 nud permanent", &[]),
            ("neigh replace 10.9.0.7 lladdr 02:00:00:00:00:03 dev kt0 nud stale", &[Changed]),
            // The kernel tells it as failed first.
            ("neigh del 10.9.0.7 dev kt0", &[Changed, Removed]),
            ("neigh add proxy 10.9.0.8 dev kt0", &[]),
            ("link del kt0", &[Removed]),
        ],
    );
}
