//! A running `kctl events`, and what it has said so far.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::wait::until;

/// `kctl events -o jsonl` in the background. Dropping it kills it.
#[derive(Debug)]
pub struct EventReader {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl EventReader {
    pub(crate) fn start(
        stdout: PathBuf,
        stderr: PathBuf,
        spawn: impl FnOnce(File, File) -> Result<Child>,
    ) -> Result<Self> {
        let child = spawn(File::create(&stdout)?, File::create(&stderr)?)?;
        Ok(Self { child, stdout, stderr })
    }

    /// Every whole line so far.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.stdout)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.stderr)?)
    }

    /// Waits until the lines so far satisfy a condition, and returns them.
    pub fn wait_for(
        &mut self,
        what: &str,
        within: Duration,
        condition: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        let found = until(what, within, || {
            events = self.events()?;
            if let Some(status) = self.child.try_wait()? {
                events = self.events()?;
                if !condition(&events) {
                    bail!("kctl ended: {status}");
                }
            }
            Ok(condition(&events))
        });
        found.with_context(|| {
            let tail = &events[events.len().saturating_sub(20)..];
            let lines: Vec<_> = tail
                .iter()
                .map(|it| it.to_string().chars().take(300).collect::<String>())
                .collect();
            format!(
                "{} lines, at last:\n{}\n{}",
                events.len(),
                lines.join("\n"),
                self.stderr().unwrap_or_default()
            )
        })?;
        Ok(events)
    }

    /// Freezes it.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Ends it as Ctrl-C does; its lines, what it said on standard error, and its exit status.
    pub fn interrupt(mut self) -> Result<(Vec<Value>, String, ExitStatus)> {
        self.signal(Signal::SIGINT)?;
        let status = self.wait()?;
        Ok((self.events()?, self.stderr()?, status))
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        until("kctl ends", Duration::from_secs(30), || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("it ended")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to kctl events"))
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
