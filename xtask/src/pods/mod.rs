//! `cargo xtask pods`: the chart's own pods with the images of the Dockerfile, run by podman on machines that
//! are network namespaces: agents join by themselves, a block drops packets, and no container may do more
//! than the chart says.

mod engine;
mod kubelet;

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, panic::resume_unwind, path::Path,
    process::Command, thread, time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, CONTROLLER, Lab, Layout, Pinger, ping, until, xdp_programs};
use nix::mount::{MsFlags, mount};

use crate::{
    cargo::project,
    chart::{self, Engines},
    images, packages,
};
use engine::Engine;
use kubelet::{Node, Objects, Pod};

const SOON: Duration = Duration::from_secs(120);
const HOSTS: [&str; 2] = ["web-1", "web-2"];
/// capabilities(7), as bits: what an agent is given.
const AGENT_CAPABILITIES: [(&str, u32); 6] = [
    ("DAC_READ_SEARCH", 2),
    ("KILL", 5),
    ("NET_ADMIN", 12),
    ("SYS_PTRACE", 19),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// Runs it all; the last line is the total.
pub(crate) fn run() -> Result<()> {
    packages::ensure_lab("pods")?;
    // One compiles, the other mostly waits for the network.
    let (binaries, engines) = thread::scope(|scope| {
        let building = scope.spawn(images::static_binaries);
        let engines = packages::ensure_images().and_then(|()| chart::engines());
        (building.join().unwrap_or_else(|panic| resume_unwind(panic)), engines)
    });
    let (binaries, engines) = (binaries?, engines?);
    trace_file_system()?;
    let mut cluster = Cluster::lay_out(&binaries, &engines)?;
    let outcome = cluster.story();
    if outcome.is_err() {
        eprintln!("{}", cluster.engine.logs());
    }
    println!("{} passed, {} failed", cluster.passed, u64::from(outcome.is_err()));
    outcome
}

/// Two nodes with their agents, a controller, an attacker, and kctl on a workstation.
struct Cluster {
    // In the order of removal: pods, then the network and files that they use.
    engine: Engine,
    controller: Pod,
    agents: BTreeMap<&'static str, Pod>,
    detachers: BTreeMap<&'static str, Pod>,
    lab: Lab,
    passed: u64,
}

impl Cluster {
    fn lay_out(binaries: &Path, engines: &Engines) -> Result<Self> {
        let mut lab = Lab::lay_out(&Layout { binaries: binaries.to_owned(), hosts: 0 })?;
        let engine = Engine::below(&lab.scratch().join("engine"))?;
        images::build(binaries, engine.storage())?;
        let server = lab.server()?;
        let objects = render(engines, &server.to_string())?;
        let services = (
            ["agents", "controller"].map(|part| format!("kctl-{part}.kctl-system.svc")).to_vec(),
            server.ip().to_string(),
        );
        let node = |name: &str, folder: &Path, moved| Node {
            name: name.to_owned(),
            folder: folder.join("nodes").join(name),
            moved,
            services: services.clone(),
        };
        let scratch = lab.scratch().to_owned();
        let at_controller = node(CONTROLLER, &scratch, BTreeMap::new());
        let controller = objects.pod("StatefulSet", "kctl-controller", &at_controller)?;
        let (mut agents, mut detachers) = (BTreeMap::new(), BTreeMap::new());
        for name in HOSTS {
            let agent = lab.add_host("")?;
            // On one kernel, what each node has for itself.
            let mut moved: BTreeMap<String, _> = ["/var/lib/kctl/agent", "/run/kctl"]
                .map(|path| (path.to_owned(), scratch.join("nodes").join(name).join(&path[1..])))
                .into();
            moved.insert("/sys/fs/bpf".to_owned(), agent.bpffs().to_owned());
            let node = node(name, &scratch, moved);
            agents.insert(name, objects.pod("DaemonSet", "kctl-agent", &node)?);
            detachers.insert(name, objects.pod("DaemonSet", "kctl-detach", &node)?);
        }
        Ok(Self { engine, controller, agents, detachers, lab, passed: 0 })
    }

    fn story(&mut self) -> Result<()> {
        self.start_controller()?;
        for name in HOSTS {
            self.start_agent(name)?;
        }
        self.lab.wait_in_sync(SOON)?;
        self.pass("agents join by themselves, by the service's name");
        for (name, container, pod) in [
            (CONTROLLER, "controller-controller", &self.controller),
            ("web-1", "web-1-agent", &self.agents["web-1"]),
        ] {
            ensure!(pod.probes.len() == 3, "{name}: three probes");
            for probe in &pod.probes {
                let probe: Vec<_> = probe.iter().map(String::as_str).collect();
                let network = &self.lab.place(name)?.namespace;
                self.engine.exec(container, &probe, network)?.code(0)?;
            }
        }
        self.pass("the probes succeed");
        self.privileges()?;
        self.check()?;

        let [v4, v6] = self.lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
        ensure!(self.reachable()? == 4, "every host answers the attacker on both its addresses");
        self.lab.kctl(&["block", &v4, &v6, "--all-hosts", "--timeout", "30s"])?.code(0)?;
        ensure!(self.reachable()? == 0, "no host answers the attacker");
        self.pass("kctl block --all-hosts drops packets");

        let attacker = &self.lab.place(ATTACKER)?.namespace;
        let mut pingers = Vec::new();
        for name in HOSTS {
            for address in self.lab.place(name)?.addresses() {
                pingers.push(Pinger::start(attacker, None, address)?);
            }
        }
        self.upgrade_agents()?;
        self.lose_the_volume()?;
        for pinger in &pingers {
            let tally = pinger.tally();
            ensure!(tally.sent > 100 && tally.replies == 0, "{tally:?}");
        }
        drop(pingers);
        self.pass("not one packet passed meanwhile");
        self.uninstall()
    }

    /// An agent's pod is replaced as by a rolling update: one after the other, each ended by SIGTERM.
    fn upgrade_agents(&mut self) -> Result<()> {
        for name in HOSTS {
            self.engine.remove(name)?;
            self.start_agent(name)?;
            self.lab.wait_in_sync(SOON)?;
        }
        self.pass("agents' pods are replaced, and know their host");
        Ok(())
    }

    /// The controller comes back with its Secrets and an empty volume.
    fn lose_the_volume(&mut self) -> Result<()> {
        self.engine.remove(CONTROLLER)?;
        let volume = self.lab.scratch().join("nodes").join(CONTROLLER).join("data");
        for entry in fs::read_dir(&volume)? {
            fs::remove_dir_all(entry?.path())?;
        }
        self.start_controller()?;
        for name in HOSTS {
            until("the host is back and keeps its set", SOON, || {
                let row = self.lab.host(name)?;
                Ok(row["state"] == "connected" && row["filter"]["in_sync"] == false)
            })?;
        }
        self.lab.kctl(&["blocklist", "recover", "--from-host", "web-1"])?.code(0)?;
        self.lab.wait_in_sync(SOON)?;
        self.pass("a controller without its volume finds its hosts and recovers the list");
        Ok(())
    }

    fn uninstall(&mut self) -> Result<()> {
        for name in HOSTS {
            self.engine.remove(name)?;
            let network = &self.lab.place(name)?.namespace;
            ensure!(xdp_programs(network)?.len() == 1, "{name}: filters without its agent");
            self.engine.play(&self.detachers[name], network)?;
            until("the filter is gone", SOON, || Ok(xdp_programs(network)?.is_empty()))?;
            self.engine.pid(&format!("{name}-done")).context("the pod stays")?;
        }
        ensure!(self.reachable()? == 4, "every host answers the attacker again");
        self.pass("an uninstallation takes the filter off every node");
        Ok(())
    }

    fn start_controller(&mut self) -> Result<()> {
        let network = &self.lab.place(CONTROLLER)?.namespace;
        self.engine.play(&self.controller, network)?;
        let probe: Vec<_> = self.controller.probes[0].iter().map(String::as_str).collect();
        let container = "controller-controller";
        until("the controller serves", SOON, || {
            Ok(self.engine.exec(container, &probe, network)?.code == 0)
        })?;
        let admin = ["kctl-controller", "admin-config"];
        let admin = self.engine.exec(container, &admin, network)?.code(0)?;
        fs::create_dir_all(self.lab.data_dir())?;
        let file = self.lab.admin_config();
        fs::write(&file, admin.stdout)?;
        // It is a private key.
        Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o600))?)
    }

    fn start_agent(&self, name: &str) -> Result<()> {
        self.engine.play(&self.agents[name], &self.lab.place(name)?.namespace)
    }

    /// The kernel's own word on what the daemons may do.
    fn privileges(&mut self) -> Result<()> {
        let agent = AGENT_CAPABILITIES.iter().fold(0_u64, |set, (_, bit)| set | 1 << bit);
        for (container, uid, capabilities) in
            [("web-1-agent", "0", agent), ("controller-controller", "65532", 0)]
        {
            let path = format!("/proc/{}/status", self.engine.pid(container)?);
            let status = fs::read_to_string(&path)?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|line| line.split_whitespace().next()).unwrap_or_default()
            };
            ensure!(field("Uid:") == uid, "{container}: {status}");
            for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
                let held = u64::from_str_radix(field(set), 16)?;
                ensure!(held == capabilities, "{container}: {set} {held:x}, not {capabilities:x}");
            }
            ensure!(
                field("NoNewPrivs:") == "1" && field("Seccomp:") == "2",
                "{container}: {status}"
            );
        }
        self.pass("daemons hold the stated capabilities and no other, under seccomp");
        Ok(())
    }

    /// What the agent itself says is missing: no more than outside of a container.
    fn check(&mut self) -> Result<()> {
        let network = &self.lab.place("web-1")?.namespace;
        let roots = ["--proc-root=/host/proc", "--sys-root=/host/sys"];
        let inside = [&["kctl-agent", "check"], &roots[..]].concat();
        let inside = self.engine.exec("web-1-agent", &inside, network)?.code(0)?;
        let mut outside = Command::new(self.lab.binaries().join("kctl-agent"));
        outside.arg("check").arg("--bpffs").arg(self.lab.agent("web-1")?.bpffs().join("outside"));
        let outside = network.output(outside)?.code(0)?;
        let missing = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with("missing")).map(str::to_owned).collect()
        };
        let (inside, outside) = (missing(&inside.stdout), missing(&outside.stdout));
        ensure!(inside == outside, "in the pod: {inside:?}\noutside: {outside:?}");
        self.pass("an agent in a pod can do what one outside can");

        // A process of another user, beyond the pod: the controller.
        let pid = self.engine.pid("controller-controller")?.to_string();
        for (part, told) in [("fds", "store.db"), ("env", "KCTL_LOG"), ("maps", "kctl-controller")]
        {
            let args = ["proc", &pid, part, "--host", "web-1", "--strict", "-o", "json"];
            let answer = self.lab.kctl(&args)?.code(0)?;
            ensure!(answer.stdout.contains(told), "{answer}");
        }
        self.lab
            .kctl(&["signal", &pid, "CONT", "--host", "web-1", "--comm", "kctl-controller"])?
            .code(0)?;
        self.pass("an agent in a pod looks at other users' processes, and signals them");
        Ok(())
    }

    /// How many addresses of hosts answer the attacker.
    fn reachable(&self) -> Result<u32> {
        let attacker = &self.lab.place(ATTACKER)?.namespace;
        let mut answering = 0;
        for name in HOSTS {
            for address in self.lab.place(name)?.addresses() {
                answering += u32::from(ping(attacker, None, address, 3)? > 0);
            }
        }
        Ok(answering)
    }

    fn pass(&mut self, what: &str) {
        println!("PASS {what}");
        self.passed += 1;
    }
}

/// The chart as Helm renders it for this network.
fn render(engines: &Engines, server: &str) -> Result<Objects> {
    let mut template = Command::new(&engines.helm);
    template.args(["template", "kctl", "--namespace", "kctl-system", "--kube-version", "1.37.0"]);
    for value in [
        "image.registry=localhost",
        "image.pullPolicy=Never",
        // In a namespace, the interface to the outside is a veth.
        "agent.interfaces={eth0}",
        &format!("controller.advertise={{{server}}}"),
    ] {
        template.args(["--set", value]);
    }
    let rendered = template.arg(project().join("charts/kctl")).output().context("helm")?;
    ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    Objects::read(&String::from_utf8(rendered.stdout)?)
}

/// Mounts tracefs where systemd has it.
fn trace_file_system() -> Result<()> {
    let place = "/sys/kernel/tracing";
    if Path::new(place).join("events").is_dir() {
        return Ok(());
    }
    mount(Some("tracefs"), place, Some("tracefs"), MsFlags::empty(), None::<&str>).context(place)
}
