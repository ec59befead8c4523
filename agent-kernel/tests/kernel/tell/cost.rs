//! What telling costs; printed, not asserted.

use super::{Listener, Stop, cpu, flood, from, send};
use crate::support::{DROP, World, key, program};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

#[test]
fn what_telling_costs_is_printed() {
    let world = World::new();
    let mut filter = world.filter(131_072);
    let xdp = program(&world, &filter);
    let rules: Vec<_> = (0..10_000_u32)
        .map(|i| (key(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).to_string()), DROP))
        .collect();
    filter.update(&rules).expect("room");
    let mut listener = Listener::default();
    listener.hear_out(&world, &mut filter);
    let cost = |what: &str, filter: &mut agent_kernel::filter::Filter| {
        let (begin, before) = (Instant::now(), cpu());
        let told = filter.summarize().expect("summed up").len();
        println!("{what}: {:?} CPU, {:?}, {told} told", cpu() - before, begin.elapsed());
    };
    let pause = || std::thread::sleep(Duration::from_millis(110));
    for _ in 0..3 {
        pause();
        cost("nothing is dropped, 10,000 rules", &mut filter);
    }
    for round in 0..3 {
        for number in 0..10_000 {
            send(&xdp, &from(number), 1);
        }
        cost(&format!("every of 10,000 rules, round {round}"), &mut filter);
        pause();
    }
    for _ in 0..4 {
        pause();
        cost("after that", &mut filter);
    }
    filter.update(&[(key("11.0.0.0/8"), DROP)]).expect("room");
    let pin = world.pin("program");
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let stop_at_end = Stop(&stop);
        threads.spawn(|| flood(&pin, 20_000, &stop));
        for _ in 0..5 {
            std::thread::sleep(Duration::from_secs(1));
            cost("a flood of 10,000 rules", &mut filter);
        }
        drop(stop_at_end);
    });
    let (begin, before) = (Instant::now(), cpu());
    let gone: Vec<_> = rules.iter().map(|(key, _)| (*key, None)).collect();
    filter.update(&gone).expect("removed");
    println!("removing 10,000 rules: {:?} CPU, {:?}", cpu() - before, begin.elapsed());
    for _ in 0..4 {
        pause();
        cost("10,000 rules are gone", &mut filter);
    }
}
