//! The cgroup whose connections are told of. It must not know what is attached there.

use crate::error::{Error, ErrorKind, named};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Mounts of this process, proc_pid_mounts(5).
const MOUNTS: &str = "/proc/self/mounts";

/// Which processes are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of the host.
    Host,
    /// Those of one cgroup and below: its path below the root of the unified hierarchy, or that of its
    /// folder.
    Cgroup(PathBuf),
}

/// A cgroup of the unified hierarchy.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Its folder, open.
    pub(super) folder: File,
    pub(super) path: PathBuf,
    /// As the kernel numbers it; 0 for the root.
    pub(super) id: u64,
    /// How far below the root it is.
    pub(super) level: u64,
}

impl Scope {
    /// Opens its cgroup.
    pub(super) fn cgroup(&self) -> Result<Cgroup, Error> {
        let root = root()?;
        let path = match self {
            Self::Host => root.clone(),
            Self::Cgroup(path) if path.starts_with(&root) => path.clone(),
            Self::Cgroup(path) => root.join(path.strip_prefix("/").unwrap_or(path)),
        };
        let failed = |error| Error::io(named("cgroup", path.display()), error);
        let folder = File::open(&path).map_err(failed)?;
        let below = path.strip_prefix(&root).unwrap_or(Path::new("")).components().count();
        let id = if below == 0 { 0 } else { folder.metadata().map_err(failed)?.ino() };
        Ok(Cgroup { folder, path, id, level: below as u64 })
    }
}

/// Where the unified hierarchy is mounted.
fn root() -> Result<PathBuf, Error> {
    let text = std::fs::read(MOUNTS).map_err(|error| Error::io(named("file", MOUNTS), error))?;
    mounted(&text, "cgroup2").ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "cgroups", "the unified hierarchy is not mounted")
            .with_remedy("mount -t cgroup2 none /sys/fs/cgroup")
    })
}

/// Where the first file system of a type is mounted.
fn mounted(text: &[u8], fs_type: &str) -> Option<PathBuf> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let mut words = line.split(|&byte| byte == b' ').skip(1);
        let path = words.next()?;
        (words.next()? == fs_type.as_bytes()).then(|| unescaped(path))
    })
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.first_chunk::<3>()).flatten();
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_others() {
        let text =
            b"tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                     cgroup2 /a\\040b/c\\134d cgroup2 rw 0 0\ncgroup2 /later cgroup2 rw 0 0\n";
        assert_eq!(mounted(text, "cgroup2"), Some("/a b/c\\d".into()));
        assert_eq!(mounted(text, "cgroup3"), None);
    }
}
