//! The lab: the network, a controller, an agent on each host, and kctl on the workstation.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{SocketAddr, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cgroup::Cgroup,
    daemon::Daemon,
    namespace::Namespace,
    network::{ATTACKER, BYSTANDER, CONTROLLER, Network, Place, WORKSTATION},
    output::Output,
    pins::Pins,
    sweep::{sweep, unique_id},
    wait::until,
};

const PORT: u16 = 7443;
/// Starting is generous: debug builds, and a machine that may be busy with other tests.
const STARTED_WITHIN: Duration = Duration::from_secs(90);
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
    pub(crate) cgroup: Cgroup,
}

impl Agent {
    /// Its `--bpffs`.
    pub fn bpffs(&self) -> &Path {
        self.pins.path()
    }
}

/// Thresholds of an agent. They are off unless a test says otherwise: how busy and how full the machine
/// is must not show in what it sees.
const ALERTS: [&str; 9] = [
    "--alert-syscalls",
    "--alert-faults",
    "--alert-switches",
    "--alert-cpu",
    "--alert-memory",
    "--alert-memory-pressure",
    "--alert-disk",
    "--alert-conntrack",
    "--alert-link",
];

/// kctl at a place, with a configuration.
#[derive(Clone, Debug)]
pub struct Kctl<'lab> {
    pub(crate) binary: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) namespace: &'lab Namespace,
}

impl Kctl<'_> {
    /// Runs it to its end. It waits for hosts longer than it does by default, because tests run on machines
    /// with too much to do; one that is about a silent host says how long.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(args).env("KCTL_CONFIG", &self.config).env("KCTL_TIMEOUT", "30s");
        self.namespace.output(command)
    }
}

/// Hosts, controller and workstation; dropping it removes every trace of them.
#[derive(Debug)]
pub struct Lab {
    // In the order of removal: processes, pins, namespaces, files.
    agents: BTreeMap<String, Agent>,
    pub(crate) controller: Daemon,
    pub(crate) network: Network,
    pub(crate) directory: TempDir,
    pub(crate) binaries: PathBuf,
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
        let mut daemon = Daemon::new(
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
        ALERTS.iter().flat_map(|flag| [*flag, "off"]).for_each(|argument| daemon.arg(argument));
        let agent = Agent { daemon, socket, state_dir, pins, cgroup };
        self.agents.insert(place.to_owned(), agent);
        self.agent_mut(place)
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
    with_arguments(hosts, &[], test)
}

/// The same with further arguments for the controller.
pub fn with_arguments(
    hosts: u8,
    controller: &[&str],
    test: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<()> {
    let mut lab = Lab::lay_out(&Layout::of_tests(hosts)?)?;
    controller.iter().for_each(|argument| lab.controller.arg(*argument));
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
