//! `cargo xtask bench feeds`: how long a feed takes from a file to three kernels, and what it costs.
//!
//! Real programs, built with optimization, in the lab of the end-to-end tests: a controller, three
//! agents with their kernels' filters, kctl as a process.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, Layout};

use crate::{
    cargo::{binaries, cargo},
    packages,
};

const HOSTS: u8 = 3;
const SIZES: [u32; 3] = [10_000, 100_000, 1_000_000];
/// Room for the largest feed and what a swap puts beside it.
const MAX_ENTRIES: u32 = 1_310_720;
const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// Builds, lays the lab out, imports and swaps.
pub(crate) fn run() -> Result<()> {
    packages::ensure_lab("bench feeds")?;
    let mut build = cargo();
    build.args(["build", "--release", "-p", "kctl", "-p", "kctl-agent", "-p", "kctl-controller"]);
    ensure!(build.status().context("cargo build")?.success(), "the build failed");
    let mut lab = Lab::lay_out(&Layout { binaries: binaries(true)?, hosts: HOSTS })?;
    let outcome = measure(&mut lab);
    if outcome.is_err() {
        eprintln!("{}", lab.logs());
    }
    outcome
}

fn measure(lab: &mut Lab) -> Result<()> {
    lab.start_controller()?;
    let token = lab.token(&[])?;
    for _ in 0..HOSTS {
        let agent = lab.add_host(&token)?;
        agent.daemon.arg("--max-entries");
        agent.daemon.arg(MAX_ENTRIES.to_string());
        agent.daemon.start()?;
    }
    lab.wait_in_sync(STARTED_WITHIN)?;
    println!(
        "{:<28}{:>9}{:>11}  {:>22}  {:>22}",
        "feed of", "kctl", "last host", "controller", "an agent"
    );
    for size in SIZES {
        let first = feed(lab.scratch(), size, 0)?;
        let swapped = feed(lab.scratch(), size, size / 10)?;
        row(lab, &format!("{size} new"), &first)?;
        for round in 1..=3 {
            let file = if round % 2 == 1 { &swapped } else { &first };
            row(lab, &format!("{size}, a tenth changed"), file)?;
        }
        row(lab, &format!("{size}, nothing changed"), &swapped)?;
        row(lab, &format!("{size} gone"), Path::new("/dev/null"))?;
    }
    Ok(())
}

/// A file of `size` addresses all over IPv4, of which the first `changed` are others each time.
fn feed(folder: &Path, size: u32, changed: u32) -> Result<PathBuf> {
    let path = folder.join(format!("feed-{size}-{changed}"));
    let mut text = String::new();
    for n in 0..size {
        let n = if n < changed { n + size } else { n };
        // An odd factor is a permutation of all addresses; the lab's own are in 10.78.0.0/16.
        let address = Ipv4Addr::from(n.wrapping_mul(2_654_435_761));
        let own = matches!(address.octets(), [10 | 127, ..]);
        let address = if own { Ipv4Addr::from(u32::from(address) ^ 0x4000_0000) } else { address };
        writeln!(text, "{address}")?;
    }
    fs::write(&path, text)?;
    Ok(path)
}

/// Imports a file and prints a line: kctl from its start to its end, the time from the controller's
/// commit to the last host's answer; then processor time for it and resident memory after it.
fn row(lab: &mut Lab, what: &str, file: &Path) -> Result<()> {
    let file = file.display().to_string();
    let args = ["blocklist", "import", "--name", "bench", "--file", &file, "--all-hosts"];
    let more = ["--timeout", "60s", "--allow-empty", "-o", "json"];
    let pids = [lab.controller().pid()?, lab.agent("web-1")?.daemon.pid()?];
    let before = [cpu_ms(pids[0])?, cpu_ms(pids[1])?];
    let import = lab.kctl(&[&args[..], &more].concat())?.code(0)?;
    let answer = import.json()?;
    let hosts = answer["hosts"].as_array().context("hosts")?;
    let elapsed = hosts.iter().filter_map(|host| host["elapsed_ms"].as_f64());
    let last_ms = elapsed.reduce(f64::max).context("elapsed_ms")?;
    let whole_ms = import.elapsed.as_secs_f64() * 1e3;
    print!("{what:<28}{whole_ms:>6.0} ms{last_ms:>8.0} ms");
    for (pid, before) in pids.into_iter().zip(before) {
        let (cpu, memory) = (cpu_ms(pid)? - before, resident_mib(pid)?);
        print!("  {cpu:>6} ms CPU{memory:>5} MiB");
    }
    println!();
    Ok(())
}

/// Processor time of a process so far, milliseconds (proc_pid_stat(5)).
fn cpu_ms(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("comm")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    // USER_HZ is 100 wherever Linux runs.
    Ok(ticks.sum::<Result<u64, _>>()? * 10)
}

fn resident_mib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
}
