//! One long-running process of the lab, with its log.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{namespace::Namespace, wait::until};

/// A process that can be killed, stopped and started again. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    command: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Prepares a program with its arguments to run in a namespace; its output is appended to
    /// `log`. Start it from a thread that lives on: the kernel kills it when that thread ends, so
    /// that a killed test leaves nothing running.
    pub(crate) fn new(
        name: &str,
        namespace: &Namespace,
        program: &Path,
        args: &[String],
        log: PathBuf,
    ) -> Self {
        // `ip netns exec` would remount /sys and hide the bpffs. Both programs here only replace
        // themselves, so that the pid is the daemon's.
        let mut command = vec![
            "nsenter".to_owned(),
            format!("--net={}", namespace.path()),
            "setpriv".to_owned(),
            "--pdeathsig".to_owned(),
            "KILL".to_owned(),
            program.display().to_string(),
        ];
        command.extend_from_slice(args);
        Self { name: name.to_owned(), command, log, child: None }
    }

    /// Gives the process one more argument, from its next start on.
    pub fn arg(&mut self, arg: impl Into<String>) {
        self.command.push(arg.into());
    }

    /// Gives an argument of the process another value, from its next start on.
    pub fn replace(&mut self, flag: &str, value: &str) -> Result<()> {
        let at = self.command.iter().position(|word| word == flag);
        self.command[at.with_context(|| format!("{flag}: not given"))? + 1] = value.to_owned();
        Ok(())
    }

    /// Takes an argument and its value away, from its next start on.
    pub fn without(&mut self, flag: &str) -> Result<()> {
        let at = self.command.iter().position(|word| word == flag);
        let at = at.with_context(|| format!("{flag}: not given"))?;
        self.command.drain(at..at + 2);
        Ok(())
    }

    /// Lets the process see a wall clock that is off, "+60s": at once where this was called before its start,
    /// else from its next start on. Other clocks are right.
    pub fn shift_clock(&mut self, by: &str) -> Result<()> {
        let clock = self.log.with_extension("clock");
        // Replaced and not written, so that nobody reads half of it.
        let new = self.log.with_extension("clock.new");
        fs::write(&new, format!("{by}\n"))?;
        fs::rename(&new, &clock)?;
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
        if self.command.contains(&file) {
            return Ok(());
        }
        let library = fs::read_dir("/usr/lib")?
            .filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketime.so.1")))
            .find(|library| library.exists())
            .context("no libfaketime; install the package libfaketime")?;
        let library = format!("LD_PRELOAD={}", library.display());
        let quick = ["FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        self.set(&[&library, &file, quick[0], quick[1]])
    }

    /// Sets variables of its environment, from its next start on.
    pub fn set(&mut self, variables: &[&str]) -> Result<()> {
        let program = self.command.iter().position(|word| word == "KILL").context("a command")? + 1;
        let words = ["env"].iter().chain(variables).map(|word| (*word).to_owned());
        self.command.splice(program..program, words.collect::<Vec<_>>());
        Ok(())
    }

    /// Starts the process; it must not be running.
    pub fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the one who owns the lab.
            .process_group(0)
            .spawn()
            .with_context(|| self.name.clone())?;
        let before = self.child.replace(child);
        assert!(before.is_none(), "{} was started while it ran", self.name);
        Ok(())
    }

    /// Kills the process at once, as `kill -9` does, and reaps it.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks the process to end with SIGTERM and waits for it.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(Duration::from_secs(10))
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let mut status = None;
        until(&format!("{} ends", self.name), within, || {
            let child = self.child.as_mut().context("it does not run")?;
            status = child.try_wait()?;
            Ok(status.is_some())
        })?;
        self.child = None;
        Ok(status.expect("the wait ended with a status"))
    }

    /// Freezes the process.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen process go on.
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error when the process has ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        match child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().with_context(|| format!("{} does not run", self.name))?.id())
    }

    /// Everything that the process has said so far, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("{} stays behind: {error:#}", self.name);
        }
    }
}
