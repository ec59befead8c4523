//! Certificates that are over, and clocks that jump by years: whoever meets one is told what is wrong and what
//! to do, hosts filter all the while, and all is well again when the clock is right or the certificate new.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{
    Lab, Output, WORKSTATION, block_attacker, flood, nothing_passed, until, with_arguments,
    with_lab,
};

/// Longer than a certificate of these tests lives, or a daemon waits before it looks at the clock again.
const LONG: Duration = Duration::from_secs(150);
const SOON: Duration = Duration::from_secs(60);
const AHEAD: &str = "+800d";
const BEHIND: &str = "-800d";

/// Waits until an agent has said something.
fn agent_says(lab: &Lab, text: &str, within: Duration) -> Result<()> {
    until(&format!("the agent says {text:?}"), within, || {
        Ok(lab.agent("web-1")?.daemon.log().contains(text))
    })
    .map(drop)
}

#[test]
fn an_agents_clock_that_jumps_is_told_and_heals() -> Result<()> {
    with_lab(1, |lab| {
        block_attacker(lab)?;
        let pingers = flood(lab)?;
        let agent = &mut lab.agent_mut("web-1")?.daemon;
        agent.terminate()?;
        agent.shift_clock("+0")?;
        agent.start()?;
        lab.wait_in_sync(SOON)?;

        // While it runs and is connected. It sees that its certificate should have been renewed long ago.
        lab.agent_mut("web-1")?.daemon.shift_clock(AHEAD)?;
        agent_says(lab, "the new certificate is over by this host's clock", LONG)?;
        lab.kctl(&["block", "10.99.0.1", "--all-hosts", "--ttl", "1h"])?.code(0)?;

        // When it starts so: for all it knows its certificate is over, and its token too.
        restart(lab, AHEAD)?;
        agent_says(lab, "the stored certificate is over, by this host's clock", SOON)?;
        lab.agent_mut("web-1")?.daemon.check_running()?;
        lab.agent_mut("web-1")?.daemon.shift_clock("+0")?;
        lab.wait_in_sync(SOON)?;

        // When its clock has no battery.
        restart(lab, BEHIND)?;
        agent_says(lab, "this host's certificate does not count yet", SOON)?;
        lab.agent_mut("web-1")?.daemon.shift_clock("+0")?;
        lab.wait_in_sync(SOON)?;
        nothing_passed(&pingers)
    })
}

/// Starts an agent anew with such a clock.
fn restart(lab: &mut Lab, clock: &str) -> Result<()> {
    let agent = &mut lab.agent_mut("web-1")?.daemon;
    agent.terminate()?;
    agent.shift_clock(clock)?;
    agent.start()
}

#[test]
fn a_controllers_clock_that_is_off_is_told_and_heals() -> Result<()> {
    with_lab(1, |lab| {
        let ann = lab.scratch().join("ann.toml");
        lab.kctl(&[
            "user",
            "create",
            "ann",
            "--role",
            "operator",
            "--file",
            &ann.display().to_string(),
        ])?
        .code(0)?;
        block_attacker(lab)?;
        let pingers = flood(lab)?;
        for clock in [AHEAD, BEHIND] {
            lab.controller().kill9()?;
            lab.controller().shift_clock(clock)?;
            lab.start_controller()?;
            // It shows a certificate of its own time.
            let refused = lab.kctl_as(&ann, &["hosts"])?.code(1)?;
            refused.stderr_says("is the clock right, and that of the controller?")?;
            agent_says(lab, "set the clock right that is wrong", SOON)?;

            lab.controller().kill9()?;
            lab.controller().shift_clock("+0")?;
            lab.start_controller()?;
            lab.wait_in_sync(SOON)?;
            // Nobody was forgotten for being over.
            lab.kctl_as(&ann, &["block", "10.99.0.1", "--all-hosts"])?.code(0)?;
        }
        nothing_passed(&pingers)
    })
}

#[test]
fn a_controllers_clock_that_jumps_heals_without_a_restart() -> Result<()> {
    with_lab(1, |lab| {
        block_attacker(lab)?;
        let pingers = flood(lab)?;
        lab.controller().kill9()?;
        lab.controller().shift_clock("+0")?;
        lab.start_controller()?;
        lab.wait_in_sync(SOON)?;
        let hosts = |lab: &Lab| lab.kctl(&["hosts"]);
        lab.controller().shift_clock(AHEAD)?;
        until("the controller shows a certificate of that time", LONG, || {
            let asked = hosts(lab)?;
            Ok(asked.code == 1 && asked.stderr.contains("that of the controller?"))
        })?;
        lab.controller().shift_clock("+0")?;
        until("the controller shows one of this time again", LONG, || Ok(hosts(lab)?.code == 0))?;
        lab.wait_in_sync(SOON)?;
        lab.kctl(&["block", "10.99.0.1", "--all-hosts"])?.code(0)?;
        nothing_passed(&pingers)
    })
}

#[test]
fn a_host_whose_certificate_is_over_says_so_and_takes_a_token() -> Result<()> {
    with_arguments(1, &["--certificate-life", "20s"], |lab| {
        block_attacker(lab)?;
        let pingers = flood(lab)?;
        // While it can't reach the controller: then it can't renew.
        lab.agent("web-1")?.daemon.stop()?;
        let identity = lab.agent("web-1")?.state_dir.join("identity.toml");
        until("its certificate is over", LONG, || is_over(&identity))?;
        lab.agent("web-1")?.daemon.cont()?;
        agent_says(lab, "this host's certificate is over", SOON)?;
        lab.agent_mut("web-1")?.daemon.terminate()?;
        lab.agent_mut("web-1")?.daemon.start()?;
        agent_says(lab, "kctl token create --host NAME", SOON)?;
        // It is told which token that is, and does not have to be started again.
        let token = lab.token(&["--host", "web-1"])?;
        fs::write(lab.scratch().join("web-1.token"), token)?;
        lab.wait_in_sync(SOON)?;
        nothing_passed(&pingers)
    })
}

/// Whether the certificate in a file is over, as OpenSSL sees it.
fn is_over(file: &Path) -> Result<bool> {
    let identity: toml::Value = toml::from_str(&fs::read_to_string(file)?)?;
    let certificate = identity["certificate"].as_str().context("a certificate")?;
    let pem = tempfile::NamedTempFile::new()?;
    fs::write(pem.path(), certificate)?;
    let checked = Command::new("openssl")
        .args(["x509", "-checkend", "0", "-noout", "-in"])
        .arg(pem.path())
        .output()?;
    Ok(!checked.status.success())
}

#[test]
fn a_user_whose_certificate_is_over_or_whose_clock_is_off_is_told() -> Result<()> {
    with_lab(0, |lab| {
        let files = ["short.toml", "long.toml"].map(|name| lab.scratch().join(name));
        for (name, ttl, file) in [("short", "1s", &files[0]), ("long", "1h", &files[1])] {
            let file = file.display().to_string();
            lab.kctl(&["user", "create", name, "--ttl", ttl, "--file", &file])?.code(0)?;
        }
        let mut said = String::new();
        // A call may still be running at its end, and is cut off then.
        until("it is over", SOON, || {
            said = lab.kctl_as(&files[0], &["hosts"])?.stderr;
            Ok(said.contains("expired by its clock"))
        })
        .with_context(|| said.clone())?;
        ensure!(said.contains("kctl user renew"), "{said}");
        let renewed = lab.scratch().join("renewed.toml");
        let path = renewed.display().to_string();
        lab.kctl(&["user", "renew", "short", "--ttl", "1h", "--file", &path])?.code(0)?;
        lab.kctl_as(&renewed, &["hosts"])?.code(0)?;

        // The clock of a laptop.
        for clock in [AHEAD, BEHIND] {
            let said = kctl_at(lab, &files[1], clock)?.code(1)?;
            said.stderr_says("is the clock right, and that of the controller?")?;
        }
        kctl_at(lab, &files[1], "+0")?.code(0).map(drop)
    })
}

#[test]
fn a_ca_that_ends_soon_is_told() -> Result<()> {
    with_lab(0, |lab| {
        ensure!(!lab.controller().log().contains("CA: it ends"), "it has ten years");
        lab.controller().kill9()?;
        lab.controller().shift_clock("+3600d")?;
        lab.start_controller()?;
        until("the end is told", SOON, || {
            let log = lab.controller().log();
            let told = log.lines().find(|line| line.contains("CA: it ends"));
            Ok(told.is_some_and(|line| line.contains("kctl ca rotate")))
        })
        .map(drop)
    })
}

fn kctl_at(lab: &Lab, config: &Path, clock: &str) -> Result<Output> {
    let mut command = Command::new("faketime");
    command.args(["--exclude-monotonic", "-f", clock]).arg(lab.binaries().join("kctl"));
    command.arg("hosts").env("KCTL_CONFIG", config).env("KCTL_TIMEOUT", "30s");
    let output = lab.place(WORKSTATION)?.namespace.output(command)?;
    ensure!(!output.stderr.contains("faketime"), "{output}");
    Ok(output)
}
