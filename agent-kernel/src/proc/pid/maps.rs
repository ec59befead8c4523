//! `/proc/PID/maps` and `/proc/PID/smaps`, as in proc_pid_maps(5) and proc_pid_smaps(5).

use super::{Handle, entry, fields, gone, hex, number};
use crate::error::Error;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

/// One memory mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
    /// `rwx`, with `-` for what may not be done.
    pub permissions: String,
    /// Whether writes reach the file, or others who map it.
    pub shared: bool,
    /// Where in the file it begins, bytes.
    pub offset: u64,
    /// `MAJOR:MINOR`, hexadecimal.
    pub device: String,
    /// 0 for no file.
    pub inode: u64,
    /// As the kernel tells it: a path or `[heap]`; empty for plain memory.
    pub path: Vec<u8>,
    /// `None` unless it was asked for.
    pub usage: Option<Usage>,
}

/// How much of a mapping is in memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Resident set.
    pub rss_bytes: u64,
    /// Each page divided by the number of its users.
    pub pss_bytes: u64,
    /// Of others too, not written to.
    pub shared_clean_bytes: u64,
    /// Of others too, written to.
    pub shared_dirty_bytes: u64,
    /// Its own, not written to.
    pub private_clean_bytes: u64,
    /// Its own, written to.
    pub private_dirty_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
}

/// The mappings of a process in the order of addresses, read while they are taken.
#[derive(Debug)]
pub struct Maps {
    handle: Handle,
    /// `None` for one without memory.
    file: Option<BufReader<File>>,
    usage: bool,
    /// Whether it had memory when the list began.
    alive: bool,
    line: Vec<u8>,
    /// Its usage is not read yet.
    begun: Option<Map>,
    over: bool,
}

/// Begins to list a process's mappings; none for kernel threads and zombies. `usage` makes the kernel walk
/// every page.
pub fn maps(root: &Path, pid: u32, usage: bool) -> Result<Maps, Error> {
    let handle = Handle::open(root, pid)?;
    let alive = handle.stat()?.state != 'Z';
    let name = if usage { "smaps" } else { "maps" };
    let (file, over) = match openat(&handle.folder, name, OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(file) => (Some(BufReader::new(File::from(file))), false),
        Err(Errno::ESRCH) if handle.has_no_memory() => (None, true),
        Err(error) => return Err(handle.failed(name, error.into())),
    };
    Ok(Maps { handle, file, usage, alive, line: Vec::new(), begun: None, over })
}

impl Iterator for Maps {
    type Item = Result<Map, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.read().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Maps {
    fn read(&mut self) -> Result<Option<Map>, Error> {
        loop {
            self.line.clear();
            let Some(file) = &mut self.file else { return Ok(None) };
            let read = file.read_until(b'\n', &mut self.line);
            if read.map_err(|error| self.handle.refused(error))? == 0 {
                return match self.begun.take() {
                    Some(last) => Ok(Some(last)),
                    None => self.ended(),
                };
            }
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            // A map begins with an address in lower case, a line of its usage with a capital.
            if let (Some(map), true) =
                (&mut self.begun, line.first().is_some_and(u8::is_ascii_uppercase))
            {
                count(map.usage.get_or_insert_default(), line);
                continue;
            }
            let map = parse(line).ok_or_else(|| self.handle.odd("maps"))?;
            if !self.usage {
                return Ok(Some(map));
            }
            if let Some(last) = self.begun.replace(map) {
                return Ok(Some(last));
            }
        }
    }

    /// The end of the file is also what a process leaves that ends meanwhile.
    fn ended(&self) -> Result<Option<Map>, Error> {
        let state = self.handle.stat()?.state;
        if self.alive && state == 'Z' { Err(gone(self.handle.pid)) } else { Ok(None) }
    }
}

fn parse(line: &[u8]) -> Option<Map> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut field = || fields.next();
    let (range, permissions, offset) = (field()?, field()?, field()?);
    let (device, inode) = (field()?, field()?);
    let path = field().unwrap_or_default().trim_ascii_start();
    let dash = range.iter().position(|&byte| byte == b'-')?;
    let (permissions, sharing) = permissions.split_at_checked(3)?;
    Some(Map {
        start: hex(&range[..dash])?,
        end: hex(&range[dash + 1..])?,
        permissions: String::from_utf8(permissions.to_vec()).ok()?,
        shared: sharing == b"s",
        offset: hex(offset)?,
        device: String::from_utf8(device.to_vec()).ok()?,
        inode: number(inode)?,
        path: path.to_vec(),
        usage: None,
    })
}

/// `Rss:        12 kB`
fn count(usage: &mut Usage, line: &[u8]) {
    let Some((key, value)) = entry(line) else { return };
    let Some(kib) = fields(value).next().and_then(number::<u64>) else { return };
    let bytes = kib.saturating_mul(1_024);
    match key {
        b"Rss" => usage.rss_bytes = bytes,
        b"Pss" => usage.pss_bytes = bytes,
        b"Shared_Clean" => usage.shared_clean_bytes = bytes,
        b"Shared_Dirty" => usage.shared_dirty_bytes = bytes,
        b"Private_Clean" => usage.private_clean_bytes = bytes,
        b"Private_Dirty" => usage.private_dirty_bytes = bytes,
        b"Swap" => usage.swap_bytes = bytes,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[u8] = b"55d0c000-55d0e000 r-xp 00002000 fe:01 131      /usr/bin/a b (deleted)\n";

    fn listed(file: &str, text: &[u8]) -> Result<Vec<Map>, Error> {
        let root = super::super::tests::fixture(&[(file, text)]);
        maps(root.path(), 7, file == "smaps")?.collect()
    }

    #[test]
    fn a_map_is_read_to_its_last_byte() {
        let text = [
            FIRST,
            b"7ffe000-7fff000 rw-s 00000000 00:00 0 \n7fff000-7fff001 ---p 0 00:00 0  [stack]\n",
        ];
        let maps = listed("maps", &text.concat()).expect("maps");
        assert_eq!(
            (maps[0].start, maps[0].end, maps[0].offset),
            (0x55d0_c000, 0x55d0_e000, 0x2000)
        );
        assert_eq!((maps[0].permissions.as_str(), maps[0].shared), ("r-x", false));
        assert_eq!((maps[0].device.as_str(), maps[0].inode), ("fe:01", 131));
        assert_eq!(maps[0].path, b"/usr/bin/a b (deleted)");
        assert_eq!((maps[1].shared, maps[1].path.as_slice()), (true, &b""[..]));
        assert_eq!((maps[2].path.as_slice(), maps[2].usage), (&b"[stack]"[..], None));
        assert!(listed("maps", b"odd\n").is_err());
    }

    #[test]
    fn usage_belongs_to_the_map_before_it() {
        let text = [
            FIRST,
            b"Size:   8 kB\nRss:   4 kB\nPss:   2 kB\nPrivate_Dirty:   1 kB\nVmFlags: rd ex\n",
            b"7ffe000-7fff000 rw-p 00000000 00:00 0\nRss:   3 kB\nSwap:    7 kB\n",
        ];
        let maps = listed("smaps", &text.concat()).expect("maps");
        let first = Usage {
            rss_bytes: 4_096,
            pss_bytes: 2_048,
            private_dirty_bytes: 1_024,
            ..Usage::default()
        };
        let second = Usage { rss_bytes: 3_072, swap_bytes: 7_168, ..Usage::default() };
        assert_eq!((maps[0].usage, maps[1].usage), (Some(first), Some(second)));
    }
}
