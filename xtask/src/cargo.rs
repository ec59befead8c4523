//! Calls of cargo and the folder that it builds into.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// The cargo that runs this task, in the project's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(project());
    command
}

/// The project's folder.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the project's folder")
}

/// The folder that builds go into.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from)
}

/// Where binaries of this build, or of an optimized one, are.
pub(crate) fn binaries(release: bool) -> Result<PathBuf> {
    let own = env::current_exe()?;
    let profile = own.parent().context("a program lies in a folder")?;
    Ok(if release { profile.with_file_name("release") } else { profile.to_owned() })
}
