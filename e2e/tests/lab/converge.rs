//! Hosts that were away, come later or were tampered with end up with what should be blocked, by
//! themselves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, Lab, delete_rule, ping, rules, until, with_lab};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
/// How fast a host must be there again once its link is.
const HEALED_WITHIN: Duration = Duration::from_secs(2);
/// "About a second": the wait for silent hosts, and what kctl itself takes in a debug build.
const BEFORE_LONG: Duration = Duration::from_secs(5);

#[test]
fn a_host_cut_off_for_a_moment_is_pending_and_converges() -> Result<()> {
    with_lab(3, |lab| {
        lab.cut("web-2")?;
        block_is_pending_on(lab, "web-2")?;
        heal_and_converge(lab, "web-2")
    })
}

#[test]
fn a_host_cut_off_for_long_is_pending_and_converges() -> Result<()> {
    with_lab(3, |lab| {
        lab.cut("web-2")?;
        until("the controller has noticed", SOON, || {
            Ok(lab.host("web-2")?["state"] == "disconnected")
        })?;
        let message = block_is_pending_on(lab, "web-2")?;
        ensure!(message.contains("web-2") && message.contains("not connected since"), "{message}");
        heal_and_converge(lab, "web-2")
    })
}

#[test]
fn a_dead_peer_is_noticed_in_about_five_seconds() -> Result<()> {
    with_lab(1, |lab| {
        lab.cut("web-1")?;
        let noticed = until("the controller has noticed", SOON, || {
            Ok(lab.host("web-1")?["state"] == "disconnected")
        })?;
        ensure!(noticed < Duration::from_secs(7), "{noticed:?}");
        Ok(())
    })
}

#[test]
fn a_host_that_joins_later_gets_what_selects_it() -> Result<()> {
    with_lab(1, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        lab.kctl(&["block", &attacker, "-l", "role=web"])?.code(0)?;
        lab.kctl(&["block", "10.99.0.1", "--host", "web-1"])?.code(0)?;
        lab.join_hosts(1)?;
        assert!(!reachable(lab, "web-2")?);
        let held: Vec<_> =
            rules(lab.agent("web-2")?.bpffs())?.into_iter().map(|rule| rule.prefix).collect();
        assert_eq!(held, [format!("{attacker}/32")]);
        Ok(())
    })
}

#[test]
fn rules_deleted_behind_the_agents_back_come_back() -> Result<()> {
    with_lab(1, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        lab.kctl(&["block", &attacker, "10.99.0.0/16", "--all-hosts"])?.code(0)?;
        let bpffs = lab.agent("web-1")?.bpffs().to_owned();
        let before = rules(&bpffs)?;
        assert_eq!(before.len(), 2);
        // It looks every ten seconds, and might mend between two looks of ours.
        let agent = &lab.agent("web-1")?.daemon;
        agent.stop()?;
        for rule in &before {
            delete_rule(&bpffs, rule)?;
        }
        assert_eq!(rules(&bpffs)?, []);
        agent.cont()?;
        // A look of ours takes seconds itself.
        until("the rules are back", SOON, || Ok(rules(&bpffs)? == before))?;
        assert!(!reachable(lab, "web-1")?);
        lab.wait_in_sync(SOON)?;
        Ok(())
    })
}

#[test]
fn a_change_made_while_an_agent_was_down_reaches_it_when_it_starts() -> Result<()> {
    with_lab(2, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        lab.kctl(&["block", &attacker, "--all-hosts"])?.code(0)?;
        lab.agent_mut("web-1")?.daemon.kill9()?;
        until("the controller has noticed", SOON, || {
            Ok(lab.host("web-1")?["state"] == "disconnected")
        })?;
        lab.kctl(&["unblock", &attacker, "--all-hosts"])?.code(3)?;
        assert!(!reachable(lab, "web-1")?);
        assert!(reachable(lab, "web-2")?);
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        assert!(reachable(lab, "web-1")?);
        Ok(())
    })
}

/// Blocks the attacker everywhere; `cut_off` must be told as pending, soon, with a reason, which is
/// returned.
fn block_is_pending_on(lab: &Lab, cut_off: &str) -> Result<String> {
    let attacker = lab.place(ATTACKER)?.v4.to_string();
    let answer = lab.kctl(&["block", &attacker, "--all-hosts", "--timeout", "1s", "-o", "json"])?;
    let answer = answer.code(3)?;
    ensure!(answer.elapsed < BEFORE_LONG, "{answer}");
    let answer = answer.json()?;
    let hosts = answer["hosts"].as_array().context("hosts is an array")?;
    assert_eq!(hosts.len(), 3, "{answer}");
    let mut message = Value::Null;
    for host in hosts {
        if host["host"] == cut_off {
            assert_eq!(host["status"], "pending", "{host}");
            message = host["error"]["message"].clone();
        } else {
            assert_eq!(host["status"], "applied", "{host}");
            assert!(!reachable(lab, host["host"].as_str().context("a name")?)?);
        }
    }
    message.as_str().map(str::to_owned).context("pending without a reason")
}

/// The host must drop the attacker and be in sync soon after its link is back.
fn heal_and_converge(lab: &Lab, host: &str) -> Result<()> {
    lab.heal(host)?;
    let healed = Instant::now();
    lab.wait_in_sync(SOON)?;
    let took = healed.elapsed();
    assert!(!reachable(lab, host)?);
    ensure!(took < HEALED_WITHIN, "in sync {took:?} after the link was back");
    Ok(())
}

fn reachable(lab: &Lab, host: &str) -> Result<bool> {
    let received = ping(&lab.place(ATTACKER)?.namespace, None, lab.place(host)?.v4.into(), 2)?;
    ensure!(received != 1, "{host} answered one of two pings");
    Ok(received == 2)
}
