//! What counting costs those who are counted: a loop of the cheapest system call beside an empty program,
//! and a workload like that of a build beside nothing. `cargo xtask bench counters` runs it, as root. All
//! rows are of one run, in turns, since only their ratios mean anything.

use agent_kernel::counters::{Counters, CountersConfig, Source};
use agent_kernel::trace::Scope;
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getppid};
use std::any::Any;
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 61;
/// How long the loop runs in each.
const ROUND: Duration = Duration::from_millis(40);
/// How often the workload runs with each, and bare before and after.
const BUILD_ROUNDS: usize = 60;
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
const BUILDS: [(&str, Attach); 3] = [
    ("nothing attached", || Box::new(())),
    ("kctl, everything but system calls", || {
        let sources: Vec<_> = Source::all()
            .filter(|source| !matches!(source, Source::Syscalls | Source::BySyscall))
            .collect();
        Box::new(ours(&sources, Scope::Host))
    }),
    ("kctl, everything", || Box::new(everything())),
];

fn main() {
    println!("\n{:<50}{:>28}", "", "of an empty raw tracepoint's");
    println!("{:<38}{:>10}{:>12}{:>10}{:>10}", "getppid", "ns a call", "ns added", "call", "added");
    let least = in_turns(&LOOPS, getppid_ns);
    let (bare, empty) = (least[0], least[1]);
    for ((name, _), ns) in LOOPS.iter().zip(&least) {
        let added = ns - bare;
        let of_added = added / (empty - bare);
        println!("  {name:<36}{ns:>10.1}{added:>12.1}{:>10.3}{of_added:>10.2}", ns / empty);
    }
    println!(
        "  (the least of {ROUNDS} rounds in turns, each {ROUND:?} of the loop's own processor time: what else \
         runs on the machine, or counts its system calls, only ever adds)"
    );
    builds();
}

/// Each round has the workload bare, twice with something attached, and bare again: what drifts slowly is the
/// same for both.
fn builds() {
    stay_on_one_processor();
    let folder = Folder::new();
    let mut ratios = BUILDS.map(|_| Vec::new());
    let mut bare_ms = Vec::new();
    for _ in 0..BUILD_ROUNDS {
        for ((_, attach), ratios) in BUILDS.iter().zip(&mut ratios) {
            let first = folder.settled_ms();
            let attached = attach();
            let with = folder.settled_ms() + folder.settled_ms();
            drop(attached);
            let bare = first + folder.settled_ms();
            ratios.push(with / bare);
            bare_ms.push(bare / 2.0);
        }
    }
    println!("\n{:<38}{:>12}{:>22}", "compiling small files", "of bare", "with 95 % certainty");
    for ((name, _), ratios) in BUILDS.iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        let [low, middle, high] = median(ratios);
        println!("  {name:<36}{middle:>12.4}{:>22}", format!("{low:.4} to {high:.4}"));
    }
    bare_ms.sort_by(f64::total_cmp);
    let [_, bare_ms, _] = median(&bare_ms);
    println!(
        "  (medians of {BUILD_ROUNDS} rounds in turns; user and system time of {FILES} compilations, \
         {bare_ms:.0} ms bare, on one processor)"
    );
}

/// The middle of what is sorted, between the ends of what it is with 95 % certainty, whatever the distribution:
/// as many lie below the true one as heads fall of as many coins.
fn median(sorted: &[f64]) -> [f64; 3] {
    let (count, middle) = (sorted.len(), sorted.len() / 2);
    // 1.96 times half the root.
    let wide = (98 * (100 * count).isqrt()) / 1_000;
    let at = |place: usize| sorted[place.min(count - 1)];
    [at(middle.saturating_sub(wide)), at(middle), at(middle + wide)]
}

/// Ours and our children's: what it costs to change it is not what is measured.
fn stay_on_one_processor() {
    let mut cpus = CpuSet::new();
    cpus.set(0).expect("it is a number");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("processor 0");
}

/// The least of each case.
fn in_turns(cases: &[(&str, Attach)], measure: fn() -> f64) -> Vec<f64> {
    let mut least = vec![f64::INFINITY; cases.len()];
    for round in 0..ROUNDS {
        // Not always in the same order: whoever comes first may have it harder.
        for at in 0..cases.len() {
            let at = (at + round) % cases.len();
            let attached = cases[at].1();
            least[at] = least[at].min(measure());
            drop(attached);
        }
    }
    least
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

    /// What was just attached or taken off is left to settle first.
    fn settled_ms(&self) -> f64 {
        self.build_ms(1);
        self.build_ms(FILES)
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
