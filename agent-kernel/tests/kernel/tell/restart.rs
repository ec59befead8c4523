//! What is told stays told when another process takes over.

use super::{Listener, Stop, flood, from, send};
use crate::support::{DROP, World, key, on_each_hook, program};
use agent_kernel::filter::{Action, Hook};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

on_each_hook!(
    a_flood_over_restarts_adds_up,
    what_came_while_nobody_listened_is_told_later,
    a_rule_that_went_before_a_restart_is_told_to_the_end,
);

/// A filter that is dropped does nothing, as one whose process is killed.
fn a_flood_over_restarts_adds_up(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(100);
    let rules = [key("10.0.0.0"), key("10.0.0.0/24"), key("10.0.0.0/16")];
    filter.update(&rules.map(|key| (key, DROP))).expect("room");
    program(&world, &mut filter);
    let pin = world.pin("program");
    let stop = AtomicBool::new(false);
    let mut listener = Listener::default();
    let mut running = Some(filter);
    std::thread::scope(|threads| {
        let stop_at_end = Stop(&stop);
        for sources in [10, 2_000] {
            let (pin, stop) = (&pin, &stop);
            threads.spawn(move || flood(pin, sources, stop));
        }
        for round in 0..6 {
            let filter = running.get_or_insert_with(|| world.filter(100));
            let end = Instant::now() + Duration::from_millis(350);
            while Instant::now() < end {
                if round % 2 == 0 {
                    listener.tell(filter);
                }
                listener.summarize(filter);
            }
            if round == 3 {
                filter.update(&[(key("10.0.0.0/24"), None)]).expect("removed");
            }
            running = None;
        }
        drop(stop_at_end);
    });
    let mut filter = world.filter(100);
    listener.hear_out(&world, &mut filter);
    assert!(listener.packets(Action::Drop) > 10_000);
    assert_eq!(listener.by_rule().len(), 3);
}

fn what_came_while_nobody_listened_is_told_later(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(100);
    let xdp = program(&world, &mut filter);
    filter.update(&[(key("10.0.0.1"), DROP), (key("10.0.1.0/24"), DROP)]).expect("room");
    let mut listener = Listener::default();
    send(&xdp, &from(1), 1);
    listener.hear_out(&world, &mut filter);
    assert_eq!(listener.firsts().count(), 1);
    drop(filter);
    for number in [1, 256, 257] {
        for _ in 0..100 {
            send(&xdp, &from(number), 1);
        }
    }
    let mut filter = world.filter(100);
    listener.tell(&mut filter);
    // Its ring was there all along.
    let firsts: Vec<_> = listener.firsts().skip(1).filter_map(|it| it.src).collect();
    assert!(firsts.contains(&[10, 0, 1, 0].into()) && firsts.contains(&[10, 0, 1, 1].into()));
    listener.hear_out(&world, &mut filter);
    let sources = [([10, 0, 0, 1], 101), ([10, 0, 1, 0], 100), ([10, 0, 1, 1], 100)];
    assert_eq!(listener.by_source(), sources.map(|(src, packets)| (src.into(), packets)).into());
}

fn a_rule_that_went_before_a_restart_is_told_to_the_end(hook: Hook) {
    let world = World::on(hook);
    let mut filter = world.filter(100);
    let xdp = program(&world, &mut filter);
    filter.update(&[(key("10.0.0.0/24"), DROP)]).expect("room");
    for _ in 0..100 {
        send(&xdp, &from(1), 1);
    }
    filter.update(&[(key("10.0.0.0/24"), None)]).expect("removed");
    drop(filter);
    let mut filter = world.filter(100);
    assert!(filter.rules().is_empty());
    let mut listener = Listener::default();
    listener.hear_out(&world, &mut filter);
    assert_eq!(listener.by_rule(), [(key("10.0.0.0/24"), 100)].into());
}
