//! `cargo xtask test`: format, lints, every test of the workspace and the checks of the chart, with one total
//! at the end.

use std::{
    io::{BufRead, BufReader},
    ops::AddAssign,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::{cargo::cargo, chart, packages};

/// Crates whose tests want root: they load programs into the kernel and make network namespaces.
const PRIVILEGED: [&str; 2] = ["agent-kernel", "kctl-e2e"];

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Total {
    passed: u64,
    failed: u64,
}

impl AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs everything, also after a failure; the last line of output is the total.
pub(crate) fn run(unprivileged: bool) -> Result<ExitCode> {
    if !unprivileged {
        packages::ensure_lab("test").context("without root: cargo xtask test --unprivileged")?;
    }
    let mut healthy = true;
    healthy &= step("format", cargo().args(["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    healthy &= step("lints", cargo().args(clippy))?;
    // The end-to-end tests run these; `cargo test` alone would not build them. With the tests, since for
    // those alone cargo chooses other features of dependencies, and would build half of them once more.
    let build = ["build", "--workspace", "--bins", "--tests", "--quiet"];
    healthy &= step("binaries and tests", cargo().args(build))?;

    let mut total = Total::default();
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    if unprivileged {
        for name in PRIVILEGED {
            tests.args(["--exclude", name]);
        }
    }
    healthy &= counted(&mut tests, &mut total)?;
    if unprivileged {
        for name in PRIVILEGED {
            // What these crates only compute needs no root; it is named so by its module.
            healthy &= counted(
                cargo().args(["test", "-p", name, "--lib", "--", "--skip", "network::"]),
                &mut total,
            )?;
        }
    }
    let (passed, failed) = chart::run()?;
    total += Total { passed, failed };
    healthy &= failed == 0;
    if !healthy && total.failed == 0 {
        eprintln!("error: a check or a test binary failed; see above");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one check and says so when it fails.
fn step(name: &str, command: &mut Command) -> Result<bool> {
    println!("=== {name}");
    let passed = command.status().with_context(|| name.to_owned())?.success();
    if !passed {
        eprintln!("error: {name}: failed");
    }
    Ok(passed)
}

/// Runs `cargo test`, shows what it prints, and adds its summaries up.
fn counted(command: &mut Command, total: &mut Total) -> Result<bool> {
    println!("=== tests");
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo test")?;
    let stdout = child.stdout.take().expect("stdout is piped");
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(summary) = summary(&line) {
            *total += summary;
        }
    }
    Ok(child.wait()?.success())
}

/// Reads "test result: ok. 5 passed; 0 failed; …".
fn summary(line: &str) -> Option<Total> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |name: &str| {
        counts.split("; ").find_map(|part| part.strip_suffix(name)?.trim_end().parse().ok())
    };
    Some(Total { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_test_binaries_are_read() {
        let line = "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.82s";
        assert_eq!(summary(line), Some(Total { passed: 5, failed: 2 }));
        assert_eq!(summary("test restart::tests::result ... ok"), None);
    }
}
