//! `/proc/PID/fd`, as in proc_pid_fd(5): what a process has open.

use super::fdinfo::{self, Detail};
use super::{Handle, number, socket, words};
use crate::error::Error;
use crate::proc::file::{open_folder, read_at};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

/// Room for a thousand watches.
const LONGEST_INFO: usize = 256 << 10;
/// Sockets whose addresses are looked up.
const MOST_SOCKETS: usize = 65_536;

/// One open file descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fd {
    /// Its number.
    pub fd: u32,
    /// `file`, `socket`, `eventfd` …
    pub kind: String,
    /// As the kernel tells it: a path of any bytes, `socket:[4026]`.
    pub target: Vec<u8>,
    /// `O_RDWR`, `O_CLOEXEC` …
    pub flags: Vec<String>,
    /// Where the next read or write is, bytes.
    pub position: u64,
    /// Of the object; `None` where the kernel does not tell.
    pub inode: Option<u64>,
    /// What some types have besides.
    pub detail: Option<Detail>,
}

/// The descriptors of a process in order, read while they are taken.
#[derive(Debug)]
pub struct Fds {
    handle: Handle,
    links: OwnedFd,
    infos: OwnedFd,
    numbers: std::vec::IntoIter<u32>,
    sockets: HashMap<u64, socket::Socket>,
    buffer: Vec<u8>,
}

/// Begins to list what a process has open; nothing for kernel threads and zombies.
pub fn fds(root: &Path, pid: u32) -> Result<Fds, Error> {
    let handle = Handle::open(root, pid)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let refused = |error: Errno| handle.refused(error.into());
    let links = openat(&handle.folder, "fd", flags, Mode::empty()).map_err(refused)?;
    let infos =
        open_folder(&handle.folder, "fdinfo").map_err(|error| handle.failed("fdinfo", error))?;
    let mut numbers: Vec<u32> = Vec::new();
    for entry in rustix::fs::Dir::read_from(&links).map_err(|error| handle.refused(error.into()))? {
        let entry = entry.map_err(|error| handle.refused(error.into()))?;
        numbers.extend(number::<u32>(entry.file_name().to_bytes()));
    }
    // An empty folder is also what is left of a process.
    handle.stat()?;
    numbers.sort_unstable();
    let mut wanted = HashSet::new();
    for fd in &numbers {
        let target = match readlinkat(&links, fd.to_string().as_str()) {
            Ok(target) => target.into_vec(),
            Err(Errno::ENOENT) => continue,
            Err(error) => return Err(refused(error)),
        };
        if wanted.len() < MOST_SOCKETS {
            wanted.extend(bracketed(&target, b"socket:["));
        }
    }
    let sockets = socket::sockets(&handle.folder, &wanted);
    let numbers = numbers.into_iter();
    Ok(Fds { handle, links, infos, numbers, sockets, buffer: Vec::new() })
}

impl Iterator for Fds {
    type Item = Result<Fd, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let fd = self.numbers.next()?;
            if let Some(fd) = self.read(fd).transpose() {
                return Some(fd);
            }
        }
    }
}

impl Fds {
    /// `None` for one that was closed.
    fn read(&mut self, fd: u32) -> Result<Option<Fd>, Error> {
        let name = fd.to_string();
        let target = match readlinkat(&self.links, name.as_str()) {
            Ok(target) => target.into_vec(),
            Err(error) => return self.closed(error.into()),
        };
        let cut = match read_at(&self.infos, &name, &mut self.buffer, LONGEST_INFO) {
            Ok(cut) => cut,
            Err(error) => return self.closed(error),
        };
        let (kind, inode) = self.kind(&name, &target);
        let info = fdinfo::parse(&self.buffer, &kind, cut);
        let socket = bracketed(&target, b"socket:[").and_then(|inode| self.sockets.get(&inode));
        Ok(Some(Fd {
            fd,
            flags: words::open_flags(info.flags),
            position: info.position,
            inode: inode.or(info.inode),
            detail: socket.cloned().map(Detail::Socket).or(info.detail),
            kind,
            target,
        }))
    }

    fn closed(&self, error: std::io::Error) -> Result<Option<Fd>, Error> {
        match error.raw_os_error().map(Errno::from_raw) {
            // Whoever has ended has closed it as well, and its list would end early.
            Some(Errno::ENOENT | Errno::ESRCH) if self.handle.stat()?.state != 'Z' => Ok(None),
            _ => Err(self.handle.refused(error)),
        }
    }

    /// The type, and the inode where the link tells one.
    fn kind(&self, name: &str, target: &[u8]) -> (String, Option<u64>) {
        if target.starts_with(b"/memfd:") {
            return ("memfd".to_owned(), None);
        }
        if target.first() == Some(&b'/') {
            return self.path_kind(name);
        }
        let text = String::from_utf8_lossy(target);
        // `socket:[4026]`, `net:[4026]`, `anon_inode:[eventfd]`, `anon_inode:inotify`
        match text.split_once(':') {
            Some(("anon_inode", kind)) => (kind.trim_matches(['[', ']']).to_owned(), None),
            Some((kind, inode)) => (kind.to_owned(), inode.trim_matches(['[', ']']).parse().ok()),
            // A path outside of what the agent sees, and whatever comes.
            None => self.path_kind(name),
        }
    }

    /// Asked of the open file, and of what the kernel knows without asking a file server or a user's own
    /// file system: either may never answer.
    fn path_kind(&self, name: &str) -> (String, Option<u64>) {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let Ok(told) = statx(&self.links, name, flags, StatxFlags::TYPE | StatxFlags::INO) else {
            return ("unknown".to_owned(), None);
        };
        let kind = match FileType::from_raw_mode(told.stx_mode.into()) {
            FileType::RegularFile => "file",
            FileType::Directory => "dir",
            FileType::CharacterDevice => "char",
            FileType::BlockDevice => "block",
            FileType::Fifo => "fifo",
            FileType::Socket => "socket",
            FileType::Symlink => "symlink",
            FileType::Unknown => "unknown",
        };
        (kind.to_owned(), Some(told.stx_ino))
    }
}

/// The inode of `socket:[4026]`.
fn bracketed(target: &[u8], begins: &[u8]) -> Option<u64> {
    number(target.strip_prefix(begins)?.strip_suffix(b"]")?)
}
