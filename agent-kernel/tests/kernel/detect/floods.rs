//! Floods of SYNs, told from many connections by what follows.

use super::{ACK, Host, SYN, address};
use crate::support::on_each_hook;
use agent_kernel::filter::{Detection, Finding, FloodLimits, Found, Hook};
use std::net::IpAddr;
use std::time::{Duration, Instant};

on_each_hook!(
    a_flood_of_random_sources_is_of_its_port_and_of_nobody,
    a_flood_of_one_source_names_it,
    many_connections_are_no_flood_and_are_soon_looked_at_no_more,
    resets_and_acks_of_nobody_are_no_progress,
    a_flood_that_goes_on_is_told_each_window_and_adds_up,
);

const LIMITS: FloodLimits =
    FloodLimits { port: 1_000, source: 200, window: Duration::from_secs(3) };
const DEADLINE: Duration = Duration::from_secs(60);

fn floods(hook: Hook) -> Host {
    Host::new(hook, Detection { flood: Some(LIMITS), ..Detection::default() })
}

/// Looks as the agent does, but more often, until the condition holds of all that was found.
fn look(host: &mut Host, what: &str, done: impl Fn(&[Found]) -> bool) -> Vec<Found> {
    let mut found = Vec::new();
    let begin = Instant::now();
    while !done(&found) {
        assert!(begin.elapsed() < DEADLINE, "waited in vain: {what}: {found:?}");
        let more = host.filter.found(true).into_iter();
        found.extend(more.map(|Finding { found, .. }| found));
        std::thread::sleep(Duration::from_millis(20));
    }
    found
}

/// Looks for longer than a flood could stay untold.
fn look_on(host: &mut Host) -> Vec<Found> {
    let begin = Instant::now();
    let enough = LIMITS.window + Duration::from_secs(2);
    let mut found = Vec::new();
    while begin.elapsed() < enough {
        found.extend(look(host, "one look", |_| true));
        let more = host.filter.found(true).into_iter();
        found.extend(more.map(|Finding { found, .. }| found));
        std::thread::sleep(Duration::from_millis(50));
    }
    found
}

fn spoofed(number: u32) -> IpAddr {
    // Every number another one.
    IpAddr::from(number.wrapping_mul(0x9e37_79b1).to_be_bytes())
}

fn a_flood_of_random_sources_is_of_its_port_and_of_nobody(hook: Hook) {
    // All of it in one window, also on a slow machine.
    let limits = FloodLimits { window: Duration::from_secs(60), ..LIMITS };
    let mut host = Host::new(hook, Detection { flood: Some(limits), ..Detection::default() });
    let client = address("10.1.2.3");
    for number in 0..20_000_u16 {
        host.syn(spoofed(number.into()), 1_024 + number, 443);
        if number % 100 == 0 {
            let port = 40_000 + number / 100;
            host.syn(client, port, 443);
            host.packet(client, port, 443, ACK);
        }
    }
    let found = look(&mut host, "a flood", |found| !found.is_empty());
    let [Found::Flood { src: None, port: 443, syns, progress, sources, over }] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(*syns, 20_200);
    // All but those from before suspicion.
    assert!((190..=200).contains(progress), "{progress}");
    assert!((19_900..=20_201).contains(sources), "{sources}");
    assert!(*over >= Duration::from_secs(1));
    assert_eq!(look_on(&mut host), [], "once");
}

fn a_flood_of_one_source_names_it(hook: Hook) {
    let mut host = floods(hook);
    for (source, at) in [("10.1.2.3", 80), ("2001:db8::77", 443)] {
        let source = address(source);
        for n in 0..500 {
            host.syn(source, n, at);
        }
        let found = look(&mut host, "a flood", |found| !found.is_empty());
        let [Found::Flood { src: Some(src), port, syns: 500, progress: 0, sources: 1, .. }] =
            &found[..]
        else {
            panic!("{found:?}")
        };
        assert_eq!((*src, *port), (source, at));
    }
}

fn many_connections_are_no_flood_and_are_soon_looked_at_no_more(hook: Hook) {
    let mut host = floods(hook);
    let client = address("10.1.2.3");
    let begin = Instant::now();
    let mut port = 0_u16;
    // More than any limit, for longer than it takes to tell.
    while begin.elapsed() < LIMITS.window + Duration::from_secs(2) {
        for _ in 0..200 {
            port = port.wrapping_add(1);
            host.syn(client, port, 443);
            host.packet(client, port, 443, ACK);
            // Data on it.
            host.packet(client, port, 443, ACK | 0x08);
        }
        assert_eq!(look(&mut host, "one look", |_| true), []);
        let found: Vec<_> = host.filter.found(true);
        assert_eq!(found, []);
    }
    assert_eq!(look_on(&mut host), []);
}

fn resets_and_acks_of_nobody_are_no_progress(hook: Hook) {
    let mut host = floods(hook);
    let source = address("10.1.2.3");
    for n in 0..500 {
        host.syn(source, n, 443);
        host.packet(source, n, 443, 0x04);
        host.packet(source, n, 443, ACK | 0x04);
        host.packet(source, n, 443, SYN | ACK);
        // Of another connection, and of another source.
        host.packet(source, n + 10_000, 443, ACK);
        host.packet(address("10.1.2.4"), n, 443, ACK);
    }
    let found = look(&mut host, "a flood", |found| !found.is_empty());
    assert!(matches!(found[..], [Found::Flood { src: Some(_), progress: 0, .. }]), "{found:?}");
}

fn a_flood_that_goes_on_is_told_each_window_and_adds_up(hook: Hook) {
    let mut host = floods(hook);
    let begin = Instant::now();
    let (mut sent, mut found) = (0, Vec::new());
    while begin.elapsed() < LIMITS.window * 3 {
        for _ in 0..500 {
            host.syn(spoofed(sent), 1, 22);
            sent += 1;
        }
        let more = host.filter.found(true).into_iter();
        found.extend(more.map(|Finding { found, .. }| found));
        std::thread::sleep(Duration::from_millis(10));
    }
    found.extend(look_on(&mut host));
    let syns = found.iter().map(|it| match it {
        Found::Flood { src: None, port: 22, syns, progress: 0, .. } => *syns,
        other => panic!("{other:?}"),
    });
    assert_eq!(syns.sum::<u64>(), u64::from(sent), "{found:?}");
    assert!((2..=5).contains(&found.len()), "{found:?}");
}
