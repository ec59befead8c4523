//! podman as the engine of one run: its own storage and settings below a folder, and nothing left of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Namespace, Output};
use serde_json::{Value, json};

use super::kubelet::Pod;
use crate::images::Storage;

/// Profiles of usual engines let whoever has the capability make the call. That of this podman is older.
const CALLS: [(&str, &str); 2] = [("bpf", "CAP_BPF"), ("perf_event_open", "CAP_PERFMON")];
const USUAL_PROFILE: &str = "/usr/share/containers/seccomp.json";

/// Dropping it ends every pod.
pub(crate) struct Engine {
    storage: Storage,
    folder: PathBuf,
}

impl Engine {
    /// Lays out settings and storage.
    pub(crate) fn below(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        // This podman does not read hostPID and hostIPC, so every pod gets both.
        fs::write(
            folder.join("containers.conf"),
            "[containers]\npidns = \"host\"\nipcns = \"host\"\n\
             default_ulimits = [\"nofile=20000:20000\", \"nproc=1024:1024\"]\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n",
        )?;
        let profile = fs::read(USUAL_PROFILE).context(USUAL_PROFILE)?;
        let profile = with_capabilities(serde_json::from_slice(&profile)?);
        fs::write(folder.join("seccomp.json"), profile.to_string())?;
        Ok(Self { storage: Storage::below(folder), folder: folder.to_owned() })
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    fn podman(&self, args: &[&str]) -> Command {
        let mut command = self.storage.command("podman");
        command.env("CONTAINERS_CONF", self.folder.join("containers.conf"));
        // "play kube" takes a folder of an image's name for something to build.
        command.current_dir(&self.folder).args(args);
        command
    }

    /// Starts a pod in a network.
    pub(crate) fn play(&self, pod: &Pod, network: &Namespace) -> Result<()> {
        let name = pod.manifest["metadata"]["name"].as_str().context("a pod has a name")?;
        let file = self.folder.join(format!("{name}.json"));
        fs::write(&file, pod.manifest.to_string())?;
        let mut play = self.podman(&["play", "kube", "--seccomp-profile-root"]);
        play.arg(&self.folder).arg(&file);
        network.output(play)?.code(0).map(drop)
    }

    /// Ends a pod as a kubelet does: SIGTERM first.
    pub(crate) fn remove(&self, pod: &str) -> Result<()> {
        run(self.podman(&["pod", "stop", "--time", "10", pod]))?;
        run(self.podman(&["pod", "rm", "--force", pod]))
    }

    /// Runs a command in a container.
    pub(crate) fn exec(
        &self,
        container: &str,
        command: &[&str],
        network: &Namespace,
    ) -> Result<Output> {
        network.output(self.podman(&[&["exec", container], command].concat()))
    }

    /// The first process of a container, by its pid on this machine.
    pub(crate) fn pid(&self, container: &str) -> Result<u64> {
        let inspected = self.podman(&["inspect", container]).output()?;
        let inspected: Value = serde_json::from_slice(&inspected.stdout)?;
        inspected[0]["State"]["Pid"].as_u64().with_context(|| format!("{container}: no pid"))
    }

    /// What the containers have logged.
    pub(crate) fn logs(&self) -> String {
        let listed = self.podman(&["ps", "--all", "--format", "{{.Names}}"]).output();
        let listed = listed.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        let mut text = String::new();
        for name in listed.unwrap_or_default().lines().filter(|name| !name.ends_with("-infra")) {
            let logs = self.podman(&["logs", "--tail", "40", name]).output();
            let logs = logs.map(|it| [it.stdout, it.stderr].concat()).unwrap_or_default();
            text.push_str(&format!("--- {name}\n{}\n", String::from_utf8_lossy(&logs)));
        }
        text
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = run(self.podman(&["pod", "rm", "--all", "--force"])) {
            eprintln!("pods stay behind: {error:#}");
        }
    }
}

fn run(mut command: Command) -> Result<()> {
    let done = command.output().context("podman")?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

fn with_capabilities(mut profile: Value) -> Value {
    let Some(rules) = profile["syscalls"].as_array_mut() else { return profile };
    for rule in rules.iter_mut().filter(|rule| rule["action"] == "SCMP_ACT_ERRNO") {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(|name| CALLS.iter().all(|(call, _)| name != call));
        }
    }
    rules.extend(CALLS.iter().map(|(call, capability)| {
        json!({"names": [call], "action": "SCMP_ACT_ALLOW", "includes": {"caps": [capability]}})
    }));
    profile
}
