//! `kctl perf` over the fleet: each host counts the processes of its own cgroup, since they share a kernel.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, with_lab};
use serde_json::Value;

const HOSTS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// Generous: debug builds, and a machine that may be busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Makes so many calls of getppid(2) as a process of a host.
fn call(lab: &Lab, host: &str, calls: u64) -> Result<()> {
    let mut perl = Command::new("perl");
    perl.args(["-e", &format!("syscall(110) for 1 .. {calls}")]);
    lab.on_host(host, &perl)?.code(0).map(drop)
}

/// How many calls of getppid(2) each host has counted.
fn counted(lab: &Lab) -> Result<Vec<u64>> {
    let rows = lab.json(&["perf", "--syscalls", "getppid", "--interval", "100ms"])?;
    let rows = rows.as_array().context("an array")?;
    let total = |row: &Value| {
        ensure!(row["by_syscall"][0]["name"] == "getppid", "{row}");
        row["by_syscall"][0]["calls"]["total"].as_u64().with_context(|| row.to_string())
    };
    rows.iter().map(total).collect()
}

#[test]
fn every_call_is_counted_once_on_its_host_also_by_an_agent_that_comes_again() -> Result<()> {
    with_lab(3, |lab| {
        let before = counted(lab)?;
        for (host, calls) in HOSTS.iter().zip([1_000, 20_000, 300_000]) {
            call(lab, host, calls)?;
        }
        let since = |after: &[u64]| -> Vec<u64> {
            after.iter().zip(&before).map(|(after, before)| after - before).collect()
        };
        assert_eq!(since(&counted(lab)?), [1_000, 20_000, 300_000]);

        // While no agent runs the kernel counts on, also for one that was asked to end.
        lab.agent_mut("web-1")?.daemon.terminate()?;
        lab.agent_mut("web-2")?.daemon.kill9()?;
        call(lab, "web-1", 200)?;
        call(lab, "web-2", 70_000)?;
        for host in ["web-1", "web-2"] {
            lab.agent_mut(host)?.daemon.start()?;
        }
        lab.wait_in_sync(SOON)?;
        call(lab, "web-2", 500)?;
        assert_eq!(since(&counted(lab)?), [1_200, 90_500, 300_000]);

        let removed = lab.agent("web-3")?.bpffs().to_owned();
        lab.agent_mut("web-3")?.daemon.terminate()?;
        let said = lab.kctl_agent("web-3", &["detach"])?.code(0)?;
        ensure!(said.stdout.contains("removed map counters_cpu"), "{said}");
        ensure!(said.stdout.contains("removed counting program sys_enter"), "{said}");
        ensure!(!removed.exists(), "{}", removed.display());
        Ok(())
    })
}

#[test]
fn rates_are_told_interval_by_interval_and_a_dead_host_is_a_row() -> Result<()> {
    with_lab(3, |lab| {
        let mut busy = Command::new("perl");
        busy.args(["-e", "while (1) { syscall(110); $x = 'x' x (1 << 20) if !($i++ % 1000) }"]);
        let busy = lab.spawn_on("web-2", &busy)?;

        // Lines, until Ctrl-C.
        let mut lines = lab.lines(&["perf", "--interval", "200ms", "--by", "process"])?;
        let whole = |lines: &[Value]| {
            HOSTS.iter().all(|host| lines.iter().filter(|it| it["host"] == **host).count() >= 3)
        };
        lines.wait_for("three intervals of each host", SOON, whole)?;
        let (told, said, status) = lines.interrupt()?;
        ensure!(status.success() && said.is_empty(), "{status}: {said}");
        let of = |host: &'static str| told.iter().filter(move |it| it["host"] == host);
        let last = of("web-2").next_back().context("a line")?;
        let top = &last["by_process"][0];
        assert_eq!(
            (&top["pid"], &top["name"]),
            (&busy.child.id().into(), &"perl".into()),
            "{last}"
        );
        ensure!(top["syscalls"]["per_second"].as_f64() > Some(1_000.0), "{last}");
        ensure!(last["scope"].as_str().is_some_and(|it| it.starts_with("cgroup:/")), "{last}");
        ensure!(last["missing"].as_array().is_some_and(Vec::is_empty), "{last}");
        // Of a host are only its own processes, and totals only grow.
        for line in of("web-1") {
            assert_eq!(line["by_process"].as_array().map(Vec::len), Some(0), "{line}");
        }
        let totals: Vec<_> = of("web-2").map(|it| it["syscalls"]["total"].as_u64()).collect();
        ensure!(totals.is_sorted() && totals[0].is_some(), "{totals:?}");

        // A document, and tables.
        let rows = lab.json(&["perf", "--interval", "200ms", "--count", "2"])?;
        assert_eq!(rows.as_array().map(Vec::len), Some(6), "{rows}");
        for key in ["syscalls", "faults", "switches", "cpu", "run_queue", "block", "tcp"] {
            ensure!(rows[0][key].is_object(), "{key}: {}", rows[0]);
        }
        let yaml = lab.kctl(&["perf", "--interval", "100ms", "-o", "yaml"])?.code(0)?;
        ensure!(yaml.stdout.contains("host: web-3"), "{yaml}");
        let args = ["perf", "--interval", "200ms", "--count", "1"];
        let with = |more: &[&'static str]| [&args[..], more].concat();
        let table = lab.kctl(&with(&[]))?.code(0)?;
        ensure!(
            table.stdout.lines().count() == 6 && table.stdout.contains("SYSCALLS/S"),
            "{table}"
        );
        let wide = lab.kctl(&with(&["-o", "wide", "--host", "web-2"]))?.code(0)?;
        ensure!(wide.stdout.contains("web-2: wait for a processor"), "{wide}");
        let calls = lab.kctl(&with(&["--by", "syscall", "--top", "1"]))?.code(0)?;
        ensure!(calls.stdout.contains("getppid"), "{calls}");
        let pid = busy.child.id().to_string();
        let of_pid = [&args[..], &["--pid", &pid, "--host", "web-2"]].concat();
        let process = lab.kctl(&of_pid)?.code(0)?;
        ensure!(process.stdout.contains(&pid) && process.stdout.contains("(others)"), "{process}");

        // The same read again and again, in a pipe one after the other.
        let mut again = lab.lines(&["hosts", "--watch=100ms"])?;
        again.wait_for("three looks", SOON, |lines| lines.len() >= 9)?;
        let (_, said, status) = again.interrupt()?;
        ensure!(status.success() && said.is_empty(), "{status}: {said}");
        for refused in ["block 10.0.0.5 --all-hosts", "perf", "cpufreq --governor a --all-hosts"] {
            let args: Vec<_> = refused.split(' ').chain(["--watch"]).collect();
            lab.kctl(&args)?.code(2)?.stderr_says("watch")?;
        }

        // Hosts without the process, without the counter, and dead.
        let none = lab.kctl(&with(&["--pid", "4194303"]))?.code(1)?;
        ensure!(none.stdout.contains("process 4194303: there is none"), "{none}");
        lab.kctl(&with(&["--syscalls", "raed"]))?.code(1)?;
        let daemon = &mut lab.agent_mut("web-1")?.daemon;
        daemon.terminate()?;
        daemon.arg("--counters=tcp,faults");
        daemon.start()?;
        lab.wait_in_sync(SOON)?;
        lab.agent_mut("web-3")?.daemon.kill9()?;
        let rows = lab.json(&with(&["--by", "syscall"]))?;
        let row = |host: &str| {
            let mut rows = rows.as_array().into_iter().flatten();
            rows.find(|row| row["host"] == host).cloned().unwrap_or_default()
        };
        assert_eq!(row("web-1")["error"]["code"], "FAILED_PRECONDITION", "{rows}");
        assert_eq!(row("web-3")["error"]["code"], "UNAVAILABLE", "{rows}");
        ensure!(row("web-2")["by_syscall"].is_array(), "{rows}");
        let partial = lab.kctl(&with(&["--strict"]))?.code(3)?;
        ensure!(partial.stdout.contains("not connected"), "{partial}");
        let rows = lab.json(&with(&["--host", "web-1"]))?;
        ensure!(rows[0]["syscalls"].is_null() && rows[0]["tcp"].is_object(), "{rows}");
        Ok(())
    })
}

#[test]
fn a_host_that_comes_back_or_joins_is_shown_by_a_perf_that_runs() -> Result<()> {
    with_lab(2, |lab| {
        let mut lines = lab.lines(&["perf", "--interval", "200ms"])?;
        let told = |lines: &[Value], host: &str| {
            lines.iter().filter(|it| it["host"] == host && it["error"].is_null()).count()
        };
        let failed = |lines: &[Value], host: &str| {
            lines.iter().filter(|it| it["host"] == host && it["error"].is_object()).count()
        };
        let both = |lines: &[Value]| HOSTS[..2].iter().all(|host| told(lines, host) >= 2);
        lines.wait_for("both hosts", SOON, both)?;

        // One dies, and comes back; the other goes on.
        lab.agent_mut("web-2")?.daemon.kill9()?;
        lines.wait_for("web-2 is away", SOON, |lines| failed(lines, "web-2") == 1)?;
        let before = lines.events()?;
        lab.agent_mut("web-2")?.daemon.start()?;
        let goes_on = |lines: &[Value]| {
            HOSTS[..2].iter().all(|host| told(lines, host) >= told(&before, host) + 3)
        };
        lines.wait_for("both hosts again", SOON, goes_on)?;

        // One freezes, and goes on.
        lab.agent("web-2")?.daemon.stop()?;
        lines.wait_for("web-2 is silent", SOON, |lines| failed(lines, "web-2") >= 2)?;
        let before = lines.events()?;
        lab.agent("web-2")?.daemon.cont()?;
        let goes_on = |lines: &[Value]| {
            HOSTS[..2].iter().all(|host| told(lines, host) >= told(&before, host) + 3)
        };
        lines.wait_for("both hosts again", SOON, goes_on)?;

        // All of them end as they are asked to, and come back; and one more.
        for host in &HOSTS[..2] {
            lab.agent_mut(host)?.daemon.terminate()?;
        }
        let before = lines.wait_for("all are away", SOON, |lines| {
            let last = |host| lines.iter().rfind(|it| it["host"] == host);
            HOSTS[..2].iter().all(|host| last(*host).is_some_and(|it| it["error"].is_object()))
        })?;
        for host in &HOSTS[..2] {
            lab.agent_mut(host)?.daemon.start()?;
        }
        lab.join_hosts(1)?;
        let all =
            |lines: &[Value]| HOSTS.iter().all(|host| told(lines, host) >= told(&before, host) + 3);
        lines.wait_for("all three", SOON, all)?;
        let (_, said, status) = lines.interrupt()?;
        ensure!(status.success() && said.is_empty(), "{status}: {said}");
        Ok(())
    })
}
