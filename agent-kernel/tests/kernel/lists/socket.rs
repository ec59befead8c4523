//! Sockets, compared field by field with ss(8).

use crate::support::{World, run, within};
use agent_kernel::netlink::{
    Family, Queue, Socket, SocketFilter, SocketProtocol, SocketStates, sockets,
};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, send,
    setsockopt, socket, socketpair, sockopt,
};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

const OTHER_USER: u32 = 3_000_000_001;

/// One socket as both sides tell it: protocol and type, state, queues, ends, interface, our
/// descriptors, user, inode, cookie. What ss(8) does not tell is empty.
type Row = (String, String, [u32; 2], [String; 3], BTreeSet<String>, u32, u32, String);

fn read(filter: SocketFilter) -> Vec<Socket> {
    let found = sockets("/proc".into(), filter).expect("sockets");
    let mut found: Vec<Socket> = found.collect::<Result<_, _>>().expect("whole sockets");
    for socket in &mut found {
        // A child between fork(2) and execve(2) has all of them too.
        socket.holders.list.retain(|holder| holder.pid == std::process::id());
    }
    found
}

fn all() -> Vec<Socket> {
    read(SocketFilter { processes: true, ..SocketFilter::default() })
}

/// Those of this process: a child between fork(2) and execve(2) has all of them too.
fn own(pid: u32, name: &str, fd: u32) -> Option<String> {
    (pid == std::process::id()).then(|| format!("{name} {fd}"))
}

fn ours(socket: &Socket) -> Row {
    let queues = match socket.queue {
        Queue::Bytes { rx, tx } => [rx, tx],
        Queue::Backlog { length, limit } => [length, limit],
    };
    let number = |inode: Option<u32>| inode.unwrap_or_default().to_string();
    let unix = socket.protocol == SocketProtocol::Unix;
    let protocol = match (socket.protocol, socket.kind.as_ref()) {
        (SocketProtocol::Tcp, "stream") => "tcp",
        (SocketProtocol::Udp, "dgram") => "udp",
        (SocketProtocol::Unix, "stream") => "u_str",
        (SocketProtocol::Unix, "dgram") => "u_dgr",
        (SocketProtocol::Unix, "seqpacket") => "u_seq",
        other => panic!("{other:?}"),
    };
    let end = |end: Option<SocketAddr>| end.map_or_else(|| "*".to_owned(), |end| end.to_string());
    let ends = if unix {
        let path = socket.path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned());
        [path.unwrap_or("*".to_owned()), number(socket.peer_inode), String::new()]
    } else {
        [end(socket.local), end(socket.peer), socket.interface.clone().unwrap_or_default()]
    };
    let holders = socket.holders.list.iter();
    let holders =
        holders.filter_map(|it| own(it.pid, &String::from_utf8_lossy(&it.comm), it.fd)).collect();
    // Of unix sockets ss tells neither.
    let uid = if unix { 0 } else { socket.uid.unwrap_or_default() };
    let cookie = if unix { String::new() } else { format!("{:x}", socket.cookie) };
    let state = socket.state.clone().into_owned();
    (protocol.to_owned(), state, queues, ends, holders, uid, socket.inode.unwrap_or(0), cookie)
}

/// A line of `ss -HOtuxanpe`.
fn row_of_ss(line: &str) -> Row {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words[at].parse().expect(line);
    let unix = words[0].starts_with("u_");
    let tail = words.iter();
    let tagged = |tag: &str| tail.clone().find_map(|word| word.strip_prefix(tag));
    let (ends, inode) = if unix {
        // Path, inode, the peer's path, the peer's inode.
        ([words[4].to_owned(), words[7].to_owned(), String::new()], words[5])
    } else {
        let (end, interface) = end_of_ss(words[4]);
        ([end, end_of_ss(words[5]).0, interface], tagged("ino:").expect(line))
    };
    let mut holders = BTreeSet::new();
    for holder in tagged("users:").unwrap_or_default().split("(\"").skip(1) {
        let (comm, rest) = holder.split_once("\",pid=").expect(line);
        let (pid, rest) = rest.split_once(",fd=").expect(line);
        let fd = rest.split(')').next().expect(line);
        holders.extend(own(pid.parse().expect(line), comm, fd.parse().expect(line)));
    }
    let uid = tagged("uid:").map_or(0, |uid| uid.parse().expect(line));
    let cookie = tagged("sk:").unwrap_or_default().to_owned();
    let (protocol, state) = (words[0].to_owned(), words[1].to_owned());
    let inode = inode.parse().expect(line);
    (protocol, state, [number(2), number(3)], ends, holders, uid, inode, cookie)
}

/// An end and the interface in it. `*` is every address of both families, and of a peer none.
fn end_of_ss(text: &str) -> (String, String) {
    let (address, port) = text.rsplit_once(':').expect(text);
    let (address, interface) = address.split_once('%').unwrap_or((address, ""));
    let address = if address == "*" { "[::]" } else { address };
    let end = if port == "*" { "*".to_owned() } else { format!("{address}:{port}") };
    (end, interface.to_owned())
}

fn ss(options: &str) -> Vec<Row> {
    // It leaves out the column that would be the same in each line.
    let only = match options.split_whitespace().next() {
        Some("-t") => "tcp ",
        Some("-u") => "udp ",
        _ => "",
    };
    let lines = run(&format!("ss -HOanpe {options}"));
    lines.lines().map(|line| row_of_ss(&format!("{only}{line}"))).collect()
}

/// Waits until both tell the same: half closed connections take a moment.
fn assert_as_ss(filter: &SocketFilter, options: &str) -> Vec<Row> {
    let filter = SocketFilter { processes: true, ..filter.clone() };
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        theirs = ss(options);
        mine = read(filter.clone()).iter().map(ours).collect();
        mine.sort();
        theirs.sort();
        if mine == theirs {
            return mine;
        }
    }
    assert_eq!(mine, theirs, "{options}");
    mine
}

/// A TCP connection: client and server.
fn connection(listener: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect((to, port)).expect("connected");
    (client, listener.accept().expect("accepted").0)
}

/// Sockets of every kind, which live as long as this.
struct Filled {
    listeners: Vec<TcpListener>,
    _streams: Vec<TcpStream>,
    _datagrams: Vec<UdpSocket>,
    _unix: Vec<OwnedFd>,
}

fn fill(folder: &Path) -> Filled {
    let (mut listeners, mut streams) = (Vec::new(), Vec::new());
    for (at, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
        let listener = TcpListener::bind(at).expect("a listener");
        // Established, with five unread bytes.
        let (mut client, server) = connection(&listener, to);
        client.write_all(b"hello").expect("sent");
        streams.extend([client, server]);
        // FIN-WAIT-2 and CLOSE-WAIT: the client has closed half of it.
        let (client, server) = connection(&listener, to);
        client.shutdown(std::net::Shutdown::Write).expect("half closed");
        streams.extend([client, server]);
        // TIME-WAIT.
        let (client, server) = connection(&listener, to);
        drop(client);
        drop(server);
        // Not accepted: in the backlog, and nobody's.
        let port = listener.local_addr().expect("an address").port();
        streams.push(TcpStream::connect((to, port)).expect("connected"));
        listeners.push(listener);
    }
    let udp = |at: &str| UdpSocket::bind(at).expect("a socket");
    let (plain, sender, v6, bound) =
        (udp("127.0.0.1:0"), udp("127.0.0.1:0"), udp("[::1]:0"), udp("0.0.0.0:0"));
    sender.connect(plain.local_addr().expect("an address")).expect("connected");
    sender.send(b"unread").expect("sent");
    setsockopt(&bound, sockopt::BindToDevice, &"lo".into()).expect("bound to lo");
    nix::unistd::fchown(&bound, Some(OTHER_USER.into()), None).expect("another user's");

    let path = folder.join("named");
    let named = UnixListener::bind(&path).expect("a listener");
    let mut client = UnixStream::connect(&path).expect("connected");
    client.write_all(b"unread").expect("sent");
    let server = named.accept().expect("accepted").0;
    let waits = UnixStream::connect(&path).expect("connected");
    let datagram = UnixDatagram::bind(folder.join("datagram")).expect("a socket");
    let unnamed = UnixDatagram::unbound().expect("a socket");
    unnamed.connect(folder.join("datagram")).expect("connected");
    unnamed.send(b"abc").expect("sent");
    let lonely = UnixDatagram::bind(folder.join("lonely")).expect("a socket");
    nix::unistd::fchown(&lonely, Some(OTHER_USER.into()), None).expect("another user's");
    let sequence = |flags| socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
    let abstract_name = UnixAddr::new_abstract(b"kctl\0name").expect("a name");
    let listener = sequence(SockFlag::SOCK_CLOEXEC).expect("a socket");
    bind(listener.as_raw_fd(), &abstract_name).expect("bound");
    listen(&listener, Backlog::new(3).expect("small")).expect("listening");
    let connected = sequence(SockFlag::SOCK_CLOEXEC).expect("a socket");
    connect(connected.as_raw_fd(), &abstract_name).expect("connected");
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (one, two) = pair.expect("a pair");
    send(one.as_raw_fd(), b"hey", MsgFlags::empty()).expect("sent");
    let mut unix: Vec<OwnedFd> = vec![listener, connected, one, two];
    unix.extend([OwnedFd::from(named), datagram.into(), unnamed.into(), lonely.into()]);
    unix.extend([client, server, waits].map(OwnedFd::from));
    let datagrams = vec![plain, sender, v6, bound];
    Filled { listeners, _streams: streams, _datagrams: datagrams, _unix: unix }
}

#[test]
fn sockets_are_those_that_ss_shows() {
    let _world = World::new();
    let folder = tempfile::tempdir().expect("a folder");
    let filled = fill(folder.path());
    // An end may wait a moment for what the other one says to its half close.
    let waits = || read(SocketFilter::default()).iter().any(|it| it.state == "FIN-WAIT-1");
    within("every end is half closed", || !waits());
    let rows = assert_as_ss(&SocketFilter::default(), "-tux");
    // What the test is about is really there.
    let shown = |protocol: &str, state: &str| {
        rows.iter().filter(|row| row.0 == protocol && row.1 == state).count()
    };
    let tcp = ["LISTEN", "ESTAB", "CLOSE-WAIT", "FIN-WAIT-2", "TIME-WAIT"];
    assert_eq!(tcp.map(|state| shown("tcp", state)), [3, 12, 3, 3, 3]);
    assert_eq!((shown("udp", "UNCONN"), shown("udp", "ESTAB")), (3, 1));
    assert_eq!(["LISTEN", "ESTAB"].map(|state| shown("u_str", state)), [1, 3]);
    assert_eq!(["LISTEN", "ESTAB"].map(|state| shown("u_seq", state)), [1, 3]);
    assert_eq!(["UNCONN", "ESTAB"].map(|state| shown("u_dgr", state)), [1, 2]);
    assert!(rows.iter().any(|row| row.3[0].starts_with("[::ffff:127.0.0.1]:")));
    assert!(rows.iter().any(|row| row.3[0] == "@kctl@name"));
    assert!(rows.iter().any(|row| row.3[2] == "lo" && row.5 == OTHER_USER));
    assert!(rows.iter().any(|row| row.0 == "tcp" && row.2[0] == 5));
    assert!(rows.iter().filter(|row| row.1 == "LISTEN").all(|row| row.4.len() == 1));
    // Nobody's: those in TIME-WAIT, and those that wait to be accepted, which ss can't tell from root's.
    let sockets = all();
    let timed_out = sockets.iter().filter(|it| it.state == "TIME-WAIT");
    assert!(timed_out.clone().all(|it| it.uid.is_none() && it.inode.is_none()));
    assert!(sockets.iter().all(|it| it.inode.is_none() || it.user.is_some() || it.uid != Some(0)));
    let lonely = folder.path().join("lonely").display().to_string().into_bytes();
    let lonely = sockets.iter().find(|it| it.path.as_ref() == Some(&lonely)).expect("it is told");
    assert_eq!((lonely.uid, &lonely.user), (Some(OTHER_USER), &None));
    let cookies: BTreeSet<_> = sockets.iter().map(|it| it.cookie).collect();
    assert_eq!(cookies.len(), sockets.len());
    let unasked = read(SocketFilter::default());
    assert!(unasked.iter().all(|it| it.holders.list.is_empty() && it.tcp.is_none()));
    drop(filled);
}

#[test]
fn filtered_sockets_are_those_that_ss_filters() {
    let _world = World::new();
    let folder = tempfile::tempdir().expect("a folder");
    let filled = fill(folder.path());
    let protocols = |list: &[SocketProtocol]| SocketFilter {
        protocols: list.to_vec(),
        ..SocketFilter::default()
    };
    let (tcp, udp, unix) = (SocketProtocol::Tcp, SocketProtocol::Udp, SocketProtocol::Unix);
    assert_eq!(assert_as_ss(&protocols(&[tcp]), "-t").len(), 24);
    assert_eq!(assert_as_ss(&protocols(&[udp]), "-u").len(), 4);
    assert_eq!(assert_as_ss(&protocols(&[unix]), "-x").len(), 11);
    for (family, option) in [(Family::Inet, "-tu4"), (Family::Inet6, "-tu6")] {
        let filter = SocketFilter { family: Some(family), ..SocketFilter::default() };
        assert!(assert_as_ss(&filter, option).len() > 8);
    }
    let listening = SocketFilter { states: SocketStates::Listening, ..SocketFilter::default() };
    assert_eq!(assert_as_ss(&listening, "-tuxl").len(), 3 + 3 + 3);
    let states = SocketStates::named(&["TIME-WAIT", "close-wait"]).expect("states");
    let filter = SocketFilter { states, ..SocketFilter::default() };
    assert_eq!(assert_as_ss(&filter, "-tux state time-wait state close-wait").len(), 6);
    // Both ends of a connection have the port, one as their own.
    let port = filled.listeners[1].local_addr().expect("an address").port();
    let filter = SocketFilter { port: Some(port), ..SocketFilter::default() };
    let either = format!("-tu ( sport = {port} or dport = {port} )");
    assert_eq!(assert_as_ss(&filter, &either).len(), 8);
    let filter = SocketFilter { port: Some(1), ..SocketFilter::default() };
    assert_eq!(read(filter), []);
}

#[test]
fn what_tcp_measured_is_what_it_tells_the_program() {
    let _world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let (mut client, server) = connection(&listener, "127.0.0.1");
    client.write_all(b"hello").expect("sent");
    let filter = SocketFilter { tcp_info: true, ..SocketFilter::default() };
    let at = client.local_addr().expect("an address");
    let sockets = read(filter);
    assert!(sockets.iter().all(|it| it.tcp.is_some() == (it.state == "ESTAB")), "{sockets:?}");
    let told = sockets.into_iter().find(|it| it.local == Some(at)).expect("told");
    let told = told.tcp.expect("measured");
    let program = run("ss -HOtin state established");
    let line = program
        .lines()
        .find(|line| line.split_whitespace().nth(2) == Some(&at.to_string()))
        .expect("shown");
    let tagged = |tag: &str| line.split_whitespace().find_map(|word| word.strip_prefix(tag));
    let (rtt, deviation) = tagged("rtt:").and_then(|it| it.split_once('/')).expect(line);
    let ms = |us: u32| f64::from(us) / 1_000.0;
    assert_eq!(rtt.parse(), Ok(ms(told.rtt_us)), "{line}");
    assert_eq!(deviation.parse(), Ok(ms(told.rtt_var_us)), "{line}");
    assert_eq!(tagged("cwnd:").map(str::parse), Some(Ok(told.congestion_window)), "{line}");
    assert_eq!(told.retransmits, 0);
    drop(server);
}

/// The server's end is no socket yet, and has a state of its own in the kernel.
#[test]
fn half_open_connections_are_those_that_ss_shows() {
    let _world = World::new();
    let answers = "add table inet kctl_test
        add chain inet kctl_test in { type filter hook input priority 0 ; }
        add rule inet kctl_test in tcp flags & (syn | ack) == syn | ack drop";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), answers).expect("written");
    run(&format!("nft -f {}", file.path().display()));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let SocketAddr::V4(at) = listener.local_addr().expect("an address") else {
        panic!("not an IPv4 address")
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let client = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    let begun = connect(client.as_raw_fd(), &nix::sys::socket::SockaddrIn::from(at));
    assert_eq!(begun, Err(nix::errno::Errno::EINPROGRESS));
    let rows = assert_as_ss(&SocketFilter::default(), "-tux");
    let states: Vec<_> = rows.iter().map(|row| row.1.as_str()).collect();
    assert_eq!(states, ["LISTEN", "SYN-RECV", "SYN-SENT"]);
    for (state, option) in [("SYN-RECV", "syn-recv"), ("SYN-SENT", "syn-sent")] {
        let states = SocketStates::named(&[state]).expect("a state");
        let filter = SocketFilter {
            protocols: vec![SocketProtocol::Tcp],
            states,
            ..SocketFilter::default()
        };
        let rows = read(filter.clone());
        assert_eq!((rows.len(), rows[0].state.as_ref()), (1, state));
        let theirs = run(&format!("ss -HOtn state {option}"));
        assert_eq!(theirs.lines().count(), 1, "{theirs}");
    }
    let filter = SocketFilter { port: Some(at.port()), ..SocketFilter::default() };
    assert_eq!(read(filter).len(), 3);
}

/// ss(8) of these days does not show it, but it keeps others from the port.
#[test]
fn a_bound_socket_that_does_not_listen_is_told() {
    let _world = World::new();
    let flags = SockFlag::SOCK_CLOEXEC;
    let bound = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    let any: nix::sys::socket::SockaddrIn = "127.0.0.1:0".parse().expect("an address");
    bind(bound.as_raw_fd(), &any).expect("bound");
    let states = SocketStates::named(&["UNCONN"]).expect("a state");
    let found = read(SocketFilter { processes: true, states, ..SocketFilter::default() });
    assert_eq!(found, all());
    let [socket] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((socket.state.as_ref(), socket.peer), ("UNCONN", None));
    let holder = &socket.holders.list[0];
    assert_eq!((holder.pid, holder.fd.cast_signed()), (std::process::id(), bound.as_raw_fd()));
}
