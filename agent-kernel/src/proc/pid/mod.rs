//! One process by its id: one file a noun of `/proc/PID`.
//!
//! A process is opened once and read through that descriptor, so that what is told together is never of
//! two processes that had the same id.

mod cgroups;
mod env;
mod fdinfo;
mod fds;
mod io;
mod limits;
mod maps;
mod namespaces;
mod signal;
mod socket;
mod status;
mod words;

pub use cgroups::{Cgroup, cgroups};
pub use env::{Environment, Variable, environment};
pub use fdinfo::{Detail, EpollWatch, InotifyWatch};
pub use fds::{Fd, Fds, fds};
pub use io::{Io, io};
pub use limits::{Limit, limits};
pub use maps::{Map, Maps, Usage, maps};
pub use namespaces::{Namespace, namespaces};
pub use signal::{Expected, Signal, Signalled, signal};
pub use socket::Socket;
pub use status::{Capabilities, Id, Ids, Status, StatusMemory, status};
pub use words::capabilities;

use super::file::{open_folder, read_at};
use super::stat::Stat;
use crate::error::{Error, ErrorKind, named};
use nix::errno::Errno;
use rustix::fs::CWD;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

/// Longer than any file of a process that has a fixed form.
const LONGEST_FILE: usize = 64 << 10;

/// One process, held by its folder: once it has ended, nothing more is read.
#[derive(Debug)]
struct Handle {
    pid: u32,
    folder: OwnedFd,
}

impl Handle {
    fn open(root: &Path, pid: u32) -> Result<Self, Error> {
        let folder = open_folder(CWD, root.join(pid.to_string()));
        let folder = folder.map_err(|error| failed(pid, error))?;
        Ok(Self { pid, folder })
    }

    /// The beginning of a file, and whether there was more.
    fn read(&self, name: &str, limit: usize) -> Result<(Vec<u8>, bool), Error> {
        let mut buffer = Vec::new();
        match read_at(&self.folder, name, &mut buffer, limit) {
            Ok(more) => Ok((buffer, more)),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// What a link such as `exe` says; `None` where there is none, or the kernel does not show it.
    fn link(&self, name: &str) -> Option<Vec<u8>> {
        let target = nix::fcntl::readlinkat(&self.folder, name);
        target.ok().map(OsString::into_vec)
    }

    fn stat(&self) -> Result<Stat, Error> {
        let (line, _) = self.read("stat", LONGEST_FILE)?;
        Stat::parse(&line).ok_or_else(|| self.odd("stat"))
    }

    /// Kernel threads and zombies: newer kernels then say that a file of its memory has no process.
    fn has_no_memory(&self) -> bool {
        self.stat().is_ok_and(|stat| stat.kernel_thread || matches!(stat.state, 'Z' | 'X'))
    }

    /// For a file of a form that nobody knows.
    fn odd(&self, file: &str) -> Error {
        let why = format!("its {file} file has another form");
        Error::new(ErrorKind::Unsupported, named("process", self.pid), why)
    }

    fn failed(&self, file: &str, error: std::io::Error) -> Error {
        let missing = error.raw_os_error() == Some(Errno::ENOENT as i32);
        // Only a living process has a stat.
        if missing && read_at(&self.folder, "stat", &mut Vec::new(), LONGEST_FILE).is_ok() {
            let why = format!("this kernel has no {file} file");
            return Error::new(ErrorKind::Unsupported, named("process", self.pid), why);
        }
        self.refused(error)
    }

    /// What the kernel says of a link or folder. Of a process that is gone it also says that permission
    /// is denied (the kernel's proc_pid_get_link), and only a living one has a stat.
    fn refused(&self, error: std::io::Error) -> Error {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        match read_at(&self.folder, "stat", &mut Vec::new(), LONGEST_FILE) {
            Err(gone) if denied => failed(self.pid, gone),
            _ => failed(self.pid, error),
        }
    }
}

/// A process that is gone, or that the kernel keeps for itself.
fn failed(pid: u32, error: std::io::Error) -> Error {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ESRCH) => gone(pid),
        Some(Errno::EPERM | Errno::EACCES) => Error::io(named("process", pid), error)
            .with_remedy("give the agent CAP_SYS_PTRACE; a sandbox may forbid it all the same"),
        _ => Error::io(named("process", pid), error),
    }
}

fn gone(pid: u32) -> Error {
    Error::new(ErrorKind::NotFound, named("process", pid), "no such process")
}

/// The lines of a file, without the empty ones.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// The words of a line.
fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

/// `KEY:VALUE`, without blanks around the value.
fn entry(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A procfs with process 7 of these files.
    pub(super) fn fixture(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("7")).expect("a folder");
        fs::write(root.path().join("uptime"), "100.00 50.00\n").expect("written");
        fs::write(root.path().join("stat"), "cpu  1 2 3 4\nbtime 1000\n").expect("written");
        let stat = b"7 (we b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0 100 8192 3 0\n";
        fs::write(root.path().join("7/stat"), stat).expect("written");
        for (name, content) in files {
            fs::write(root.path().join("7").join(name), content).expect("written");
        }
        root
    }

    #[test]
    fn who_is_gone_and_what_a_kernel_lacks_are_told_apart() {
        let root = fixture(&[]);
        let error = io(root.path(), 8).expect_err("no such process");
        assert_eq!(error.to_string(), "process \"8\": no such process");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = io(root.path(), 7).expect_err("no such file");
        assert_eq!(error.to_string(), "process \"7\": this kernel has no io file");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let refused = failed(7, std::io::Error::from_raw_os_error(1));
        assert_eq!(refused.kind(), ErrorKind::NoPermission);
        assert!(refused.remedy().is_some_and(|it| it.contains("CAP_SYS_PTRACE")));
    }
}
