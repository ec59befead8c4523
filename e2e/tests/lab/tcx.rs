//! Hosts that are filtered at tcx: because they were told to, or because somebody else's program is at
//! XDP; and interfaces that come later.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{
    ATTACKER, BYSTANDER, Foreign, Lab, Namespace, STORM_BLOCKED, Storm, ping, until, with_lab,
    xdp_programs,
};
use serde_json::{Value, json};

/// A program for each hook is verified at the start, which a busy machine takes long for.
const SOON: Duration = Duration::from_secs(90);
const PINGS: u32 = 5;

#[test]
fn three_hosts_at_tcx_block_unblock_and_count() -> Result<()> {
    with_lab(0, |lab| {
        join(lab, 3, &["--mode", "tcx"])?;
        let [v4, v6] = lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
        lab.kctl(&["block", &v4, &v6, "--all-hosts", "--timeout", "10s"])?.code(0)?;
        assert_eq!(replies(lab, ATTACKER)?, 0);
        ensure!(replies(lab, BYSTANDER)? > 0);
        for row in lab.json(&["stats"])?.as_array().context("an array")? {
            assert_eq!(row["interfaces"], json!([{"name": "eth0", "mode": "tcx"}]), "{row}");
            assert_eq!(row["packets"]["dropped"], 2 * PINGS, "{row}");
        }
        for host in ["web-1", "web-2", "web-3"] {
            let row = lab.host(host)?;
            assert_eq!(row["filter"]["interfaces"], json!([{"name": "eth0", "mode": "tcx"}]));
            assert_eq!(xdp_programs(&lab.place(host)?.namespace)?, [0_u64; 0]);
        }
        lab.kctl(&["unblock", &v4, &v6, "--all-hosts", "--timeout", "10s"])?.code(0)?;
        assert_eq!(replies(lab, ATTACKER)?, 6 * PINGS);
        Ok(())
    })
}

#[test]
fn at_tcx_nothing_passes_while_the_agent_is_killed_or_ends_and_changes_its_mode() -> Result<()> {
    with_lab(0, |lab| {
        join(lab, 1, &["--mode", "tcx"])?;
        let (v4, v6) = (STORM_BLOCKED.0.to_string(), STORM_BLOCKED.1.to_string());
        lab.kctl(&["block", &v4, &v6, "--all-hosts", "--timeout", "10s"])?.code(0)?;
        let storm = Storm::start(lab, "web-1")?;
        for mode in [None, Some("xdp-native"), Some("tcx")] {
            let daemon = &mut lab.agent_mut("web-1")?.daemon;
            if mode == Some("tcx") {
                daemon.terminate()?;
            } else {
                daemon.kill9()?;
            }
            storm.goes_on()?;
            if let Some(mode) = mode {
                daemon.replace("--mode", mode)?;
            }
            daemon.start()?;
            let wanted = mode.unwrap_or("tcx");
            until("it filters so", SOON, || {
                Ok(lab.host("web-1")?["filter"]["interfaces"][0]["mode"] == wanted)
            })?;
            storm.goes_on()?;
        }
        storm.end(lab).map(drop)
    })
}

#[test]
fn a_foreign_xdp_program_stays_and_tcx_filters_beside_it() -> Result<()> {
    with_lab(0, |lab| {
        let token = lab.token(&[])?;
        lab.add_host(&token)?;
        let namespace = lab.place("web-1")?.namespace.path();
        let foreign = Foreign::attach(lab, "web-1")?;
        let before = xdp_programs(&lab.place("web-1")?.namespace)?;
        assert_eq!(before.len(), 1, "{namespace}");
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let row = lab.host("web-1")?;
        let interface = &row["filter"]["interfaces"][0];
        assert_eq!((&interface["name"], &interface["mode"]), (&"eth0".into(), &"tcx".into()));
        let reason = interface["reason"].as_str().context("a reason")?;
        ensure!(reason.contains("XDP program") && reason.contains(&before[0].to_string()), "{row}");
        assert_eq!(row["filter"]["unfiltered_interfaces"], json!([]), "{row}");
        let mut check = Command::new(lab.binaries().join("kctl-agent"));
        check.args(["--interface", "eth0", "check"]);
        let said = lab.place("web-1")?.namespace.output(check)?.stdout;
        let expected = format!("XDP program {} is on it; where that is somebody", before[0]);
        ensure!(said.contains(&expected) && said.contains("hooks: XDP and tcx"), "{said}");
        let text = lab.kctl(&["hosts", "describe", "web-1"])?.code(0)?.stdout;
        ensure!(text.contains("eth0 tcx, because XDP program"), "{text}");

        let [v4, v6] = lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
        lab.kctl(&["block", &v4, &v6, "--all-hosts", "--timeout", "10s"])?.code(0)?;
        assert_eq!(replies(lab, ATTACKER)?, 0);
        // Through an end, a new start, and a detach.
        lab.agent_mut("web-1")?.daemon.terminate()?;
        assert_eq!(replies(lab, ATTACKER)?, 0);
        assert_eq!(xdp_programs(&lab.place("web-1")?.namespace)?, before);
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        assert_eq!(replies(lab, ATTACKER)?, 0);
        lab.agent_mut("web-1")?.daemon.terminate()?;
        let mut detach = Command::new(lab.binaries().join("kctl-agent"));
        detach.arg("detach").arg("--bpffs").arg(lab.agent("web-1")?.bpffs());
        let said = lab.place("web-1")?.namespace.output(detach)?.code(0)?.stdout;
        ensure!(said.contains("removed tcx link eth0"), "{said}");
        assert_eq!(replies(lab, ATTACKER)?, 2 * PINGS);
        assert_eq!(xdp_programs(&lab.place("web-1")?.namespace)?, before);
        drop(foreign);
        Ok(())
    })
}

#[test]
fn interfaces_that_come_later_are_taken_on_when_they_match() -> Result<()> {
    with_lab(0, |lab| {
        join(lab, 1, &["--interface", "lan*", "--interface", "auto"])?;
        let namespace = &lab.place("web-1")?.namespace;
        assert_eq!(xdp_programs(namespace)?.len(), 1);
        let filtered = || -> Result<Vec<String>> {
            let row = lab.host("web-1")?;
            let all = row["filter"]["interfaces"].as_array().context("an array")?;
            let names = all.iter().filter(|it| it["mode"] != Value::Null);
            Ok(names.filter_map(|it| it["name"].as_str().map(str::to_owned)).collect())
        };
        ip(namespace, "link add other0 type veth peer name other1")?;
        ip(namespace, "link add lan7 type veth peer name other2")?;
        until("the new one is filtered", SOON, || Ok(filtered()? == ["eth0", "lan7"]))?;
        assert_eq!(xdp_programs(namespace)?.len(), 2);
        // One without its addresses and its link stays filtered.
        ip(namespace, "link set lan7 down")?;
        ip(namespace, "link add lan8 type veth peer name other3")?;
        until("another one is filtered", SOON, || Ok(filtered()? == ["eth0", "lan7", "lan8"]))?;
        // One that is made anew is filtered anew.
        ip(namespace, "link del lan7")?;
        until("it is forgotten", SOON, || Ok(filtered()? == ["eth0", "lan8"]))?;
        ip(namespace, "link add lan7 type veth peer name other2")?;
        until("it is filtered again", SOON, || Ok(filtered()? == ["eth0", "lan7", "lan8"]))?;
        assert_eq!(xdp_programs(namespace)?.len(), 3);
        // "auto" takes one when it gets a global address, and keeps it without.
        ip(namespace, "link add late0 link eth0 type macvlan")?;
        ip(namespace, "link set late0 up")?;
        ip(namespace, "addr add 198.51.100.9/24 dev late0")?;
        let all = ["eth0", "lan7", "lan8", "late0"];
        until("one with an address is filtered", SOON, || Ok(filtered()? == all))?;
        ip(namespace, "addr del 198.51.100.9/24 dev late0")?;
        ip(namespace, "link del lan8")?;
        until("that is seen", SOON, || Ok(filtered()? == ["eth0", "lan7", "late0"]))?;
        Ok(())
    })
}

/// Hosts whose agents have more arguments.
fn join(lab: &mut Lab, hosts: u8, args: &[&str]) -> Result<()> {
    let token = lab.token(&[])?;
    for _ in 0..hosts {
        let agent = lab.add_host(&token)?;
        for arg in args {
            agent.daemon.arg(*arg);
        }
        agent.daemon.start()?;
    }
    lab.wait_in_sync(SOON).map(drop)
}

fn ip(namespace: &Namespace, words: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    namespace.output(command)?.code(0).map(drop)
}

/// Answers to five pings to every address of every host.
fn replies(lab: &Lab, from: &str) -> Result<u32> {
    let mut replies = 0;
    for host in lab.hosts() {
        for to in lab.place(host)?.addresses() {
            replies += ping(&lab.place(from)?.namespace, None, to, PINGS)?;
        }
    }
    Ok(replies)
}
