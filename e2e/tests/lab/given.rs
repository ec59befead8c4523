//! A CA and a join token that somebody else keeps, as a deployment tool does: hosts join without a human,
//! and a controller that lost everything but these unfilters nobody.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, Lab, Layout, ping, until};

const SOON: Duration = Duration::from_secs(60);
const TOKEN: &str = "kctl1.0badcafe.c2l4dGVlbi1ieXRlcy1hbmQtbWFueS1tb3JlLW9m\n";

#[test]
fn a_controller_that_keeps_only_its_given_ca_unfilters_nobody() -> Result<()> {
    let mut lab = Lab::lay_out(&Layout::of_tests(0)?)?;
    let outcome = story(&mut lab);
    if outcome.is_err() {
        eprintln!("{}", lab.logs());
    }
    outcome
}

fn story(lab: &mut Lab) -> Result<()> {
    let given = Given::lay_out(lab)?;
    for (flag, file) in given.flags() {
        lab.controller().arg(format!("--{flag}={}", file.display()));
    }
    ensure!(probe(lab)? != 0, "nobody serves yet");
    lab.start_controller()?;
    ensure!(probe(lab)? == 0, "it serves");
    for _ in 0..2 {
        let host = lab.add_host(TOKEN)?;
        host.daemon.arg(format!("--ca-file={}", given.certificate.display()));
        host.daemon.start()?;
    }
    lab.wait_in_sync(SOON)?;
    lab.kctl_agent("web-1", &["check", "--live"])?.code(0)?;
    let refused = lab.kctl_agent("web-1", &["detach"])?.code(1)?;
    ensure!(refused.stderr.contains("stop it first"), "{refused}");

    let [v4, v6] = lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
    lab.kctl(&["block", &v4, &v6, "--all-hosts", "--timeout", "10s"])?.code(0)?;
    ensure!(!reachable(lab)?, "the attacker is blocked");

    // The volume is gone, and with it the store, the server's certificate and the admin's context.
    lab.controller().kill9()?;
    fs::remove_dir_all(lab.data_dir())?;
    lab.start_controller()?;
    for name in ["web-1", "web-2"] {
        until("the host is back and keeps its set", SOON, || {
            let row = lab.host(name)?;
            Ok(row["state"] == "connected" && row["filter"]["in_sync"] == false)
        })?;
    }
    ensure!(!reachable(lab)?, "the attacker stays blocked");
    lab.kctl(&["blocklist", "recover", "--from-host", "web-1"])?.code(0)?;
    lab.wait_in_sync(SOON)?;
    ensure!(!reachable(lab)?, "the attacker stays blocked");

    // The token of the file is a token like others: it can be taken back, and stays so.
    lab.kctl(&["token", "revoke", "0badcafe"])?.code(0)?;
    lab.controller().kill9()?;
    lab.start_controller()?;
    let late = lab.add_host(TOKEN)?;
    late.daemon.arg(format!("--ca-file={}", given.certificate.display()));
    late.daemon.start()?;
    ensure!(!late.daemon.wait(SOON)?.success(), "a revoked token lets nobody in");

    lab.agent_mut("web-1")?.daemon.kill9()?;
    lab.kctl_agent("web-1", &["check", "--live"])?.code(1).map(drop)
}

/// Files as a mounted Secret has them.
struct Given {
    certificate: PathBuf,
    key: PathBuf,
    token: PathBuf,
}

impl Given {
    fn lay_out(lab: &Lab) -> Result<Self> {
        let at = |name: &str| lab.scratch().join(name);
        let given = Self { certificate: at("ca.crt"), key: at("ca.key"), token: at("token") };
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-nodes", "-days", "3650", "-subj", "/CN=kctl CA given"]);
        openssl.arg("-keyout").arg(&given.key).arg("-out").arg(&given.certificate);
        let made = openssl.output().context("openssl")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(&given.token, TOKEN)?;
        Ok(given)
    }

    fn flags(&self) -> [(&str, &PathBuf); 3] {
        [
            ("ca-file", &self.certificate),
            ("ca-key-file", &self.key),
            ("join-token-file", &self.token),
        ]
    }
}

/// The exit code of the controller's probe.
fn probe(lab: &Lab) -> Result<i32> {
    let mut check = Command::new(lab.binaries().join("kctl-controller"));
    check.arg("check").arg("--data-dir").arg(lab.data_dir());
    check.arg("--listen").arg(lab.server()?.to_string());
    Ok(lab.place(kctl_e2e::CONTROLLER)?.namespace.output(check)?.code)
}

/// Whether any host answers the attacker, over IPv4 or IPv6.
fn reachable(lab: &Lab) -> Result<bool> {
    let attacker = &lab.place(ATTACKER)?.namespace;
    for host in ["web-1", "web-2"] {
        for address in lab.place(host)?.addresses() {
            if ping(attacker, None, address, 2)? > 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
