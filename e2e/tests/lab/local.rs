//! One host without the controller: the agent's socket, entries of its own, and taking the filter
//! off.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, Lab, ping, until, with_lab, xdp_programs};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_local_entry_stays_on_its_host_and_survives_convergence_and_restart() -> Result<()> {
    with_lab(2, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        let answer = lab.kctl_on("web-1", &["block", &attacker, "-o", "json"])?.code(0)?.json()?;
        assert_eq!(answer["hosts"][0]["host"], "web-1", "{answer}");
        assert_eq!(answer["hosts"][0]["status"], "applied", "{answer}");
        assert_eq!(reachable(lab)?, [false, true]);

        // The controller shows it and leaves it alone.
        let entries = lab.json(&["blocklist"])?;
        let entry = entry_of(&entries, &attacker)?;
        assert_eq!(entry["source"], "local:0", "{entry}");
        assert_eq!(entry["host"], "web-1", "{entry}");
        lab.kctl(&["block", "10.99.0.1", "--all-hosts"])?.code(0)?;
        lab.kctl(&["unblock", &attacker, "--all-hosts"])?.code(1)?;
        assert_eq!(reachable(lab)?, [false, true]);

        // It is there again after a restart, with or without a controller.
        lab.controller().kill9()?;
        lab.agent_mut("web-1")?.daemon.kill9()?;
        lab.agent_mut("web-1")?.daemon.start()?;
        let mut held = Value::Null;
        until("the agent answers", SOON, || {
            let answer = lab.kctl_on("web-1", &["blocklist", "-o", "json"])?;
            held = answer.json().unwrap_or_default();
            Ok(answer.code == 0)
        })?;
        assert_eq!(held.as_array().map(Vec::len), Some(2), "{held}");
        assert_eq!(reachable(lab)?, [false, true]);
        lab.kctl_on("web-1", &["unblock", &attacker])?.code(0)?;
        assert_eq!(reachable(lab)?, [true, true]);
        Ok(())
    })
}

#[test]
fn the_controllers_entry_is_only_suspended_locally_and_by_force() -> Result<()> {
    with_lab(2, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        lab.kctl(&["block", &attacker, "--all-hosts"])?.code(0)?;
        lab.kctl_on("web-1", &["unblock", &attacker])?.code(1)?;
        assert_eq!(reachable(lab)?, [false, false]);
        lab.kctl_on("web-1", &["unblock", &attacker, "--force"])?.code(0)?;
        assert_eq!(reachable(lab)?, [true, false]);
        until("the controller shows it", SOON, || {
            let entries = lab.json(&["blocklist"])?;
            Ok(entry_of(&entries, &attacker)?["suspended_on"] == json!(["web-1"]))
        })?;
        Ok(())
    })
}

#[test]
fn the_socket_answers_reads_and_refuses_what_needs_a_controller() -> Result<()> {
    with_lab(1, |lab| {
        let hosts = lab.kctl_on("web-1", &["hosts", "-o", "json"])?.code(0)?.json()?;
        assert_eq!(hosts[0]["name"], "web-1");
        assert_eq!(hosts[0]["filter"]["interfaces"][0]["name"], "eth0");
        let stats = lab.kctl_on("web-1", &["stats", "-o", "json"])?.code(0)?.json()?;
        ensure!(stats[0]["packets"]["passed"].as_u64() > Some(0), "{stats}");
        lab.kctl_on("web-1", &["block", "10.99.0.1", "--all-hosts"])?.code(2)?;
        lab.kctl_on("web-1", &["token", "create"])?.code(2)?;
        // Its own address stays reachable here as well.
        let own = lab.place("web-1")?.v4.to_string();
        lab.kctl_on("web-1", &["block", &own])?.code(1)?;
        Ok(())
    })
}

#[test]
fn detach_takes_everything_off_with_no_agent_and_no_controller() -> Result<()> {
    with_lab(1, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        lab.kctl(&["block", &attacker, "--all-hosts"])?.code(0)?;
        lab.controller().kill9()?;
        lab.agent_mut("web-1")?.daemon.kill9()?;
        assert_eq!(reachable(lab)?, [false]);
        assert_eq!(xdp_programs(&lab.place("web-1")?.namespace)?.len(), 1);

        let answer = lab.kctl_agent("web-1", &["detach"])?.code(0)?;
        ensure!(answer.stdout.contains("link eth0"), "{answer}");
        assert_eq!(reachable(lab)?, [true]);
        assert!(xdp_programs(&lab.place("web-1")?.namespace)?.is_empty());
        assert!(!fs::exists(lab.agent("web-1")?.bpffs())?, "pins stay behind");
        Ok(())
    })
}

#[test]
fn a_removed_host_is_forgotten_and_with_detach_no_longer_filters() -> Result<()> {
    with_lab(2, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        lab.kctl(&["block", &attacker, "--all-hosts"])?.code(0)?;
        lab.kctl(&["hosts", "remove", "web-1", "--detach"])?.code(0)?;
        lab.kctl(&["hosts", "remove", "web-2"])?.code(0)?;
        assert_eq!(lab.json(&["hosts"])?, json!([]));
        assert_eq!(reachable(lab)?, [true, false]);
        // Its certificate is revoked: it does not come back.
        until("the host is told", SOON, || {
            Ok(lab.agent("web-2")?.daemon.log().to_lowercase().contains("revoked"))
        })?;
        assert_eq!(lab.json(&["hosts"])?, json!([]));
        Ok(())
    })
}

/// Which hosts the attacker reaches, in order of their names.
fn reachable(lab: &Lab) -> Result<Vec<bool>> {
    let attacker = &lab.place(ATTACKER)?.namespace;
    lab.hosts().map(|host| Ok(ping(attacker, None, lab.place(host)?.v4.into(), 2)? == 2)).collect()
}

fn entry_of<'a>(entries: &'a Value, address: &str) -> Result<&'a Value> {
    let entries = entries.as_array().context("blocklist is an array")?;
    let prefix = format!("{address}/32");
    entries
        .iter()
        .find(|entry| entry["prefix"] == prefix)
        .with_context(|| format!("{prefix}: no entry in {entries:?}"))
}
