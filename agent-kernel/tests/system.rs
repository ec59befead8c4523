//! The system against /proc read by the test itself, just before and just after.

use agent_kernel::proc::{CpuTimes, Stall, Stalls, System, cpu_times, system};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PROC: &str = "/proc";

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(PROC).join(name)).expect(name)
}

fn run(line: &[&str]) -> String {
    let output = Command::new(line[0]).args(&line[1..]).output().expect(line[0]);
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Every number of `sysinfo` that the kernel tells as such, by name, as the test reads it.
fn told() -> BTreeMap<String, f64> {
    let mut numbers = BTreeMap::new();
    let meminfo = file("meminfo");
    for (name, key) in [
        ("memory total", "MemTotal"),
        ("memory available", "MemAvailable"),
        ("memory free", "MemFree"),
        ("memory buffers", "Buffers"),
        ("memory cached", "Cached"),
        ("memory shared", "Shmem"),
        ("memory slab", "Slab"),
        ("swap total", "SwapTotal"),
        ("swap free", "SwapFree"),
    ] {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.expect(key).split_whitespace().next().expect("a value");
        numbers.insert(name.to_owned(), kib.parse::<f64>().expect("a number") * 1_024.0);
    }
    let loadavg = file("loadavg").replace('/', " ");
    let names = ["load 1", "load 5", "load 15", "load running", "load threads"];
    for (name, word) in names.into_iter().zip(loadavg.split_whitespace()) {
        numbers.insert(name.to_owned(), word.parse().expect("a number"));
    }
    for resource in ["cpu", "memory", "io"] {
        let Ok(text) = std::fs::read_to_string(format!("{PROC}/pressure/{resource}")) else {
            continue;
        };
        for line in text.lines() {
            let (kind, values) = line.split_once(' ').expect("a kind");
            for value in values.split(' ') {
                let (name, number) = value.split_once('=').expect("a value");
                let name = format!("pressure {resource} {kind} {name}");
                numbers.insert(name, number.parse().expect("a number"));
            }
        }
    }
    let cpuinfo = file("cpuinfo");
    let clocks: Vec<f64> = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("cpu MHz")?.split(": ").nth(1)?.parse().ok())
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a few processors")]
    if !clocks.is_empty() {
        numbers.insert("mhz".to_owned(), clocks.iter().sum::<f64>() / clocks.len() as f64);
    }
    let uptime = file("uptime");
    let seconds = uptime.split_whitespace().next().expect("seconds");
    numbers.insert("uptime".to_owned(), seconds.parse().expect("a number"));
    numbers
}

/// The same as the crate reads it.
#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
fn ours(system: &System) -> BTreeMap<String, f64> {
    let (memory, swap, load) = (system.memory, system.swap, system.load);
    let mut numbers: BTreeMap<_, _> = [
        ("memory total", memory.total_bytes as f64),
        ("memory available", memory.available_bytes as f64),
        ("memory free", memory.free_bytes as f64),
        ("memory buffers", memory.buffers_bytes as f64),
        ("memory cached", memory.cached_bytes as f64),
        ("memory shared", memory.shared_bytes as f64),
        ("memory slab", memory.slab_bytes as f64),
        ("swap total", swap.total_bytes as f64),
        ("swap free", swap.free_bytes as f64),
        ("load 1", load.one),
        ("load 5", load.five),
        ("load 15", load.fifteen),
        ("load running", load.running as f64),
        ("load threads", load.threads as f64),
        ("uptime", system.uptime_seconds),
    ]
    .map(|(name, number)| (name.to_owned(), number))
    .into();
    numbers.extend(system.cpus.mhz.map(|mhz| ("mhz".to_owned(), mhz)));
    let pressure = system.pressure;
    for (name, stalls) in [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)]
    {
        let Some(Stalls { some, full }) = stalls else { continue };
        for (kind, stall) in [("some", Some(some)), ("full", full)] {
            let Some(Stall { avg10_percent, avg60_percent, avg300_percent, total_us }) = stall
            else {
                continue;
            };
            for (value, number) in [
                ("avg10", avg10_percent),
                ("avg60", avg60_percent),
                ("avg300", avg300_percent),
                ("total", total_us as f64),
            ] {
                numbers.insert(format!("pressure {name} {kind} {value}"), number);
            }
        }
    }
    numbers
}

#[test]
fn every_number_is_as_proc_tells() {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut unseen: Option<BTreeMap<String, String>> = None;
    // A number that was the same before and after was so meanwhile; one that moves all the time was
    // between the two, once they only grow.
    loop {
        let before = told();
        let system = system(Path::new(PROC)).expect("a system");
        let after = told();
        let ours = ours(&system);
        assert!(before.keys().eq(ours.keys()), "{before:?} {ours:?}");
        let unseen = unseen.get_or_insert_with(|| {
            before.keys().map(|name| (name.clone(), String::new())).collect()
        });
        for (name, number) in &ours {
            let (before, after) = (before[name], after[name]);
            let grows =
                name == "uptime" || name.ends_with(" total") && name.starts_with("pressure");
            let is_so = match name.as_str() {
                // Clocks are measured anew with each reading.
                "mhz" => (number / before - 1.0).abs() < 0.2,
                _ if grows => (before..=after).contains(number),
                _ => before == *number && before == after,
            };
            if is_so {
                unseen.remove(name);
            } else if let Some(why) = unseen.get_mut(name) {
                *why = format!("{before} {number} {after}");
            }
        }
        if unseen.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "never as /proc tells: {unseen:?}");
    }
}

#[test]
fn words_and_the_moment_of_boot_are_as_other_programs_tell() {
    let system = system(Path::new(PROC)).expect("a system");
    assert_eq!(system.cpus.count.to_string(), run(&["getconf", "_NPROCESSORS_ONLN"]));
    assert_eq!(system.kernel, run(&["uname", "-r"]));
    assert_eq!(system.kernel_version, run(&["uname", "-v"]));
    let cpuinfo = file("cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.and_then(|rest| rest.split_once(": ")).map(|(_, name)| name.trim());
    assert_eq!(system.cpus.model.as_deref(), model);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    #[expect(clippy::cast_precision_loss, reason = "a time of this century")]
    let booted = system.boot_unix_ms as f64 / 1e3;
    assert!((now.as_secs_f64() - system.uptime_seconds - booted).abs() < 2.0, "{booted}");
    let bits: u64 = file("sys/kernel/tainted").trim().parse().expect("a number");
    let taint = system.taint.expect("this kernel tells");
    assert_eq!(u32::try_from(taint.len()).expect("a few"), bits.count_ones());
}

/// Shares of the time since boot, from the test's own reading of the columns of proc_stat(5).
#[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^53")]
fn shares() -> [f64; 5] {
    let stat = file("stat");
    let line = stat.lines().next().expect("a line");
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).map(|word| word.parse().expect("ticks")).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks[..8] else {
        panic!("{line}")
    };
    let parts = [user + nice, system + irq + softirq, idle, iowait, steal];
    let total: u64 = parts.iter().sum();
    parts.map(|part| 100.0 * part as f64 / total as f64)
}

#[test]
fn shares_of_the_time_are_those_of_stat() {
    let before = shares();
    let told = cpu_times(Path::new(PROC)).expect("times").since(&CpuTimes::default());
    let after = shares();
    let ours = [
        told.user_percent,
        told.system_percent,
        told.idle_percent,
        told.iowait_percent,
        told.steal_percent,
    ];
    for ((before, after), ours) in before.into_iter().zip(after).zip(ours) {
        let (low, high) = (before.min(after), before.max(after));
        // A share moves one way within a reading; the kernel's iowait may step back.
        assert!(ours > low - 0.1 && ours < high + 0.1, "{before} {ours} {after}");
    }
    // Between two readings they are 100 together.
    let begun = cpu_times(Path::new(PROC)).expect("times");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let shares = cpu_times(Path::new(PROC)).expect("times").since(&begun);
        let total = shares.user_percent
            + shares.system_percent
            + shares.idle_percent
            + shares.iowait_percent
            + shares.steal_percent;
        if total > 99.9 && total < 100.1 {
            break;
        }
        assert!(Instant::now() < deadline, "no time passes: {shares:?}");
    }
}
