//! Running programs in the lab: kctl on the workstation and on hosts, other programs as processes of a
//! host.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

use crate::{
    daemon::Daemon,
    events::EventReader,
    lab::{Kctl, Lab},
    network::WORKSTATION,
    output::Output,
    spawned::Spawned,
};

impl Lab {
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
        self.lines(&[&["events"], args].concat())
    }

    /// Starts a kctl command that goes on, with `-o jsonl`, on the workstation.
    pub fn lines(&self, args: &[&str]) -> Result<EventReader> {
        self.lines_as(&self.admin_config(), args)
    }

    /// The same with another configuration.
    pub fn lines_as(&self, config: &Path, args: &[&str]) -> Result<EventReader> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lines-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let file = |end| self.directory.path().join(format!("{name}.{end}"));
        let args = [args, &["-o", "jsonl"]].concat();
        EventReader::start(file("jsonl"), file("err"), |stdout, stderr| {
            self.spawn(config, &args, stdout, stderr)
        })
    }

    /// Starts kctl on the workstation as the admin; it is the caller's to end.
    pub fn spawn_kctl(
        &self,
        args: &[&str],
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Result<Child> {
        self.spawn(&self.admin_config(), args, stdout, stderr)
    }

    fn spawn(
        &self,
        config: &Path,
        args: &[&str],
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Result<Child> {
        let kctl = self.workstation_kctl(config)?;
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
        command.arg("--state-dir").arg(&agent.state_dir).arg("--socket").arg(&agent.socket);
        self.network.place(host)?.namespace.output(command)
    }
}
