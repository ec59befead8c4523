//! Setting a value, and what the kernel made of it.

use super::path::{Place, Roots, invalid, io_error};
use super::policy::{Holds, Writable};
use super::values::{LONGEST_VALUE, value};
use crate::error::Error;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::io::{self, Write as _};

/// What is set to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Below /proc or /sys.
    pub path: String,
    /// One line, without its line feed.
    pub value: String,
}

/// What a file held before and holds now; `None` where it can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub old: Option<Vec<u8>>,
    /// As the kernel took it.
    pub new: Option<Vec<u8>>,
}

/// Sets one, as `echo value > path` would. Invalid: what is not on the list, or what the kernel does not
/// take.
pub fn set(roots: &Roots, writable: &Writable, setting: &Setting) -> Result<Change, Error> {
    let Setting { path, value: wanted } = setting;
    if wanted.contains(['\0', '\n']) || wanted.len() > LONGEST_VALUE {
        return Err(invalid(
            path,
            "the value must be one line of at most 64 KiB without NUL bytes",
        ));
    }
    let place = writable.find(roots, path)?;
    // What can't be read back, or must not be shown, can still be set.
    let seen = || {
        value(roots, path)
            .ok()
            .filter(|value| value.holds != Holds::Secrets)
            .map(|value| value.value)
    };
    let old = seen();
    write(&place, wanted)?;
    Ok(Change { old, new: seen() })
}

/// Puts back what `set` replaced, without asking what may be set.
pub fn restore(roots: &Roots, path: &str, old: &[u8]) -> Result<(), Error> {
    let old = std::str::from_utf8(old).map_err(|_| invalid(path, "its old value is no text"))?;
    write(&Place::find(roots, path)?, old)
}

fn write(place: &Place, value: &str) -> Result<(), Error> {
    let mut file = place.open(OFlag::O_WRONLY)?;
    // In one call: a second one would be a second value.
    let line = format!("{value}\n");
    let written = loop {
        match file.write(line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result,
        }
    };
    match written {
        // The line feed may be none of the kernel's business.
        Ok(count) if count >= value.len() => Ok(()),
        Ok(_) => Err(invalid(&place.asked, "the kernel took only a part of the value")),
        Err(error) => {
            let number = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Err(io_error(&place.asked, number))
        }
    }
}
