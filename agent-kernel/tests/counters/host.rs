//! Page faults, switches, waits and processors, beside what the kernel counts itself.

use super::support::{Actor, World, config, open};
use agent_kernel::counters::{Histogram, Source};
use agent_kernel::trace::Scope;
use std::time::Duration;

/// Of /proc/PID/stat: minor faults, proc_pid_stat(5).
const MINFLT: usize = 9;
const PAGES: u64 = 20_000;

#[test]
fn page_faults_are_those_of_the_process() {
    let mut world = World::new(&[Source::Faults, Source::ByProcess]);
    let mut actor = Actor::new(&world.cgroup);
    let served = actor.number("stat", MINFLT);
    // mmap(2), anonymous and private, and madvise(2), never huge pages: the kernel may put them in the place of
    // small ones while the process is at it. Each page is then read into.
    let act = format!(
        "my $at = syscall(9, 0, {PAGES} * 4096, 3, 0x4022, -1, 0); \
         syscall(28, $at, {PAGES} * 4096, 15) and die; open my $zero, '<', '/dev/zero'; \
         syscall(0, fileno $zero, $at + 4096 * $_, 1) for 0 .. {PAGES} - 1"
    );
    let counted = world.of(|| actor.does(&act));
    let served = actor.number("stat", MINFLT) - served;
    let faults = counted.faults.expect("counted");
    let own = counted.processes.expect("counted").processes[&actor.pid()];
    assert_eq!(faults.kernel, Some(own.kernel_faults));
    assert_eq!(faults.user, Some(own.user_faults));
    // read(2) touches each page in the kernel.
    assert!((PAGES..PAGES + 200).contains(&own.kernel_faults), "{own:?}, {served} served");
    let raised = own.kernel_faults + own.user_faults;
    assert!(raised.abs_diff(served) < 100, "{raised} raised, {served} served");
    assert!(faults.served >= served, "{faults:?}, {served}");
    let counted = world.of(|| actor.does("my $x = 'x' x (64 << 20)"));
    let own = counted.processes.expect("counted").processes[&actor.pid()];
    assert!(own.user_faults > 0, "{own:?}");
}

#[test]
fn switches_are_those_of_the_process() {
    let mut world = World::new(&[Source::Switches, Source::ByProcess]);
    let mut actor = Actor::new(&world.cgroup);
    let own = |actor: &Actor| {
        let number = |key| actor.status(key).parse::<u64>().expect("a number");
        number("voluntary_ctxt_switches:") + number("nonvoluntary_ctxt_switches:")
    };
    actor.rests();
    let before = own(&actor);
    let counted = world.of(|| {
        actor.does("select undef, undef, undef, 0.0001 for 1 .. 2_000");
        actor.rests();
    });
    let switches = own(&actor) - before;
    assert!(switches >= 2_000);
    let table = counted.processes.expect("counted").processes;
    assert_eq!(table[&actor.pid()].switches, switches);
    assert_eq!(counted.switches, Some(switches));
}

#[test]
fn the_hosts_switches_are_those_of_procfs() {
    let mut counters = open(&config([Source::Switches], Scope::Host));
    let ctxt = || {
        let stat = std::fs::read_to_string("/proc/stat").expect("procfs");
        let line = stat.lines().find_map(|line| line.strip_prefix("ctxt ")).expect("a line");
        line.parse::<u64>().expect("a number")
    };
    let before = ctxt();
    let switches = counters.read().expect("a reading").counted.switches.expect("counted");
    assert!((before..=ctxt()).contains(&switches));
}

#[test]
fn the_hosts_page_faults_are_those_of_procfs() {
    let mut counters = open(&config([Source::Faults], Scope::Host));
    let vmstat = || {
        let vmstat = std::fs::read_to_string("/proc/vmstat").expect("procfs");
        ["pgfault ", "pgmajfault "].map(|name| {
            let line = vmstat.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            line.parse::<u64>().expect("a number")
        })
    };
    let before = vmstat();
    let faults = counters.read().expect("a reading").counted.faults.expect("counted");
    let after = vmstat();
    for (at, counted) in [faults.served, faults.major].into_iter().enumerate() {
        assert!((before[at]..=after[at]).contains(&counted), "{before:?}, {faults:?}, {after:?}");
    }
}

#[test]
fn waits_for_a_processor_are_what_the_scheduler_counts() {
    let mut counters = open(&config([Source::RunQueue], Scope::Host));
    let world = World::new(&[Source::Switches]);
    let mut actors = [Actor::new(&world.cgroup), Actor::new(&world.cgroup)];
    for actor in &actors {
        let args = ["-pc", "0", &actor.pid().to_string()];
        let set = std::process::Command::new("taskset").args(args).output().expect("taskset");
        assert!(set.status.success());
    }
    actors.iter().for_each(Actor::rests);
    // proc(5), schedstat: time on a processor, time waiting for one, number of turns.
    let of = |at| actors.iter().map(|actor| actor.number("schedstat", at)).sum::<u64>();
    let (waited, turns) = (of(1), of(2));
    let before = counters.read().expect("a reading");
    for actor in &mut actors {
        actor.begins("my $end = (times)[0] + 0.3; 1 while (times)[0] < $end");
    }
    actors.iter_mut().for_each(Actor::ends);
    actors.iter().for_each(Actor::rests);
    let counted = counters.read().expect("a reading").since(&before).1;
    let of = |at| actors.iter().map(|actor| actor.number("schedstat", at)).sum::<u64>();
    let (waited, turns) = (of(1) - waited, of(2) - turns);
    let histogram = counted.run_queue.expect("counted");
    assert!(waited > 100_000_000, "one waits while the other runs: {waited}");
    // All of the host's are in it. A turn without a wait is none.
    assert!(histogram.iter().sum::<u64>() + 10 >= turns, "{turns} turns, {histogram:?}");
    assert!(longest(&histogram) >= waited, "{waited} ns, {histogram:?}");
}

/// What they took together, at most.
fn longest(histogram: &Histogram) -> u64 {
    histogram.iter().enumerate().map(|(bucket, count)| count << (bucket + 1)).sum()
}

/// Ticks in which processors did anything, of /proc/stat: user, nice, system, interrupts of both kinds.
fn busy_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("procfs");
    let numbers = stat.lines().next().expect("a line").split_whitespace().skip(1);
    let numbers: Vec<u64> = numbers.map(|it| it.parse().expect("a number")).collect();
    [0, 1, 2, 5, 6].map(|column| numbers[column]).iter().sum()
}

#[test]
fn processors_are_busy_as_long_as_procfs_says() {
    let mut counters = open(&config([Source::Cpu], Scope::Host));
    let outer = busy_ticks();
    let before = counters.read().expect("a reading");
    let inner = busy_ticks();
    let spent = || {
        let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
        Duration::from(nix::time::clock_gettime(clock).expect("the clock"))
    };
    let (begin, burn) = (spent(), Duration::from_millis(500));
    while spent() - begin < burn {}
    let inner = busy_ticks() - inner;
    let cpu = counters.read().expect("a reading").since(&before).1.cpu.expect("counted");
    let outer = busy_ticks() - outer;
    let tick = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).expect("known");
    let tick_ns = 1_000_000_000 / u64::try_from(tick.expect("known")).expect("positive");
    assert!((inner..=outer).contains(&(cpu.busy_ns / tick_ns)), "{cpu:?}, {inner} to {outer}");
    // A kernel that looks at each tick who runs is right only on the whole.
    assert!(u128::from(cpu.busy_ns) >= burn.as_nanos() / 2, "{cpu:?}");
    if let Some(pmu) = cpu.pmu {
        assert!(pmu.cycles > 0 && pmu.instructions > 0, "{pmu:?}");
    }
}
