//! What telling of opened files costs those who open them and those who read it, beside a plain program
//! and its reader. `cargo xtask bench events` runs it, as root. All rows are of one run, in turns, since
//! only their ratios mean anything.

mod ours;
mod plain;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
/// How long files are opened in each.
const ROUND: Duration = Duration::from_millis(700);

/// What a reader saw, and what it took.
pub(crate) struct Read {
    pub(crate) events: u64,
    pub(crate) lost: u64,
    pub(crate) cpu: Duration,
}

/// A reader at work on a thread of its own; it ends once it is told to and nothing is left.
pub(crate) struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Read>,
}

impl Reader {
    pub(crate) fn start(work: impl FnOnce(&AtomicBool) -> Read + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        Self { stop, thread: std::thread::spawn(move || work(&theirs)) }
    }

    fn end(self) -> Read {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends")
    }
}

/// CPU time of this thread.
pub(crate) fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock").into()
}

/// What is attached, for as long as it is kept, and perhaps read.
pub(crate) struct Attached {
    pub(crate) programs: Box<dyn std::any::Any>,
    pub(crate) reader: Option<Reader>,
}

type Attach = fn() -> Attached;

/// The first is what others add to, and the plain one what ours is compared with.
const CASES: [(&str, Attach); 7] = [
    ("nothing attached", || Attached { programs: Box::new(()), reader: None }),
    ("an empty raw tracepoint", plain::empty),
    ("plain ring, woken for each record", || plain::ring(0)),
    (PLAIN, || plain::ring(64 << 10)),
    ("kctl", ours::opens),
    ("kctl, in a scope", ours::opens_in_scope),
    ("kctl, all but open and signal", ours::defaults),
];
const PLAIN: &str = "plain ring, woken every 64 KiB";

/// One round of one case.
struct Round {
    ns: f64,
    per_second: f64,
    lost: u64,
    cpu_ns: Option<f64>,
}

fn main() {
    let mut rounds: Vec<Vec<Round>> = CASES.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (case, rounds) in CASES.iter().zip(&mut rounds) {
            rounds.push(round(case.1));
        }
    }
    let median = |of: &[Round], value: fn(&Round) -> Option<f64>| {
        let mut values: Vec<_> = of.iter().filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let bare = median(&rounds[0], |it| Some(it.ns)).expect("rounds");
    let added = |of: &[Round]| median(of, |it| Some(it.ns)).expect("rounds") - bare;
    let plain = CASES.iter().position(|(name, _)| *name == PLAIN).expect("it is there");
    let plain_added = added(&rounds[plain]);
    println!(
        "\n{:<36}{:>10}{:>10}{:>12}{:>8}{:>14}",
        "openat and close", "ns added", "of plain", "events/s", "lost", "reader ns"
    );
    for ((name, _), rounds) in CASES.iter().zip(&rounds) {
        let text =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
        let per_second = median(rounds, |it| (it.per_second > 0.0).then_some(it.per_second));
        println!(
            "  {name:<34}{:>10.0}{:>10.2}{:>12}{:>8}{:>14}",
            added(rounds),
            added(rounds) / plain_added,
            per_second.map_or_else(String::new, |it| format!("{:.0}k", it / 1_000.0)),
            rounds.iter().map(|round| round.lost).sum::<u64>(),
            text(median(rounds, |it| it.cpu_ns)),
        );
    }
    println!(
        "  (bare: {bare:.0} ns; medians of {ROUNDS} rounds in turns; lost: of all rounds; all times are of a CPU)"
    );
}

#[expect(clippy::cast_precision_loss, reason = "a few millions")]
fn round(attach: Attach) -> Round {
    let Attached { programs, reader } = attach();
    // Its own time, so that whoever else runs on the machine doesn't count.
    let (begin, before) = (Instant::now(), cpu_time());
    let mut calls = 0_u64;
    while begin.elapsed() < ROUND {
        for _ in 0..1_000 {
            drop(open("/dev/null", OFlag::O_RDONLY, Mode::empty()).expect("it is there"));
        }
        calls += 1_000;
    }
    let took = cpu_time() - before;
    let read = reader.map(Reader::end);
    drop(programs);
    Round {
        ns: took.as_nanos() as f64 / calls as f64,
        per_second: read.as_ref().map_or(0.0, |it| it.events as f64 / took.as_secs_f64()),
        lost: read.as_ref().map_or(0, |it| it.lost),
        cpu_ns: read
            .filter(|it| it.events > 1_000)
            .map(|it| it.cpu.as_nanos() as f64 / it.events as f64),
    }
}
