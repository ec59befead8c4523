//! `/proc/PID/net`: which socket an inode is, as in proc_pid_net(5).

use super::{fields, hex, number};
use crate::netlink::state_word;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Longer tables are read to here: a million sockets are about 150 MB of text.
const LONGEST_TABLE: u64 = 256 << 20;

/// What a socket is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Socket {
    /// The table that it is in: `tcp`, `udp6`, `unix` …
    pub protocol: &'static str,
    /// As in ss(8); empty where there is none.
    pub state: &'static str,
    /// Its own address.
    pub local: Option<SocketAddr>,
    /// The other end's.
    pub remote: Option<SocketAddr>,
    /// Of a unix socket: any bytes; `@` stands for NUL.
    pub path: Vec<u8>,
}

type Parse = fn(&'static str, &[u8]) -> Option<(u64, Socket)>;

const TABLES: [(&str, Parse); 13] = [
    ("tcp", inet),
    ("tcp6", inet),
    ("udp", inet),
    ("udp6", inet),
    ("unix", unix),
    ("netlink", |table, line| plain(table, line, 9)),
    ("packet", |table, line| plain(table, line, 8)),
    ("raw", inet),
    ("raw6", inet),
    ("icmp", inet),
    ("icmp6", inet),
    ("udplite", inet),
    ("udplite6", inet),
];

/// The sockets of these inodes that are in the process's network namespace. A table that can't be read
/// tells nothing.
pub(super) fn sockets(folder: &OwnedFd, wanted: &HashSet<u64>) -> HashMap<u64, Socket> {
    let mut found = HashMap::new();
    for (table, parse) in TABLES {
        if found.len() >= wanted.len() {
            break;
        }
        let name = format!("net/{table}");
        let Ok(file) = openat(folder, name.as_str(), OFlag::O_CLOEXEC, Mode::empty()) else {
            continue;
        };
        let mut file = BufReader::new(File::from(file).take(LONGEST_TABLE));
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let told = parse(table, line.trim_ascii_end());
            if let Some((inode, socket)) = told.filter(|(inode, _)| wanted.contains(inode)) {
                // A unix socket's path may hold line feeds and forge lines: of two claims to a path none
                // counts.
                let twice = found.contains_key(&inode);
                let path = if twice { Vec::new() } else { socket.path };
                found.insert(inode, Socket { path, ..socket });
            }
            line.clear();
        }
    }
    found
}

/// `0: 0100007F:1F90 00000000:0000 0A … UID TIMEOUT INODE`
fn inet(table: &'static str, line: &[u8]) -> Option<(u64, Socket)> {
    let mut fields = fields(line).skip(1);
    let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
    let state = state_word(u32::try_from(hex(fields.next()?)?).ok()?);
    let inode = number(fields.nth(5)?)?;
    let remote = Some(remote).filter(|it| it.port() != 0 || !it.ip().is_unspecified());
    let socket = Socket { protocol: table, state, local: Some(local), remote, path: Vec::new() };
    Some((inode, socket))
}

/// `0000: 00000003 00000000 FLAGS TYPE ST INODE PATH`
fn unix(table: &'static str, line: &[u8]) -> Option<(u64, Socket)> {
    let mut parts = line.splitn(8, |&byte| byte == b' ').filter(|part| !part.is_empty());
    let flags = hex(parts.nth(3)?)?;
    let state = match hex(parts.nth(1)?)? {
        // SO_ACCEPTCON of the kernel's linux/net.h.
        _ if flags & 0x1_0000 != 0 => "LISTEN",
        1 => "UNCONN",
        2 => "SYN-SENT",
        3 => "ESTAB",
        4 => "CLOSING",
        _ => "",
    };
    // The inode is padded with blanks, and the path may begin with some.
    let rest = line.splitn(7, |&byte| byte == b' ').nth(6)?.trim_ascii_start();
    let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
    let path = rest.get(end + 1..).unwrap_or_default().to_vec();
    let socket = Socket { protocol: table, state, path, ..Socket::default() };
    Some((number(&rest[..end])?, socket))
}

/// A table that tells an inode, in this field.
fn plain(table: &'static str, line: &[u8], field: usize) -> Option<(u64, Socket)> {
    let inode = number(fields(line).nth(field)?)?;
    Some((inode, Socket { protocol: table, ..Socket::default() }))
}

/// `0100007F:1F90`: words in the processor's byte order, then the port.
fn address(text: &[u8]) -> Option<SocketAddr> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let port = u16::try_from(hex(&text[colon + 1..])?).ok()?;
    let words =
        text[..colon].chunks(8).map(|word| Some(u32::try_from(hex(word)?).ok()?.to_ne_bytes()));
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::file::open_folder;
    use std::fs;

    fn found(tables: &[(&str, &[u8])], inodes: &[u64]) -> HashMap<u64, Socket> {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("net")).expect("a folder");
        for (name, text) in tables {
            fs::write(root.path().join("net").join(name), text).expect("written");
        }
        let folder = open_folder(rustix::fs::CWD, root.path()).expect("a folder");
        sockets(&folder, &inodes.iter().copied().collect())
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_both_families_are_read() {
        let tcp = b"  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 651 1\n\
            1: 0100007F:1F90 0200000A:C001 01 00000000:00000000 00:00000000 00000000 0 0 652 1\n";
        let tcp6 =
            b"0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 \
            0A 00000000:00000000 00:00000000 00000000 0 0 653 1\n";
        let found = found(&[("tcp", tcp), ("tcp6", tcp6)], &[651, 652, 653, 654]);
        assert_eq!(found.len(), 3);
        assert_eq!((found[&651].protocol, found[&651].state), ("tcp", "LISTEN"));
        assert_eq!(found[&651].local, Some("127.0.0.1:8080".parse().expect("valid")));
        assert_eq!(found[&651].remote, None);
        assert_eq!(found[&652].remote, Some("10.0.0.2:49153".parse().expect("valid")));
        assert_eq!(found[&653].local, Some("[::1]:22".parse().expect("valid")));
    }

    #[test]
    fn unix_paths_keep_blanks_and_forged_lines_gain_nothing() {
        let unix = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01   700 /run/a b\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 701\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 702 @x\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 700 /forged\n";
        let found = found(&[("unix", unix)], &[700, 701, 702]);
        assert_eq!((found[&700].protocol, found[&700].path.as_slice()), ("unix", &b""[..]));
        assert_eq!((found[&701].state, found[&701].path.as_slice()), ("ESTAB", &b""[..]));
        assert_eq!((found[&702].state, found[&702].path.as_slice()), ("UNCONN", &b"@x"[..]));
        let (inode, socket) =
            super::unix("unix", unix.split(|&b| b == b'\n').nth(1).expect("a line"))
                .expect("a socket");
        assert_eq!(
            (inode, socket.state, socket.path.as_slice()),
            (700, "LISTEN", &b"/run/a b"[..])
        );
    }

    #[test]
    fn other_families_are_known_by_their_table() {
        let netlink = b"sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode\n\
            00 0 0 00000000 0 0 0 2 0 4\n";
        let packet = b"sk RefCnt Type Proto Iface R Rmem User Inode\n00 3 3 0003 2 1 0 0 5\n";
        let found = found(&[("netlink", netlink), ("packet", packet)], &[4, 5]);
        assert_eq!((found[&4].protocol, found[&5].protocol), ("netlink", "packet"));
    }
}
