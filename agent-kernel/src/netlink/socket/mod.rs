//! Sockets (sock_diag(7)): TCP and UDP of both families, and unix sockets, with the processes that
//! hold them.

mod inet;
mod unix;

use super::{
    family::Family,
    names::{Links, Words},
    request::{self, Question},
};
use crate::{
    Error, ErrorKind,
    error::named,
    proc::{Names, SocketHolders, socket_holders},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use std::{borrow::Cow, collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc};

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketProtocol {
    /// tcp(7)
    Tcp,
    /// udp(7)
    Udp,
    /// unix(7)
    Unix,
}

impl SocketProtocol {
    /// `tcp`, `udp`, `unix`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
        }
    }
}

/// States of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SocketStates {
    /// All of them.
    #[default]
    Any,
    /// Those that wait for peers: LISTEN, and UNCONN where there is nothing to listen for.
    Listening,
    /// A bit for each number of netinet/tcp.h.
    These(u32),
}

impl SocketStates {
    /// States by the words of ss(8); no words mean all. Invalid: no such state.
    pub fn named(words: &[impl AsRef<str>]) -> Result<Self, Error> {
        let mut states = 0;
        for name in words.iter().map(AsRef::as_ref) {
            let known = STATES.iter().find(|(_, word)| word.eq_ignore_ascii_case(name));
            let (state, _) = known.ok_or_else(|| {
                let words: Vec<_> = STATES.iter().map(|(_, word)| *word).collect();
                let why = format!("must be one of {}", words.join(", "));
                Error::new(ErrorKind::Invalid, named("state", name), why)
            })?;
            states |= 1 << state;
        }
        Ok(if words.is_empty() { Self::Any } else { Self::These(states) })
    }

    /// A bit for each state that the kernel shall tell.
    fn bits(self, protocol: SocketProtocol) -> u32 {
        match (self, protocol) {
            (Self::Any, _) => u32::MAX,
            (Self::Listening, SocketProtocol::Tcp) => 1 << LISTEN,
            (Self::Listening, SocketProtocol::Udp) => 1 << CLOSE,
            (Self::Listening, SocketProtocol::Unix) => 1 << LISTEN | 1 << CLOSE,
            // One that is bound and no more has a bit of its own.
            (Self::These(states), _) => states | (states >> CLOSE & 1) << BOUND_INACTIVE,
        }
    }
}

/// Which sockets.
#[derive(Debug, Clone, Default)]
pub struct SocketFilter {
    /// Only of these protocols; empty means all.
    pub protocols: Vec<SocketProtocol>,
    /// Only of this family, which leaves out unix sockets.
    pub family: Option<Family>,
    /// Only in these states.
    pub states: SocketStates,
    /// Only with this port at either end, which leaves out unix sockets.
    pub port: Option<u16>,
    /// Also tell which processes hold them: reads all of procfs.
    pub processes: bool,
    /// Also tell what TCP measured: five times as much to tell.
    pub tcp_info: bool,
}

impl SocketFilter {
    fn wants(&self, protocol: SocketProtocol) -> bool {
        let numbered = self.family.is_some() || self.port.is_some();
        let asked = self.protocols.is_empty() || self.protocols.contains(&protocol);
        asked && !(numbered && protocol == SocketProtocol::Unix)
    }
}

/// One socket. Words are those of ss(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// What it speaks.
    pub protocol: SocketProtocol,
    /// None for unix sockets.
    pub family: Option<Family>,
    /// `stream`, `dgram`, `seqpacket`.
    pub kind: Cow<'static, str>,
    /// `LISTEN`, `ESTAB`, `TIME-WAIT`, `UNCONN`.
    pub state: Cow<'static, str>,
    /// Its own end; none for unix sockets.
    pub local: Option<SocketAddr>,
    /// The other end; none for unix sockets and those without a peer.
    pub peer: Option<SocketAddr>,
    /// The interface that it is bound to.
    pub interface: Option<String>,
    /// The name of a unix socket; `@` for each NUL of an abstract one.
    pub path: Option<Vec<u8>>,
    /// Inode of a unix socket's peer.
    pub peer_inode: Option<u32>,
    /// What waits.
    pub queue: Queue,
    /// The user it belongs to; none for what the kernel keeps by itself, TIME-WAIT.
    pub uid: Option<u32>,
    /// That user's name, where it has one.
    pub user: Option<Arc<str>>,
    /// Of the socket's file; none when no process holds it any more.
    pub inode: Option<u32>,
    /// Its id, never used twice.
    pub cookie: u64,
    /// What TCP measured, when asked for.
    pub tcp: Option<TcpInfo>,
    /// Who holds it, when asked for.
    pub holders: SocketHolders,
}

/// What waits at a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Data.
    Bytes {
        /// Received and not read; of a unix datagram socket the first datagram.
        rx: u32,
        /// Not sent or not acknowledged.
        tx: u32,
    },
    /// Connections, of a listener.
    Backlog {
        /// Made and not accepted.
        length: u32,
        /// At most.
        limit: u32,
    },
}

impl Queue {
    fn new(state: u32, rx: u32, tx: u32) -> Self {
        match state {
            LISTEN => Self::Backlog { length: rx, limit: tx },
            _ => Self::Bytes { rx, tx },
        }
    }
}

/// What TCP measured (tcp(7), TCP_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round trip time, microseconds.
    pub rtt_us: u32,
    /// Its mean deviation, microseconds.
    pub rtt_var_us: u32,
    /// Congestion window, segments.
    pub congestion_window: u32,
    /// Segments sent again.
    pub retransmits: u32,
}

// Numbers of netinet/tcp.h, and one that the kernel keeps to itself.
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;
const BOUND_INACTIVE: u32 = 13;
const STATES: Words = &[
    (1, "ESTAB"),
    (2, "SYN-SENT"),
    (3, "SYN-RECV"),
    (4, "FIN-WAIT-1"),
    (5, "FIN-WAIT-2"),
    (6, "TIME-WAIT"),
    (CLOSE, "UNCONN"),
    (8, "CLOSE-WAIT"),
    (9, "LAST-ACK"),
    (LISTEN, "LISTEN"),
    (11, "CLOSING"),
];
/// What /proc/PID/net calls a half open connection (the kernel's net/tcp_states.h).
const NEW_SYN_RECV: u32 = 12;

/// A state's word by its number; empty for one without.
pub(crate) fn state_word(number: u32) -> &'static str {
    let number = if number == NEW_SYN_RECV { 3 } else { number };
    STATES.iter().find(|(known, _)| *known == number).map_or("", |(_, word)| *word)
}

/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;

type Found = Box<dyn Iterator<Item = Result<Socket, Error>> + Send>;

/// Every socket of the calling thread's network namespace that the filter leaves, read as they are
/// taken. `proc_root` is where its processes and its users' names are. Unsupported: this kernel can't
/// tell some of them.
pub fn sockets(
    proc_root: PathBuf,
    filter: SocketFilter,
) -> Result<impl Iterator<Item = Result<Socket, Error>> + Send, Error> {
    let links = Arc::new(Links::read()?);
    let mut found: Vec<Found> = Vec::new();
    for protocol in [SocketProtocol::Tcp, SocketProtocol::Udp] {
        if filter.wants(protocol) {
            found.extend(inet::dump(protocol, &filter, &links)?);
        }
    }
    if filter.wants(SocketProtocol::Unix) {
        found.push(unix::dump(&filter)?);
    }
    // After the sockets, so that whoever holds one of these still is found.
    let mut owners = Owners::read(proc_root, filter.processes)?;
    let owned = move |socket: Result<Socket, Error>| socket.map(|it| owners.of(it));
    Ok(found.into_iter().flatten().map(owned))
}

/// Who has the sockets.
struct Owners {
    users: Names,
    holders: HashMap<u32, SocketHolders>,
}

impl Owners {
    fn read(root: PathBuf, processes: bool) -> Result<Self, Error> {
        let holders = processes.then(|| socket_holders(&root)).transpose()?.unwrap_or_default();
        Ok(Self { users: Names::of_users(&root), holders })
    }

    fn of(&mut self, mut socket: Socket) -> Socket {
        socket.user = socket.uid.and_then(|uid| self.users.name(uid));
        let holders = socket.inode.and_then(|inode| self.holders.get(&inode));
        socket.holders = holders.cloned().unwrap_or_default();
        socket
    }
}

fn question(body: Vec<u8>) -> Question {
    Question { protocol: NETLINK_SOCK_DIAG, kind: SOCK_DIAG_BY_FAMILY, body }
}

/// The answer to a dump request; `None` when the kernel has nobody who answers it.
fn asked(body: Vec<u8>) -> Result<Option<request::Answer>, Error> {
    match request::raw_dump(question(body)) {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn absent(protocol: SocketProtocol) -> Error {
    let name = protocol.name();
    let why = format!("this kernel does not tell them: it has no {name}_diag");
    let others = ["tcp", "udp", "unix"].into_iter().filter(|it| *it != name);
    let flags = others.map(|it| format!("--{it}")).collect::<Vec<_>>().join(" ");
    let remedy = format!("load the module {name}_diag, or ask for the others with {flags}");
    Error::new(ErrorKind::Unsupported, format!("{name} sockets"), why).with_remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_words_of_ss() {
        let named = |words: &[&str]| SocketStates::named(words);
        assert_eq!(named(&[]).expect("any"), SocketStates::Any);
        let some = named(&["estab", "SYN-RECV"]).expect("states");
        assert_eq!(some, SocketStates::These(0b1010));
        assert_eq!(some.bits(SocketProtocol::Tcp), 0b1010);
        let error = named(&["ESTAB", "OPEN"]).expect_err("no state");
        assert!(error.to_string().starts_with("state \"OPEN\": must be one of ESTAB, SYN-SENT"));
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_kernel_that_does_not_tell_is_no_empty_list() {
        let error = absent(SocketProtocol::Udp);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = "udp sockets: this kernel does not tell them: it has no udp_diag";
        assert_eq!(error.to_string(), text);
        let remedy = "load the module udp_diag, or ask for the others with --tcp --unix";
        assert_eq!(error.remedy(), Some(remedy));
    }

    #[test]
    fn a_port_or_a_family_leaves_out_unix_sockets() {
        let filter = SocketFilter { port: Some(22), ..SocketFilter::default() };
        assert!(filter.wants(SocketProtocol::Tcp) && !filter.wants(SocketProtocol::Unix));
        let filter = SocketFilter { family: Some(Family::Inet), ..SocketFilter::default() };
        assert!(filter.wants(SocketProtocol::Udp) && !filter.wants(SocketProtocol::Unix));
        let filter =
            SocketFilter { protocols: vec![SocketProtocol::Unix], ..SocketFilter::default() };
        assert!(!filter.wants(SocketProtocol::Tcp) && filter.wants(SocketProtocol::Unix));
    }
}
