//! What counting costs those who are counted: a loop of the cheapest system call beside an empty program,
//! and a workload like that of a build beside nothing. `cargo xtask bench counters` runs it, as root. All
//! rows are of one run, in turns, since only their ratios mean anything.

use agent_kernel::counters::{Counters, CountersConfig, Source};
use agent_kernel::trace::Scope;
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::getppid;
use std::any::Any;
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;
/// How long the loop runs in each.
const ROUND: Duration = Duration::from_millis(300);
/// How often the workload runs with each, and bare before and after.
const PAIRS: usize = 31;
/// Files that the workload compiles.
const FILES: usize = 8;

type Attach = fn() -> Box<dyn Any>;

/// The first is bare, and the second what ours are compared with.
const LOOPS: [(&str, Attach); 7] = [
    ("nothing attached", || Box::new(())),
    ("an empty raw tracepoint", || Box::new(empty())),
    ("kctl, system calls in all", || Box::new(ours(&[Source::Syscalls], Scope::Host))),
    ("kctl, by number", || Box::new(ours(&[Source::Syscalls, Source::BySyscall], Scope::Host))),
    ("kctl, by number and process", || Box::new(ours(&SYSCALLS, Scope::Host))),
    ("kctl, the same in a scope", || Box::new(ours(&SYSCALLS, Scope::Cgroup("/".into())))),
    ("kctl, everything", || Box::new(everything())),
];
const SYSCALLS: [Source; 3] = [Source::Syscalls, Source::BySyscall, Source::ByProcess];

/// The first shows what the measure is worth.
const BUILDS: [(&str, Attach); 5] = [
    ("nothing attached", || Box::new(())),
    ("an empty raw tracepoint", || Box::new(empty())),
    ("kctl, everything but system calls", || {
        let sources: Vec<_> = Source::all()
            .filter(|source| !matches!(source, Source::Syscalls | Source::BySyscall))
            .collect();
        Box::new(ours(&sources, Scope::Host))
    }),
    ("kctl, system calls by number and process", || Box::new(ours(&SYSCALLS, Scope::Host))),
    ("kctl, everything", || Box::new(everything())),
];

fn main() {
    println!("\n{:<38}{:>10}{:>12}{:>14}", "getppid", "ns a call", "ns added", "of the empty");
    let medians = in_turns(&LOOPS, getppid_ns);
    for ((name, _), ns) in LOOPS.iter().zip(&medians) {
        let added = ns - medians[0];
        println!("  {name:<36}{ns:>10.1}{added:>12.1}{:>14.3}", ns / medians[1]);
    }
    let folder = Folder::new();
    println!("\n{:<38}{:>10}{:>12}", "compiling small files", "CPU ms", "of bare");
    for (name, attach) in BUILDS {
        let mut rounds: Vec<(f64, f64)> = (0..PAIRS).map(|_| pair(&folder, attach)).collect();
        rounds.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (bare, ms) = rounds[PAIRS / 2];
        println!("  {name:<36}{ms:>10.2}{:>12.4}", ms / bare);
    }
    println!(
        "  (medians of {ROUNDS} rounds in turns, and of {PAIRS} pairs; all times are of a CPU)"
    );
}

/// The median of each case.
fn in_turns(cases: &[(&str, Attach)], measure: fn() -> f64) -> Vec<f64> {
    let mut rounds: Vec<Vec<f64>> = cases.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        // Not always in the same order: whoever comes first may have it harder.
        for at in 0..cases.len() {
            let at = (at + round) % cases.len();
            let attached = cases[at].1();
            rounds[at].push(measure());
            drop(attached);
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    rounds.iter_mut().map(median).collect()
}

#[expect(clippy::cast_precision_loss, reason = "some millions")]
fn getppid_ns() -> f64 {
    // Its own time, so that whoever else runs on the machine doesn't count.
    let (begin, before) = (Instant::now(), cpu_time());
    let mut calls = 0_u64;
    while begin.elapsed() < ROUND {
        for _ in 0..10_000 {
            std::hint::black_box(getppid());
        }
        calls += 10_000;
    }
    (cpu_time() - before).as_nanos() as f64 / calls as f64
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock").into()
}

/// What the workload takes bare, before and after, and with something attached, milliseconds. What was
/// just attached or taken off is left to settle.
fn pair(folder: &Folder, attach: Attach) -> (f64, f64) {
    let settled_ms = || {
        folder.build_ms(1);
        folder.build_ms(FILES)
    };
    let before = settled_ms();
    let attached = attach();
    let with = settled_ms();
    drop(attached);
    ((before + settled_ms()) / 2.0, with)
}

/// Small files of C.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for file in 0..FILES {
            let code = format!(
                "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\
                 int f{file}(const char *x) {{ printf(\"%s\", x); return strlen(x) + atoi(x); }}\n"
            );
            std::fs::write(folder.path().join(format!("{file}.c")), code).expect("written");
        }
        Self(folder)
    }

    /// As make(1) does it: for each file a shell that runs the compiler, which runs others.
    fn build_ms(&self, files: usize) -> f64 {
        let spent = || {
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it is there");
            let seconds = |time: nix::sys::time::TimeVal| {
                time.tv_sec() as f64 + time.tv_usec() as f64 / 1_000_000.0
            };
            seconds(usage.user_time()) + seconds(usage.system_time())
        };
        let before = spent();
        for file in 0..files {
            let line = format!("cc -O1 -c {file}.c -o {file}.o; true");
            let mut sh = Command::new("sh");
            let status = sh.args(["-c", &line]).current_dir(self.0.path()).status();
            assert!(status.expect("sh").success());
        }
        1_000.0 * (spent() - before)
    }
}

fn empty() -> Ebpf {
    let object = aya::include_bytes_aligned!("../events/opens.bpf.o");
    let mut ebpf = EbpfLoader::new().load(object).expect("root: the programs");
    let program: &mut RawTracePoint =
        ebpf.program_mut("empty").expect("it is there").try_into().expect("a raw tracepoint");
    program.load().expect("loaded");
    program.attach("sys_enter").expect("attached");
    ebpf
}

fn everything() -> Counters {
    let all: Vec<_> = Source::all().collect();
    ours(&all, Scope::Host)
}

fn ours(sources: &[Source], scope: Scope) -> Counters {
    let config = CountersConfig {
        sources: sources.iter().copied().collect(),
        scope,
        max_processes: 8_192,
        proc_root: "/proc".into(),
        sys_root: "/sys".into(),
        bpffs: None,
    };
    let (counters, missing) = Counters::open(&config).expect("root: the programs");
    assert_eq!(missing, []);
    counters
}
