//! Names of cgroups by the ids that records have. It must not know what happened in them.

use crate::error::{Error, ErrorKind, named};
use crate::proc::{container_id, mounts};
use agent_records::trace::CGROUP_BYTES;
use aya::maps::{HashMap as KernelMap, MapData};
use nix::libc;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Names that are kept, at most; then all are forgotten and asked for again.
const KEPT: usize = 16_384;
/// `FILEID_KERNFS`, linux/exportfs.h
const FILEID_KERNFS: libc::c_int = 0xfe;
/// Id of the root of a hierarchy.
const ROOT: u64 = 1;

/// A cgroup of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Below the root: `/system.slice/ssh.service`.
    pub path: Vec<u8>,
    /// Id of the container that it is of, as read from the path.
    pub container: Option<String>,
}

impl Cgroup {
    fn new(path: Vec<u8>) -> Self {
        let container = container_id(&path).map(str::to_owned);
        Self { path, container }
    }
}

/// The cgroup by its id, also one that is gone if it was there, or came, while this was.
#[derive(Debug, Default)]
pub struct CgroupPaths {
    mount: Option<Mount>,
    /// Of those that came, by the kernel.
    came: Option<KernelMap<MapData, u64, [u8; CGROUP_BYTES]>>,
    known: Mutex<HashMap<u64, Option<Arc<Cgroup>>>>,
}

/// Where the hierarchy is.
#[derive(Debug)]
pub(crate) struct Mount {
    path: PathBuf,
    folder: File,
}

impl Mount {
    /// The first one; `None` when there is none. `proc` is where procfs is.
    pub(crate) fn find(proc: &Path) -> Result<Option<Self>, Error> {
        let mounts = mounts(proc)?.mounts;
        let found = mounts.into_iter().find(|it| it.fs_type == b"cgroup2");
        let Some(path) = found.map(|it| PathBuf::from(OsStr::from_bytes(&it.path))) else {
            return Ok(None);
        };
        let folder = File::open(&path)
            .map_err(|error| Error::io(named("cgroup2", path.display()), error))?;
        Ok(Some(Self { path, folder }))
    }

    /// The folder of a cgroup, and where it is.
    pub(crate) fn open(&self, cgroup: &Path) -> Result<(File, PathBuf), Error> {
        let path = self.path.join(below(cgroup)?);
        let folder = File::open(&path)
            .map_err(|error| Error::io(named("cgroup", cgroup.display()), error))?;
        Ok((folder, path))
    }

    /// Id of a cgroup, and how deep it is below the root.
    pub(crate) fn scope(&self, cgroup: &Path) -> Result<(u64, u32), Error> {
        let object = || named("cgroup", cgroup.display());
        let below = below(cgroup)?;
        let root = self.folder.metadata().map_err(|error| Error::io(object(), error))?;
        if root.ino() != ROOT {
            let why = format!("{} does not show the whole hierarchy", self.path.display());
            return Err(Error::new(ErrorKind::Unsupported, object(), why)
                .with_remedy("run in the host's cgroup namespace"));
        }
        let found = std::fs::metadata(self.path.join(&below))
            .map_err(|error| Error::io(object(), error))?;
        let depth = u32::try_from(below.components().count()).unwrap_or(u32::MAX);
        Ok((found.ino(), depth))
    }

    /// Its path below the root, while it is there.
    #[expect(unsafe_code, reason = "open_by_handle_at(2) takes a pointer")]
    fn path_of(&self, id: u64) -> Option<Vec<u8>> {
        #[repr(C)]
        struct Handle {
            bytes: libc::c_uint,
            kind: libc::c_int,
            id: u64,
        }
        let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id };
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let at = self.folder.as_raw_fd();
        // SAFETY: a handle as long as it says, which the kernel only reads.
        let fd = unsafe { libc::open_by_handle_at(at, (&raw mut handle).cast(), flags) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the kernel just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
        let path = path.into_os_string().into_vec();
        let below = path.strip_prefix(self.path.as_os_str().as_bytes())?;
        // One that goes right now.
        if below.ends_with(b" (deleted)") {
            return None;
        }
        Some(if below.is_empty() { b"/".to_vec() } else { below.to_vec() })
    }

    /// Notes every cgroup that there is.
    fn walk(&self, known: &mut HashMap<u64, Option<Arc<Cgroup>>>) {
        if let Ok(root) = self.folder.metadata() {
            known.insert(root.ino(), Some(Arc::new(Cgroup::new(b"/".to_vec()))));
        }
        let mut folders = vec![PathBuf::from("/")];
        while let Some(below) = folders.pop() {
            let folder = self.path.join(below.strip_prefix("/").unwrap_or(&below));
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            for entry in entries.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())) {
                if known.len() >= KEPT {
                    return;
                }
                let path = below.join(entry.file_name());
                let cgroup = Cgroup::new(path.as_os_str().as_bytes().to_vec());
                known.insert(entry.ino(), Some(Arc::new(cgroup)));
                folders.push(path);
            }
        }
    }
}

/// Its path without the root.
fn below(cgroup: &Path) -> Result<PathBuf, Error> {
    let mut below = PathBuf::new();
    for component in cgroup.components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => {
                let object = named("cgroup", cgroup.display());
                return Err(Error::new(ErrorKind::Invalid, object, "leads upwards"));
            }
        }
    }
    Ok(below)
}

impl CgroupPaths {
    /// Without a tracer: the names of those that are there.
    pub fn open(proc_root: &Path) -> Result<Self, Error> {
        Ok(Self::new(Mount::find(proc_root)?, None))
    }

    pub(super) fn new(
        mount: Option<Mount>,
        came: Option<KernelMap<MapData, u64, [u8; CGROUP_BYTES]>>,
    ) -> Self {
        let mut known = HashMap::new();
        if let Some(mount) = &mount {
            mount.walk(&mut known);
        }
        Self { mount, came, known: Mutex::new(known) }
    }

    /// The cgroup of a process; `None` when its name can't be had any more.
    pub fn find(&self, id: u64) -> Option<Arc<Cgroup>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(cgroup) = known {
            return cgroup;
        }
        // Ids are not used again, so what can't be had now never can.
        let cgroup = self.ask(id).map(|path| Arc::new(Cgroup::new(path)));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(id, cgroup.clone());
        cgroup
    }

    fn ask(&self, id: u64) -> Option<Vec<u8>> {
        let came = self.came.as_ref().and_then(|came| came.get(&id, 0).ok());
        came.and_then(|path| path.split(|byte| *byte == 0).next().map(<[u8]>::to_vec))
            .or_else(|| self.mount.as_ref()?.path_of(id))
    }
}
