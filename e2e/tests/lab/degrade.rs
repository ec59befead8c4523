//! An agent that can't filter starts all the same, serves what it can, and says what is missing.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, Foreign, Lab, ping, until, with_lab, xdp_programs};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
/// The agent looks at its interfaces every 10 s.
const NEXT_LOOK: Duration = Duration::from_secs(25);

#[test]
fn a_foreign_xdp_program_stays_and_the_host_says_so() -> Result<()> {
    with_lab(0, |lab| {
        let token = lab.token(&[])?;
        lab.add_host(&token)?;
        let foreign = Foreign::attach(lab, "web-1")?;
        let namespace = lab.place("web-1")?.namespace.path();
        let before = xdp_programs(&lab.place("web-1")?.namespace)?;
        assert_eq!(before.len(), 1, "{namespace}");

        // Elsewhere it would filter at tcx.
        let agent = lab.agent_mut("web-1")?;
        agent.daemon.arg("--mode");
        agent.daemon.arg("xdp-native");
        agent.daemon.start()?;
        let mut row = Value::Null;
        until("the host is connected", SOON, || {
            row = lab.host("web-1")?;
            Ok(row["state"] == "connected")
        })?;
        let interface = &row["filter"]["interfaces"][0];
        assert_eq!((&interface["name"], &interface["mode"]), (&"eth0".into(), &Value::Null));
        let error = interface["error"].as_str().context("an error")?;
        ensure!(error.contains("XDP program") && error.contains(&before[0].to_string()), "{row}");
        assert_eq!(row["filter"]["unfiltered_interfaces"], serde_json::json!(["eth0"]), "{row}");

        let attacker = lab.place(ATTACKER)?.v4.to_string();
        failed(lab, &attacker, "eth0")?;
        assert_eq!(xdp_programs(&lab.place("web-1")?.namespace)?, before);
        assert!(reachable(lab)?);

        // Once the other program is gone, what was recorded comes into force by itself.
        drop(foreign);
        until("the host filters", NEXT_LOOK, || Ok(!reachable(lab)?))?;
        lab.wait_in_sync(SOON).map(drop)
    })
}

#[test]
fn without_cap_bpf_the_agent_serves_and_says_what_it_lacks() -> Result<()> {
    with_lab(0, |lab| {
        let token = lab.token(&[])?;
        lab.add_host(&token)?;
        let agent = without_bpf(lab, "web-1")?;
        let mut row = Value::Null;
        until("the host is connected", SOON, || {
            row = lab.host("web-1")?;
            Ok(row["state"] == "connected")
        })?;
        let missing = &row["missing"][0];
        assert_eq!(missing["what"], "filter", "{row}");
        ensure!(missing["remedy"].as_str().is_some_and(|it| it.contains("CAP_BPF")), "{row}");
        failed(lab, "10.99.0.1", "CAP_BPF")?;
        // What procfs counts is still told.
        let perf = lab.json(&["perf", "--interval", "100ms"])?;
        ensure!(perf[0]["tcp"].is_object() && perf[0]["syscalls"].is_null(), "{perf}");
        ensure!(perf[0]["missing"].to_string().contains("counters of "), "{perf}");
        let refused = lab.kctl(&["perf", "--by", "syscall", "--count", "1"])?.code(1)?;
        ensure!(refused.stdout.contains("counters of by-syscall"), "{refused}");
        // The socket answers as well.
        let local = lab.kctl_on("web-1", &["hosts", "-o", "json"])?.code(0)?.json()?;
        assert_eq!(local[0]["missing"][0]["what"], "filter", "{local}");
        drop(agent);
        Ok(())
    })
}

/// A block that is recorded and that web-1 must answer with no.
fn failed(lab: &Lab, prefix: &str, says: &str) -> Result<()> {
    let answer = lab.kctl(&["block", prefix, "--all-hosts", "-o", "json"])?.code(3)?.json()?;
    let host = &answer["hosts"][0];
    assert_eq!((&host["host"], &host["status"]), (&"web-1".into(), &"failed".into()), "{answer}");
    assert_eq!(host["error"]["code"], "FAILED_PRECONDITION", "{answer}");
    let message = host["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains(says), "{answer}");
    Ok(())
}

fn reachable(lab: &Lab) -> Result<bool> {
    let attacker = &lab.place(ATTACKER)?.namespace;
    Ok(ping(attacker, None, lab.place("web-1")?.v4.into(), 2)? > 0)
}

/// An agent's process with fewer privileges than the lab's own; dropping it kills it.
struct Unprivileged(Child);

impl Drop for Unprivileged {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a host's agent without the privilege to load programs. CAP_SYS_ADMIN would include it.
fn without_bpf(lab: &Lab, host: &str) -> Result<Unprivileged> {
    const GONE: &str = "-bpf,-sys_admin,-perfmon";
    let agent = lab.agent(host)?;
    let mut command = in_namespace(lab, host)?;
    command.args(["setpriv", "--pdeathsig", "KILL", "--bounding-set", GONE, "--inh-caps", GONE]);
    command.arg(lab.binaries().join("kctl-agent"));
    command.args(["--name", host, "--interface", "eth0"]);
    command.arg("--controller").arg(lab.server()?.to_string());
    command.arg("--token-file").arg(lab.scratch().join(format!("{host}.token")));
    command.arg("--state-dir").arg(&agent.state_dir).arg("--socket").arg(&agent.socket);
    command.arg("--bpffs").arg(agent.bpffs());
    Ok(Unprivileged(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

fn in_namespace(lab: &Lab, host: &str) -> Result<Command> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", lab.place(host)?.namespace.path()));
    Ok(command)
}
