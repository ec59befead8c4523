//! Certificates that end and a CA that is replaced: no host is lost, and not one packet passes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{EventReader, Lab, block_attacker, flood, nothing_passed, until, with_arguments};
use serde_json::Value;

/// Longer than a certificate of these tests lives, and than a slow machine takes to renew it.
const LONG: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(60);

/// What each host proves itself with.
fn identities(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let names: Vec<_> = lab.hosts().map(str::to_owned).collect();
    let read = |name: String| {
        let identity = fs::read_to_string(lab.agent(&name)?.state_dir.join("identity.toml"))?;
        Ok((name, identity))
    };
    names.into_iter().map(read).collect()
}

/// Waits until every host has another certificate than before, and all are in sync.
fn renewed(lab: &Lab, before: &BTreeMap<String, String>) -> Result<()> {
    until("every host has a new certificate", LONG, || {
        Ok(identities(lab)?.iter().all(|(host, identity)| before[host] != *identity))
    })?;
    lab.wait_in_sync(SOON).map(drop)
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The configuration of a user whose certificate outlives all this.
fn watcher(lab: &Lab, verb: &str) -> Result<PathBuf> {
    let file = lab.scratch().join(format!("watcher-{verb}.toml"));
    let args = ["user", verb, "watcher", "--ttl", "1h", "--file", &file.display().to_string()];
    lab.kctl(&args)?.code(0)?;
    Ok(file)
}

/// Reads what becomes of hosts.
fn watch(lab: &Lab, config: &Path) -> Result<EventReader> {
    let watched = lab.lines_as(config, &["events", "-f", "--type", "host,exec"])?;
    // It does not say when it has begun; that it tells of something new does.
    until("it reads", SOON, || {
        lab.on_host("web-1", &Command::new("true"))?;
        Ok(!watched.events()?.is_empty())
    })?;
    Ok(watched)
}

/// Fails when a host was not connected for a moment.
fn never_away(watched: EventReader) -> Result<()> {
    let (events, said, _) = watched.interrupt()?;
    let away = events.iter().find(|event| event["host"]["state"] == "disconnected");
    ensure!(away.is_none(), "{away:?}");
    ensure!(!said.contains("again"), "the reader itself was cut off: {said}");
    Ok(())
}

#[test]
fn hosts_renew_and_a_new_ca_takes_over_under_a_flood() -> Result<()> {
    with_arguments(3, &["--certificate-life", "24s"], |lab| {
        block_attacker(lab)?;
        let pingers = flood(lab)?;
        let watched = watch(lab, &watcher(lab, "create")?)?;
        renewed(lab, &identities(lab)?)?;

        // As somebody has it on a laptop.
        let laptop = lab.scratch().join("laptop.toml");
        fs::copy(lab.admin_config(), &laptop)?;
        let before = identities(lab)?;
        lab.kctl(&["ca", "rotate"])?.code(0)?;
        lab.kctl(&["ca", "rotate"])?.code(1)?.stderr_says("replaced already")?;
        renewed(lab, &before)?;
        let mut shown = Value::Null;
        let of_new_ca = watcher(lab, "renew")?;
        until("nobody is left with the old CA", SOON, || {
            shown = lab.json(&["ca", "show"])?;
            Ok(names(&shown["hosts"]).is_empty() && names(&shown["users"]).is_empty())
        })
        .with_context(|| shown.to_string())?;
        ensure!(shown["old"]["sha256"] != shown["current"]["sha256"], "{shown}");
        lab.kctl(&["block", "10.99.0.1", "--all-hosts", "--timeout", "10s"])?.code(0)?;

        never_away(watched)?;
        let watched = watch(lab, &of_new_ca)?;
        lab.kctl(&["ca", "finish"])?.code(0)?;
        lab.wait_in_sync(SOON)?;
        renewed(lab, &identities(lab)?)?;
        never_away(watched)?;
        let shown = lab.json(&["ca", "show"])?;
        ensure!(shown["old"].is_null(), "{shown}");
        lab.kctl(&["block", "10.99.0.2", "--all-hosts", "--timeout", "10s"])?.code(0)?;
        lab.kctl_as(&laptop, &["hosts"])?.code(1)?;
        // Whoever comes back, or comes anew, meets the new CA alone.
        lab.agent_mut("web-1")?.daemon.kill9()?;
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.controller().kill9()?;
        lab.start_controller()?;
        lab.wait_in_sync(SOON)?;
        lab.join_hosts(1)?;
        nothing_passed(&pingers)
    })
}
