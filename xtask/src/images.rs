//! `cargo xtask images`: static binaries and the images that hold nothing else, built without a registry.

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    cargo::{cargo, project, target},
    packages,
};

/// Targets of the Dockerfile, each with its program.
pub(crate) const IMAGES: [(&str, &str); 3] =
    [("agent", "kctl-agent"), ("controller", "kctl-controller"), ("kctl", "kctl")];
/// No image is larger.
const MAX_BYTES: u64 = 40_000_000;

/// Where images are kept and containers run: the machine's own store, or one that goes away.
#[derive(Debug)]
pub(crate) struct Storage {
    folder: Option<PathBuf>,
}

impl Storage {
    /// The machine's own, where `podman images` finds them.
    pub(crate) fn of_machine() -> Self {
        Self { folder: None }
    }

    /// One below a folder.
    pub(crate) fn below(folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()) }
    }

    /// buildah or podman on this storage.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // A sandbox may forbid what other ways to isolate a build want; nothing is run in one here.
        command.env("BUILDAH_ISOLATION", "chroot");
        if let Some(folder) = &self.folder {
            command.arg("--root").arg(folder.join("store"));
            command.arg("--runroot").arg(folder.join("run"));
            command.args(["--storage-driver", "vfs"]);
        }
        command
    }
}

/// `cargo xtask images`.
pub(crate) fn run() -> Result<()> {
    packages::ensure_images("images")?;
    let storage = Storage::of_machine();
    build(&static_binaries()?, &storage)?;
    for (_, program) in IMAGES {
        println!("{}", name(program));
    }
    Ok(())
}

/// The name of a program's image.
pub(crate) fn name(program: &str) -> String {
    format!("localhost/{program}:{}", env!("CARGO_PKG_VERSION"))
}

/// What static binaries are built for.
pub(crate) fn triple() -> String {
    format!("{ARCH}-unknown-linux-gnu")
}

/// Builds the three programs with everything that they need inside, and tells their folder.
pub(crate) fn static_binaries() -> Result<PathBuf> {
    // With a target, cargo leaves its own build programs alone: a static one can't load macros.
    let triple = triple();
    println!("=== static binaries");
    let mut build = cargo();
    build.args(["build", "--release", "--quiet", "--target", &triple]);
    build.args(["-p", "kctl", "-p", "kctl-agent", "-p", "kctl-controller"]);
    build
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    ensure!(build.status().context("cargo build")?.success(), "the build failed");
    Ok(target().join(triple).join("release"))
}

/// Builds the images from the Dockerfile, and sees to it that none is too large.
pub(crate) fn build(binaries: &Path, storage: &Storage) -> Result<()> {
    println!("=== images");
    let context = target().join("images");
    let _ = fs::remove_dir_all(&context);
    fs::create_dir_all(context.join("data"))?;
    for (_, program) in IMAGES {
        let binary = binaries.join(program);
        fs::copy(&binary, context.join(program)).with_context(|| binary.display().to_string())?;
    }
    for file in ["LICENSE", "Cargo.lock"] {
        fs::copy(project().join(file), context.join(file))?;
    }
    let revision = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(project()).output();
    let revision = revision.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    for (target, program) in IMAGES {
        let mut bud = storage.command("buildah");
        bud.args(["bud", "--quiet", "--target", target, "--tag", &name(program)]);
        bud.args(["--build-arg", &format!("VERSION={}", env!("CARGO_PKG_VERSION"))]);
        bud.args(["--build-arg", &format!("REVISION={}", revision.as_deref().unwrap_or_default())]);
        bud.arg("--file").arg(project().join("Dockerfile")).arg(&context);
        let built = bud.output().context("buildah")?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let bytes = size(&name(program), storage)?;
        println!("{program}: {:.1} MB", bytes as f64 / 1e6);
        ensure!(bytes < MAX_BYTES, "{program}: an image must be smaller than {MAX_BYTES} bytes");
    }
    Ok(())
}

fn size(image: &str, storage: &Storage) -> Result<u64> {
    let listed = storage.command("podman").args(["image", "inspect", image]).output()?;
    let listed: Value = serde_json::from_slice(&listed.stdout).context("podman image inspect")?;
    listed[0]["Size"].as_u64().context("podman image inspect: no size")
}
