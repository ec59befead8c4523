//! What a process answered: exit code, stdout, stderr and how long it took.

use std::{fmt, process, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A finished process.
#[derive(Debug)]
pub struct Output {
    /// The command as a person would type it.
    pub command: String,
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From just before it was started to its end.
    pub elapsed: Duration,
}

impl Output {
    pub(crate) fn new(command: String, output: process::Output, elapsed: Duration) -> Self {
        Self {
            command,
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed,
        }
    }

    /// Insists on an exit code; the error shows the whole answer.
    pub fn code(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "{self}expected exit code {code}");
        Ok(self)
    }

    /// Insists that stderr contains `text`, whatever its case.
    pub fn stderr_says(self, text: &str) -> Result<Self> {
        let said = self.stderr.to_lowercase().contains(&text.to_lowercase());
        ensure!(said, "{self}expected {text:?} in stderr");
        Ok(self)
    }

    /// Standard output as one JSON document.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("{self}stdout is not JSON"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {}", self.command)?;
        write!(f, "{}{}", self.stdout, self.stderr)?;
        writeln!(f, "exit code {} after {} ms", self.code, self.elapsed.as_millis())
    }
}
