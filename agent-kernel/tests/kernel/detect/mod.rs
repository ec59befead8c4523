//! What detection finds, with frames run through the program.

mod floods;

use crate::support::{Program, World, on_each_hook, program, within};
use agent_kernel::ErrorKind;
use agent_kernel::filter::{Detection, Filter, Finding, Found, Hook, Limit};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

on_each_hook!(
    a_scan_is_told_once_with_its_source_and_ports,
    ports_are_counted_once_each_and_only_attempts_count,
    a_slow_scan_is_none_and_the_window_slides,
    many_sources_are_told_apart_and_a_flood_of_others_hides_none,
    more_connections_than_the_limit_are_told_of_exactly_that_source_and_port,
    connections_are_counted_anew_in_another_window,
    tags_and_extension_headers_hide_nothing,
    nothing_is_found_that_is_off_and_dropped_packets_are_none_of_it,
    settings_outlive_the_filter_and_bad_ones_change_nothing,
    attempts_are_counted_by_port,
);

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const WINDOW: Duration = Duration::from_secs(10);

/// A filter that detects, and its program.
struct Host {
    filter: Filter,
    program: Program,
    world: World,
}

impl Host {
    fn new(hook: Hook, detection: Detection) -> Self {
        let world = World::on(hook);
        let mut filter = world.filter(64);
        filter.set_detection(&detection).expect("valid");
        let program = program(&world, &mut filter);
        Self { filter, program, world }
    }

    /// A TCP packet comes.
    fn packet(&self, source: IpAddr, source_port: u16, port: u16, flags: u8) {
        let mut frame = crate::differential::frames::plain(source);
        let tcp = frame.len() - 20;
        frame[tcp..tcp + 2].copy_from_slice(&source_port.to_be_bytes());
        frame[tcp + 2..tcp + 4].copy_from_slice(&port.to_be_bytes());
        frame[tcp + 13] = flags;
        self.program.run(&frame, 1);
    }

    fn syn(&self, source: IpAddr, source_port: u16, port: u16) {
        self.packet(source, source_port, port, SYN);
    }

    /// What is found right now.
    fn found(&mut self) -> Vec<Found> {
        self.filter.found(false).into_iter().map(|Finding { found, .. }| found).collect()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn limit(count: u32, window: Duration) -> Option<Limit> {
    Some(Limit { count, window })
}

fn scans() -> Detection {
    Detection { scan: limit(20, WINDOW), ..Detection::default() }
}

fn connections(count: u32, window: Duration) -> Detection {
    Detection { connections: limit(count, window), ..Detection::default() }
}

fn a_scan_is_told_once_with_its_source_and_ports(hook: Hook) {
    let mut host = Host::new(hook, scans());
    for source in ["10.1.2.3", "2001:db8::77"].map(address) {
        for port in 1..=19 {
            host.syn(source, 40_000, port);
        }
        assert_eq!(host.found(), [], "19 ports are no scan");
        for port in 20..=200 {
            host.syn(source, 40_000, port);
        }
        let first = (1..=8).collect();
        let interface = Some("lo".to_owned());
        let scan = Found::Scan { src: source, ports: 20, first, interface };
        assert_eq!(host.found(), [scan], "once");
    }
    assert_eq!(host.filter.unalarmed().expect("counted"), 0);
}

fn ports_are_counted_once_each_and_only_attempts_count(hook: Hook) {
    let mut host = Host::new(hook, scans());
    let source = address("10.1.2.3");
    for round in 0..50 {
        for port in 1..=19 {
            host.syn(source, 40_000 + round, port);
            // Answers to what was asked from here, and the rest of connections.
            host.packet(source, 80, 30_000 + round * 20 + port, SYN | ACK);
            host.packet(source, 80, 30_000 + round * 20 + port, ACK);
        }
    }
    assert_eq!(host.found(), []);
    host.syn(source, 40_000, 20);
    assert_eq!(host.found().len(), 1);
}

fn a_slow_scan_is_none_and_the_window_slides(hook: Hook) {
    let window = Duration::from_millis(400);
    let mut host = Host::new(hook, Detection { scan: limit(4, window), ..Detection::default() });
    let source = address("10.1.2.3");
    // Never four within a window.
    for port in 1..=8 {
        host.syn(source, 40_000, port);
        std::thread::sleep(window / 3 + window / 20);
    }
    assert_eq!(host.found(), []);
    // Four at once are, whatever came before.
    for port in 101..=104 {
        host.syn(source, 40_000, port);
    }
    assert_eq!(host.found().len(), 1);
    // And again when it goes on in another window.
    let mut port = 1_000;
    within("it is told again", || {
        // A fast machine goes through all of them within a window.
        port = if port == u16::MAX { 1_000 } else { port + 1 };
        host.syn(source, 40_000, port);
        !host.found().is_empty()
    });
}

fn many_sources_are_told_apart_and_a_flood_of_others_hides_none(hook: Hook) {
    let mut host = Host::new(hook, scans());
    let scanners: BTreeSet<IpAddr> = (0..50_u8).map(|n| address(&format!("10.1.2.{n}"))).collect();
    let mut random = 1_u32;
    // Whoever is seen first in the midst of a flood may lose its place some times.
    for port in 1..=100 {
        for scanner in &scanners {
            host.syn(*scanner, 40_000, port);
        }
        for _ in 0..500 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            host.syn(IpAddr::from((random | 0x8000_0000).to_be_bytes()), 1, 80);
        }
    }
    let mut told = BTreeSet::new();
    for found in host.found() {
        let Found::Scan { src, ports: 20, .. } = found else { panic!("{found:?}") };
        assert!(told.insert(src), "{src} twice");
    }
    assert_eq!(told, scanners);
}

fn more_connections_than_the_limit_are_told_of_exactly_that_source_and_port(hook: Hook) {
    let mut host = Host::new(hook, connections(100, WINDOW));
    for source in ["10.1.2.3", "2001:db8::77"].map(address) {
        let other = if source.is_ipv4() { "10.1.2.4" } else { "2001:db8::78" };
        for n in 0..100 {
            host.syn(source, n, 443);
            host.syn(source, n, 80);
            host.syn(address(other), n, 443);
        }
        assert_eq!(host.found(), [], "100 are let be");
        for n in 0..50 {
            host.syn(source, n, 443);
        }
        let interface = Some("lo".to_owned());
        let told = Found::Connections { src: source, port: 443, connections: 101, interface };
        assert_eq!(host.found(), [told], "once");
    }
}

fn connections_are_counted_anew_in_another_window(hook: Hook) {
    let window = Duration::from_millis(300);
    let mut host = Host::new(hook, connections(4, window));
    for _ in 0..6 {
        host.syn(address("10.1.2.3"), 1, 443);
        std::thread::sleep(window / 3);
    }
    assert_eq!(host.found(), []);
}

fn tags_and_extension_headers_hide_nothing(hook: Hook) {
    let mut host = Host::new(hook, scans());
    for port in 1..=20_u8 {
        let mut tcp = vec![0x9c, 0x40, 0, port, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, SYN];
        tcp.extend([0; 6]);
        let mut frame = [2; 12].to_vec();
        frame.extend([0x81, 0, 0, 7, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, 60, 64]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        frame.extend([9; 16]);
        frame.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend(tcp);
        host.program.run(&frame, 1);
    }
    let found = host.found();
    let [Found::Scan { src, ports: 20, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(*src, address("2001:db8::9"));
}

fn nothing_is_found_that_is_off_and_dropped_packets_are_none_of_it(hook: Hook) {
    let mut host = Host::new(hook, Detection::default());
    let source = address("10.1.2.3");
    let many = |host: &Host| {
        for port in 1..=200 {
            host.syn(source, 40_000, port);
            host.syn(source, port, 443);
        }
    };
    many(&host);
    assert_eq!(host.found(), []);
    let detection = Detection { connections: limit(10, WINDOW), ..scans() };
    host.filter.set_detection(&detection).expect("valid");
    host.filter.update(&[(crate::support::key("10.1.2.3"), crate::support::DROP)]).expect("made");
    many(&host);
    assert_eq!(host.found(), []);
    host.filter.update(&[(crate::support::key("10.1.2.3"), None)]).expect("removed");
    many(&host);
    assert_eq!(host.found().len(), 2);
}

fn settings_outlive_the_filter_and_bad_ones_change_nothing(hook: Hook) {
    let mut host = Host::new(hook, scans());
    let bad = Detection { scan: limit(65, WINDOW), ..Detection::default() };
    let error = host.filter.set_detection(&bad).expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(host.filter.detection(), &scans());
    drop(host.filter);
    let source = address("10.1.2.3");
    let Host { program, world, .. } = host;
    // The old program's, which goes on by itself.
    let mut host = Host { filter: world.filter(64), program, world };
    for port in 1..=20 {
        host.syn(source, 40_000, port);
    }
    assert_eq!(host.found().len(), 1);
}

fn attempts_are_counted_by_port(hook: Hook) {
    let host = Host::new(hook, Detection::default());
    for n in 0..7 {
        host.syn(address("10.1.2.3"), n, 443);
        host.syn(address("2001:db8::77"), n, 443);
        host.packet(address("10.1.2.3"), n, 443, ACK);
        host.packet(address("10.1.2.3"), n, 443, SYN | ACK);
    }
    let counters = host.filter.counters().expect("counted");
    assert_eq!(counters.connections, [(443, 14)]);
}
