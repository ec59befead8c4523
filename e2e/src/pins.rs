//! One agent's folder on the BPF filesystem.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where the BPF filesystem hangs.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// A folder for pins that goes away with this value.
#[derive(Debug)]
pub(crate) struct Pins(PathBuf);

impl Pins {
    /// Names a folder below the BPF filesystem, which it mounts where it is missing. The agent makes
    /// the folder.
    pub(crate) fn new(name: &str) -> Result<Self> {
        if statfs(BPFFS)?.filesystem_type() != BPF_FS_MAGIC {
            mount(Some("bpffs"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("mount of {BPFFS}"))?;
        }
        Ok(Self(Path::new(BPFFS).join(name)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("pins in {} stay behind: {error}", self.0.display());
        }
    }
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
