//! Mounts, as in proc_pid_mountinfo(5).

mod usage;

pub use usage::{Usage, Usages};

use crate::error::{Error, ErrorKind, named};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A table of mounts that is longer than this is refused: the kernel's own limit is 100,000 mounts.
const LONGEST_TABLE: u64 = 32 << 20;
/// Longer options are cut: an overlay's name every one of its layers.
const LONGEST_OPTIONS: usize = 1 << 10;
/// File systems that are ways to speak to the kernel and hold no files of anybody.
const PSEUDO: [&str; 26] = [
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
    "xenfs",
];

/// One mount. Texts may hold any bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// The kernel's number of the mount.
    pub id: u32,
    /// Number of the driver of the device; 0 for a file system without a block device, and btrfs.
    pub major: u32,
    /// The device's number at its driver.
    pub minor: u32,
    /// Which folder of the file system is shown; `/` unless it is a bind mount.
    pub root: Vec<u8>,
    /// Where it is mounted.
    pub path: Vec<u8>,
    /// `ext4`, `nfs4`.
    pub fs_type: Vec<u8>,
    /// The device, or what stands for it: `/dev/vda`, `server:/export`, `tmpfs`.
    pub source: Vec<u8>,
    /// Those of the mount, then those of the file system; cut at 1,024 bytes.
    pub options: Vec<u8>,
}

impl Mount {
    /// Whether it is a way to speak to the kernel and holds nobody's files.
    pub fn is_pseudo(&self) -> bool {
        PSEUDO.iter().any(|name| name.as_bytes() == self.fs_type)
    }
}

/// Every mount that a process sees.
#[derive(Debug, Clone)]
pub struct Mounts {
    /// Whether the process is the host's first; else it is the reader itself.
    pub of_init: bool,
    /// In the order in which the kernel has them.
    pub mounts: Vec<Mount>,
    /// The folder that the process has as its root.
    root: PathBuf,
}

/// The mounts of the host's first process, or those of the reader where that is denied.
pub fn mounts(root: &Path) -> Result<Mounts, Error> {
    let init = root.join("1");
    // Without the right to go through its root nothing could be told of its mounts but their names.
    let may_enter = std::fs::metadata(init.join("root/.")).is_ok();
    match read(&init) {
        Ok(text) if may_enter => {
            Ok(Mounts { of_init: true, mounts: parse(&text), root: init.join("root") })
        }
        _ => {
            let mounts = parse(&read(&root.join("self"))?);
            Ok(Mounts { of_init: false, mounts, root: "/".into() })
        }
    }
}

fn read(process: &Path) -> Result<Vec<u8>, Error> {
    let path = process.join("mountinfo");
    let failed = |error| Error::io(named("file", path.display()), error);
    let mut text = Vec::new();
    let file = File::open(&path).map_err(failed)?;
    file.take(LONGEST_TABLE + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LONGEST_TABLE) {
        let why = format!("it is longer than {LONGEST_TABLE} bytes; unmount what nobody needs");
        return Err(Error::new(ErrorKind::Full, named("file", path.display()), why));
    }
    Ok(text)
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(mount).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    let id = number(fields.next()?)?;
    let mut device = fields.nth(1)?.splitn(2, |&byte| byte == b':');
    let (major, minor) = (number(device.next()?)?, number(device.next()?)?);
    let (root, path) = (unescaped(fields.next()?), unescaped(fields.next()?));
    let of_mount = fields.next()?;
    // Any number of optional fields, and a dash.
    fields.find(|field| field == b"-")?;
    let (fs_type, source) = (unescaped(fields.next()?), unescaped(fields.next()?));
    let options = options(&unescaped(of_mount), &unescaped(fields.next().unwrap_or_default()));
    Some(Mount { id, major, minor, root, path, fs_type, source, options })
}

/// One list, as in /proc/mounts: a file system that is read-only makes its mounts so.
fn options(of_mount: &[u8], of_file_system: &[u8]) -> Vec<u8> {
    let split = |list| <[u8]>::split(list, |&byte: &u8| byte == b',');
    let read_only = split(of_file_system).any(|option| option == b"ro");
    let mut all: Vec<&[u8]> = split(of_mount).collect();
    for option in &mut all {
        if read_only && *option == b"rw" {
            *option = b"ro";
        }
    }
    for option in split(of_file_system) {
        if !option.is_empty() && option != b"rw" && option != b"ro" && !all.contains(&option) {
            all.push(option);
        }
    }
    let mut options = all.join(&b',');
    options.truncate(LONGEST_OPTIONS);
    options
}

/// Blanks, tabs, newlines, backslashes and number signs are told as `\NNN`, octal.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_optional_fields_it_has() {
        let expected = Mount {
            id: 36,
            major: 98,
            minor: 7,
            root: b"/sub".to_vec(),
            path: b"/mnt/a b\\\xff".to_vec(),
            fs_type: b"ext3".to_vec(),
            source: b"/dev/root".to_vec(),
            options: b"rw,noatime,errors=continue".to_vec(),
        };
        for optional in ["", "master:1 ", "shared:2 master:1 unbindable "] {
            let mut line = b"36 35 98:7 /sub /mnt/a\\040b\\134".to_vec();
            line.extend(b"\xff rw,noatime ");
            line.extend(optional.as_bytes());
            line.extend(b"- ext3 /dev/root rw,errors=continue\nnonsense\n\n");
            assert_eq!(parse(&line), std::slice::from_ref(&expected));
        }
    }

    #[test]
    fn options_are_those_in_effect() {
        assert_eq!(options(b"rw,nosuid", b"ro,seclabel"), b"ro,nosuid,seclabel");
        assert_eq!(options(b"ro,relatime", b"rw"), b"ro,relatime");
        assert_eq!(options(b"rw", b""), b"rw");
        assert_eq!(options(b"rw", &[b'x'; 5_000]).len(), LONGEST_OPTIONS);
    }

    #[test]
    fn the_reader_answers_where_the_first_process_is_hidden() {
        let root = tempfile::tempdir().expect("a folder");
        let line = |id: u32| format!("{id} 1 0:1 / /a rw - tmpfs tmpfs rw\n");
        let write = |pid: &str, id: u32| {
            std::fs::create_dir_all(root.path().join(pid)).expect("a folder");
            std::fs::write(root.path().join(pid).join("mountinfo"), line(id)).expect("written");
        };
        assert!(mounts(root.path()).is_err());
        write("self", 7);
        let seen = mounts(root.path()).expect("mounts");
        assert_eq!((seen.of_init, seen.mounts[0].id), (false, 7));
        write("1", 8);
        assert!(!mounts(root.path()).expect("mounts").of_init);
        std::fs::create_dir(root.path().join("1/root")).expect("a folder");
        let seen = mounts(root.path()).expect("mounts");
        assert_eq!((seen.of_init, seen.mounts[0].id), (true, 8));
    }
}
