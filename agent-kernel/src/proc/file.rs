//! Reading the small files of procfs: by folder descriptor, into a buffer that is used again.

use crate::error::{Error, named};
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{read, retry_on_intr};
use rustix::path::Arg;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Opens a folder for [`read_at`] alone.
pub(super) fn open_folder(at: impl AsFd, name: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
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
    let file = openat(folder, name, OFlags::CLOEXEC, Mode::empty())?;
    loop {
        if buffer.len() >= limit {
            let more = buffer.len() > limit || retry_on_intr(|| read(&file, &mut [0_u8]))? > 0;
            buffer.truncate(limit);
            return Ok(more);
        }
        buffer.reserve(4_096.min(limit - buffer.len()));
        let room = buffer.capacity() - buffer.len();
        // The files of a process are made in one piece: a read that leaves room met the end.
        if retry_on_intr(|| read(&file, spare_capacity(buffer)))? < room {
            let more = buffer.len() > limit;
            buffer.truncate(limit);
            return Ok(more);
        }
    }
}

/// The text of a file of the system, such as `meminfo`.
pub(crate) fn text(root: &Path, name: &str) -> Result<String, Error> {
    let path = root.join(name);
    std::fs::read(&path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|error| Error::io(named("file", path.display()), error))
}
