//! `cargo xtask bench fleet`: a thousand agents on one controller.
//!
//! The agents are those of the controller's tests, which speak the real protocol; controller and agents
//! are built with optimization and share this machine's processors.

use anyhow::{Context, Result, ensure};

use crate::cargo::cargo;

const HOSTS: &str = "1000";
const BLOCKS: &str = "100";

/// Builds and measures; the test prints the table.
pub(crate) fn run() -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--release", "--package", "kctl-controller", "--test", "controller", "--"]);
    test.args(["--nocapture", "fleet::"]);
    test.env("KCTL_FLEET_HOSTS", HOSTS).env("KCTL_FLEET_BLOCKS", BLOCKS);
    ensure!(test.status().context("cargo test")?.success(), "the benchmark failed");
    Ok(())
}
