//! POSIX shared memory and message queues: files of two folders. Anybody may make files there, so
//! nothing but plain files is looked at, no link is followed, and shared memory is never opened.

use super::{Ipc, Kind, MOST, Owner};
use crate::error::{Error, named};
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::sys::statfs::{FsType, fstatfs};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

/// The magic number of mqueue, of the kernel's linux/magic.h.
const MQUEUE: FsType = FsType(0x1980_0202);
/// `st_blocks` counts in these.
const BLOCK_BYTES: u64 = 512;

/// What lies in `/dev/shm`.
pub(super) fn shared_memory(folder: &Path) -> Result<Vec<Ipc>, Error> {
    let Some(at) = opened(folder)? else { return Ok(Vec::new()) };
    let objects = files(&at, folder)?.map(|(name, stat)| {
        let kind = Kind::PosixShm {
            name: name.into_vec(),
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            rss_bytes: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK_BYTES),
        };
        object(&stat, kind)
    });
    Ok(objects.collect())
}

/// What lies in `/dev/mqueue`, where the kernel's file system of queues is mounted there.
pub(super) fn queues(folder: &Path) -> Result<Vec<Ipc>, Error> {
    let Some(at) = opened(folder)? else { return Ok(Vec::new()) };
    let failed = |error: nix::Error| Error::io(named("folder", folder.display()), error.into());
    if fstatfs(&at).map_err(failed)?.filesystem_type() != MQUEUE {
        return Ok(Vec::new());
    }
    let objects = files(&at, folder)?.map(|(name, stat)| {
        let bytes = waiting(&at, &name).unwrap_or(0);
        object(&stat, Kind::PosixMq { name: name.into_vec(), bytes })
    });
    Ok(objects.collect())
}

/// `QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260`; `None` for a queue that may not be read or is gone.
fn waiting(at: &OwnedFd, name: &OsString) -> Option<u64> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(at, name.as_os_str(), flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(256).read_to_string(&mut text).ok()?;
    text.split_whitespace().find_map(|word| word.strip_prefix("QSIZE:"))?.parse().ok()
}

/// `None` where there is no such folder.
fn opened(folder: &Path) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match open(folder, flags, Mode::empty()) {
        Ok(at) => Ok(Some(at)),
        Err(nix::Error::ENOENT) => Ok(None),
        Err(error) => Err(Error::io(named("folder", folder.display()), error.into())),
    }
}

/// The plain files of a folder, by name; what is gone meanwhile is left out.
fn files<'a>(
    at: &'a OwnedFd,
    folder: &Path,
) -> Result<impl Iterator<Item = (OsString, FileStat)> + use<'a>, Error> {
    let failed = |error: io::Error| Error::io(named("folder", folder.display()), error);
    let entries = std::fs::read_dir(folder).map_err(failed)?.take(MOST);
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort_unstable();
    Ok(names.into_iter().filter_map(move |name| {
        let stat = fstatat(at, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        (kind == SFlag::S_IFREG).then_some((name, stat))
    }))
}

fn object(stat: &FileStat, kind: Kind) -> Ipc {
    let owner = Owner {
        uid: stat.st_uid,
        gid: stat.st_gid,
        permissions: stat.st_mode & 0o777,
        ..Owner::default()
    };
    Ipc { owner, changed_unix: Some(stat.st_mtime), kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_plain_files_are_told_and_nothing_is_followed_or_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let odd = folder.path().join(OsStr::from_bytes(b"sem.\xff"));
        std::fs::write(&odd, [7; 5_000]).expect("written");
        symlink("/etc/passwd", folder.path().join("link")).expect("a link");
        std::fs::create_dir(folder.path().join("folder")).expect("a folder");
        // To open it would wait for a writer for ever.
        nix::unistd::mkfifo(&folder.path().join("fifo"), Mode::S_IRWXU).expect("a fifo");
        let found = shared_memory(folder.path()).expect("a list");
        assert_eq!(found.len(), 1);
        let Kind::PosixShm { name, size_bytes, rss_bytes } = &found[0].kind else {
            panic!("{found:?}")
        };
        assert_eq!((name.as_slice(), *size_bytes), (&b"sem.\xff"[..], 5_000));
        assert!(*rss_bytes >= 5_000, "{rss_bytes}");
        // A plain folder in the place of the queues' file system.
        assert!(queues(folder.path()).expect("a list").is_empty());
        assert!(shared_memory(Path::new("/nonexistent")).expect("a list").is_empty());
    }
}
