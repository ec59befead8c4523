//! Somebody else's XDP program.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{kernel::xdp_programs, lab::Lab, pins::BPFFS, wait::until};

const SOON: Duration = Duration::from_secs(60);

/// The XDP program of an agent on a host's eth0 that knows nothing of the host's own. Dropping it takes
/// the program away.
#[derive(Debug)]
pub struct Foreign {
    detach: Command,
    bpffs: PathBuf,
}

impl Foreign {
    /// Attaches it in the driver.
    pub fn attach(lab: &Lab, host: &str) -> Result<Self> {
        let folder = |name: &str| lab.scratch().join(format!("foreign-{name}"));
        let name = lab.scratch().file_name().context("a named folder")?.to_string_lossy();
        let bpffs = PathBuf::from(BPFFS).join(format!("{name}-foreign"));
        let binary = lab.binaries().join("kctl-agent");
        let mut detach = Command::new(&binary);
        detach.arg("detach").arg("--bpffs").arg(&bpffs);
        let foreign = Self { detach, bpffs: bpffs.clone() };

        let namespace = &lab.place(host)?.namespace;
        let mut run = Command::new("nsenter");
        run.arg(format!("--net={}", namespace.path()));
        run.args(["setpriv", "--pdeathsig", "KILL"]).arg(&binary);
        run.args(["--name", "foreign", "--interface", "eth0", "--mode", "xdp-native"]);
        run.arg("--bpffs").arg(&bpffs);
        run.arg("--state-dir").arg(folder("state")).arg("--socket").arg(folder("socket"));
        let mut agent = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // A link that is not pinned yet would go with its agent.
        let pinned = || {
            let layouts = fs::read_dir(&bpffs).into_iter().flatten().flatten();
            layouts.map(|layout| layout.path().join("link-eth0")).any(|link| link.exists())
        };
        let there = until("the foreign program is there", SOON, || {
            Ok(pinned() && xdp_programs(namespace)?.len() == 1)
        });
        // Its link is pinned: it stays without its agent.
        agent.kill()?;
        agent.wait()?;
        there?;
        Ok(foreign)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.detach.stdout(Stdio::null()).status();
        let _ = fs::remove_dir(&self.bpffs);
    }
}
