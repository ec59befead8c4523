//! Debian packages that a task's programs come from: installed where we may, named where we may not.

use std::{env, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

/// Programs that the lab and the tests run, each with its package.
const LAB: [(&str, &str); 24] = [
    ("bpftool", "bpftool"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("faketime", "faketime"),
    ("fish", "fish"),
    ("groff", "groff-base"),
    ("ip", "iproute2"),
    ("losetup", "mount"),
    ("lsblk", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("perl", "perl-base"),
    ("ping", "iputils-ping"),
    ("promtool", "prometheus"),
    ("ps", "procps"),
    ("python3", "python3"),
    ("setpriv", "util-linux"),
    ("ss", "iproute2"),
    ("strace", "strace"),
    ("tmux", "tmux"),
    ("zsh", "zsh"),
];

/// Programs that the benchmarks compare with.
const BENCH: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("prometheus-node-exporter", "prometheus-node-exporter"),
    ("ps", "procps"),
];

/// Programs that build images and run pods; podman wants a runtime, an init for its pause image and network
/// plugins beside it.
const IMAGES: [(&str, &str); 5] = [
    ("buildah", "buildah"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("catatonit", "catatonit"),
    ("newuidmap", "uidmap"),
];

/// Sees to it that we are root and the lab's programs are there; an error says what to do.
pub(crate) fn ensure_lab(task: &str) -> Result<()> {
    ensure_programs(&LAB, task)
}

/// The same for the benchmarks.
pub(crate) fn ensure_bench(task: &str) -> Result<()> {
    ensure_programs(&BENCH, task)
}

fn ensure_programs(programs: &[(&str, &'static str)], task: &str) -> Result<()> {
    let installed = install(&missing(programs));
    if !geteuid().is_root() {
        if let Err(error) = installed {
            eprintln!("{error}");
        }
        bail!(
            "network namespaces and eBPF need root; run: \
             sudo env \"PATH=$PATH:/usr/sbin:/sbin\" cargo xtask {task}"
        );
    }
    installed
}

/// Sees to it that images can be built and run.
pub(crate) fn ensure_images() -> Result<()> {
    install(&missing(&IMAGES))
}

/// Sees to it that a fresh Debian can be made.
pub(crate) fn ensure_debian() -> Result<()> {
    install(&missing(&[("debootstrap", "debootstrap")]))
}

/// Sees to it that virtual machines can be run.
pub(crate) fn ensure_machines() -> Result<()> {
    install(&missing(&[("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio")]))
}

/// Sees to it that Python can make an environment of its own.
pub(crate) fn ensure_python() -> Result<()> {
    let able = Command::new("python3").args(["-c", "import ensurepip"]).output();
    if able.is_ok_and(|able| able.status.success()) {
        return Ok(());
    }
    install(&["python3", "python3-venv"])
}

/// Sees to it that npm is there.
pub(crate) fn ensure_npm() -> Result<()> {
    install(&missing(&[("npm", "npm")]))
}

/// The packages of programs that are not there.
fn missing(programs: &[(&str, &'static str)]) -> Vec<&'static str> {
    let mut missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    missing
}

/// Installs packages, or says who has to.
fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    ensure!(geteuid().is_root(), "missing programs; install them as root: {install}");
    println!("$ {install}");
    let apt = |args: &[&str]| -> Result<bool> {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command.status().context("apt-get")?.success())
    };
    let args = [&["install", "-y", "-qq", "--no-install-recommends"], missing].concat();
    // A fresh image has no package lists yet.
    let installed = apt(&args)? || (apt(&["update", "-qq"])? && apt(&args)?);
    ensure!(installed, "packages could not be installed; try: {install}");
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where Debian keeps administrators' programs, which a plain user's PATH leaves out.
    let system = ["/usr/sbin", "/sbin"].map(Path::new).map(Path::to_owned);
    env::split_paths(&path).chain(system).any(|folder| folder.join(program).is_file())
}
