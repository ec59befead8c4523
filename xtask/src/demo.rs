//! `cargo xtask demo`: the main job for real, told so that somebody who sees kctl for the first time
//! can follow it.

use std::{
    io::{self, IsTerminal},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, CONTROLLER, Lab, Layout, Output, WORKSTATION};
use serde_json::Value;

use crate::{
    cargo::{binaries, cargo},
    interrupt::Interrupt,
    packages,
};

const HOSTS: u8 = 3;
/// How often the block is measured.
const ROUNDS: usize = 20;
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// Runs the demo; with `keep`, leaves everything up until Enter or a signal.
pub(crate) fn run(keep: bool, release: bool) -> Result<()> {
    let interrupt = Interrupt::install()?;
    packages::ensure_lab("demo")?;
    let start = Instant::now();

    headline("Build kctl, kctl-agent and kctl-controller");
    let mut build = vec!["build", "-p", "kctl", "-p", "kctl-agent", "-p", "kctl-controller"];
    if release {
        build.push("--release");
    }
    println!("$ cargo {}", build.join(" "));
    ensure!(interrupt.run(cargo().args(&build))?.success(), "the build failed");

    // Everything below is removed when the lab goes out of scope, also after an error or a signal.
    let mut lab = Lab::lay_out(&Layout { binaries: binaries(release)?, hosts: HOSTS })?;
    let outcome = show(&mut lab, &interrupt, release)
        .and_then(|()| if keep { play(&lab, &interrupt) } else { Ok(()) });
    if outcome.is_err() {
        eprintln!("{}", lab.logs());
    }
    headline("Clean up: processes, namespaces, pins, files");
    drop(lab);
    outcome?;
    println!("done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn show(lab: &mut Lab, interrupt: &Interrupt, release: bool) -> Result<()> {
    let attacker = lab.place(ATTACKER)?.v4.to_string();
    headline("Lay out a small network: every machine is a network namespace on one bridge");
    for name in [CONTROLLER, WORKSTATION, ATTACKER] {
        println!("{name:<12} {}", lab.place(name)?.v4);
    }
    println!(
        "web-1…web-{HOSTS}  hosts, each with an agent; they dial out, no port is open on them"
    );

    interrupt.check()?;
    headline("Start the controller and join the hosts by token");
    println!("controller$ kctl-controller --listen {}", lab.server()?);
    lab.start_controller()?;
    println!("workstation$ kctl token create --ttl 10m --uses {HOSTS}");
    let token = lab.token(&["--ttl", "10m", "--uses", &HOSTS.to_string()])?;
    println!("{}…", token.chars().take(24).collect::<String>());
    for at in 1..=HOSTS {
        println!(
            "web-{at}$ kctl-agent --controller {} --token-file token --name web-{at} --interface eth0",
            lab.server()?
        );
        lab.add_host(&token)?.daemon.start()?;
    }
    lab.wait_in_sync(SETTLED_WITHIN)?;

    interrupt.check()?;
    headline("The hosts, as the workstation sees them");
    kctl(lab, &["hosts"])?;

    interrupt.check()?;
    headline("The attacker reaches every host");
    pings(lab, true)?;

    interrupt.check()?;
    headline("Block the attacker on all hosts");
    kctl(lab, &["block", &attacker, "--all-hosts", "--reason", "demo"])?;

    interrupt.check()?;
    headline("The attacker reaches no host");
    pings(lab, false)?;

    interrupt.check()?;
    headline("The kernels have counted what they dropped");
    kctl(lab, &["stats"])?;
    kctl(lab, &["blocklist", "--hits"])?;

    interrupt.check()?;
    headline("What the kernels told meanwhile, in the order of time");
    kctl(lab, &["events", "--since", "1m", "--type", "drop"])?;

    interrupt.check()?;
    headline("Unblock");
    kctl(lab, &["unblock", &attacker, "--all-hosts"])?;
    pings(lab, true)?;

    interrupt.check()?;
    headline("How long a block takes");
    measure(lab, &attacker, release)
}

/// Runs kctl on the workstation, shows it as typed with its real output, and insists on success.
fn kctl(lab: &Lab, args: &[&str]) -> Result<()> {
    let Output { command, stdout, stderr, code, .. } = lab.kctl(args)?;
    println!("workstation$ {command}");
    print!("{stdout}{stderr}");
    ensure!(code == 0, "exit code {code}");
    Ok(())
}

/// Pings every host from the attacker; all or none of them must answer.
fn pings(lab: &Lab, expected: bool) -> Result<()> {
    for host in lab.hosts() {
        let to = lab.place(host)?.v4.to_string();
        let mut ping = Command::new("ping");
        ping.args(["-n", "-q", "-c", "3", "-i", "0.1", "-W", "0.5", &to]);
        let output = lab.place(ATTACKER)?.namespace.output(ping)?;
        let summary = output.stdout.lines().find(|line| line.contains("packet loss"));
        println!("attacker$ {}\n{}", output.command, summary.unwrap_or(&output.stderr));
        let received = if expected { " 3 received" } else { " 0 received" };
        ensure!(output.stdout.contains(received), "{output}expected{received}");
    }
    Ok(())
}

/// Blocks and unblocks one address over and over, and prints the median and the range.
fn measure(lab: &Lab, address: &str, release: bool) -> Result<()> {
    let mut process_ms = Vec::new();
    let mut acknowledged_ms = Vec::new();
    for _ in 0..ROUNDS {
        let block = lab.kctl(&["block", address, "--all-hosts", "-o", "json"])?.code(0)?;
        process_ms.push(block.elapsed.as_secs_f64() * 1e3);
        acknowledged_ms.push(last_acknowledgement_ms(&block.json()?).context("no elapsed_ms")?);
        lab.kctl(&["unblock", address, "--all-hosts"])?.code(0)?;
    }
    let build = if release { "optimized build" } else { "unoptimized build, see --release" };
    println!(
        "{ROUNDS} × kctl block {address} --all-hosts on {HOSTS} hosts of this machine ({build}):"
    );
    println!("  kctl, from its start to its exit            {}", spread(process_ms));
    println!("  controller, to the last acknowledgement     {}", spread(acknowledged_ms));
    Ok(())
}

fn last_acknowledgement_ms(block: &Value) -> Option<f64> {
    let elapsed = |host: &Value| host["elapsed_ms"].as_f64();
    block["hosts"].as_array()?.iter().filter_map(elapsed).reduce(f64::max)
}

fn spread(mut times_ms: Vec<f64>) -> String {
    times_ms.sort_by(f64::total_cmp);
    let [first, median, last] = [0, times_ms.len() / 2, times_ms.len() - 1].map(|at| times_ms[at]);
    format!("median {median:.1} ms ({first:.1} to {last:.1})")
}

/// Prints commands to play with and waits.
fn play(lab: &Lab, interrupt: &Interrupt) -> Result<()> {
    headline("Play with it (as root, in another terminal)");
    let workstation = lab.place(WORKSTATION)?.namespace.path();
    println!("# kctl on the workstation");
    println!("export KCTL_CONFIG={}", lab.admin_config().display());
    println!("alias kctl='nsenter --net={workstation} {}'", lab.binaries().join("kctl").display());
    println!("kctl hosts");
    println!("kctl block {} --all-hosts --ttl 1m", lab.place(ATTACKER)?.v4);
    println!("kctl blocklist");
    println!("kctl events -f");
    println!("# the attacker");
    let host = lab.place("web-1")?;
    println!("nsenter --net={} ping {}", lab.place(ATTACKER)?.namespace.path(), host.v4);
    println!("# one host without the controller");
    println!(
        "nsenter --net={} {} --agent unix://{} stats",
        host.namespace.path(),
        lab.binaries().join("kctl").display(),
        lab.agent("web-1")?.socket.display()
    );
    if io::stdin().is_terminal() {
        println!("\nEnter or Ctrl-C ends it.");
        interrupt.wait_or(|| {
            let _ = io::stdin().read_line(&mut String::new());
        });
    } else {
        println!("\nCtrl-C or SIGTERM (pid {}) ends it.", std::process::id());
        interrupt.wait();
    }
    Ok(())
}

fn headline(text: &str) {
    if io::stdout().is_terminal() {
        println!("\n\x1b[1m== {text}\x1b[0m");
    } else {
        println!("\n== {text}");
    }
}
