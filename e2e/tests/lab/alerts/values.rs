//! Values that belong to the whole machine, which no test may press: the host reads them from files that the
//! test writes, beside processes of the kernel. And tracked connections, which are the host's own.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, Spawned, with_lab};
use serde_json::Value;

use super::support::{Disk, HOST, SOON, firing, follow, states, with_thresholds};

/// How long a value has to last. The machine may be so busy that the test's own files stand still for a
/// moment, and that must not look like a quiet processor.
const LASTING: &str = "3s";

/// A /proc of the host: that of the kernel, but with these processes alone, and with some files of the test.
struct ProcRoot {
    path: PathBuf,
}

/// What the test writes.
const OWN: [&str; 3] = ["stat", "meminfo", "pressure"];

impl ProcRoot {
    fn new(lab: &Lab) -> Result<Self> {
        let path = lab.scratch().join("proc");
        fs::create_dir_all(path.join("pressure"))?;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let name = name.to_str().context("a name")?;
            if name.parse::<u32>().is_err() && !OWN.contains(&name) {
                symlink(Path::new("/proc").join(name), path.join(name))?;
            }
        }
        let root = Self { path };
        root.shows(0, 0)?;
        Ok(root)
    }

    fn with(&self, process: &Spawned) -> Result<()> {
        let pid = process.child.id().to_string();
        Ok(symlink(Path::new("/proc").join(&pid), self.path.join(&pid))?)
    }

    /// Processors that were busy for so many ticks and rested for so many.
    fn shows(&self, busy: u64, idle: u64) -> Result<()> {
        self.write("stat", &format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\nctxt 1\nbtime 1\n"))
    }

    /// Percent of memory that is used, and of the time in which somebody waits for it.
    fn memory(&self, used: u64, waits: u64) -> Result<()> {
        let available = 10_000 * (100 - used);
        let text = format!("MemTotal: 1000000 kB\nMemFree: 0 kB\nMemAvailable: {available} kB\n");
        self.write("meminfo", &text)?;
        let rest = "avg60=0.00 avg300=0.00 total=1";
        let text = format!("some avg10={waits}.00 {rest}\nfull avg10=0.00 {rest}\n");
        self.write("pressure/memory", &text)
    }

    /// At once: who reads sees the old or the new.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let new = self.path.join(format!("new-{}", name.replace('/', "-")));
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.path.join(name))?)
    }
}

/// Processors that are busy for a part of their time, until the value is dropped.
struct Processors<'test> {
    percent: &'test AtomicU64,
    ends: &'test AtomicBool,
}

impl Drop for Processors<'_> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

impl Processors<'_> {
    fn are(&self, percent: u64) {
        self.percent.store(percent, Ordering::Relaxed);
    }
}

/// The states that were told of each value.
fn told(events: &[Value]) -> [Vec<&str>; 3] {
    ["cpu", "memory", "memory-pressure"].map(|name| states(events, name, &Value::Null))
}

#[test]
fn processors_and_memory_fire_once_with_their_causes_and_are_over_once() -> Result<()> {
    with_lab(1, |lab| {
        let root = ProcRoot::new(lab)?;
        root.memory(50, 0)?;
        let program = |text: &str| {
            let mut perl = Command::new("perl");
            perl.args(["-e", text]);
            lab.spawn_on(HOST, &perl)
        };
        let spinner = program("1 while 1")?;
        let hog = program("my $x = 'x' x (64 << 20); sleep 1000")?;
        let idle = program("sleep 1000")?;
        [&spinner, &hog, &idle].into_iter().try_for_each(|process| root.with(process))?;
        let chosen = [
            ("--alert-cpu", "90 clear 80"),
            ("--alert-memory", "90 clear 80"),
            ("--alert-memory-pressure", "20 clear 10"),
            ("--alert-disk", "90 clear 50"),
        ];
        let pids = [spinner.child.id(), hog.child.id(), hog.child.id()];
        lab.agent_mut(HOST)?.daemon.arg(format!("--proc-root={}", root.path.display()));
        with_thresholds(lab, &chosen, LASTING)?;
        let (percent, ends) = (AtomicU64::new(50), AtomicBool::new(false));
        thread::scope(|scope| {
            let processors = Processors { percent: &percent, ends: &ends };
            let ticks = scope.spawn(|| {
                let (mut busy, mut idle) = (0, 0);
                while !ends.load(Ordering::Relaxed) {
                    let part = percent.load(Ordering::Relaxed);
                    (busy, idle) = (busy + part, idle + 100 - part);
                    root.shows(busy, idle)?;
                    thread::sleep(Duration::from_millis(10));
                }
                anyhow::Ok(())
            });
            let seen = values_go_up_and_down(lab, &root, &processors, pids);
            drop(processors);
            ticks.join().expect("it does not panic")?;
            seen
        })
    })
}

fn values_go_up_and_down(
    lab: &Lab,
    root: &ProcRoot,
    processors: &Processors<'_>,
    pids: [u32; 3],
) -> Result<()> {
    const FIRING_ONCE: [&str; 1] = ["firing"];
    const OVER_ONCE: [&str; 2] = ["firing", "cleared"];
    let mut events = follow(lab)?;
    let clock = Disk::mount(lab, "clock")?;
    clock.wait_for_a_look(&mut events)?;
    assert_eq!(told(&events.events()?), [[""; 0]; 3]);
    processors.are(95);
    root.memory(95, 30)?;
    let fire = |events: &[Value]| told(events).iter().all(|it| *it == FIRING_ONCE);
    events.wait_for("all fire", SOON, fire)?;
    let rows = firing(lab)?;
    for (name, pid) in ["cpu", "memory", "memory-pressure"].into_iter().zip(pids) {
        let row = rows.iter().find(|row| row["name"] == name).context("it fires")?;
        assert_eq!((&row["cause"]["pid"], &row["cause"]["comm"]), (&pid.into(), &"perl".into()));
        ensure!(row["cause"]["value"].as_f64() > Some(0.0), "{row}");
        ensure!(row["value"].as_f64() >= row["threshold"].as_f64(), "{row}");
    }
    // To and fro within the hysteresis.
    for (percent, waits) in [(85, 15), (92, 25), (81, 11)] {
        processors.are(percent);
        root.memory(percent, waits)?;
        clock.wait_for_a_look(&mut events)?;
        assert_eq!(told(&events.events()?), [FIRING_ONCE; 3], "{percent} %");
    }
    processors.are(50);
    root.memory(50, 0)?;
    let over = |events: &[Value]| told(events).iter().all(|it| *it == OVER_ONCE);
    events.wait_for("all are over", SOON, over)?;
    clock.wait_for_a_look(&mut events)?;
    ensure!(over(&events.events()?), "{:?}", told(&events.events()?));
    Ok(())
}

/// How many connections fill the table as far as the threshold says. It has room for some hundred thousand.
const CONNECTIONS: u32 = 40;

#[test]
fn a_full_table_of_connections_fires_once_and_is_over_once() -> Result<()> {
    with_lab(1, |lab| {
        // The same for all namespaces.
        let most = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
        let most: f64 = most.context("tracked connections")?.trim().parse()?;
        let percent = |count: u32| 100.0 * f64::from(count) / most;
        // The host has a few connections of its own.
        let level = format!("{} clear {}", percent(CONNECTIONS), percent(CONNECTIONS / 2));
        let chosen = [("--alert-conntrack", level.as_str()), ("--alert-disk", "90 clear 50")];
        with_thresholds(lab, &chosen, "0s")?;
        let run = |line: &str| {
            let mut words = line.split_whitespace();
            let mut command = Command::new(words.next().context("a program")?);
            command.args(words);
            lab.on_host(HOST, &command)?.code(0)
        };
        // From then on the kernel tracks in this namespace.
        run("nft add table inet kctl_test")?;
        run("nft add chain inet kctl_test out { type filter hook output priority 0 ; }")?;
        run("nft add rule inet kctl_test out ct state invalid accept")?;
        run("conntrack -F")?;
        let connect = |ports: std::ops::Range<u32>| {
            ports.into_iter().try_for_each(|port| {
                let line = format!(
                    "conntrack -I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport {port} --dport 9 -t 3600"
                );
                run(&line).map(drop)
            })
        };
        let mut events = follow(lab)?;
        let clock = Disk::mount(lab, "clock")?;
        let of_it = |events: &[Value]| {
            let states = states(events, "conntrack", &Value::Null);
            states.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        clock.wait_for_a_look(&mut events)?;
        assert!(of_it(&events.events()?).is_empty());
        connect(1..CONNECTIONS + 1)?;
        let told = events.wait_for("it fires", SOON, |events| of_it(events) == ["firing"])?;
        let alert = told.iter().map(|it| &it["alert"]).find(|it| it["name"] == "conntrack");
        let alert = alert.context("told")?;
        ensure!(alert["cause"].is_null() && alert["unit"] == "%", "{alert}");
        ensure!(alert["value"].as_f64() >= Some(percent(CONNECTIONS)), "{alert}");
        // Within the hysteresis.
        for port in 1..CONNECTIONS / 4 {
            run(&format!("conntrack -D -p udp -s 192.0.2.1 --sport {port}"))?;
        }
        clock.wait_for_a_look(&mut events)?;
        connect(1..CONNECTIONS / 4)?;
        clock.wait_for_a_look(&mut events)?;
        assert_eq!(of_it(&events.events()?), ["firing"]);
        run("conntrack -F")?;
        events.wait_for("it is over", SOON, |events| of_it(events) == ["firing", "cleared"])?;
        Ok(())
    })
}
