//! Rules that name ports and interfaces, over a restart and with real packets.

use crate::differential::frames;
use crate::support::{DROP, World, answers, key, on, pass, port, ports, program, run, within};
use agent_kernel::ErrorKind;
use agent_kernel::filter::{Drift, Filter, Interface, Mode, Protocol, RuleKey};

#[test]
fn a_rule_of_an_interface_holds_there_alone_and_when_it_comes_back() {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", Mode::Auto).expect("attached");
    let other = ["10.9.0.2", "fd09::2"].map(|it| (on("kt9", key(it)), DROP));
    filter.update(&other).expect("room");
    assert!(answers("10.9.0.2") && answers("fd09::2"), "it is of another interface");
    filter.update(&["10.9.0.2", "fd09::2"].map(|it| (on("kt0", key(it)), DROP))).expect("room");
    assert!(!answers("10.9.0.2") && !answers("fd09::2") && answers("10.9.0.3"));

    // To a new owner it is the same.
    let rules = filter.rules();
    drop(filter);
    let mut filter = world.filter(100);
    assert_eq!(filter.rules(), rules);
    assert!(!answers("10.9.0.2"));
    run("ip link del kt0");
    world.veth_without_check();
    filter.attach("kt0", Mode::Auto).expect("attached again");
    within("the link carries", || answers("10.9.0.3"));
    filter.see_interfaces().expect("seen");
    assert!(!answers("10.9.0.2"), "it has another index now");
    assert_eq!(filter.verify().expect("verified"), Drift::default());
    let all: Vec<_> = rules.keys().map(|key| (*key, None)).collect();
    filter.update(&all).expect("room");
    assert!(answers("10.9.0.2") && answers("fd09::2"));
}

#[test]
fn a_range_is_one_rule_with_one_count_over_a_restart() {
    let world = World::new();
    let mut filter = world.filter(100);
    let range = ports("10.9.0.0/24", Protocol::Tcp, 8_000, 8_999);
    filter.update(&[(range, DROP)]).expect("room");
    let send = |filter: &mut Filter, port: u16| {
        let mut frame = frames::plain("10.9.0.7".parse().expect("valid"));
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        std::fs::remove_file(world.pin("program")).ok();
        program(&world, filter).drops(&frame)
    };
    let dropped = [7_999, 8_000, 8_191, 8_192, 8_999, 9_000].map(|port| send(&mut filter, port));
    assert_eq!(dropped, [false, true, true, true, true, false]);
    // One port of it gets a rule of its own, which counts first.
    let inner = port("10.9.0.0/24", Protocol::Tcp, 8_000);
    filter.update(&[(inner, DROP)]).expect("room");
    assert!(send(&mut filter, 8_000));
    let hits = |filter: &Filter| -> Vec<(RuleKey, u64)> {
        let mut hits: Vec<_> =
            filter.hits().expect("read").iter().map(|hit| (hit.key, hit.packets)).collect();
        hits.sort_unstable();
        hits
    };
    assert_eq!(hits(&filter), [(inner, 1), (range, 4)]);
    drop(filter);
    let mut filter = world.filter(100);
    assert_eq!(hits(&filter), [(inner, 1), (range, 4)], "a new owner reads the same");
    assert_eq!(filter.rules().len(), 2);
    assert!(send(&mut filter, 8_000) && send(&mut filter, 8_500));
    assert_eq!(hits(&filter), [(inner, 2), (range, 5)]);
    // What passes is above both.
    filter.update(&[pass(ports("10.9.0.7/32", Protocol::Tcp, 8_400, 8_600))]).expect("room");
    assert!(!send(&mut filter, 8_500) && send(&mut filter, 8_601));
    filter.update(&[(range, None)]).expect("room");
    assert!(!send(&mut filter, 8_601) && send(&mut filter, 8_000));
    assert_eq!(filter.verify().expect("verified"), Drift::default());
}

#[test]
fn what_has_no_room_is_refused_with_nothing_changed() {
    let world = World::new();
    let mut filter = world.filter(20);
    // Sixteen blocks, and the entry of what has no ports.
    filter.update(&[(ports("10.0.0.0/8", Protocol::Udp, 1, 65_535), DROP)]).expect("room");
    let before = filter.rules();
    let changes: Vec<_> = (0..4).map(|last| pass(key(&format!("10.1.0.{last}")))).collect();
    let refused = filter.update(&changes).expect_err("three are left");
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert_eq!(filter.rules(), before);
    filter.update(&changes[..3]).expect("room");
    assert_eq!((filter.entries(), filter.guards()), (1, 3));
    let bad = RuleKey { interface: Some(Interface::named("sixteen-bytes-xx")), ..key("10.2.0.1") };
    let none = changes.iter().take(2).map(|(key, _)| (*key, None)).collect::<Vec<_>>();
    filter.update(&none).expect("gone");
    assert_eq!(filter.update(&[(bad, DROP)]).expect_err("no name").kind(), ErrorKind::Invalid);
    assert_eq!(filter.verify().expect("verified"), Drift::default());
}
