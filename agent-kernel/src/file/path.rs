//! Where a path leads, and that it stays below /proc or /sys.

use crate::error::{Error, ErrorKind, named};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the host's procfs and sysfs are mounted for us. Paths say /proc and /sys all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// For /proc.
    pub proc: PathBuf,
    /// For /sys.
    pub sys: PathBuf,
}

/// The longest path, bytes: PATH_MAX of path_resolution(7).
const LONGEST_PATH: usize = 4_096;
/// A rename that races with a lookup below a folder makes it start again (openat2(2), EAGAIN).
const ATTEMPTS: u32 = 10;

const SYSFS: FsType = FsType(0x6265_6572);
const CGROUP: FsType = FsType(0x0027_e0eb);
const CGROUP2: FsType = FsType(0x6367_7270);
const BINFMT_MISC: FsType = FsType(0x4249_4e4d);
/// File systems in which a path may end (statfs(2)): none of them has files that are used up by
/// reading them, as those of tracefs are.
const READABLE: [FsType; 5] = [PROC_SUPER_MAGIC, SYSFS, CGROUP, CGROUP2, BINFMT_MISC];
/// Those in which something can be set.
const WRITABLE: [FsType; 2] = [PROC_SUPER_MAGIC, SYSFS];

/// A place below /proc or /sys that is held and not opened yet: nothing has happened to it.
#[derive(Debug)]
pub(super) struct Place {
    fd: OwnedFd,
    stat: FileStat,
    file_system: FsType,
    /// As it was asked for.
    pub(super) asked: String,
    /// After every symbolic link: `/proc/self/environ` is `/proc/7/environ`.
    pub(super) resolved: String,
}

/// How a path is named in errors.
pub(super) fn object(path: &str) -> String {
    named("file", path)
}

pub(super) fn invalid(path: &str, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, object(path), why)
}

/// The folder that the path begins with, as it is for us and as it is written, and the rest.
fn split<'a>(roots: &'a Roots, path: &'a str) -> Result<(&'a Path, &'static str, &'a str), Error> {
    if path.len() > LONGEST_PATH {
        return Err(Error::new(ErrorKind::Invalid, "file", "its path is longer than 4096 bytes"));
    }
    let trees = [(roots.proc.as_path(), "/proc"), (roots.sys.as_path(), "/sys")];
    let found = trees.into_iter().find_map(|(root, tree)| {
        let rest = path.strip_prefix(tree)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((root, tree, rest))
    });
    let (root, tree, rest) =
        found.ok_or_else(|| invalid(path, "must begin with /proc/ or /sys/"))?;
    if path.contains('\0') {
        return Err(invalid(path, "holds a NUL byte"));
    }
    if rest.split('/').any(|name| name == ".." || name == ".") {
        return Err(invalid(path, "\".\" and \"..\" are refused; name the file itself"));
    }
    Ok((root, tree, rest.trim_matches('/')))
}

impl Place {
    /// Finds it. Invalid: the path is none, leads out of its tree, goes through a link to a process's
    /// files, or ends in a file system that is not listed.
    pub(super) fn find(roots: &Roots, path: &str) -> Result<Self, Error> {
        let (root, tree, rest) = split(roots, path)?;
        let failed = |error: Errno| io_error(path, error);
        let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root_fd = open(root, folder, Mode::empty()).map_err(failed)?;
        let rest = if rest.is_empty() { "." } else { rest };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut attempt = 0;
        let fd = loop {
            attempt += 1;
            match openat2(&root_fd, rest, how) {
                Err(Errno::EAGAIN) if attempt < ATTEMPTS => {}
                Err(Errno::EXDEV) => {
                    return Err(invalid(path, &format!("it leads out of {tree}")));
                }
                Err(Errno::ELOOP) => {
                    let why = "it goes through a link to what a process has open, or in circles";
                    return Err(invalid(path, why));
                }
                Err(Errno::ENOSYS) => {
                    let why = "this kernel can't keep a path below a folder (openat2, Linux 5.6)";
                    return Err(Error::new(ErrorKind::Unsupported, object(path), why));
                }
                result => break result.map_err(failed)?,
            }
        };
        let file_system = fstatfs(&fd).map_err(failed)?.filesystem_type();
        if !READABLE.contains(&file_system) {
            let why = format!(
                "it is on another file system ({}), where reading may have effects",
                file_system_name(file_system)
            );
            return Err(invalid(path, &why));
        }
        let stat = fstat(&fd).map_err(failed)?;
        let resolved = resolved(&fd, &root_fd, tree).map_err(failed)?;
        let resolved = resolved.ok_or_else(|| invalid(path, &format!("it leads out of {tree}")))?;
        Ok(Self { fd, stat, file_system, asked: path.to_owned(), resolved })
    }

    pub(super) fn is_folder(&self) -> bool {
        self.kind() == SFlag::S_IFDIR
    }

    fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT
    }

    /// Whether the kernel shows it to its owner alone.
    pub(super) fn is_private(&self) -> bool {
        !Mode::from_bits_truncate(self.stat.st_mode).contains(Mode::S_IROTH)
    }

    /// Whether something can be set in its file system.
    pub(super) fn can_be_set(&self) -> bool {
        WRITABLE.contains(&self.file_system)
    }

    /// Opens the file that is held. It never waits for anybody.
    pub(super) fn open(&self, flags: OFlag) -> Result<std::fs::File, Error> {
        match self.kind() {
            SFlag::S_IFREG => {}
            SFlag::S_IFDIR => return Err(invalid(&self.asked, "it is a folder")),
            _ => return Err(invalid(&self.asked, "it is no regular file")),
        }
        self.reopen(flags | OFlag::O_NONBLOCK)
    }

    /// Names in the folder, in order.
    pub(super) fn names(&self) -> Result<Vec<String>, Error> {
        let folder = self.reopen(OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let failed = |error: Errno| io_error(&self.asked, error);
        let mut folder = nix::dir::Dir::from_fd(folder.into()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in folder.iter() {
            // One that is no text can't be asked for either.
            if let Ok(name) = entry.map_err(failed)?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        names.retain(|name| name != "." && name != "..");
        names.sort_unstable();
        Ok(names)
    }

    fn reopen(&self, flags: OFlag) -> Result<std::fs::File, Error> {
        // Our own /proc: the held file itself, and not its path once more.
        let held = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let file = open(held.as_str(), flags, Mode::empty());
        Ok(file.map_err(|error| io_error(&self.asked, error))?.into())
    }
}

/// The path of what is held, as it is written for the host; `None` when it is not below its tree.
fn resolved(fd: &OwnedFd, root: &OwnedFd, tree: &str) -> Result<Option<String>, Errno> {
    let path = |fd: &OwnedFd| {
        let link = nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str())?;
        link.into_string().map_err(|_| Errno::EILSEQ)
    };
    let (path, root) = (path(fd)?, path(root)?);
    let below = path.strip_prefix(root.trim_end_matches('/'));
    Ok(below.filter(|it| it.is_empty() || it.starts_with('/')).map(|it| format!("{tree}{it}")))
}

pub(super) fn io_error(path: &str, error: Errno) -> Error {
    let error = Error::io(object(path), io::Error::from_raw_os_error(error as i32));
    match error.kind() {
        ErrorKind::NoPermission => error.with_remedy(
            "the agent must run as root, or with the capability that this file asks for, and /proc \
             and /sys must be mounted read-write to be set",
        ),
        _ => error,
    }
}

fn file_system_name(kind: FsType) -> String {
    match kind.0 {
        0x6462_6720 => "debugfs".to_owned(),
        0x7472_6163 => "tracefs".to_owned(),
        0x7363_6673 => "securityfs".to_owned(),
        0x6265_6570 => "configfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x6e66_7364 => "nfsd".to_owned(),
        number => format!("type {number:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots() -> Roots {
        Roots { proc: "/proc".into(), sys: "/sys".into() }
    }

    #[test]
    fn paths_are_below_proc_and_sys() {
        let roots = roots();
        let place = Place::find(&roots, "/proc//sys/kernel/ostype").expect("a file");
        assert_eq!(place.resolved, "/proc/sys/kernel/ostype");
        assert!(!place.is_folder() && place.can_be_set() && !place.is_private());
        let own = format!("/proc/{}/status", std::process::id());
        assert_eq!(Place::find(&roots, "/proc/self/status").expect("a file").resolved, own);
        assert!(Place::find(&roots, "/proc").expect("a folder").is_folder());
        for (path, why) in [
            ("/etc/passwd", "must begin with /proc/ or /sys/"),
            ("/procfs", "must begin with /proc/ or /sys/"),
            ("proc/version", "must begin with /proc/ or /sys/"),
            ("", "must begin with /proc/ or /sys/"),
            ("/proc/../etc/passwd", "\"..\" are refused"),
            ("/proc/./version", "\"..\" are refused"),
            ("/proc/self/root/etc/passwd", "a link to what a process has open"),
            ("/proc/self/cwd/Cargo.toml", "a link to what a process has open"),
            ("/proc/self/fd/0", "a link to what a process has open"),
            ("/proc/self/exe", "a link to what a process has open"),
            ("/proc/ver\0sion", "holds a NUL byte"),
        ] {
            let error = Place::find(&roots, path).expect_err(path);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{path}: {error}");
            assert!(error.to_string().contains(why), "{path}: {error}");
        }
        let error = Place::find(&roots, "/proc/none").expect_err("no such file");
        assert_eq!(error.to_string(), "file \"/proc/none\": no such file or directory");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn another_file_system_below_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a"), "1").expect("a file");
        std::os::unix::fs::symlink("/etc", folder.path().join("out")).expect("a link");
        let roots = Roots { proc: folder.path().to_owned(), sys: "/sys".into() };
        let error = Place::find(&roots, "/proc/a").expect_err("no procfs");
        assert!(error.to_string().contains("on another file system"), "{error}");
        let error = Place::find(&roots, "/proc/out/passwd").expect_err("a way out");
        assert_eq!(error.to_string(), "file \"/proc/out/passwd\": it leads out of /proc");
    }
}
