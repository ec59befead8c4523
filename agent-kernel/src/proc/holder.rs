//! Which processes hold a socket: the links in their `fd` folders (proc_pid_fd(5)).

use super::file::{open_folder, read_at};
use super::listing::folder_and_pids;
use crate::error::Error;
use nix::dir::Dir;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

/// Whoever shares one socket with more descriptors than this is told by its first ones.
const MOST_HOLDERS: usize = 100;
/// A name is at most 15 bytes and a line's end; kernel threads, whose names are longer, hold none.
const LONGEST_COMM: usize = 64;

/// A process's descriptor of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketHolder {
    /// The process, in the pid namespace of the procfs mount.
    pub pid: u32,
    /// The name it goes by.
    pub comm: Arc<[u8]>,
    /// The number of the descriptor.
    pub fd: u32,
}

/// Who holds one socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketHolders {
    /// At most 100, the lowest process ids first.
    pub list: Vec<SocketHolder>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Who holds the sockets of this host, by their inodes. Processes that end meanwhile, and those that
/// the caller may not look into, are left out.
pub fn socket_holders(root: &Path) -> Result<HashMap<u32, SocketHolders>, Error> {
    let (folder, mut pids) = folder_and_pids(root)?;
    pids.sort_unstable();
    let mut holders = HashMap::new();
    let mut buffer = Vec::new();
    for pid in pids {
        // One that has ended, or that is not ours to read, costs only itself.
        if let Ok(process) = open_folder(&folder, pid.to_string()) {
            let _ = read(pid, &process, &mut buffer, &mut holders);
        }
    }
    Ok(holders)
}

fn read(
    pid: u32,
    process: &OwnedFd,
    buffer: &mut Vec<u8>,
    holders: &mut HashMap<u32, SocketHolders>,
) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = Dir::openat(process, "fd", flags, Mode::empty())?;
    let mut comm: Option<Arc<[u8]>> = None;
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        let Some(fd) = name.and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may be closed already.
        let Ok(target) = readlinkat(process, format!("fd/{fd}").as_str()) else { continue };
        let Some(inode) = inode(target.as_bytes()) else { continue };
        let comm = match &comm {
            Some(comm) => comm,
            None => {
                read_at(process, "comm", buffer, LONGEST_COMM)?;
                comm.insert(buffer.trim_ascii_end().into())
            }
        };
        let held: &mut SocketHolders = holders.entry(inode).or_default();
        if held.list.len() < MOST_HOLDERS {
            held.list.push(SocketHolder { pid, comm: Arc::clone(comm), fd });
        } else {
            held.truncated = true;
        }
    }
    Ok(())
}

/// Of `socket:[4711]`.
fn inode(target: &[u8]) -> Option<u32> {
    let number = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn holders_are_found_by_the_links_of_their_descriptors() {
        let root = tempfile::tempdir().expect("a folder");
        let process = |pid: u32, comm: &str, links: &[(u32, &str)]| {
            let folder = root.path().join(pid.to_string());
            fs::create_dir_all(folder.join("fd")).expect("a folder");
            fs::write(folder.join("comm"), format!("{comm}\n")).expect("written");
            for (fd, target) in links {
                symlink(target, folder.join("fd").join(fd.to_string())).expect("a link");
            }
        };
        process(10, "web (x)", &[(0, "/dev/null"), (3, "socket:[77]"), (9, "socket:[78]")]);
        process(9, "init", &[(4, "socket:[77]"), (5, "pipe:[77]"), (6, "socket:[]")]);
        let many: Vec<_> = (0..150).map(|fd| (fd, "socket:[99]")).collect();
        process(11, "many", &many);
        // Without an fd folder, as one that is ending.
        fs::create_dir(root.path().join("12")).expect("a folder");
        let holders = socket_holders(root.path()).expect("read");
        let shown = |inode: u32| -> Vec<_> {
            let list = &holders[&inode].list;
            list.iter().map(|it| (it.pid, String::from_utf8_lossy(&it.comm), it.fd)).collect()
        };
        assert_eq!(shown(77), [(9, "init".into(), 4), (10, "web (x)".into(), 3)]);
        assert_eq!(shown(78), [(10, "web (x)".into(), 9)]);
        assert_eq!((holders[&99].list.len(), holders[&99].truncated), (100, true));
        assert_eq!((holders.len(), holders[&77].truncated), (3, false));
    }
}
