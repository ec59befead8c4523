//! What a crash of an agent or of the controller must not change: not one packet passes, nothing
//! acknowledged is lost, and everything finds together again.

use std::{
    fs,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{
    ATTACKER, Lab, STORM_BLOCKED, Storm, block_attacker, flood, nothing_passed, until, with_lab,
};
use kctl_flood::all_met;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_host_goes_on_dropping_while_its_agent_is_killed_and_restarts() -> Result<()> {
    with_lab(1, |lab| {
        block_attacker(lab)?;
        let blocked = [STORM_BLOCKED.0.to_string(), STORM_BLOCKED.1.to_string()];
        lab.kctl(&["block", &blocked[0], &blocked[1], "--all-hosts"])?.code(0)?;
        let pingers = flood(lab)?;
        counted_drops(lab, 500)?;
        let storm = Storm::start(lab, "web-1")?;

        let before = hits(lab)?;
        lab.agent_mut("web-1")?.daemon.kill9()?;
        until("the controller has noticed", SOON, || {
            Ok(lab.host("web-1")?["state"] == "disconnected")
        })?;
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let after = hits(lab)?;
        ensure!(after > before, "hits went from {before} to {after}");
        counted_drops(lab, after + 500)?;

        // And through an orderly stop, which an upgrade is.
        lab.agent_mut("web-1")?.daemon.terminate()?;
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        ensure!(hits(lab)? > after, "hits went back from {after}");
        let sent = storm.end(lab)?;
        // Not one of them is missing in the counter either.
        let mut counted = 0;
        for address in blocked {
            let listed = lab.json(&["blocklist", "--hits", "--prefix", &address])?;
            counted += listed[0]["packets"].as_u64().context("hits")?;
        }
        ensure!(all_met(&sent, counted), "{counted} counted, {sent:?}");
        nothing_passed(&pingers)
    })
}

#[test]
fn every_acknowledged_prefix_survives_a_kill_of_the_controller() -> Result<()> {
    const BATCHES: usize = 40;
    const BATCH: usize = 250;
    /// The batch whose acknowledgement is the sign to kill; the next ones are under way by then.
    const KILLED_AFTER: usize = 15;

    with_lab(3, |lab| {
        let files: Vec<_> = (0..BATCHES)
            .map(|batch| {
                let lines: String = prefixes(batch, BATCH).map(|prefix| prefix + "\n").collect();
                let file = lab.scratch().join(format!("batch-{batch}"));
                fs::write(&file, lines)?;
                Ok(file)
            })
            .collect::<Result<_>>()?;
        let (acknowledge, acknowledged) = channel();
        let (sign, signs) = channel();
        let outcome = thread::scope(|scope| -> Result<()> {
            let (controller, kctl) = lab.controller_and_kctl()?;
            let adding = scope.spawn(move || -> Result<()> {
                for (batch, file) in files.iter().enumerate() {
                    let file = file.display().to_string();
                    let answer =
                        kctl.run(&["block", "--file", &file, "--all-hosts", "-o", "json"])?;
                    if answer.code == 1 {
                        // The controller is gone.
                        return Ok(());
                    }
                    let revision = answer.json()?["revision"].as_u64();
                    ensure!(matches!(answer.code, 0 | 3) && revision.is_some(), "{answer}");
                    acknowledge.send(batch)?;
                    if batch == KILLED_AFTER {
                        sign.send(())?;
                    }
                }
                anyhow::bail!("the controller was killed too late")
            });
            signs.recv_timeout(Duration::from_secs(120)).context("no batch was added")?;
            controller.kill9()?;
            adding.join().expect("the adding thread does not panic")
        });
        outcome?;
        let expected: Vec<String> =
            acknowledged.iter().flat_map(|batch| prefixes(batch, BATCH)).collect();
        ensure!(expected.len() >= (KILLED_AFTER + 1) * BATCH, "{}", expected.len());

        lab.start_controller()?;
        lab.wait_in_sync(SOON)?;
        let desired = listed(&lab.json(&["blocklist"])?)?;
        contains_all(&desired, &expected)?;
        for host in lab.hosts() {
            let held = lab.kctl_on(host, &["blocklist", "-o", "json"])?.code(0)?;
            let held = listed(&held.json()?)?;
            assert_eq!(held, desired, "{host}");
            contains_all(&in_kernel(lab, host)?, &expected).with_context(|| host.to_owned())?;
        }
        Ok(())
    })
}

#[test]
fn hosts_are_back_within_two_seconds_of_a_short_absence_of_the_controller() -> Result<()> {
    with_lab(3, |lab| {
        for away in [Duration::ZERO, Duration::from_millis(1500)] {
            lab.controller().kill9()?;
            let gone = Instant::now();
            until("the absence is over", SOON, || Ok(gone.elapsed() >= away))?;
            lab.start_controller()?;
            let listening = Instant::now();
            lab.wait_in_sync(SOON)?;
            let back = listening.elapsed();
            ensure!(back < Duration::from_secs(2), "back {back:?} after an absence of {away:?}");
        }
        Ok(())
    })
}

#[test]
fn a_host_adopts_the_set_of_a_controller_with_another_store() -> Result<()> {
    with_lab(2, |lab| {
        block_attacker(lab)?;
        lose_the_store(lab)?;
        lab.kctl(&["block", "10.99.0.1", "--all-hosts", "--timeout", "10s"])?.code(3)?;
        lab.kctl(&["hosts", "adopt", "web-1"])?.code(0)?;
        assert_eq!(in_kernel(lab, "web-1")?, ["10.99.0.1/32"]);
        assert_eq!(lab.host("web-1")?["filter"]["in_sync"], true);
        // Nobody asked web-2.
        let attacker = lab.place(ATTACKER)?.v4;
        assert_eq!(in_kernel(lab, "web-2")?, [format!("{attacker}/32")]);
        assert_eq!(lab.host("web-2")?["filter"]["in_sync"], false);
        lab.kctl(&["hosts", "adopt", "web-2"])?.code(0)?;
        lab.wait_in_sync(SOON).map(drop)
    })
}

#[test]
fn a_controller_with_an_empty_store_unfilters_nobody_and_recovers_from_a_host() -> Result<()> {
    with_lab(3, |lab| {
        block_attacker(lab)?;
        let before = listed(&lab.json(&["blocklist"])?)?;
        let pingers = flood(lab)?;
        counted_drops(lab, 100)?;

        lose_the_store(lab)?;
        assert_eq!(listed(&lab.json(&["blocklist"])?)?, Vec::<String>::new());
        // A change meanwhile is answered honestly and frees nobody either.
        let refused = lab
            .kctl(&["block", "10.99.0.1", "--all-hosts", "--timeout", "10s", "-o", "json"])?
            .code(3)?;
        for host in refused.json()?["hosts"].as_array().context("hosts")? {
            assert_eq!(host["status"], "failed", "{host}");
            assert_eq!(host["error"]["code"], "FAILED_PRECONDITION", "{host}");
        }
        lab.kctl(&["unblock", "10.99.0.1", "--all-hosts", "--timeout", "10s"])?.code(3)?;

        lab.kctl(&["blocklist", "recover", "--from-host", "web-1"])?.code(0)?;
        lab.wait_in_sync(SOON)?;
        assert_eq!(listed(&lab.json(&["blocklist"])?)?, before);
        nothing_passed(&pingers)?;
        drop(pingers);
        let [v4, v6] = lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
        lab.kctl(&["unblock", &v4, &v6, "--all-hosts", "--timeout", "10s"])?.code(0)?;
        for pinger in flood(lab)? {
            until("the host answers", SOON, || Ok(pinger.1.tally().replies > 0))?;
        }
        Ok(())
    })
}

/// Restarts the controller with its CA and without its store, and waits until every host is back and
/// says that it keeps its set.
fn lose_the_store(lab: &mut Lab) -> Result<()> {
    lab.controller().kill9()?;
    for entry in fs::read_dir(lab.data_dir())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("store.db") {
            fs::remove_file(entry.path())?;
        }
    }
    lab.start_controller()?;
    let names: Vec<_> = lab.hosts().map(str::to_owned).collect();
    for name in &names {
        let mut row = Value::Null;
        until("the host is back and says why it keeps its set", SOON, || {
            row = lab.host(name)?;
            Ok(row["state"] == "connected" && row["filter"]["in_sync"] == false)
        })
        .with_context(|| row.to_string())?;
        let reason = row["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("recover"), "{row}");
    }
    Ok(())
}

/// Hits of all entries on all hosts.
fn hits(lab: &Lab) -> Result<u64> {
    let entries = lab.json(&["blocklist", "--hits"])?;
    let entries = entries.as_array().context("blocklist is an array")?;
    Ok(entries.iter().filter_map(|entry| entry["packets"].as_u64()).sum())
}

fn counted_drops(lab: &Lab, at_least: u64) -> Result<()> {
    until("drops are counted", SOON, || Ok(hits(lab)? >= at_least)).map(drop)
}

/// Addresses of one batch; no two batches share one.
fn prefixes(batch: usize, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |at| format!("10.{}.{}.{}/32", 100 + batch, at / 250, at % 250 + 1))
}

fn listed(blocklist: &Value) -> Result<Vec<String>> {
    let entries = blocklist.as_array().context("blocklist is an array")?;
    let mut prefixes: Vec<_> =
        entries.iter().filter_map(|entry| entry["prefix"].as_str()).map(str::to_owned).collect();
    prefixes.sort();
    Ok(prefixes)
}

/// Single IPv4 addresses in the host's rules, as bpftool sees them.
fn in_kernel(lab: &Lab, host: &str) -> Result<Vec<String>> {
    let mut addresses = kctl_e2e::rules(lab.agent(host)?.bpffs())?
        .into_iter()
        .map(|rule| rule.prefix)
        .collect::<Vec<_>>();
    addresses.sort();
    Ok(addresses)
}

fn contains_all(found: &[String], expected: &[String]) -> Result<()> {
    let missing: Vec<_> =
        expected.iter().filter(|prefix| found.binary_search(prefix).is_err()).collect();
    ensure!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), expected.len());
    Ok(())
}
