//! `kctl ps` over the fleet. The hosts of the lab share one /proc, so each shows the test's processes.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Spawned, until, with_lab};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// A process of the test, killed at its end.
struct Sleeper(Spawned);

impl Sleeper {
    fn start() -> Result<Self> {
        Ok(Self(Spawned::start(Command::new("sleep").arg("1000").stdin(Stdio::null()))?))
    }
}

#[test]
fn every_host_answers_with_its_processes() -> Result<()> {
    with_lab(2, |lab| {
        let sleeper = Sleeper::start()?;
        let pid = sleeper.0.child.id();
        let mut rows = Value::Null;
        until("the process runs its program", SOON, || {
            rows = lab.json(&["ps", "--name", "sleep"])?;
            Ok(process(&rows[0], pid).is_some_and(|it| it["comm"] == "sleep"))
        })?;
        let names: Vec<_> =
            rows.as_array().context("rows")?.iter().map(|row| &row["host"]).collect();
        assert_eq!(names, ["web-1", "web-2"]);
        for row in rows.as_array().context("rows")? {
            let found = process(row, pid).with_context(|| format!("not shown: {row}"))?;
            assert_eq!(found["ppid"], std::process::id(), "{found}");
            assert_eq!(found["command"], "sleep 1000", "{found}");
            assert_eq!(found["user"], "root", "{found}");
        }
        // On the host itself the same, with no controller.
        let local = lab.kctl_on("web-1", &["ps", "-o", "json"])?.code(0)?.json()?;
        ensure!(process(&local[0], pid).is_some(), "{local}");

        let largest = lab.json(&["ps", "--sort", "rss", "--limit", "3", "--host", "web-2"])?;
        let sizes: Vec<_> = processes(&largest[0]).map(|it| it["rss_bytes"].as_u64()).collect();
        ensure!(sizes.len() == 3 && sizes.is_sorted_by(|a, b| a >= b), "{largest}");
        let table = lab.kctl(&["ps", "--name", "sleep", "-o", "wide"])?.code(0)?;
        ensure!(table.stdout.starts_with("HOST") && table.stdout.contains("sleep 1000"), "{table}");
        Ok(())
    })
}

#[test]
fn an_interval_shows_who_is_busy_now() -> Result<()> {
    with_lab(1, |lab| {
        let mut busy = Command::new("sh");
        let busy = busy.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        let busy = Sleeper(Spawned::start(busy)?);
        let pid = busy.0.child.id();
        let args = ["ps", "--sort", "cpu", "--interval", "300ms", "--name", "sh", "--limit", "5"];
        until("the busy one is among the first", SOON, || {
            let rows = lab.json(&args)?;
            let first: Vec<_> = processes(&rows[0]).collect();
            let percents: Vec<_> = first.iter().map(|it| it["cpu_percent"].as_f64()).collect();
            ensure!(percents.is_sorted_by(|a, b| a >= b), "{rows}");
            let ours = first.iter().find(|it| it["pid"] == pid);
            Ok(ours.is_some_and(|it| it["cpu_percent"].as_f64() > Some(5.0)))
        })?;
        lab.kctl(&["ps", "--interval", "6s"])?.code(2)?;
        Ok(())
    })
}

#[test]
fn a_frozen_host_costs_its_own_row_only() -> Result<()> {
    with_lab(2, |lab| {
        lab.agent_mut("web-2")?.daemon.stop()?;
        let args = ["ps", "--limit", "1", "--timeout", "1s", "-o", "jsonl"];
        let answer = lab.kctl(&args)?.code(0)?;
        let rows: Vec<Value> =
            answer.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let answered: BTreeSet<_> =
            rows.iter().map(|row| (row["host"].as_str(), row["error"]["code"].as_str())).collect();
        let expected = [(Some("web-1"), None), (Some("web-2"), Some("DEADLINE_EXCEEDED"))];
        assert_eq!(answered, expected.into(), "{answer}");
        lab.kctl(&[&args[..], &["--strict"]].concat())?.code(3)?;
        Ok(())
    })
}

fn processes(row: &Value) -> impl Iterator<Item = &Value> {
    row["processes"].as_array().into_iter().flatten()
}

fn process(row: &Value, pid: u32) -> Option<&Value> {
    processes(row).find(|process| process["pid"] == pid)
}
