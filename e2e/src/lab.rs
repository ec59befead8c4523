//! The lab: the network, a controller, an agent on each host, and kctl on the workstation.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{SocketAddr, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cgroup::Cgroup,
    daemon::Daemon,
    events::EventReader,
    namespace::Namespace,
    network::{ATTACKER, BYSTANDER, CONTROLLER, Network, Place, WORKSTATION},
    output::Output,
    pins::Pins,
    spawned::Spawned,
    sweep::{sweep, unique_id},
    wait::until,
};

const PORT: u16 = 7443;
/// Starting is generous: debug builds, and a machine that may be busy with other tests.
const STARTED_WITHIN: Duration = Duration::from_secs(30);
/// Last octet of the first host's addresses; 1 to 4 are the other places.
const FIRST_HOST: u8 = 11;

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Folder of kctl, kctl-agent and kctl-controller.
    pub binaries: PathBuf,
    /// How many hosts join before the lab is handed over: web-1, web-2, …
    pub hosts: u8,
}

impl Layout {
    /// A lab of test binaries: those of the workspace that the running test was built with.
    pub fn of_tests(hosts: u8) -> Result<Self> {
        let test = env::current_exe()?;
        let binaries = test.ancestors().nth(2).context("a test runs in target/PROFILE/deps")?;
        Ok(Self { binaries: binaries.to_owned(), hosts })
    }
}

/// One host's agent with everything that it leaves on the machine.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub daemon: Daemon,
    /// Its local socket.
    pub socket: PathBuf,
    /// Its `--state-dir`.
    pub state_dir: PathBuf,
    pins: Pins,
    /// Of the processes that its events of processes are about.
    cgroup: Cgroup,
}

impl Agent {
    /// Its `--bpffs`.
    pub fn bpffs(&self) -> &Path {
        self.pins.path()
    }
}

/// kctl at a place, with a configuration.
#[derive(Clone, Debug)]
pub struct Kctl<'lab> {
    binary: PathBuf,
    config: PathBuf,
    namespace: &'lab Namespace,
}

impl Kctl<'_> {
    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(args).env("KCTL_CONFIG", &self.config);
        self.namespace.output(command)
    }
}

/// Hosts, controller and workstation; dropping it removes every trace of them.
#[derive(Debug)]
pub struct Lab {
    // In the order of removal: processes, pins, namespaces, files.
    agents: BTreeMap<String, Agent>,
    controller: Daemon,
    network: Network,
    directory: TempDir,
    binaries: PathBuf,
    id: String,
    next_host: u8,
}

impl Lab {
    /// Lays everything out, joins the hosts by token and waits until all of them are in sync.
    pub fn start(layout: &Layout) -> Result<Self> {
        let mut lab = Self::lay_out(layout)?;
        lab.start_controller()?;
        lab.join_hosts(layout.hosts)?;
        Ok(lab)
    }

    /// The network and the files, with nothing running.
    pub fn lay_out(layout: &Layout) -> Result<Self> {
        for binary in ["kctl", "kctl-agent", "kctl-controller"] {
            let path = layout.binaries.join(binary);
            ensure!(
                path.exists(),
                "{}: not built; run \"cargo build --workspace --bins\"",
                path.display()
            );
        }
        sweep();
        let id = unique_id();
        let directory = tempfile::Builder::new().prefix(&format!("{id}-")).tempdir()?;
        let mut network = Network::create(&id)?;
        for (at, name) in (1..).zip([CONTROLLER, WORKSTATION, ATTACKER, BYSTANDER]) {
            network.add(name, at)?;
        }
        let place = network.place(CONTROLLER)?;
        let address = format!("{}:{PORT}", place.v4);
        let data_dir = directory.path().join("controller");
        let controller = Daemon::new(
            "kctl-controller",
            &place.namespace,
            &layout.binaries.join("kctl-controller"),
            &args([
                ("--data-dir", data_dir.display().to_string()),
                ("--listen", address.clone()),
                ("--advertise", address),
            ]),
            directory.path().join("controller.log"),
        );
        Ok(Self {
            agents: BTreeMap::new(),
            controller,
            network,
            directory,
            binaries: layout.binaries.clone(),
            id,
            next_host: FIRST_HOST,
        })
    }

    /// Starts the controller and waits until its port answers.
    pub fn start_controller(&mut self) -> Result<()> {
        self.controller.start()?;
        let admin = self.admin_config();
        let address = self.server()?;
        let workstation = &self.network.place(WORKSTATION)?.namespace;
        until("the controller listens", STARTED_WITHIN, || {
            self.controller.check_running()?;
            Ok(admin.exists() && workstation.within(|| TcpStream::connect(address).is_ok())?)
        })
        .with_context(|| self.controller.log())?;
        Ok(())
    }

    /// Joins `count` new hosts with one token and waits until all of them are in sync.
    pub fn join_hosts(&mut self, count: u8) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let token = self.token(&[])?;
        for _ in 0..count {
            self.add_host(&token)?.daemon.start()?;
        }
        self.wait_in_sync(STARTED_WITHIN).map(drop)
    }

    /// Lays out one more host whose agent has this token and is not started yet.
    pub fn add_host(&mut self, token: &str) -> Result<&mut Agent> {
        let name = format!("web-{}", self.next_host - FIRST_HOST + 1);
        self.network.add(&name, self.next_host)?;
        self.next_host += 1;
        self.add_agent(&name, &name.clone(), token)
    }

    /// Lays out an agent that calls itself `name` at a place that has no agent yet.
    pub fn add_agent(&mut self, place: &str, name: &str, token: &str) -> Result<&mut Agent> {
        let directory = self.directory.path();
        let token_file = directory.join(format!("{place}.token"));
        fs::write(&token_file, token)?;
        let socket = directory.join(format!("{place}.sock"));
        let state_dir = directory.join(place);
        let pins = Pins::new(&format!("{}-{place}", self.id))?;
        let cgroup = Cgroup::create(&format!("{}-{place}", self.id))?;
        let daemon = Daemon::new(
            &format!("kctl-agent of {place}"),
            &self.network.place(place)?.namespace,
            &self.binaries.join("kctl-agent"),
            &args([
                ("--controller", self.server()?.to_string()),
                ("--token-file", token_file.display().to_string()),
                ("--name", name.to_owned()),
                ("--label", "role=web".to_owned()),
                ("--interface", "eth0".to_owned()),
                ("--state-dir", state_dir.display().to_string()),
                ("--bpffs", pins.path().display().to_string()),
                ("--socket", socket.display().to_string()),
                ("--scope", cgroup.scope()),
            ]),
            directory.join(format!("{place}.log")),
        );
        let agent = Agent { daemon, socket, state_dir, pins, cgroup };
        self.agents.insert(place.to_owned(), agent);
        self.agent_mut(place)
    }

    /// Makes a token with further arguments of `kctl token create`.
    pub fn token(&self, more: &[&str]) -> Result<String> {
        let answer = self.kctl(&[&["token", "create", "-o", "json"], more].concat())?.code(0)?;
        let token = answer.json()?["token"].as_str().map(str::to_owned);
        token.with_context(|| format!("{answer}no token"))
    }

    /// Runs kctl on the workstation as the admin.
    pub fn kctl(&self, args: &[&str]) -> Result<Output> {
        self.kctl_as(&self.admin_config(), args)
    }

    /// Runs kctl on the workstation with another configuration.
    pub fn kctl_as(&self, config: &Path, args: &[&str]) -> Result<Output> {
        self.workstation_kctl(config)?.run(args)
    }

    /// The controller, and the admin's kctl to run beside whatever is done to the controller.
    pub fn controller_and_kctl(&mut self) -> Result<(&mut Daemon, Kctl<'_>)> {
        let binary = self.binaries.join("kctl");
        let config = self.admin_config();
        let namespace = &self.network.place(WORKSTATION)?.namespace;
        Ok((&mut self.controller, Kctl { binary, config, namespace }))
    }

    fn workstation_kctl(&self, config: &Path) -> Result<Kctl<'_>> {
        Ok(Kctl {
            binary: self.binaries.join("kctl"),
            config: config.to_owned(),
            namespace: &self.network.place(WORKSTATION)?.namespace,
        })
    }

    /// Runs kctl on a host against its agent's socket.
    pub fn kctl_on(&self, host: &str, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.binaries.join("kctl"));
        command.arg("--agent").arg(format!("unix://{}", self.agent(host)?.socket.display()));
        command.args(args).env("KCTL_CONFIG", "/nonexistent");
        self.network.place(host)?.namespace.output(command)
    }

    /// Runs a program to its end as a process of a host: in its namespace, and in the cgroup that its
    /// agent's events of processes are about.
    pub fn on_host(&self, host: &str, command: &Command) -> Result<Output> {
        let inside = self.agent(host)?.cgroup.inside(command);
        self.network.place(host)?.namespace.output(inside)
    }

    /// Starts a program as a process of a host, which ends with the value.
    pub fn spawn_on(&self, host: &str, command: &Command) -> Result<Spawned> {
        let mut inside = self.agent(host)?.cgroup.inside(command);
        self.network.place(host)?.namespace.within(|| Spawned::start(&mut inside))?
    }

    /// Starts `kctl events -o jsonl` with more arguments on the workstation. What happens before it is
    /// connected it only tells with `--since`.
    pub fn events(&self, args: &[&str]) -> Result<EventReader> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("events-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let file = |end| self.directory.path().join(format!("{name}.{end}"));
        let args = [&["events", "-o", "jsonl"], args].concat();
        EventReader::start(file("jsonl"), file("err"), |stdout, stderr| {
            self.spawn_kctl(&args, stdout, stderr)
        })
    }

    /// Starts kctl on the workstation as the admin; it is the caller's to end.
    pub fn spawn_kctl(
        &self,
        args: &[&str],
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Result<Child> {
        let kctl = self.workstation_kctl(&self.admin_config())?;
        let mut command = Command::new(&kctl.binary);
        command.args(args).env("KCTL_CONFIG", &kctl.config).stdin(Stdio::null());
        command.stdout(stdout).stderr(stderr);
        Ok(kctl.namespace.within(|| command.spawn())??)
    }

    /// Runs a subcommand of kctl-agent with a host's folders, in its namespace.
    pub fn kctl_agent(&self, host: &str, subcommand: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.binaries.join("kctl-agent"));
        let agent = self.agent(host)?;
        command.args(subcommand).arg("--bpffs").arg(agent.bpffs());
        command.arg("--state-dir").arg(&agent.state_dir);
        self.network.place(host)?.namespace.output(command)
    }

    /// The answer of a kctl command that must succeed, as JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        self.kctl(&[args, &["-o", "json"]].concat())?.code(0)?.json()
    }

    /// One host's row of `kctl hosts`; null when the controller does not know it.
    pub fn host(&self, name: &str) -> Result<Value> {
        let hosts = self.json(&["hosts"])?;
        let rows = hosts.as_array().context("kctl hosts answers an array")?;
        Ok(rows.iter().find(|row| row["name"] == name).cloned().unwrap_or_default())
    }

    /// Waits until every host whose agent was laid out is connected and in sync, and tells how long
    /// that took.
    pub fn wait_in_sync(&self, within: Duration) -> Result<Duration> {
        let mut last = Value::Null;
        until("all hosts are in sync", within, || {
            // An answer that fails is no answer yet: the controller may be starting.
            let answer = self.kctl(&["hosts", "-o", "json"])?;
            last = answer.json().unwrap_or_else(|_| answer.to_string().into());
            let rows = last.as_array().map(Vec::as_slice).unwrap_or_default();
            let good =
                |row: &&Value| row["state"] == "connected" && row["filter"]["in_sync"] == true;
            Ok(rows.iter().filter(good).count() == self.agents.len())
        })
        .with_context(|| last.to_string())
    }

    /// The hosts that have an agent, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// One machine.
    pub fn place(&self, name: &str) -> Result<&Place> {
        self.network.place(name)
    }

    /// One host's agent.
    pub fn agent(&self, host: &str) -> Result<&Agent> {
        self.agents.get(host).with_context(|| format!("host {host:?}: no agent in the lab"))
    }

    /// One host's agent, to kill, stop or start.
    pub fn agent_mut(&mut self, host: &str) -> Result<&mut Agent> {
        self.agents.get_mut(host).with_context(|| format!("host {host:?}: no agent in the lab"))
    }

    /// The controller, to kill, stop or start.
    pub fn controller(&mut self) -> &mut Daemon {
        &mut self.controller
    }

    /// The controller's `--data-dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("controller")
    }

    /// The admin's kctl configuration.
    pub fn admin_config(&self) -> PathBuf {
        self.data_dir().join("admin.toml")
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The folder of the binaries.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// The controller's address and port.
    pub fn server(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::from((self.network.place(CONTROLLER)?.v4, PORT)))
    }

    /// Pulls a place's cable.
    pub fn cut(&self, place: &str) -> Result<()> {
        self.network.set_link(place, false)
    }

    /// Plugs a place's cable in again.
    pub fn heal(&self, place: &str) -> Result<()> {
        self.network.set_link(place, true)
    }

    /// The end of every daemon's log, for a person who looks for the reason of a failure.
    pub fn logs(&self) -> String {
        let daemons = self.agents.values().map(|agent| &agent.daemon).chain([&self.controller]);
        daemons
            .map(|daemon| {
                let log = daemon.log();
                let lines: Vec<_> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(40)..];
                format!("--- {}\n{}\n", daemon.name(), tail.join("\n"))
            })
            .collect()
    }
}

/// Runs a test in a lab of its own with `hosts` joined hosts, and shows the daemons' logs when it
/// fails.
pub fn with_lab(hosts: u8, test: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let mut lab = Lab::lay_out(&Layout::of_tests(hosts)?)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        lab.start_controller()?;
        lab.join_hosts(hosts)?;
        test(&mut lab)
    }));
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("{}", lab.logs());
    }
    drop(lab);
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

fn args<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}
