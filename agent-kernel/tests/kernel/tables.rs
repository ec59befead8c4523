//! Rules and guard in the kernel's maps.

use crate::support::{
    BLOCKED, DROP, World, answers, drop_until, end, json, key, pass, port, ports, run, storm,
    within,
};
use agent_kernel::ErrorKind;
use agent_kernel::filter::{Drift, Mode, Protocol, Rule, Until};
use agent_kernel::sys::boottime_ns;
use serde_json::Value;
use std::time::{Duration, Instant};

#[test]
fn a_set_that_does_not_fit_changes_nothing() {
    let world = World::new();
    let mut filter = world.filter(4);
    filter.update(&[(key("10.0.0.1"), DROP), (key("::1"), DROP)]).expect("room");
    let before = filter.rules();
    // Three more beside two; that one of those would go does not help.
    let changes = [
        (key("10.0.0.1"), None),
        (key("1.1.1.1"), DROP),
        (key("2.2.2.2"), DROP),
        (key("3.3.3.3"), DROP),
    ];
    let error = filter.update(&changes).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.remedy().is_some());
    // A port takes one entry more, for fragments.
    let changes =
        [(port("1.1.1.1", Protocol::Tcp, 1), DROP), (port("2.2.2.2", Protocol::Tcp, 1), DROP)];
    assert_eq!(filter.update(&changes).expect_err("no room").kind(), ErrorKind::Full);
    assert_eq!(filter.rules(), before);
    assert_eq!(filter.verify().expect("verified"), Drift::default());

    filter.update(&[(key("1.1.1.1"), DROP), (key("2.2.2.2"), DROP)]).expect("room for these");
    assert_eq!((filter.entries(), filter.max_entries()), (4, 4));
    let all: Vec<_> = filter.rules().keys().map(|key| (*key, None)).collect();
    filter.update(&all).expect("removed");
    filter
        .update(&[
            (port("1.1.1.1", Protocol::Tcp, 1), DROP),
            (port("2.2.2.2", Protocol::Tcp, 1), DROP),
        ])
        .expect("room for these");
    assert_eq!(world.filter(100).max_entries(), 4, "pinned maps keep their size");
}

#[test]
fn an_address_that_moves_into_a_wider_rule_is_dropped_all_along() {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(1_000);
    filter.attach("kt0", Mode::Auto).expect("attached");
    let monitor = Some(Rule { drop: None, monitor: Some(Until::FOREVER) });
    let inner = |prefix: &str| (0..100).map(|i| key(&format!("{prefix}{i}"))).collect::<Vec<_>>();
    let inner = [inner("10.9.0."), inner("fd09::")].concat();
    let narrow: Vec<_> = inner.iter().map(|key| (*key, DROP)).collect();
    let wide = ["10.9.0.0/24", "fd09::/64"].map(key);
    filter.update(&narrow).expect("room");
    let elsewhere = ("10.8.0.3".parse().expect("IPv4"), "fd08::3".parse().expect("IPv6"));
    let storm = storm([BLOCKED, elsewhere]);
    let deadline = Instant::now() + Duration::from_millis(900);
    while Instant::now() < deadline {
        let monitored = inner.iter().map(|key| (*key, monitor));
        let dropped = wide.map(|key| (key, DROP));
        filter.update(&monitored.chain(dropped).collect::<Vec<_>>()).expect("room");
        let back = narrow.iter().copied().chain(wide.map(|key| (key, None)));
        filter.update(&back.collect::<Vec<_>>()).expect("room");
    }
    end(storm);
}

#[test]
fn many_services_of_many_prefixes_are_added_and_removed_in_one_go() {
    let world = World::new();
    let mut filter = world.filter(50_000);
    let keys = (0..10_000_u32).flat_map(|i| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).to_string();
        [Protocol::Tcp, Protocol::Udp].map(|protocol| port(&address, protocol, 22))
    });
    let changes: Vec<_> = keys.map(|key| (key, DROP)).collect();
    let start = Instant::now();
    filter.update(&changes).expect("room");
    println!("adding {} services: {:?}", changes.len(), start.elapsed());
    assert_eq!(filter.entries(), 20_000);
    assert_eq!(world.filter(50_000).rules(), filter.rules());
    let changes: Vec<_> = changes.into_iter().map(|(key, _)| (key, None)).collect();
    filter.update(&changes).expect("removed");
    assert_eq!((filter.entries(), world.filter(50_000).entries()), (0, 0));
}

#[test]
fn nonsense_is_refused() {
    let world = World::new();
    let mut filter = world.filter(4);
    for (key, rule) in [
        (port("10.0.0.1", Protocol::Tcp, 0), DROP),
        (key("10.0.0.1"), Some(Rule { drop: None, monitor: None })),
    ] {
        assert_eq!(filter.update(&[(key, rule)]).expect_err("nonsense").kind(), ErrorKind::Invalid);
    }
    assert_eq!(filter.entries(), 0);
}

#[test]
fn an_expiry_ends_on_time_without_us() {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", Mode::Auto).expect("attached");
    let end = boottime_ns() + 1_000_000_000;
    // An outer drop would not end with the inner one.
    filter.update(&[(key("10.9.0.2"), drop_until(Until::at(end)))]).expect("room");
    drop(filter);
    assert!(!answers("10.9.0.2"));
    within("it ends", || answers("10.9.0.2"));
    let late_ns = boottime_ns() - end;
    assert!(late_ns < 400_000_000, "{late_ns} ns late, of which a lost ping takes 300 ms");
}

#[test]
fn counters_survive_a_change_of_expiry_and_start_at_zero_for_a_new_rule() {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(2);
    filter.attach("kt0", Mode::Auto).expect("attached");
    let hits = |filter: &agent_kernel::filter::Filter| {
        filter.hits().expect("read").iter().map(|hit| hit.packets).sum::<u64>()
    };
    filter.update(&[(key("10.9.0.2"), DROP)]).expect("room");
    assert!(!answers("10.9.0.2"));
    assert_eq!(hits(&filter), 1);
    let later = drop_until(Until::at(boottime_ns() + 3_600_000_000_000));
    filter.update(&[(key("10.9.0.2"), later)]).expect("changed");
    assert_eq!(hits(&filter), 1);
    // More rules than slots, one after the other, so that every slot is given out again.
    for octet in 10..20 {
        filter.update(&[(key("10.9.0.2"), None)]).expect("removed");
        let other = key(&format!("10.9.1.{octet}"));
        filter.update(&[(other, DROP)]).expect("room");
        filter.update(&[(other, None), (key("10.9.0.2"), DROP)]).expect("room");
        assert_eq!(hits(&filter), 0);
    }
    assert!(!answers("10.9.0.2"));
    assert_eq!(hits(&filter), 1);
}

#[test]
fn what_somebody_did_to_the_maps_is_found_and_mended() {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", Mode::Auto).expect("attached");
    let rules = [
        (key("10.9.0.2"), DROP),
        (key("fd09::2"), DROP),
        (port("10.1.0.0/16", Protocol::Tcp, 22), DROP),
        pass(key("fd0a::/64")),
        pass(ports("fd0b::/64", Protocol::Tcp, 2222, 2224)),
    ];
    filter.update(&rules).expect("room");
    let uplinks =
        ["192.0.2.1:7443", "[2001:db8::1]:7443"].map(|it| it.parse().expect("valid")).into();
    filter.set_uplinks(&uplinks).expect("set");
    assert_eq!(filter.verify().expect("verified"), Drift::default());

    let map = |name: &str| world.bpffs().join("v3").join(name).display().to_string();
    let wipe = |name: &str, key: u32, bytes: usize| set(&map(name), key, &vec![0; bytes]);
    let unused = free(&map("records"));
    // Gone: every IPv4 entry (with the derived one), and every mask; they begin the lookup.
    assert_eq!(records(&map("records"), 4).len(), 3);
    for (number, _) in records(&map("records"), 4) {
        wipe("records", number, 48);
    }
    let lines = |name: &str| json(&format!("bpftool -j map dump pinned {}", map(name)));
    let lines = |name: &str| u32::try_from(lines(name).as_array().expect("a list").len());
    let lines4 = lines("homes4").expect("few");
    (0..lines4).for_each(|line| wipe("homes4", line, 64));
    let lookup = json(&format!("bpftool -j map lookup pinned {} key 0 0 0 0", map("lookup")));
    let mut header = bytes(&lookup["value"]);
    header[24..88].fill(0);
    set(&map("lookup"), 0, &header);
    within("it passes, deleted behind our back", || answers("10.9.0.2"));
    // Changed: the IPv6 one, and that its home says it drops for good. Foreign: another IPv6 one, and an
    // uplink.
    (0..lines("homes6").expect("few")).for_each(|line| {
        let path = map("homes6");
        let key = words(&line.to_ne_bytes());
        let there = json(&format!("bpftool -j map lookup pinned {path} key {key}"));
        let mut home = bytes(&there["value"]);
        for says in [35, 39] {
            home[says] &= !(1 << 6);
        }
        set(&path, line, &home);
    });
    let rules6 = records(&map("records"), 6).into_iter();
    let (number, mut record) = rules6.rev().find(|(_, it)| it[19] == 128).expect("there");
    record[24..32].copy_from_slice(&1_u64.to_ne_bytes());
    set(&map("records"), number, &record);
    record[0] = 77;
    set(&map("records"), unused, &record);
    let foreign = "1 ".repeat(18);
    run(&format!("bpftool map update pinned {} key {foreign}value 1", map("uplinks")));
    within("it passes, changed behind our back", || answers("fd09::2"));

    let drift = filter.verify().expect("verified");
    // Masks of two families, of which IPv4 has one for services; and a home of each.
    assert_eq!(drift, Drift { missing: 3, foreign: 2, changed: 6 });
    assert!(!answers("10.9.0.2") && !answers("fd09::2"), "mended");
    assert_eq!(filter.verify().expect("verified"), Drift::default());
    // What leads to the records is mended too. That of a single address has a home as well.
    filter.update(&[(key("10.9.0.2/31"), DROP)]).expect("room");
    for (name, bytes, source) in [("index", 64, "10.9.0.3"), ("filter4", 8, "10.9.0.2")] {
        (0..128).for_each(|element| wipe(name, element, bytes));
        within("it passes, and nothing leads to its record", || answers(source));
        assert!(filter.verify().expect("verified").changed > 0);
        assert!(!answers(source), "mended");
    }
    (0..lines4).for_each(|line| wipe("homes4", line, 64));
    assert!(!answers("10.9.0.2"), "there is still its record");
    assert_eq!(filter.verify().expect("verified").changed, 1, "its home");
    filter.update(&[(key("10.9.0.2/31"), None)]).expect("removed");
    within("it passes again", || answers("10.9.0.3"));
    let mut forged = vec![0; 64];
    forged[..4].copy_from_slice(&u32::from_be_bytes([10, 9, 0, 3]).to_ne_bytes());
    forged[12..16].copy_from_slice(&(7_u32 << 29 | unused).to_ne_bytes());
    (0..lines4).for_each(|line| set(&map("homes4"), line, &forged));
    within("it is dropped, and no rule is about it", || !answers("10.9.0.3"));
    let drift = filter.verify().expect("verified");
    // The one that the rule lost may be beside a forged one.
    assert_eq!((drift.missing, drift.foreign), (0, u64::from(lines4)), "{drift:?}");
    assert!(answers("10.9.0.3") && !answers("10.9.0.2"), "mended");
    // The rule, the prefix that passes, and two blocks of ports that pass.
    assert_eq!(records(&map("records"), 6).len(), 4);
    let rules = filter.rules();
    drop(filter);

    let filter = world.filter(100);
    assert_eq!(filter.uplinks(), &uplinks, "a new owner reads the same");
    assert_eq!(filter.rules(), rules);
    assert_eq!((filter.entries(), filter.guards()), (3, 2));
}

#[test]
fn nonsense_in_pinned_maps_is_cleared_away_by_a_new_owner() {
    let world = World::new();
    let mut filter = world.filter(10);
    filter
        .update(&[(port("10.1.0.0/16", Protocol::Udp, 53), DROP), (key("10.1.0.1"), DROP)])
        .expect("room");
    let rules = filter.rules();
    drop(filter);
    let map = world.bpffs().join("v3/records").display().to_string();
    let found = records(&map, 4);
    let single = found.iter().find(|(_, record)| record[19] == 32).expect("the single one");
    // Host bits beyond the prefix; and a second rule that counts on the slots of the first.
    let mut record = single.1.clone();
    record[19] = 8;
    set(&map, free(&map), &record);
    record[19] = 32;
    record[..4].copy_from_slice(&[9, 0, 0, 10]);
    set(&map, free(&map), &record);
    // And one twice.
    set(&map, free(&map), &single.1);

    let mut filter = world.filter(10);
    assert_eq!(filter.rules().len(), rules.len() + 1);
    assert_eq!(filter.rules().get(&key("10.0.0.9")).copied(), DROP);
    assert_eq!(filter.verify().expect("verified"), Drift::default());
}

/// Number of a record that is free.
fn free(map: &str) -> u32 {
    let (number, _) = records(map, 0).into_iter().next().expect("more than entries");
    number
}

/// Numbers and bytes of the records of an IP version (0 for free ones), as bpftool sees them.
fn records(map: &str, version: u8) -> Vec<(u32, Vec<u8>)> {
    let dump = json(&format!("bpftool -j map dump pinned {map}"));
    let rows = dump.as_array().expect("a list").iter();
    let number =
        |row: &Value| u32::from_ne_bytes(bytes(&row["key"]).try_into().expect("four bytes"));
    let records = rows.map(|row| (number(row), bytes(&row["value"])));
    records.filter(|(_, record)| record[20] == version).collect()
}

fn bytes(list: &Value) -> Vec<u8> {
    let digits = list.as_array().expect("bytes").iter().filter_map(Value::as_str);
    digits.map(|it| u8::from_str_radix(it.trim_start_matches("0x"), 16).expect("hex")).collect()
}

/// Bytes as bpftool is told of them.
fn words(bytes: &[u8]) -> String {
    bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Writes an element of an array behind the filter's back.
fn set(map: &str, key: u32, value: &[u8]) {
    let (key, value) = (words(&key.to_ne_bytes()), words(value));
    run(&format!("bpftool map update pinned {map} key {key} value {value}"));
}
