//! `cargo xtask bench flow`: events through the whole path, from kernels over agents and controller to
//! kctl: how many arrive, how late, and what that costs each process.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::UdpSocket,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, Lab, Layout, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};
use serde_json::Value;

use crate::{
    cargo::{binaries, cargo},
    packages,
};

const HOSTS: u8 = 3;
const LONG: Duration = Duration::from_secs(60);
/// How long each load lasts.
const LOAD: Duration = Duration::from_secs(5);
/// How often a lone event and a block are measured.
const ROUNDS: usize = 100;

/// Runs all of it and prints a table.
pub(crate) fn run() -> Result<()> {
    packages::ensure_lab("bench flow")?;
    let build = ["build", "--release", "--quiet", "--workspace", "--bins"];
    ensure!(cargo().args(build).status()?.success(), "the build failed");
    let mut lab = Lab::lay_out(&Layout { binaries: binaries(true)?, hosts: HOSTS })?;
    let outcome = measure(&mut lab);
    if outcome.is_err() {
        eprintln!("{}", lab.logs());
    }
    outcome
}

fn measure(lab: &mut Lab) -> Result<()> {
    let marked = lab.scratch().join("opened");
    fs::write(&marked, "")?;
    lab.start_controller()?;
    let token = lab.token(&[])?;
    for _ in 0..HOSTS {
        let agent = lab.add_host(&token)?;
        agent.daemon.arg(format!("--open-path={}", marked.display()));
        agent.daemon.arg("--events=drop,open,exec,exit,connect,accept,close,link,addr,route,neigh");
        agent.daemon.start()?;
    }
    lab.wait_in_sync(LONG)?;
    idle(lab)?;
    let marked = marked.display().to_string();
    lone(lab, &marked)?;
    blocks(lab, "on an idle fleet")?;
    load(lab, &marked, 1, 100_000)?;
    load(lab, &marked, HOSTS, 50_000)?;
    flood(lab)
}

/// Processor time and memory of the fleet's processes over some work.
struct Costs(Vec<(String, u32, Duration)>);

impl Costs {
    fn begin(lab: &mut Lab, more: &[(&str, u32)]) -> Result<Self> {
        let mut pids = vec![("controller".to_owned(), lab.controller().pid()?)];
        for host in lab.hosts() {
            pids.push((host.to_owned(), lab.agent(host)?.daemon.pid()?));
        }
        pids.extend(more.iter().map(|(name, pid)| ((*name).to_owned(), *pid)));
        let begun = pids.into_iter().map(|(name, pid)| Ok((name, pid, cpu(pid)?)));
        Ok(Self(begun.collect::<Result<_>>()?))
    }

    fn end(&self, over: Duration) -> Result<()> {
        for (name, pid, before) in &self.0 {
            // It may have ended by itself, as kctl does.
            let Ok(after) = cpu(*pid) else { continue };
            let share = (after - *before).as_secs_f64() / over.as_secs_f64() * 100.0;
            println!("  {name:<12} {share:6.2} % of a core   {:4} MiB", rss_mib(*pid)?);
        }
        Ok(())
    }
}

fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("a stat line")?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let second = sysconf(SysconfVar::CLK_TCK)?.context("a clock tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / second as f64))
}

fn rss_mib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.context("VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024)
}

fn idle(lab: &mut Lab) -> Result<()> {
    println!("== nothing happens, {} s", LOAD.as_secs());
    let costs = Costs::begin(lab, &[])?;
    let start = Instant::now();
    std::thread::sleep(LOAD);
    costs.end(start.elapsed())
}

/// A reader whose lines are thrown away, and the count that it ends with.
struct Reader(Child);

impl Reader {
    /// Starts it, and waits until it is connected: a host that joins is told to it.
    fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let args = [&["events", "-f", "-o", "jsonl"], args].concat();
        Ok(Self(lab.spawn_kctl(&args, Stdio::null(), Stdio::piped())?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What it says at its end.
    fn end(mut self) -> Result<String> {
        kill(Pid::from_raw(i32::try_from(self.0.id())?), Signal::SIGINT)?;
        let mut said = String::new();
        self.0.stderr.take().context("stderr is piped")?.read_to_string(&mut said)?;
        self.0.wait()?;
        Ok(said.trim().to_owned())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn load(lab: &mut Lab, path: &str, hosts: u8, rate: u64) -> Result<()> {
    println!("== {hosts} × {rate} opens a second, {} s", LOAD.as_secs());
    let reader = Reader::start(lab, &["--type", "open"])?;
    std::thread::sleep(Duration::from_secs(1));
    let costs = Costs::begin(lab, &[("kctl", reader.pid())])?;
    let start = Instant::now();
    let count = rate * LOAD.as_secs();
    let program = lab.binaries().join("kctl-lab-load");
    let mut loads = Vec::new();
    for at in 1..=hosts {
        let mut command = Command::new(&program);
        command.args([path, &count.to_string(), &rate.to_string()]).stdout(Stdio::null());
        loads.push(lab.spawn_on(&format!("web-{at}"), &command)?);
    }
    if hosts == 1 {
        blocks(lab, "under this load")?;
    }
    for load in &mut loads {
        let status = load.child.wait()?;
        ensure!(status.success(), "the load ended: {status}");
    }
    let took = start.elapsed();
    // What is on its way still.
    std::thread::sleep(Duration::from_secs(1));
    costs.end(took)?;
    println!(
        "  {} opens in {:.2} s; kctl: {}",
        count * u64::from(hosts),
        took.as_secs_f64(),
        reader.end()?
    );
    Ok(())
}

/// How long after it happened kctl prints a lone event.
fn lone(lab: &Lab, path: &str) -> Result<()> {
    println!("== a lone event, {ROUNDS} times");
    let mut child = lab.spawn_kctl(
        &["events", "-f", "-o", "jsonl", "--type", "open"],
        Stdio::piped(),
        Stdio::null(),
    )?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    let program = lab.binaries().join("kctl-lab-load");
    let mut late = Vec::new();
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..ROUNDS {
        let mut command = Command::new(&program);
        command.args([path, "1", "0"]);
        lab.on_host("web-1", &command)?.code(0)?;
        loop {
            let line = lines.next().context("kctl ended")??;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let event: Value = serde_json::from_str(&line)?;
            if event["type"] == "open" {
                let text = event["time"].as_str().context("a time")?;
                late.push(now.saturating_sub(since_1970(text)?).as_secs_f64() * 1e3);
                break;
            }
        }
    }
    child.kill()?;
    child.wait()?;
    println!("  from kernel to kctl's line: {}", spread(&mut late, "ms"));
    Ok(())
}

/// An RFC 3339 time in UTC, by date(1).
fn since_1970(text: &str) -> Result<Duration> {
    let output = Command::new("date").args(["-u", "+%s.%N", "-d", text]).output()?;
    Ok(Duration::from_secs_f64(String::from_utf8(output.stdout)?.trim().parse()?))
}

fn blocks(lab: &Lab, when: &str) -> Result<()> {
    let (mut whole, mut controller) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        for verb in ["block", "unblock"] {
            let args = [verb, "198.51.100.7", "--all-hosts", "-o", "json"];
            let answer = lab.kctl(&args)?.code(0)?;
            if verb == "block" {
                whole.push(answer.elapsed.as_secs_f64() * 1e3);
                let answer = answer.json()?;
                let hosts = answer["hosts"].as_array().context("hosts")?;
                let elapsed = hosts.iter().filter_map(|host| host["elapsed_ms"].as_f64());
                controller.push(elapsed.fold(0.0, f64::max));
            }
        }
    }
    println!(
        "  a block {when}: kctl {}; controller {}",
        spread(&mut whole, "ms"),
        spread(&mut controller, "ms")
    );
    Ok(())
}

fn spread(values: &mut [f64], unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 100];
    format!("median {:.2} {unit} (90 % {:.2}, most {:.2})", at(50), at(90), at(100))
}

fn flood(lab: &mut Lab) -> Result<()> {
    println!("== a flood of dropped packets on web-1, {} s", LOAD.as_secs());
    let attacker = lab.place(ATTACKER)?.v4.to_string();
    lab.kctl(&["block", &attacker, "--all-hosts"])?.code(0)?;
    let before = dropped(lab)?;
    let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let costs = Costs::begin(lab, &[])?;
    let begun = Instant::now();
    let target = lab.place("web-1")?.v4;
    lab.place(ATTACKER)?.namespace.within(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((target, 9))?;
        while begun.elapsed() < LOAD {
            for _ in 0..1_000 {
                // A full queue is no reason to stop.
                let _ = socket.send(b"x");
            }
        }
        Ok(())
    })??;
    let took = begun.elapsed();
    costs.end(took)?;
    let mut packets = 0;
    let mut count = 0;
    let total = dropped(lab)? - before;
    until("the events tell of every packet", Duration::from_secs(10), || {
        let since = format!(
            "{:.0}s",
            SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() - start + 1.0
        );
        let events = lab
            .kctl(&[
                "events", "--since", &since, "--type", "drop", "--host", "web-1", "-o", "jsonl",
            ])?
            .code(0)?;
        let drops: Vec<u64> = events
            .stdout
            .lines()
            .filter_map(|line| {
                serde_json::from_str::<Value>(line).ok()?["drop"]["packets"].as_u64()
            })
            .collect();
        (packets, count) = (drops.iter().sum::<u64>(), drops.len());
        Ok(packets >= total)
    })?;
    println!(
        "  {total} packets ({:.2} M/s), told in {count} events of {packets} packets",
        total as f64 / took.as_secs_f64() / 1e6
    );
    Ok(())
}

fn dropped(lab: &Lab) -> Result<u64> {
    let stats = lab.json(&["stats", "--host", "web-1"])?;
    stats[0]["packets"]["dropped"].as_u64().context("a drop counter")
}
