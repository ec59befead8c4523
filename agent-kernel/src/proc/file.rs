//! Reading the small files of procfs: by folder descriptor, into a buffer that is used again.

use crate::error::{Error, named};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Opens a folder for [`read_at`] alone.
pub(super) fn open_folder(at: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// Fills `buffer` anew with at most `limit` bytes of a process's file; whether there was more.
pub(super) fn read_at(
    folder: impl AsFd,
    name: &str,
    buffer: &mut Vec<u8>,
    limit: usize,
) -> io::Result<bool> {
    buffer.clear();
    let mut file = File::from(openat(folder, name, OFlag::O_CLOEXEC, Mode::empty())?);
    let mut filled = 0;
    loop {
        if filled == limit {
            return Ok(file.read(&mut [0])? > 0);
        }
        if filled == buffer.len() {
            buffer.resize((filled + 4_096).min(limit), 0);
        }
        match file.read(&mut buffer[filled..]) {
            Ok(count) => {
                filled += count;
                // The files of a process are made in one piece: a read that leaves room met the end.
                if filled < buffer.len() {
                    buffer.truncate(filled);
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The text of a file of the system, such as `meminfo`.
pub(super) fn text(root: &Path, name: &str) -> Result<String, Error> {
    let path = root.join(name);
    std::fs::read(&path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|error| Error::io(named("file", path.display()), error))
}
