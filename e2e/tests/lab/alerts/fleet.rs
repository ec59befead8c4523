//! Thresholds of the controller, for hosts that have none of their own.

use std::fs;

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, with_lab};
use serde_json::Value;

use super::support::{Disk, SOON, follow};

/// The controller's file, and its new start with it.
fn controller_says(lab: &mut Lab, alerts: &str) -> Result<()> {
    fs::write(lab.scratch().join("controller.toml"), format!("[alerts]\n{alerts}"))?;
    lab.controller().terminate()?;
    lab.start_controller()?;
    lab.wait_in_sync(SOON).map(drop)
}

/// What was told of a file system on a host: states, and thresholds.
fn told(events: &[Value], host: &str, disk: &Disk) -> Vec<(String, f64)> {
    let of = |event: &&Value| event["host"] == host && event["alert"]["object"] == disk.object();
    let alert = |event: &Value| {
        let alert = &event["alert"];
        Some((alert["state"].as_str()?.to_owned(), alert["threshold"].as_f64()?))
    };
    events.iter().filter(of).filter_map(alert).collect()
}

#[test]
fn the_controllers_thresholds_are_those_of_hosts_without_own_ones() -> Result<()> {
    with_lab(2, |lab| {
        let file = lab.scratch().join("controller.toml");
        lab.controller().arg(format!("--config={}", file.display()));
        // One says nothing of disks, the other does.
        for (host, own) in [("web-1", None), ("web-2", Some("98 clear 50"))] {
            let daemon = &mut lab.agent_mut(host)?.daemon;
            daemon.terminate()?;
            match own {
                Some(own) => daemon.replace("--alert-disk", own)?,
                None => daemon.without("--alert-disk")?,
            }
            daemon.start()?;
        }
        controller_says(lab, "disk = \"80 clear 50\"\nfor = \"0s\"\ninterval = \"100ms\"\n")?;
        let (first, second) = (Disk::mount(lab, "first")?, Disk::mount(lab, "second")?);
        let mut events = follow(lab)?;
        let fires = |at: f64| ("firing".to_owned(), at);
        first.fill(85)?;
        let of_first = |events: &[Value]| told(events, "web-1", &first) == [fires(80.0)];
        events.wait_for("web-1 tells", SOON, of_first)?;
        second.fill(99)?;
        let both = |events: &[Value]| {
            told(events, "web-1", &second) == [fires(80.0)]
                && told(events, "web-2", &second) == [fires(98.0)]
        };
        let seen = events.wait_for("both tell", SOON, both)?;
        assert_eq!(told(&seen, "web-2", &first), [], "its own threshold is higher");

        // Another one, and none: what fires and is not looked at any more is over.
        drop(events);
        controller_says(lab, "disk = \"off\"\nfor = \"0s\"\ninterval = \"100ms\"\n")?;
        kctl_e2e::until("web-1 is silent", SOON, || {
            let host = lab.host("web-1")?;
            Ok(host["alerts"].as_array().context("a list")?.is_empty())
        })?;
        let past = lab.kctl(&["events", "--last", "1000", "--type", "alert", "-o", "jsonl"])?;
        let past = past.code(0)?.stdout;
        let past = past.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let states = told(&past, "web-1", &first);
        ensure!(states == [fires(80.0), ("cleared".to_owned(), 80.0)], "{states:?}");
        let host = lab.host("web-2")?;
        ensure!(host["alerts"][0]["threshold"] == 98.0, "{host}");

        // Nonsense is refused before anything starts.
        fs::write(lab.scratch().join("controller.toml"), "[alerts]\ndisk = \"full\"\n")?;
        lab.controller().terminate()?;
        lab.controller().start()?;
        ensure!(!lab.controller().wait(SOON)?.success(), "it starts");
        let log = lab.controller().log();
        ensure!(log.contains("alerts disk \"full\": must be off, N, or N clear M"), "{log}");
        Ok(())
    })
}
