//! `/proc/PID/io`, as in proc_pid_io(5).

use super::{Handle, LONGEST_FILE, entry, lines, number};
use crate::error::Error;
use std::path::Path;

/// What a process has read and written since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Io {
    /// Bytes read by calls such as read(2), wherever they came from.
    pub rchar_bytes: u64,
    /// Bytes written by calls such as write(2), wherever they went.
    pub wchar_bytes: u64,
    /// Calls such as read(2).
    pub syscr: u64,
    /// Calls such as write(2).
    pub syscw: u64,
    /// Bytes from disks.
    pub read_bytes: u64,
    /// Bytes to disks.
    pub write_bytes: u64,
    /// Bytes that were thrown away before they reached a disk.
    pub cancelled_write_bytes: u64,
}

/// Reads it.
pub fn io(root: &Path, pid: u32) -> Result<Io, Error> {
    let handle = Handle::open(root, pid)?;
    let (text, _) = handle.read("io", LONGEST_FILE)?;
    parse(&text).ok_or_else(|| handle.odd("io"))
}

fn parse(text: &[u8]) -> Option<Io> {
    let value = |name: &[u8]| {
        let found = lines(text).filter_map(entry).find(|(key, _)| *key == name);
        found.and_then(|(_, value)| number(value))
    };
    Some(Io {
        rchar_bytes: value(b"rchar")?,
        wchar_bytes: value(b"wchar")?,
        syscr: value(b"syscr")?,
        syscw: value(b"syscw")?,
        read_bytes: value(b"read_bytes")?,
        write_bytes: value(b"write_bytes")?,
        cancelled_write_bytes: value(b"cancelled_write_bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = b"rchar: 1\nwchar: 2\nsyscr: 3\nnew_one: 9\nsyscw: 4\nread_bytes: 5\n\
                     write_bytes: 6\ncancelled_write_bytes: 18446744073709551615\n";
        let io = parse(text).expect("counters");
        assert_eq!((io.rchar_bytes, io.wchar_bytes, io.syscr, io.syscw), (1, 2, 3, 4));
        assert_eq!((io.read_bytes, io.write_bytes), (5, 6));
        assert_eq!(io.cancelled_write_bytes, u64::MAX);
        assert_eq!(parse(b"rchar: 1\n"), None);
    }
}
