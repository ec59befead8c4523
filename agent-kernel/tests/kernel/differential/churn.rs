//! Lists that grow, shrink and change, in random order: what the program makes of them, at any time.

use super::reference::ENTERS_BY;
use super::{frames, interface, seed};
use crate::support::{DROP, World, on_each_hook, pass, program};
use agent_kernel::filter::{Drift, Hook, Protocol, Rule, RuleKey, Service, Until};
use agent_kernel::sys::boottime_ns;
use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// (List, packet) pairs.
const PAIRS: u32 = 1_000_000;
const LISTS: u32 = 100;
const MAX_ENTRIES: u32 = 200_000;

type List = HashMap<RuleKey, Rule>;

on_each_hook!(
    a_million_packets_meet_what_their_list_says,
    what_does_not_change_is_judged_alike_while_everything_else_does,
);

fn a_million_packets_meet_what_their_list_says(hook: Hook) {
    let seed = seed();
    println!("seed {seed}; another one: KCTL_TEST_SEED=N");
    let world = World::on(hook);
    let mut filter = world.filter(MAX_ENTRIES);
    let tried = program(&world, &mut filter);
    let mut random = StdRng::seed_from_u64(seed);
    let mut list = List::new();
    let (mut dropped, mut long) = (0, 0);
    for number in 0..LISTS {
        let changes = changes(&mut random, &list, number);
        filter.update(&changes).expect("room");
        apply(&mut list, &changes);
        let keys: Vec<RuleKey> = list.keys().copied().collect();
        let by_prefix = by_prefix(&list);
        for _ in 0..PAIRS / LISTS {
            let packet = packet(&mut random, &keys);
            let wanted = drops(&by_prefix, &packet);
            let drops = tried.drops(&packet.frame());
            assert_eq!(drops, wanted, "seed {seed} list {number} {packet:?}");
            dropped += u64::from(wanted);
        }
        long = long.max(list.len());
        if number % 10 == 9 {
            assert_eq!(filter.verify().expect("verified"), Drift::default());
        }
    }
    println!("{dropped} of {PAIRS} dropped; the longest list had {long} rules");
    assert!(dropped > u64::from(PAIRS) / 10 && dropped < u64::from(PAIRS) * 9 / 10);

    // What is left is what a fresh build of it is.
    let other = World::on(hook);
    let mut fresh = other.filter(MAX_ENTRIES);
    let all: Vec<_> = list.iter().map(|(key, rule)| (*key, Some(*rule))).collect();
    fresh.update(&all).expect("room");
    assert_eq!(fresh.rules(), filter.rules());
    assert_eq!(fresh.rules(), list);
    let fresh = program(&other, &mut fresh);
    let keys: Vec<RuleKey> = list.keys().copied().collect();
    for _ in 0..20_000 {
        let frame = packet(&mut random, &keys).frame();
        assert_eq!(tried.drops(&frame), fresh.drops(&frame));
    }
}

fn what_does_not_change_is_judged_alike_while_everything_else_does(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(60_000);
    let tried = program(&world, &mut filter);
    let stays = ["10.0.0.1/32", "10.1.0.0/16", "172.16.0.0/12", "fd00::1/128", "2001:db8::/40"];
    let stays: Vec<RuleKey> = stays.iter().map(|it| crate::support::key(it)).collect();
    let drops: Vec<_> = stays.iter().map(|key| (*key, DROP)).collect();
    filter.update(&drops).expect("room");
    let dropped = ["10.0.0.1", "10.1.2.3", "172.16.9.9", "fd00::1", "2001:db8:7::1"];
    let passed = ["10.0.0.2", "10.2.0.1", "192.0.2.1", "fd00::2", "2001:db9::1"];
    let frames = |list: &[&str]| -> Vec<Vec<u8>> {
        list.iter().map(|it| frames::plain(it.parse().expect("valid"))).collect()
    };
    let (dropped, passed) = (frames(&dropped), frames(&passed));
    let (done, judged) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for frame in &dropped {
                    assert!(tried.drops(frame), "{frame:02x?}");
                }
                for frame in &passed {
                    assert!(!tried.drops(frame), "{frame:02x?}");
                }
                judged.fetch_add(10, Ordering::Relaxed);
            }
        });
        let mut random = StdRng::seed_from_u64(seed());
        let mut there = Vec::new();
        for round in 0..40 {
            if traffic.is_finished() {
                break;
            }
            // Up through several sizes of the tables, and down again.
            let wanted = [50, 2_000, 50_000, 10][round % 4];
            let mut changes: Vec<_> = Vec::new();
            while there.len() > wanted {
                let key = there.swap_remove(random.random_range(0..there.len()));
                changes.push((key, None));
            }
            while there.len() < wanted {
                let key = elsewhere(&mut random);
                changes.push((key, DROP));
                there.push(key);
            }
            filter.update(&changes).expect("room");
            // Entries change what they say, too.
            let monitor = Some(Rule { drop: None, monitor: Some(Until::FOREVER) });
            let some: Vec<_> = there.iter().take(100).map(|key| (*key, monitor)).collect();
            filter.update(&some).expect("room");
        }
        done.store(true, Ordering::Relaxed);
        traffic.join().expect("every verdict was right");
    });
    println!("{} verdicts meanwhile", judged.load(Ordering::Relaxed));
    assert!(judged.load(Ordering::Relaxed) > 1_000);
    assert_eq!(filter.verify().expect("verified"), Drift::default());
}

/// A rule about none of the test's packets, often in the same tables' places as rules that are.
fn elsewhere(random: &mut StdRng) -> RuleKey {
    let prefix = if random.random() {
        let address: u32 = 0xc800_0000 | random.random_range(0..1 << 24);
        IpNet::new(IpAddr::from(address.to_be_bytes()), random.random_range(18..=32))
    } else {
        let address = 0x2a00_u128 << 112 | random.random::<u128>() >> 16;
        IpNet::new(IpAddr::from(address.to_be_bytes()), random.random_range(33..=128))
    };
    RuleKey::any(prefix.expect("a length of the family").trunc())
}

/// Adds and removes: the list grows in the first rounds, and shrinks again.
fn changes(random: &mut StdRng, list: &List, number: u32) -> Vec<(RuleKey, Option<Rule>)> {
    let (keep, add) = if number % 20 < 12 { (0.9, 1_200) } else { (0.5, 100) };
    let gone = list.keys().filter(|_| !random.random_bool(keep)).copied().collect::<Vec<_>>();
    let mut changes: Vec<_> = gone.into_iter().map(|key| (key, None)).collect();
    let keys: Vec<RuleKey> = list.keys().copied().collect();
    for _ in 0..add {
        // Around another one, so that prefixes nest.
        let around = if random.random_bool(0.7) { keys.choose(random) } else { None };
        let address = around.map_or_else(|| address(random), |key| key.prefix.addr());
        let longest = IpNet::from(address).max_prefix_len();
        let len = if random.random_bool(0.5) {
            longest
        } else {
            // Short ones would cover everything.
            let shortest = if random.random_bool(0.01) { 0 } else { longest / 4 };
            random.random_range(shortest..=longest)
        };
        let prefix = IpNet::new(address, len).expect("a length of the family").trunc();
        let service = random.random_bool(0.4).then(|| service(random));
        let key = RuleKey { service, ..RuleKey::any(prefix) };
        // What passes must not cover everything that is dropped.
        if random.random_bool(0.2) && len > longest / 2 {
            changes.push(pass(key));
        } else {
            changes.push((RuleKey { interface: interface(random), ..key }, Some(rule(random))));
        }
    }
    changes
}

fn apply(list: &mut List, changes: &[(RuleKey, Option<Rule>)]) {
    for (key, rule) in changes {
        match rule {
            Some(rule) => list.insert(*key, *rule),
            None => list.remove(key),
        };
    }
}

fn rule(random: &mut StdRng) -> Rule {
    let mut until = || match random.random_range(0..4) {
        0 => Until::at(1),
        1 => Until::at(boottime_ns() + 36_000_000_000_000),
        _ => Until::FOREVER,
    };
    let (drop, monitor) = (until(), until());
    match random.random_range(0..4) {
        0 => Rule { drop: Some(drop), monitor: Some(monitor) },
        1 => Rule { drop: None, monitor: Some(monitor) },
        _ => Rule { drop: Some(drop), monitor: None },
    }
}

fn port(random: &mut StdRng) -> u16 {
    *[22, 53, 443, 1, 1_023, 8_000, 8_999, 65_535].choose(random).expect("some")
}

/// One port, or a range between two.
fn service(random: &mut StdRng) -> Service {
    let protocol = if random.random() { Protocol::Tcp } else { Protocol::Udp };
    let one = port(random);
    let other = if random.random() { one } else { port(random) };
    Service { protocol, first: one.min(other), last: one.max(other) }
}

fn address(random: &mut StdRng) -> IpAddr {
    if random.random() {
        IpAddr::from(random.random::<[u8; 4]>())
    } else {
        IpAddr::from(random.random::<[u8; 16]>())
    }
}

#[derive(Debug)]
struct Packet {
    source: IpAddr,
    protocol: Protocol,
    /// Destination; `None` in a later fragment.
    port: Option<u16>,
}

/// A packet from near a rule, or from anywhere.
fn packet(random: &mut StdRng, keys: &[RuleKey]) -> Packet {
    let around = if random.random_bool(0.85) { keys.choose(random) } else { None };
    let source = match around.map(|key| key.prefix.addr()) {
        // One of the last bits, up to any, is another.
        Some(IpAddr::V4(it)) if random.random() => {
            IpAddr::V4((it.to_bits() ^ (1 << random.random_range(0..32))).into())
        }
        Some(IpAddr::V6(it)) if random.random() => {
            IpAddr::V6((it.to_bits() ^ (1 << random.random_range(0..128))).into())
        }
        Some(it) => it,
        None => address(random),
    };
    let protocol = if random.random() { Protocol::Tcp } else { Protocol::Udp };
    let port = random.random_bool(0.8).then(|| match random.random_range(0..4) {
        0 => random.random_range(1..=u16::MAX),
        1 => port(random).saturating_add(random.random_range(0..=1)),
        2 => port(random).saturating_sub(random.random_range(0..=1)),
        _ => 80,
    });
    Packet { source, protocol, port }
}

impl Packet {
    fn frame(&self) -> Vec<u8> {
        let mut frame = frames::plain(self.source);
        let protocol = self.protocol.number();
        if self.source.is_ipv4() {
            frame[23] = protocol;
            match self.port {
                Some(port) => frame[36..38].copy_from_slice(&port.to_be_bytes()),
                None => frame[20..22].copy_from_slice(&[0, 7]),
            }
        } else if let Some(port) = self.port {
            frame[20] = protocol;
            frame[56..58].copy_from_slice(&port.to_be_bytes());
        } else {
            frame[20] = 44;
            frame.splice(54..54, [protocol, 0, 0, 8, 0, 0, 0, 1]);
        }
        frame
    }
}

/// A list, by what all its rules have.
type ByPrefix = HashMap<IpNet, Vec<(RuleKey, Rule)>>;

fn by_prefix(list: &List) -> ByPrefix {
    let mut by_prefix = ByPrefix::new();
    for (key, rule) in list {
        by_prefix.entry(key.prefix).or_default().push((*key, *rule));
    }
    by_prefix
}

/// The verdict, by asking the list for every prefix that the source has.
fn drops(list: &ByPrefix, packet: &Packet) -> bool {
    let now = boottime_ns();
    let longest = IpNet::from(packet.source).max_prefix_len();
    let mut dropped = false;
    for len in 0..=longest {
        let prefix = IpNet::new(packet.source, len).expect("a length of the family").trunc();
        for (key, rule) in list.get(&prefix).into_iter().flatten() {
            let is_named = key.service.is_none_or(|service| {
                let has = |port| service.first <= port && port <= service.last;
                // Of a fragment any port may be meant, but nothing passes for what it may be.
                service.protocol == packet.protocol && packet.port.map_or(!key.guards, has)
            });
            let enters = key.interface.is_none_or(|it| it.name() == ENTERS_BY);
            if is_named && enters && rule.drop.is_some_and(|until| now < until.boot_ns()) {
                if key.guards {
                    return false;
                }
                dropped = true;
            }
        }
    }
    dropped
}
