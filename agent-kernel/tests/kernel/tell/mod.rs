//! What is told of packets that meet rules: the first at once, and sums that add up to the counters.
//! The witness of the counters is bpftool(8).

mod first;
mod restart;
mod sums;

use crate::differential::frames;
use crate::support::{Program, World, json};
use agent_kernel::filter::{Action, Filter, RuleKey, Telling};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Nothing more may be told that long after all is.
const AFTER: Duration = Duration::from_millis(500);
/// A busy machine gets that long; an idle one needs two cycles at most.
const DEADLINE: Duration = Duration::from_secs(60);

/// Who listens to a filter.
#[derive(Default)]
struct Listener {
    heard: Vec<Telling>,
}

impl Listener {
    fn tell(&mut self, filter: &mut Filter) {
        self.heard.extend(filter.tell().expect("told"));
    }

    fn summarize(&mut self, filter: &mut Filter) {
        self.heard.extend(filter.summarize().expect("summed up"));
    }

    /// Listens until everything is told, and for some cycles more, in which nothing may come.
    fn hear_out(&mut self, world: &World, filter: &mut Filter) {
        let (dropped, monitored) = (counted(world, 1), counted(world, 2));
        let begin = Instant::now();
        let mut all_after = None;
        while all_after.is_none_or(|after: Duration| begin.elapsed() < after + AFTER) {
            self.summarize(filter);
            let told = (self.packets(Action::Drop), self.packets(Action::Monitor));
            if all_after.is_none() && told == (dropped.0, monitored.0) {
                all_after = Some(begin.elapsed());
            }
            let elapsed = begin.elapsed();
            assert!(
                all_after.is_some() || elapsed < DEADLINE,
                "told {told:?} of {dropped:?} {monitored:?} {elapsed:?} after the last packet"
            );
            std::thread::yield_now();
        }
        for (action, counted) in [(Action::Drop, dropped), (Action::Monitor, monitored)] {
            let told = (self.packets(action), self.sum(|it| it.action == action, |it| it.bytes));
            assert_eq!(told, counted, "packets and bytes of {action:?}: told, counted");
        }
        assert!(self.heard.iter().all(|it| it.packets > 0));
        assert!(self.heard.iter().all(|it| it.src.is_none_or(|src| it.rule.prefix.contains(&src))));
    }

    fn packets(&self, action: Action) -> u64 {
        self.sum(|it| it.action == action, |it| it.packets)
    }

    fn sum(&self, which: impl Fn(&Telling) -> bool, what: impl Fn(&Telling) -> u64) -> u64 {
        self.heard.iter().filter(|it| which(it)).map(what).sum()
    }

    /// Packets by source, of those told with one.
    fn by_source(&self) -> BTreeMap<IpAddr, u64> {
        let mut sources = BTreeMap::new();
        for it in &self.heard {
            if let Some(src) = it.src {
                *sources.entry(src).or_default() += it.packets;
            }
        }
        sources
    }

    fn by_rule(&self) -> BTreeMap<RuleKey, u64> {
        let mut rules = BTreeMap::new();
        for it in &self.heard {
            *rules.entry(it.rule).or_default() += it.packets;
        }
        rules
    }

    /// First packets: only these have a destination.
    fn firsts(&self) -> impl Iterator<Item = &Telling> {
        self.heard.iter().filter(|it| it.dst.is_some())
    }
}

/// Packets and bytes of a verdict, 1 for drop and 2 for monitor, as bpftool sees them.
fn counted(world: &World, verdict: usize) -> (u64, u64) {
    let map = world.bpffs().join("v3/totals");
    let all = json(&format!("bpftool -j map dump pinned {}", map.display()));
    let cpus = all[0]["values"].as_array().expect("a list");
    let sum = |place| cpus.iter().map(|cpu| number(&cpu["value"], place, 8)).sum();
    (sum(verdict * 16), sum(verdict * 16 + 8))
}

/// A number of the host's byte order in bytes as bpftool writes them.
pub(crate) fn number(bytes: &serde_json::Value, place: usize, size: usize) -> u64 {
    let bytes = bytes.as_array().expect("bytes")[place..place + size].iter().rev();
    bytes.fold(0, |sum, byte| {
        let digits = byte.as_str().and_then(|it| it.strip_prefix("0x")).expect("a byte");
        sum << 8 | u64::from_str_radix(digits, 16).expect("a byte")
    })
}

/// Runs a frame that often.
fn send(program: &Program, frame: &[u8], repeat: u32) {
    program.run(frame, repeat);
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    Duration::from(nix::time::clock_gettime(clock).expect("a clock"))
}

/// A TCP segment of the number-th source of 10.0.0.0/8.
fn from(number: u32) -> Vec<u8> {
    frames::plain(IpAddr::from((0x0a00_0000 + number).to_be_bytes()))
}

/// Sends frames of one source after the other until it is told to stop.
fn flood(pin: &Path, sources: u32, stop: &AtomicBool) {
    let program = Program::from_pin(pin);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        send(&program, &from(number % sources), 1);
        number += 1;
    }
}

/// Sets a flag when a test is over, however it ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for the ring as tokio does, edge-triggered.
struct Wakes(Epoll);

impl Wakes {
    fn of(filter: &Filter) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(filter.ring_fd().expect("a ring"), event).expect("added");
        Self(epoll)
    }

    /// Whether it woke since the last question, or does within that time.
    fn came(&self, within: Duration) -> bool {
        let timeout = EpollTimeout::try_from(within).expect("short");
        loop {
            match self.0.wait(&mut [EpollEvent::empty()], timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                came => return came.expect("asked") > 0,
            }
        }
    }
}
