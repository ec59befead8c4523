//! A large routing table through agent, controller and kctl, and what it costs the agent.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::with_lab;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const ROUTES: usize = 100_000;
/// Over what the agent had before there were any routes. The kernel's answer is 10 MB, which the agent holds
/// while it reads and sends it 500 routes at a time: 31 to 36 MiB in all, also on a busy machine. All of
/// them read at once were 61 to 70 MiB.
const MOST_GROWTH_KIB: u64 = 48 << 10;

/// A line of a process's status, KiB.
fn kib(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_hundred_thousand_routes_arrive_whole_and_cost_the_agent_little() -> Result<()> {
    with_lab(0, |lab| {
        let token = lab.token(&[])?;
        let agent = lab.add_host(&token)?;
        // What it remembers of the routes' coming is none of the answer's cost.
        agent.daemon.arg("--events=none");
        agent.daemon.start()?;
        let pid = agent.daemon.pid()?;
        lab.wait_in_sync(SOON)?;
        // From now on: what it needed to start is no part of it (proc_pid_clear_refs(5)).
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let before = kib(pid, "RssAnon:")?;
        let lines: String = (0..ROUTES)
            .map(|i| {
                format!(
                    "route add 10{}.{}.{}.0/24 dev lo table 9\n",
                    i / 62_500,
                    i / 250 % 250,
                    i % 250
                )
            })
            .collect();
        let file = lab.scratch().join("routes");
        std::fs::write(&file, lines)?;
        let mut ip = Command::new("ip");
        ip.arg("-batch").arg(&file).stdin(Stdio::null());
        lab.place("web-1")?.namespace.output(ip)?.code(0)?;
        let args = ["net", "routes", "--table", "9", "-o", "jsonl", "--timeout", "60s"];
        let answer = lab.kctl(&args)?.code(0)?;
        let row: Value = serde_json::from_str(answer.stdout.trim())?;
        let routes = row["routes"].as_array().context("routes")?;
        let distinct: BTreeSet<_> = routes.iter().map(|route| route["dst"].as_str()).collect();
        ensure!((routes.len(), distinct.len()) == (ROUTES, ROUTES), "{} routes", routes.len());
        // Without the kernel's tables that are mapped into it, and its own code.
        let after = kib(pid, "VmHWM:")? - kib(pid, "RssFile:")?;
        eprintln!("agent: {before} KiB before, {after} KiB at most; read in {:?}", answer.elapsed);
        ensure!(after - before < MOST_GROWTH_KIB, "{before} KiB before, {after} KiB at most");
        Ok(())
    })
}
