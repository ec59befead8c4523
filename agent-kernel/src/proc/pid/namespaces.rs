//! `/proc/PID/ns`, as in namespaces(7).

use super::{Handle, number};
use crate::error::Error;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

/// One namespace of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// `net`, `pid`, `pid_for_children` …
    pub kind: String,
    /// The same for every process in it.
    pub inode: u64,
}

/// Its namespaces by kind. A zombie has few.
pub fn namespaces(root: &Path, pid: u32) -> Result<Vec<Namespace>, Error> {
    let handle = Handle::open(root, pid)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let refused = |error: Errno| handle.refused(error.into());
    let folder = openat(&handle.folder, "ns", flags, Mode::empty()).map_err(refused)?;
    let mut namespaces = Vec::new();
    for entry in
        rustix::fs::Dir::read_from(&folder).map_err(|error| handle.refused(error.into()))?
    {
        let entry = entry.map_err(|error| handle.refused(error.into()))?;
        let Ok(kind) = entry.file_name().to_str() else { continue };
        if kind.starts_with('.') {
            continue;
        }
        let target = match nix::fcntl::readlinkat(&folder, kind) {
            Ok(target) => target.into_vec(),
            // Of one that a zombie has given back.
            Err(Errno::ENOENT | Errno::ESRCH) => continue,
            Err(error) => return Err(refused(error)),
        };
        let inode = target.split(|byte| b"[]".contains(byte)).nth(1).and_then(number);
        namespaces.extend(inode.map(|inode| Namespace { kind: kind.to_owned(), inode }));
    }
    // An empty folder is also what is left of a process.
    handle.stat()?;
    namespaces.sort_unstable_by(|a, b| a.kind.cmp(&b.kind));
    Ok(namespaces)
}
