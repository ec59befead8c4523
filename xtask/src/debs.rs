//! `cargo xtask debs`: the Debian packages, built by cargo-deb, and their life in a fresh Debian: installed,
//! started, upgraded without a moment unfiltered, removed, purged.

use std::{
    fs,
    panic::resume_unwind,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, CONTROLLER, Lab, Layout, Output, Pinger, ping, until, xdp_programs};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cargo::{cargo, project, target},
    images, packages, pages,
};

/// The tool that makes packages; its lock file pins what it is made of.
const CARGO_DEB: &str = "3.8.0";
const SOON: Duration = Duration::from_secs(60);
const HOST: &str = "web-1";
/// systemd's score of exposure that no unit may exceed, times ten.
const UNITS: [(&str, u32); 2] = [("kctl-agent", 40), ("kctl-controller", 15)];

/// Builds the packages and tries them; the last line is the total.
pub(crate) fn run() -> Result<()> {
    packages::ensure_lab("debs")?;
    packages::ensure_debian()?;
    let binaries = images::static_binaries()?;
    pages::write(&binaries)?;
    println!("=== packages, and a fresh Debian");
    let mut lab = Lab::lay_out(&Layout { binaries, hosts: 0 })?;
    lab.add_host("")?;
    // One compiles, the other loads and unpacks.
    let (built, debian) = thread::scope(|scope| {
        let building = scope.spawn(|| -> Result<_> {
            Ok((
                build("1", &["kctl-agent", "kctl-controller", "kctl"])?,
                build("2", &["kctl-agent"])?,
            ))
        });
        let debian = Debian::bootstrap(lab, target().join("debian"));
        (building.join().unwrap_or_else(|panic| resume_unwind(panic)), debian)
    });
    let ((old, new), mut debian) = (built?, debian?);
    let outcome = debian.life(&old, &new);
    println!("{} passed, {} failed", debian.passed, u64::from(outcome.is_err()));
    outcome
}

/// Packages of a Debian revision.
fn build(revision: &str, names: &[&str]) -> Result<Vec<PathBuf>> {
    let tools = target().join("tools");
    if !tools.join(format!("cargo-deb-{CARGO_DEB}")).exists() {
        let mut install = cargo();
        install.args(["install", "--debug", "--quiet", "--locked", "--no-default-features"]);
        install.args(["cargo-deb", "--version", CARGO_DEB, "--root"]).arg(&tools);
        install.env("CARGO_PROFILE_DEV_DEBUG", "0");
        ensure!(install.status()?.success(), "cargo-deb could not be installed");
        fs::write(tools.join(format!("cargo-deb-{CARGO_DEB}")), "")?;
    }
    let folder = target().join("debs").join(revision);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
    names
        .iter()
        .map(|package| {
            let file = folder.join(format!("{package}.deb"));
            let mut deb = Command::new(tools.join("bin/cargo-deb"));
            deb.current_dir(project()).args(["--no-build", "--no-strip", "--quiet", "-p", package]);
            deb.args(["--target", &images::triple(), "--deb-version", &version, "-o"]).arg(&file);
            ensure!(deb.status().context("cargo-deb")?.success(), "{package}: no package");
            Ok(file)
        })
        .collect()
}

/// A Debian in a folder, on a host of a lab. It has no init: what systemd would start is started here, with
/// the unit's command and capabilities.
struct Debian {
    agent: Option<Child>,
    root: PathBuf,
    lab: Lab,
    passed: u64,
}

impl Debian {
    fn bootstrap(lab: Lab, cache: PathBuf) -> Result<Self> {
        fs::create_dir_all(&cache)?;
        let root = lab.scratch().join("debian");
        let release = fs::read_to_string("/etc/os-release")?;
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", "--include=systemd"]);
        debootstrap.arg(format!("--cache-dir={}", cache.display()));
        debootstrap.arg(suite.context("/etc/os-release: no VERSION_CODENAME")?).arg(&root);
        // The archive that this machine installs from.
        let site = ["indextargets", "--format", "$(SITE)", "Created-By: Packages"];
        let sites = Command::new("apt-get").args(site).output().context("apt-get")?;
        let sites = String::from_utf8(sites.stdout)?;
        debootstrap.arg(sites.lines().next().context("apt has no sources")?);
        let done = debootstrap.output().context("debootstrap")?;
        ensure!(done.status.success(), "debootstrap: {}", String::from_utf8_lossy(&done.stdout));
        let bpffs = lab.agent(HOST)?.bpffs();
        fs::create_dir_all(bpffs)?;
        Ok(Self { agent: None, root, lab, passed: 0 })
    }

    /// A program inside, with mounts that end with it.
    fn command(&self, line: &str) -> Result<Command> {
        let root = self.root.display();
        let bpffs = self.lab.agent(HOST)?.bpffs().display();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]).arg(format!(
            "mount --rbind /dev {root}/dev; mount --rbind /sys {root}/sys; mount -t proc proc {root}/proc; \
             mount --bind {bpffs} {root}/sys/fs/bpf; exec chroot {root} {line}"
        ));
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }

    /// The same for a daemon, whose output [`Self::log`] has.
    fn logged(&self, line: &str) -> Result<Command> {
        let log = fs::File::create(self.lab.scratch().join("log"))?;
        let mut command = self.command(line)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.lab.scratch().join("log")).unwrap_or_default()
    }

    fn run(&self, place: &str, line: &str) -> Result<Output> {
        self.lab.place(place)?.namespace.output(self.command(line)?)?.code(0)
    }

    fn life(&mut self, old: &[PathBuf], new: &[PathBuf]) -> Result<()> {
        self.install(old)?;
        self.units()?;
        self.start_agent()?;
        self.controller()?;

        let attacker = self.lab.place(ATTACKER)?.v4.to_string();
        let reaches = |debian: &Self| -> Result<bool> {
            let from = &debian.lab.place(ATTACKER)?.namespace;
            Ok(ping(from, None, debian.lab.place(HOST)?.v4.into(), 3)? > 0)
        };
        ensure!(reaches(self)?, "the host answers the attacker");
        self.run(HOST, &format!("kctl --agent unix:///run/kctl/agent.sock block {attacker}"))?;
        ensure!(!reaches(self)?, "the host does not answer the attacker");
        self.pass("the agent starts, and filters");

        self.upgrade(new)?;

        self.stop_agent()?;
        self.run(HOST, "dpkg --remove kctl-agent")?;
        ensure!(xdp_programs(&self.lab.place(HOST)?.namespace)?.is_empty(), "the filter is off");
        ensure!(reaches(self)?, "the host answers the attacker");
        self.pass("a removal takes the filter off");
        self.purge()
    }

    fn install(&mut self, debs: &[PathBuf]) -> Result<()> {
        self.unpack(debs)?;
        for (unit, _) in UNITS {
            let wanted = format!("etc/systemd/system/multi-user.target.wants/{unit}.service");
            ensure!(self.root.join(wanted).is_symlink(), "{unit}: is not enabled");
        }
        self.run(HOST, "getent group kctl")?;
        self.run(HOST, "id kctl-controller")?;
        self.run(HOST, "kctl-agent --version")?;
        self.pass("the packages install");
        Ok(())
    }

    fn unpack(&self, debs: &[PathBuf]) -> Result<()> {
        let mut line = "dpkg --install".to_owned();
        for deb in debs {
            let name = deb.file_name().context("a package is a file")?.to_string_lossy();
            fs::copy(deb, self.root.join("tmp").join(&*name))?;
            line.push_str(&format!(" /tmp/{name}"));
        }
        self.run(HOST, &line).map(drop)
    }

    fn units(&mut self) -> Result<()> {
        for (unit, most) in UNITS {
            let path = format!("/lib/systemd/system/{unit}.service");
            let verified = self.run(HOST, &format!("systemd-analyze verify {path}"))?;
            ensure!(!verified.stderr.contains(unit), "{verified}");
            let security =
                format!("systemd-analyze security --offline=yes --threshold={most} {path}");
            let scored = self.run(HOST, &security)?;
            println!("{}", scored.stdout.lines().last().unwrap_or_default());
        }
        self.pass("systemd-analyze finds nothing wrong with the units, and they are hardened");
        Ok(())
    }

    /// As the unit says: its command and its capabilities.
    fn start_agent(&mut self) -> Result<()> {
        // Its folder, as systemd makes it: others may go through the one above.
        self.run(HOST, "install -d -m 700 /var/lib/kctl/agent")?;
        let unit = self.root.join("lib/systemd/system/kctl-agent.service");
        let unit = fs::read_to_string(unit)?;
        let value = |key: &str| {
            let lines = unit.lines();
            lines
                .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .next()
                .context(key.to_owned())
        };
        let capabilities: Vec<_> = value("CapabilityBoundingSet")?
            .split_whitespace()
            .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        let line = format!(
            "setpriv --pdeathsig KILL --no-new-privs --inh-caps -all --bounding-set -all,{} {} --interface eth0",
            capabilities.join(","),
            value("ExecStart")?,
        );
        let mut command = self.logged(&line)?;
        let namespace = &self.lab.place(HOST)?.namespace;
        self.agent = Some(namespace.within(|| command.spawn())??);
        until("the agent answers", SOON, || {
            let live = self.command("kctl-agent check --live")?;
            Ok(namespace.output(live)?.code == 0)
        })
        .map(drop)
        .with_context(|| self.log())
    }

    /// With SIGTERM, as systemd does.
    fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("the agent runs")?;
        kill(Pid::from_raw(i32::try_from(agent.id())?), Signal::SIGTERM)?;
        ensure!(agent.wait()?.success(), "the agent ends well");
        Ok(())
    }

    /// The controller runs as its own user in the folder that systemd would make it.
    fn controller(&mut self) -> Result<()> {
        self.run(
            CONTROLLER,
            "install -d -m 700 -o kctl-controller -g kctl-controller /var/lib/kctl/controller",
        )?;
        // Whoever is no longer root holds no capability any more.
        let user = "setpriv --pdeathsig KILL --reuid kctl-controller --regid kctl-controller \
                    --clear-groups --no-new-privs";
        let namespace = &self.lab.place(CONTROLLER)?.namespace;
        let mut start = self.logged(&format!("{user} kctl-controller"))?;
        let mut running = namespace.within(|| start.spawn())??;
        let served = until("the controller serves", SOON, || {
            Ok(namespace.output(self.command("kctl-controller check")?)?.code == 0)
        });
        running.kill()?;
        running.wait()?;
        served.with_context(|| self.log())?;
        self.pass("the controller starts as its user");
        Ok(())
    }

    fn upgrade(&mut self, debs: &[PathBuf]) -> Result<()> {
        let namespace = &self.lab.place(HOST)?.namespace;
        let before = xdp_programs(namespace)?;
        let config = self.root.join("etc/kctl/agent.toml");
        let own = fs::read_to_string(&config)? + "[labels]\nrole = \"own\"\n";
        fs::write(&config, &own)?;
        let from = &self.lab.place(ATTACKER)?.namespace;
        let pinger = Pinger::start(from, None, self.lab.place(HOST)?.v4.into())?;
        self.unpack(debs)?;
        self.stop_agent()?;
        self.start_agent()?;
        until("some packets were sent", SOON, || Ok(pinger.tally().sent > 200))?;
        let tally = pinger.tally();
        ensure!(tally.replies == 0, "{tally:?}");
        ensure!(xdp_programs(&self.lab.place(HOST)?.namespace)?.len() == before.len(), "filters");
        ensure!(fs::read_to_string(&config)? == own, "the own settings are gone");
        self.pass("not one packet passes while the packages are upgraded and the agent restarts");
        Ok(())
    }

    fn purge(&mut self) -> Result<()> {
        self.run(HOST, "dpkg --purge kctl-agent kctl-controller kctl")?;
        for path in ["etc/kctl", "var/lib/kctl", "usr/bin/kctl-agent", "usr/bin/kctl"] {
            ensure!(!self.root.join(path).exists(), "/{path} stays behind");
        }
        let users =
            ["etc/passwd", "etc/group"].map(|file| fs::read_to_string(self.root.join(file)));
        for text in users {
            ensure!(!text?.contains("kctl"), "user or group stays behind");
        }
        self.pass("a purge leaves nothing behind");
        Ok(())
    }

    fn pass(&mut self, what: &str) {
        println!("PASS {what}");
        self.passed += 1;
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}
