//! A file's bytes.

use super::path::{Roots, io_error};
use super::policy::{Holds, holds, readable};
use crate::error::Error;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{self, Read as _};

/// A file below /proc or /sys, open for reading.
#[derive(Debug)]
pub struct KernelFile {
    file: File,
    path: String,
    holds: Holds,
}

/// Opens one. Invalid: a path that leads elsewhere, or a file that must not be read. NotFound: none.
pub fn open(roots: &Roots, path: &str) -> Result<KernelFile, Error> {
    let place = readable(roots, path)?;
    let file = place.open(OFlag::O_RDONLY)?;
    Ok(KernelFile { file, path: path.to_owned(), holds: holds(&place) })
}

impl KernelFile {
    /// What it holds that is not for everybody.
    pub fn holds(&self) -> Holds {
        self.holds
    }

    /// Reads on: at most as much as there is room for, nothing at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    return result.map_err(|error| {
                        let number = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                        io_error(&self.path, number)
                    });
                }
            }
        }
    }

    /// All of it, up to `most` bytes; `None` when there is more.
    pub(super) fn whole(mut self, most: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = vec![0; most + 1];
        let mut length = 0;
        loop {
            match self.read(&mut bytes[length..])? {
                0 => break,
                count => length += count,
            }
            if length > most {
                return Ok(None);
            }
        }
        bytes.truncate(length);
        Ok(Some(bytes))
    }
}
