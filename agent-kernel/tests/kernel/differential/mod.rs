//! Random frames through the real program in the kernel (BPF_PROG_TEST_RUN), compared in verdict and
//! in every counter with a plain reference that shares no code with it.

mod churn;
pub(crate) mod frames;
mod packet;
mod reference;

use crate::support::{World, json, on_each_hook, pass, program, within};
use crate::tell::number;
use agent_kernel::filter::{
    Action, Count, Filter, Hook, Interface, Protocol, Rule, RuleKey, Service, Until,
};
use agent_kernel::sys::boottime_ns;

use frames::SOURCES;
use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reference::{ENTERS_BY, Reference};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

const FRAMES: u32 = 100_000;
/// Rules and guard change that often.
const ROUND: u32 = 2_000;
/// And so often is told what they met.
const TOLD: u32 = 700;

fn seed() -> u64 {
    match std::env::var("KCTL_TEST_SEED") {
        Ok(seed) => seed.parse().expect("KCTL_TEST_SEED is a number"),
        Err(_) => 2_026,
    }
}

on_each_hook!(the_program_judges_and_counts_as_the_reference_does);

fn the_program_judges_and_counts_as_the_reference_does(hook: Hook) {
    let seed = seed();
    println!("seed {seed}; another one: KCTL_TEST_SEED=N");
    let world = World::on(hook);
    let mut filter = world.filter(4_000);
    let tried = program(&world, &mut filter);
    let mut random = StdRng::seed_from_u64(seed);
    let mut reference = Reference::default();
    let mut heard = BTreeMap::new();
    let mut at_home = [0; 2];
    for number in 0..FRAMES {
        if number % ROUND == 0 {
            // In every other round nothing but rules of every packet is about single addresses: those have
            // homes then.
            let plain = number / ROUND % 2 == 1;
            change(&mut random, &mut filter, &mut reference, plain);
        }
        let mut frame = frames::frame(&mut random);
        if hook == Hook::Tcx {
            // The kernel tries nothing shorter as what the stack takes in.
            let least = match frame[12..14] {
                [0x08, 0x00] => 34,
                [0x86, 0xdd] => 54,
                _ => 15,
            };
            frame.resize(frame.len().max(least), 0);
        }
        let dropped = tried.drops(&frame);
        let drops = reference.judge(&frame);
        let told = || {
            let parsed = packet::parse(&frame);
            format!("seed {seed} frame {number} {frame:02x?}\n{parsed:?}\n{reference:#?}")
        };
        assert_eq!(dropped, drops, "{}", told());
        if number % ROUND == ROUND - 1 {
            compare(&filter, &reference);
        }
        if number % (10 * ROUND) == 10 * ROUND - 1 {
            let now = counted_at_home(&world);
            at_home = [at_home[0] + now[0], at_home[1] + now[1]];
        }
        if number % TOLD == 0 {
            hear(&mut filter, &mut heard);
        }
    }
    within("all is told, of each rule what it met", || {
        hear(&mut filter, &mut heard);
        heard == reference.ever
    });
    let counters = filter.counters().expect("read");
    println!("{counters:?}");
    for count in [counters.dropped, counters.monitored, counters.guarded, counters.malformed] {
        assert!(count.packets > u64::from(FRAMES) / 200, "every verdict is met: {counters:?}");
    }
    assert_eq!(counters.passed.packets + counters.dropped.packets, u64::from(FRAMES));
    assert!(at_home.into_iter().all(|it| it > 0), "homes of both families count: {at_home:?}");
    // Slots and homes hold every verdict once, those of rules that are gone too.
    let sum = sum(&world, "hits", &[0], 8) + counted_at_home(&world).into_iter().sum::<u64>();
    assert_eq!(sum, counters.dropped.packets + counters.monitored.packets);
}

/// Packets that homes hold, of IPv4 and of IPv6.
fn counted_at_home(world: &World) -> [u64; 2] {
    [sum(world, "homes4", &[24, 32, 40], 4), sum(world, "homes6", &[40, 48], 4)]
}

/// The sum of numbers of that many bytes at these places of a map's values.
fn sum(world: &World, map: &str, places: &[usize], size: usize) -> u64 {
    let map = world.bpffs().join("v3").join(map).display().to_string();
    let all = json(&format!("bpftool -j map dump pinned {map}"));
    let all = all.as_array().expect("a list").iter();
    let numbers = all.flat_map(|it| places.iter().map(|at| number(&it["value"], *at, size)));
    numbers.sum()
}

/// Adds up what is told, by rule and action.
fn hear(filter: &mut Filter, told: &mut BTreeMap<(RuleKey, Action), Count>) {
    for telling in filter.summarize().expect("told") {
        let sum = told.entry((telling.rule, telling.action)).or_default();
        sum.packets += telling.packets;
        sum.bytes += telling.bytes;
    }
}

fn compare(filter: &Filter, reference: &Reference) {
    let counters = filter.counters().expect("read");
    assert_eq!(counters.passed, reference.passed);
    assert_eq!(counters.dropped, reference.dropped);
    assert_eq!(counters.monitored, reference.monitored);
    assert_eq!(counters.guarded, reference.guarded);
    assert_eq!(counters.malformed, reference.malformed);
    assert_eq!(counters.protocols, Vec::from_iter(reference.protocols.clone()));
    let mut connections = counters.connections;
    connections.sort_unstable();
    assert_eq!(connections, Vec::from_iter(reference.connections.clone()));
    let mut hits: Vec<_> = filter
        .hits()
        .expect("read")
        .iter()
        .map(|hit| ((hit.key, hit.action), (hit.packets, hit.bytes)))
        .collect();
    hits.sort_unstable();
    let expected = reference.hits.iter().map(|(key, it)| (*key, (it.packets, it.bytes)));
    assert_eq!(hits, Vec::from_iter(expected));
    let mut sources = counters.sources;
    sources.sort_unstable();
    assert_eq!(sources, reference.sources());
}

/// Changes some rules and the guard, here and there.
fn change(random: &mut StdRng, filter: &mut Filter, reference: &mut Reference, plain: bool) {
    let narrows = |key: &RuleKey| key.service.is_some() || key.interface.is_some();
    let is_single = |key: &RuleKey| key.prefix.prefix_len() == key.prefix.max_prefix_len();
    let goes = |key: &RuleKey| plain && is_single(key) && narrows(key) && !key.guards;
    let present: Vec<RuleKey> = filter.rules().keys().copied().collect();
    let mut changes: Vec<_> = present
        .iter()
        .filter(|key| goes(key) || random.random_bool(0.5))
        .map(|key| (*key, None))
        .collect();
    for _ in 0..random.random_range(5..40) {
        let key = rule_key(random);
        let key = if goes(&key) { RuleKey::any(key.prefix) } else { key };
        changes.push((key, Some(rule(random))));
    }
    for _ in 0..random.random_range(0..4) {
        let service = random.random_bool(0.5).then(|| service(random));
        changes.push(pass(RuleKey { service, ..RuleKey::any(prefix(random, 20)) }));
    }
    filter.update(&changes).expect("room");
    reference.update(&changes);
    let uplinks = (0..random.random_range(0..3))
        .map(|_| SocketAddr::new(*SOURCES.choose(random).expect("some"), frames::port(random)))
        .collect();
    filter.set_uplinks(&uplinks).expect("room");
    reference.uplinks = uplinks;
}

fn rule_key(random: &mut StdRng) -> RuleKey {
    let service = random.random_bool(0.5).then(|| service(random));
    RuleKey { service, interface: interface(random), ..RuleKey::any(prefix(random, 0)) }
}

/// That of the frames, or another, or none.
fn interface(random: &mut StdRng) -> Option<Interface> {
    let name = *[None, None, None, Some(ENTERS_BY), Some("kt9")].choose(random).expect("some");
    name.map(Interface::named)
}

fn service(random: &mut StdRng) -> Service {
    let protocol = if random.random() { Protocol::Tcp } else { Protocol::Udp };
    let port = frames::port(random).max(1);
    let other = if random.random() { port } else { frames::port(random).max(1) };
    // Past the ports of the frames, too.
    let other = if random.random_bool(0.2) { random.random_range(1..=u16::MAX) } else { other };
    Service { protocol, first: port.min(other), last: port.max(other) }
}

/// A prefix around one of the sources; mostly a long one, else nearly everything would be covered.
fn prefix(random: &mut StdRng, shortest: u8) -> IpNet {
    let source: IpAddr = *SOURCES.choose(random).expect("some");
    let longest = IpNet::from(source).max_prefix_len();
    let len = match random.random_range(0..10) {
        0 => random.random_range(shortest..=longest),
        1..4 => longest,
        _ => random.random_range(longest - 12..=longest),
    };
    IpNet::new(source, len).expect("a length of the family").trunc()
}

fn rule(random: &mut StdRng) -> Rule {
    let hour_ns = 3_600_000_000_000;
    let mut until = || match random.random_range(0..4) {
        0 => Until::at(1),
        1 => Until::at(boottime_ns() + hour_ns),
        _ => Until::FOREVER,
    };
    let (drop, monitor) = (until(), until());
    match random.random_range(0..5) {
        0 => Rule { drop: Some(drop), monitor: Some(monitor) },
        1 | 2 => Rule { drop: None, monitor: Some(monitor) },
        _ => Rule { drop: Some(drop), monitor: None },
    }
}

#[test]
fn the_fragments_of_a_large_frame_count_as_bytes() {
    let world = World::new();
    let mut filter = world.filter(1);
    let source: IpAddr = "10.0.0.1".parse().expect("valid");
    let rule = Rule { drop: Some(Until::FOREVER), monitor: None };
    filter.update(&[(RuleKey::any(source.into()), Some(rule))]).expect("room");
    let mut frame = frames::plain(source);
    frame.resize(9_000, 0);
    assert!(program(&world, &mut filter).drops(&frame));
    assert_eq!(filter.counters().expect("read").dropped.bytes, 9_000);
}

/// What a packet costs in this build of the kernel; printed, not asserted.
#[test]
fn what_a_packet_costs_is_printed() {
    let world = World::new();
    let mut filter = world.filter(20_000);
    let xdp = program(&world, &mut filter);
    let ns = |name: &str, frame: &[u8]| {
        println!("{name}: {} ns", xdp.run(frame, 1_000_000).duration.as_nanos());
    };
    let v4 = frames::plain("10.0.0.1".parse().expect("valid"));
    let v6 = frames::plain("fd00::1".parse().expect("valid"));
    ns("v4 with no rules", &v4);
    ns("v6 with no rules", &v6);
    let mut changes = Vec::new();
    for i in 0..10_000_u32 {
        let address = if i % 2 == 0 {
            IpAddr::from((0x0b00_0000 + i).to_be_bytes())
        } else {
            IpAddr::from((0xfd00_0001_u128 << 96 | u128::from(i)).to_be_bytes())
        };
        let rule = Rule { drop: Some(Until::FOREVER), monitor: None };
        changes.push((RuleKey::any(address.into()), Some(rule)));
    }
    let start = std::time::Instant::now();
    filter.update(&changes).expect("room");
    println!("adding 10,000 rules: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    filter.verify().expect("verified");
    println!("verifying them: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    filter.counters().expect("read");
    println!("reading all counters: {:?}", start.elapsed());
    ns("v4 miss, 10,000 single addresses", &v4);
    ns("v6 miss, 10,000 single addresses", &v6);
    ns("v4 drop, single address", &frames::plain("11.0.0.2".parse().expect("valid")));
    ns("v6 drop, single address", &frames::plain("fd00:1::1".parse().expect("valid")));
    let all = ["10.0.0.0/8", "fd00::/16", "10.0.0.0/16", "10.0.0.0/24"];
    let rule = Rule { drop: Some(Until::FOREVER), monitor: None };
    let all: Vec<_> =
        all.iter().map(|net| (RuleKey::any(net.parse().expect("valid")), Some(rule))).collect();
    filter.update(&all).expect("room");
    ns("v4 drop, prefix", &v4);
    ns("v6 drop, prefix", &v6);
    ns(
        "v4 miss, single addresses and 3 lengths",
        &frames::plain("12.0.0.1".parse().expect("valid")),
    );
}
