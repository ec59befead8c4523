//! A process that a test starts beside the lab.

use std::process::{Child, Command};

use anyhow::Result;

/// Dropping it kills the process and reaps it.
#[derive(Debug)]
pub struct Spawned {
    /// The process.
    pub child: Child,
}

impl Spawned {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        Ok(Self { child: command.spawn()? })
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
