//! One stream of three hosts, in the order of time as far as clocks allow.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, with_lab};
use serde_json::Value;

use super::support::{SOON, follow, in_order, of, on, only_opens, open};

const HOSTS: [&str; 3] = ["web-1", "web-2", "web-3"];

fn times(events: &[Value]) -> Vec<&str> {
    of(events, "open").filter_map(|event| event["time"].as_str()).collect()
}

fn all_of(lab: &mut Lab) -> Result<Vec<String>> {
    HOSTS.iter().map(|host| only_opens(lab, host, &[])).collect()
}

#[test]
fn interleaved_bursts_come_in_the_order_of_time() -> Result<()> {
    with_lab(3, |lab| {
        let paths = all_of(lab)?;
        let mut reader = follow(lab, &["--type", "open"])?;
        let mut running = Vec::new();
        for (host, path) in HOSTS.iter().zip(&paths) {
            running.push(lab.spawn_on(host, &open(lab, host, path, 2_000, 1_000)?)?);
        }
        for load in &mut running {
            ensure!(load.child.wait()?.success(), "the load failed");
        }
        let events =
            reader.wait_for("all have come", SOON, |events| of(events, "open").count() >= 6_000)?;
        assert_eq!(of(&events, "open").count(), 6_000);
        let late = of(&events, "open").filter(|event| event["late"] == true).count();
        // A busy machine may let a host wait longer than the bound; then it says so.
        let kept: Vec<Value> =
            of(&events, "open").filter(|event| event["late"] != true).cloned().collect();
        ensure!(late < 6_000 / 2, "{late} were late");
        let times = times(&kept);
        let wrong = times.windows(2).find(|pair| pair[0] > pair[1]);
        ensure!(wrong.is_none(), "{wrong:?}");
        // They really took turns.
        let hosts: Vec<_> = kept.iter().map(|event| &event["host"]).collect();
        let turns = hosts.windows(2).filter(|pair| pair[0] != pair[1]).count();
        ensure!(turns > 100, "only {turns} turns");
        HOSTS.iter().try_for_each(|host| in_order(&events, host))
    })
}

#[test]
fn a_frozen_host_does_not_hold_up_the_others() -> Result<()> {
    with_lab(3, |lab| {
        let paths = all_of(lab)?;
        let mut reader = follow(lab, &["--type", "open"])?;
        let touch = |lab: &Lab, at: usize, count| {
            lab.on_host(HOSTS[at], &open(lab, HOSTS[at], &paths[at], count, 0)?)?.code(0).map(drop)
        };
        (0..3).try_for_each(|at| touch(lab, at, 1))?;
        reader.wait_for("all are read", SOON, |events| of(events, "open").count() == 3)?;
        lab.agent("web-2")?.daemon.stop()?;
        touch(lab, 0, 10)?;
        touch(lab, 1, 5)?;
        touch(lab, 2, 10)?;
        reader.wait_for("the others go on", SOON, |events| {
            on(events, "open", "web-1").count() == 11 && on(events, "open", "web-3").count() == 11
        })?;
        let told = |events: &[Value], state: &str| {
            of(events, "host").any(|event| {
                event["host_state"]["name"] == "web-2" && event["host_state"]["state"] == state
            })
        };
        reader.wait_for("it is told that it lags or left", SOON, |events| {
            told(events, "lags") || told(events, "disconnected")
        })?;
        lab.agent("web-2")?.daemon.cont()?;
        let events = reader
            .wait_for("it catches up", SOON, |events| on(events, "open", "web-2").count() == 6)?;
        HOSTS.iter().try_for_each(|host| in_order(&events, host))
    })
}

#[test]
fn a_host_whose_clock_is_off_is_shown_as_it_says_and_marked() -> Result<()> {
    with_lab(2, |lab| {
        let ahead = only_opens(lab, "web-1", &[])?;
        let right = only_opens(lab, "web-2", &[])?;
        lab.agent_mut("web-1")?.daemon.terminate()?;
        lab.agent_mut("web-1")?.daemon.shift_clock("+60s")?;
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let mut reader = follow(lab, &["--type", "open"])?;
        reader.wait_for("its clock is told to be off", SOON, |events| {
            of(events, "host").any(|event| event["host_state"]["state"] == "clock_off")
        })?;
        for _ in 0..5 {
            for (host, path) in [("web-1", &ahead), ("web-2", &right)] {
                lab.on_host(host, &open(lab, host, path, 2, 0)?)?.code(0)?;
            }
        }
        let events =
            reader.wait_for("all have come", SOON, |events| of(events, "open").count() >= 20)?;
        assert_eq!(of(&events, "open").count(), 20);
        in_order(&events, "web-1")?;
        in_order(&events, "web-2")?;
        for event in on(&events, "open", "web-1") {
            assert_eq!(event["clock_off"], true, "{event}");
        }
        for event in on(&events, "open", "web-2") {
            assert_ne!(event["clock_off"], true, "{event}");
            assert_ne!(event["late"], true, "{event}");
        }
        let time = |host| -> Result<i64> {
            let last = on(&events, "open", host).last().context("one")?;
            let time = last["time"].as_str().context("a time")?;
            let output = Command::new("date").args(["-u", "+%s", "-d", time]).output()?;
            Ok(String::from_utf8(output.stdout)?.trim().parse()?)
        };
        let off = time("web-1")? - time("web-2")?;
        ensure!((50..=70).contains(&off), "{off}");
        Ok(())
    })
}
