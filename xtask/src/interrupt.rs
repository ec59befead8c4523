//! Ctrl-C and SIGTERM as something to look at between two steps, so that whoever owns the lab cleans
//! it up itself.

use std::{
    process::{Child, Command, ExitStatus},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Turns SIGINT, SIGTERM and SIGHUP into a message.
pub(crate) struct Interrupt {
    signals: Receiver<Cause>,
    sender: Sender<Cause>,
}

/// Why a wait ends.
enum Cause {
    Signal(Signal),
    Person,
}

impl Interrupt {
    /// Takes the signals over; call it before any other thread runs.
    pub(crate) fn install() -> Result<Self> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        set.thread_block().context("signal mask")?;
        let (sender, signals) = channel();
        let caught = sender.clone();
        thread::spawn(move || {
            while let Ok(signal) = set.wait() {
                if caught.send(Cause::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { signals, sender })
    }

    /// An error once a signal has come.
    pub(crate) fn check(&self) -> Result<()> {
        self.pause(Duration::ZERO)
    }

    /// Waits until a signal comes.
    pub(crate) fn wait(&self) {
        let _ = self.signals.recv();
    }

    /// Waits until a signal comes or `person` returns, which goes on in its thread otherwise.
    pub(crate) fn wait_or(&self, person: impl FnOnce() + Send + 'static) {
        let sender = self.sender.clone();
        thread::spawn(move || {
            person();
            let _ = sender.send(Cause::Person);
        });
        self.wait();
    }

    /// Runs a program to its end, or ends it when a signal comes.
    pub(crate) fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        let mut child: Child = command.spawn().with_context(|| format!("{command:?}"))?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if let Err(interrupted) = self.pause(Duration::from_millis(20)) {
                child.kill()?;
                child.wait()?;
                return Err(interrupted);
            }
        }
    }

    fn pause(&self, time: Duration) -> Result<()> {
        match self.signals.recv_timeout(time) {
            Ok(Cause::Signal(signal)) => bail!("stopped by {signal}"),
            Ok(Cause::Person) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Ok(())
            }
        }
    }
}
