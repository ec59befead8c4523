//! Sums add up.

use super::{Listener, Stop, Wakes, cpu, flood, from, send};
use crate::differential::frames;
use crate::support::{DROP, World, key, on_each_hook, program, run};
use agent_kernel::filter::{Action, CYCLE, Filter, Hook, Rule, RuleKey, Until};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MONITOR: Option<Rule> = Some(Rule { drop: None, monitor: Some(Until::FOREVER) });

fn block(filter: &mut Filter, prefix: &str) -> RuleKey {
    filter.update(&[(key(prefix), DROP)]).expect("room");
    key(prefix)
}

on_each_hook!(
    one_source_is_one_first_packet_and_few_sums,
    a_source_that_goes_on_is_told_with_each_cycle_and_is_no_news,
    few_sources_of_a_wide_rule_are_told_one_by_one,
    a_crowd_is_told_by_its_number,
    a_flood_is_few_events,
    more_sources_than_the_table_holds_add_up,
    a_rule_that_goes_is_told_to_the_end,
    rules_that_come_and_go_in_a_flood_lose_nothing,
    slots_that_are_needed_at_once_are_told_first,
    a_full_ring_loses_no_packet,
);

fn one_source_is_one_first_packet_and_few_sums(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(10);
    let xdp = program(&world, &mut filter);
    let mut listener = Listener::default();
    for prefix in ["10.0.0.1", "fd00::1"] {
        block(&mut filter, prefix);
        let frame = frames::plain(prefix.parse().expect("valid"));
        send(&xdp, &frame, 10_000);
        listener.tell(&mut filter);
    }
    // The first cycle that ends has the rest already.
    listener.summarize(&mut filter);
    assert!(listener.packets(Action::Drop) >= 20_000);
    listener.hear_out(&world, &mut filter);
    let firsts: Vec<_> = listener.firsts().map(|it| (it.src, it.packets)).collect();
    assert_eq!(firsts, ["10.0.0.1", "fd00::1"].map(|it| (it.parse().ok(), 1)));
    assert_eq!(listener.heard.len(), 4, "{:#?}", listener.heard);
}

fn a_source_that_goes_on_is_told_with_each_cycle_and_is_no_news(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(10);
    let xdp = program(&world, &mut filter);
    block(&mut filter, "10.0.0.1");
    let mut listener = Listener::default();
    for round in 0..5 {
        send(&xdp, &from(1), 1_000);
        let before = listener.packets(Action::Drop);
        listener.hear_out(&world, &mut filter);
        assert!(listener.packets(Action::Drop) >= before + 1_000, "round {round}");
    }
    assert_eq!(listener.firsts().count(), 1);
}

fn few_sources_of_a_wide_rule_are_told_one_by_one(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(10);
    let xdp = program(&world, &mut filter);
    block(&mut filter, "10.0.0.0/24");
    let mut listener = Listener::default();
    for number in 1..=5 {
        for _ in 0..number * 100 {
            send(&xdp, &from(number), 1);
        }
    }
    listener.tell(&mut filter);
    assert_eq!(listener.firsts().count(), 5);
    listener.hear_out(&world, &mut filter);
    let expected = (1..=5_u8).map(|n| ([10, 0, 0, n].into(), u64::from(n) * 100)).collect();
    assert_eq!(listener.by_source(), expected);
    assert_eq!(listener.heard.len(), 10);
}

fn a_crowd_is_told_by_its_number(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(10);
    let xdp = program(&world, &mut filter);
    block(&mut filter, "10.0.0.0/8");
    let mut listener = Listener::default();
    // Two seconds of it; and one source then is news again.
    for second in 1..=2 {
        for number in 0..3_000 {
            send(&xdp, &from(number % 1_000), 1);
        }
        let heard = listener.heard.len();
        listener.hear_out(&world, &mut filter);
        let new = &listener.heard[heard..];
        let crowd: Vec<_> = new.iter().filter(|it| it.src.is_none()).collect();
        assert_eq!(crowd.len(), 1, "{crowd:#?}");
        assert!((900..=1_000).contains(&crowd[0].sources), "{}", crowd[0].sources);
        assert_eq!(listener.firsts().count(), 32, "second {second}");
    }
    assert_eq!(listener.heard.len(), 34);
    send(&xdp, &from(77_777), 1);
    listener.tell(&mut filter);
    let last = listener.heard.last().expect("some");
    assert_eq!((last.src, last.packets), (Some([10, 1, 47, 209].into()), 1));
    assert!(last.dst.is_some());
    listener.hear_out(&world, &mut filter);
}

/// Whoever listens as an agent does hears little of a flood; what it spends is printed, not asserted.
fn a_flood_is_few_events(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(100_000);
    block(&mut filter, "10.0.0.0/8");
    let xdp = program(&world, &mut filter);
    let (pin, stop) = (world.pin("program"), AtomicBool::new(false));
    let wakes = Wakes::of(&filter);
    let mut listener = Listener::default();
    let seconds = 4;
    let before = cpu();
    std::thread::scope(|threads| {
        let stop_at_end = Stop(&stop);
        threads.spawn(|| flood(&pin, 5_000, &stop));
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                send(&xdp, &from(1), 100_000);
            }
        });
        for _ in 0..seconds {
            let end = Instant::now() + CYCLE;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                if wakes.came(left) {
                    listener.tell(&mut filter);
                }
            }
            listener.summarize(&mut filter);
        }
        drop(stop_at_end);
    });
    let spent = cpu() - before;
    listener.hear_out(&world, &mut filter);
    println!(
        "{spent:?} CPU, {} events, {:?}",
        listener.heard.len(),
        listener.packets(Action::Drop)
    );
    assert!(listener.packets(Action::Drop) > 100_000);
    // Each cycle tells of both once, and of 32 new sources before it is known that there are too many.
    assert!(listener.heard.len() < 400, "{}", listener.heard.len());
}

fn more_sources_than_the_table_holds_add_up(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(10);
    let xdp = program(&world, &mut filter);
    block(&mut filter, "10.0.0.0/8");
    let mut listener = Listener::default();
    for _ in 0..3 {
        for number in 0..20_000 {
            send(&xdp, &from(number), 1);
        }
        listener.summarize(&mut filter);
    }
    listener.hear_out(&world, &mut filter);
    assert_eq!(listener.packets(Action::Drop), 60_000);
    assert!(listener.heard.len() < 100, "{}", listener.heard.len());
}

fn a_rule_that_goes_is_told_to_the_end(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(1_000);
    let xdp = program(&world, &mut filter);
    let mut listener = Listener::default();
    for prefix in ["10.0.0.1", "10.0.0.0/24"] {
        block(&mut filter, prefix);
        for _ in 0..500 {
            send(&xdp, &from(1), 1);
        }
        filter.update(&[(key(prefix), None)]).expect("removed");
    }
    listener.hear_out(&world, &mut filter);
    assert_eq!(listener.by_rule(), [(key("10.0.0.1"), 500), (key("10.0.0.0/24"), 500)].into());
}

fn rules_that_come_and_go_in_a_flood_lose_nothing(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(8);
    program(&world, &mut filter);
    let pin = world.pin("program");
    let stop = AtomicBool::new(false);
    let mut listener = Listener::default();
    std::thread::scope(|threads| {
        let stop_at_end = Stop(&stop);
        for sources in [1, 7] {
            let (pin, stop) = (&pin, &stop);
            threads.spawn(move || flood(pin, sources, stop));
        }
        let end = Instant::now() + Duration::from_secs(3);
        let (wide, narrow, other) = (key("10.0.0.0/24"), key("10.0.0.0"), key("10.0.0.0/28"));
        while Instant::now() < end {
            filter.update(&[(wide, DROP), (narrow, None), (other, MONITOR)]).expect("room");
            listener.tell(&mut filter);
            filter.update(&[(narrow, DROP), (other, DROP), (wide, MONITOR)]).expect("room");
            filter.update(&[(narrow, MONITOR), (other, None), (wide, None)]).expect("room");
            listener.summarize(&mut filter);
        }
        drop(stop_at_end);
    });
    listener.hear_out(&world, &mut filter);
    for action in [Action::Drop, Action::Monitor] {
        assert!(listener.packets(action) > 1_000, "{action:?}");
    }
}

/// More rules than slots, one after the other, and nobody listens meanwhile.
fn slots_that_are_needed_at_once_are_told_first(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(2);
    let xdp = program(&world, &mut filter);
    let mut listener = Listener::default();
    let mut expected = std::collections::BTreeMap::new();
    for number in 1..30_u32 {
        let prefix = if number % 2 == 0 { "10.0.0.0/24" } else { "10.0.0.0/25" };
        let rule = if number % 3 == 0 { MONITOR } else { DROP };
        filter.update(&[(key(prefix), rule)]).expect("room");
        for _ in 0..number {
            send(&xdp, &from(1), 1);
        }
        *expected.entry(key(prefix)).or_default() += u64::from(number);
        filter.update(&[(key(prefix), None)]).expect("removed");
    }
    listener.hear_out(&world, &mut filter);
    assert_eq!(listener.by_rule(), expected);
}

fn a_full_ring_loses_no_packet(hook: Hook) {
    let world = World::on(hook);
    // A pinned map keeps its size: one that holds 46 sightings.
    std::fs::create_dir_all(world.bpffs().join("v2")).expect("a folder");
    let ring = world.bpffs().join("v2/sightings").display().to_string();
    run(&format!(
        "bpftool map create {ring} type ringbuf key 0 value 0 entries 4096 name sightings"
    ));
    let mut filter = world.filter(1_000);
    let xdp = program(&world, &mut filter);
    let rules: Vec<_> = (0..500_u32)
        .map(|i| (key(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).to_string()), DROP))
        .collect();
    filter.update(&rules).expect("room");
    let mut listener = Listener::default();
    // Past the looks at every counter that come after an opening.
    listener.hear_out(&world, &mut filter);
    for round in 1..=3_u64 {
        for number in 0..500 {
            send(&xdp, &from(number), 1);
        }
        listener.hear_out(&world, &mut filter);
        assert_eq!(listener.by_rule().values().sum::<u64>(), 500 * round);
        assert!(filter.unsighted().expect("read") > 400 * (round - 1));
    }
    assert_eq!(listener.by_rule().len(), 500);
}
