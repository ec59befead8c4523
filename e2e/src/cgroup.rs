//! One cgroup (v2): what a host's processes are told apart by, since all hosts of a lab share a kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::wait::until;

/// A cgroup that goes away with this value, and whatever runs in it.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    pub(crate) fn create(name: &str) -> Result<Self> {
        let path = root()?.join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// As `kctl-agent --scope` wants it.
    pub(crate) fn scope(&self) -> String {
        let name = self.0.file_name().expect("it was made with a name");
        format!("cgroup:/{}", name.to_string_lossy())
    }

    /// The same command, run in the cgroup: a shell goes there first and then becomes the program.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo 0 >\"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.0);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("cgroup {} stays behind: {error:#}", self.0.display());
        }
    }
}

/// Where cgroup v2 is mounted.
pub(crate) fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    mount.context("no cgroup v2 is mounted: mount -t cgroup2 none DIR")
}

/// Kills what is in a cgroup, and removes it.
pub(crate) fn remove(path: &Path) -> Result<()> {
    // Linux 5.14
    let _ = fs::write(path.join("cgroup.kill"), "1");
    // A killed process leaves its cgroup a moment later.
    let removed = || Ok(!path.exists() || fs::remove_dir(path).is_ok());
    until(&format!("{} is empty", path.display()), Duration::from_secs(5), removed).map(drop)
}
