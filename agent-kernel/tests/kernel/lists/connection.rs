//! Tracked connections, compared field by field with conntrack(8).

use crate::support::{World, run};
use agent_kernel::netlink::{Connection, ConnectionFilter, Family, Flow, connections};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream, UdpSocket};

/// What both sides tell of one connection; what one does not tell is missing.
type Row = BTreeMap<String, String>;

fn read(filter: ConnectionFilter) -> Vec<Connection> {
    let found = connections(filter).expect("connections");
    found.collect::<Result<_, _>>().expect("whole connections")
}

fn ours(connection: &Connection) -> Row {
    let family = if connection.family == Family::Inet { "ipv4" } else { "ipv6" };
    let has = |word| connection.status.contains(&word).to_string();
    let mut row = Row::from([
        ("family".to_owned(), family.to_owned()),
        ("protocol".to_owned(), connection.protocol.clone().into_owned()),
        ("assured".to_owned(), has("ASSURED")),
        ("replied".to_owned(), has("SEEN_REPLY")),
        ("mark".to_owned(), connection.mark.to_string()),
        ("zone".to_owned(), connection.zone.to_string()),
        ("id".to_owned(), connection.id.to_string()),
    ]);
    let mut set = |key: String, value: Option<String>| {
        row.extend(value.map(|value| (key, value)));
    };
    set("state".to_owned(), connection.state.clone().map(Into::into));
    set("timeout".to_owned(), connection.timeout_seconds.map(|it| it.to_string()));
    for (flow, which) in [(&connection.original, "0"), (&connection.reply, "1")] {
        let Flow { src, dst, src_port, dst_port, icmp_type, icmp_code, icmp_id, packets, bytes } =
            flow;
        for (key, value) in [
            ("src", Some(src.to_string())),
            ("dst", Some(dst.to_string())),
            ("sport", src_port.map(|it| it.to_string())),
            ("dport", dst_port.map(|it| it.to_string())),
            ("type", icmp_type.map(|it| it.to_string())),
            ("code", icmp_code.map(|it| it.to_string())),
            // ICMP's own id, the first of two with this name.
            ("icmp_id", icmp_id.map(|it| it.to_string())),
            ("packets", packets.map(|it| it.to_string())),
            ("bytes", bytes.map(|it| it.to_string())),
        ] {
            set(format!("{key}{which}"), value);
        }
    }
    row
}

/// A line of `conntrack -L -o id,extended`.
fn row_of_conntrack(line: &str) -> Row {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut row = Row::new();
    let mut set = |key: &str, value: &str| row.insert(key.to_owned(), value.to_owned());
    set("family", words[0]);
    set("protocol", words[2]);
    set("timeout", words[4]);
    set("zone", "0");
    set("assured", &line.contains("[ASSURED]").to_string());
    set("replied", &(!line.contains("[UNREPLIED]")).to_string());
    if !words[5].contains('=') {
        set("state", words[5]);
    }
    let icmp = words[2].starts_with("icmp");
    let mut direction = 0;
    for (key, value) in words.iter().filter_map(|word| word.split_once('=')) {
        match key {
            "src" => direction += 1,
            "use" => continue,
            _ => {}
        }
        let last = line.ends_with(&format!("id={value}"));
        match key {
            "mark" | "zone" => drop(set(key, value)),
            "id" if !icmp || last => drop(set(key, value)),
            "id" => drop(set(&format!("icmp_id{}", direction - 1), value)),
            _ => drop(set(&format!("{key}{}", direction - 1), value)),
        }
    }
    row
}

fn assert_as_conntrack(filter: &ConnectionFilter, options: &str) -> usize {
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    // A second may pass between the two questions.
    for _ in 0..100 {
        let lines = run(&format!("conntrack -L -o id,extended {options}"));
        theirs = lines.lines().map(row_of_conntrack).collect();
        mine = read(filter.clone()).iter().map(ours).collect();
        theirs.sort();
        mine.sort();
        if mine == theirs {
            return mine.len();
        }
    }
    assert_eq!(mine, theirs, "{options}");
    mine.len()
}

/// Flows of every protocol and family that can be had without a peer, over the loopback, and who must
/// stay for them to live.
struct Filled {
    port: u16,
    _streams: Vec<TcpStream>,
    _datagrams: Vec<UdpSocket>,
}

fn rules(udp: u16, zoned: u16, before: u16, after: u16) {
    let rules = format!(
        "table inet kctl_test {{
           chain raw {{ type filter hook output priority raw; udp dport {zoned} ct zone set 5; }}
           chain out {{ type filter hook output priority 0;
             ct state new udp dport {udp} ct mark set 0x2a; ct state new accept; }}
           chain nat {{ type nat hook output priority -100; tcp dport {before} redirect to :{after}; }}
         }}"
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), rules).expect("written");
    run(&format!("nft -f {}", file.path().display()));
}

fn fill(counted: bool) -> Filled {
    run(&format!("sysctl -q -w net.netfilter.nf_conntrack_acct={}", u8::from(counted)));
    let listen = |at: &str| TcpListener::bind(at).expect("a listener");
    let (v4, v6) = (listen("127.0.0.1:0"), listen("[::1]:0"));
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let udp = |at: &str| UdpSocket::bind(at).expect("a socket");
    let datagrams = vec![udp("127.0.0.1:0"), udp("127.0.0.1:0"), udp("[::1]:0"), udp("[::1]:0")];
    let at = |which: usize| datagrams[which].local_addr().expect("an address");
    // A port that nobody listens at, before it is translated.
    let before = listen("127.0.0.1:0");
    let before = port(&before);
    rules(at(1).port(), at(0).port(), before, port(&v4));
    let mut streams = Vec::new();
    let connect =
        |address: &str, port: u16| TcpStream::connect((address, port)).expect("connected");
    for (listener, client) in [
        (&v4, connect("127.0.0.1", port(&v4))),
        (&v4, connect("127.0.0.1", before)),
        (&v6, connect("::1", port(&v6))),
        (&v6, connect("::1", port(&v6))),
    ] {
        streams.extend([client, listener.accept().expect("accepted").0]);
    }
    // The last one is closed: TIME_WAIT, sooner or later.
    drop(streams.pop());
    drop(streams.pop());
    let send = |from: usize, to: usize| datagrams[from].send_to(b"x", at(to)).expect("sent");
    // With and without an answer.
    send(0, 1);
    send(1, 0);
    send(2, 3);
    for address in ["127.0.0.1", "::1"] {
        run(&format!("ping -n -c 1 -W 1 {address}"));
    }
    Filled { port: port(&v4), _streams: streams, _datagrams: datagrams }
}

#[test]
fn connections_are_those_that_conntrack_shows() {
    let _world = World::new();
    let _filled = fill(true);
    let count = assert_as_conntrack(&ConnectionFilter::default(), "");
    let all = read(ConnectionFilter::default());
    assert_eq!(count, all.len());
    // What the test is about is really there.
    let shown = |protocol: &str| all.iter().filter(|it| it.protocol == protocol).count();
    assert_eq!(["tcp", "icmp", "icmpv6"].map(shown), [4, 1, 1]);
    // One of UDP is in a zone of its own: the way there and the way back are two.
    assert!(shown("udp") >= 2 && all.iter().any(|it| it.zone == 5 && it.mark == 0));
    assert!(all.iter().any(|it| it.mark == 42 && it.protocol == "udp"));
    let translated = all.iter().find(|it| it.original.dst_port != it.reply.src_port);
    let translated = translated.expect("one is translated");
    assert!(translated.status.contains(&"DST_NAT"), "{translated:?}");
    assert!(all.iter().all(|it| it.original.packets > Some(0) && it.original.bytes > Some(0)));
    assert!(all.iter().any(|it| it.reply.packets == Some(0)));
    assert!(all.iter().any(|it| it.state.as_deref() == Some("ESTABLISHED")));
}

#[test]
fn filtered_connections_are_those_that_conntrack_filters() {
    let _world = World::new();
    let filled = fill(false);
    let none = ConnectionFilter::default;
    let v6 = ConnectionFilter { family: Some(Family::Inet6), ..none() };
    assert!(assert_as_conntrack(&v6, "-f ipv6") >= 4);
    let tcp = ConnectionFilter { protocol: Some(6), ..none() };
    assert_eq!(assert_as_conntrack(&tcp, "-p tcp"), 4);
    let src = ConnectionFilter { src: Some("127.0.0.0/8".parse().expect("a prefix")), ..none() };
    assert!(assert_as_conntrack(&src, "-s 127.0.0.1") >= 4);
    let dst = ConnectionFilter { dst: Some("::1/128".parse().expect("a prefix")), ..none() };
    assert!(assert_as_conntrack(&dst, "-f ipv6 -d ::1") >= 4);
    let elsewhere = ConnectionFilter { dst: Some("::2/128".parse().expect("a prefix")), ..none() };
    assert_eq!(read(elsewhere), []);
    // Also the one that was meant for another port.
    let port = ConnectionFilter { port: Some(filled.port), ..none() };
    let found = read(port);
    let meant = found.iter().filter(|it| it.original.dst_port == Some(filled.port)).count();
    assert_eq!((found.len(), meant), (2, 1));
    // Nobody counts here.
    assert!(found.iter().all(|it| it.original.packets.is_none() && it.reply.bytes.is_none()));
}

#[test]
fn many_connections_are_whole_and_a_part_of_them_is_that_part() {
    let _world = World::new();
    let line = |i: u32| {
        let src = format!("10.{}.{}.1", i / 250, i % 250);
        format!("-I -s {src} -d 192.0.2.1 -p udp --sport 1000 --dport 53 -t 1000\n")
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), (0..50_000).map(line).collect::<String>()).expect("written");
    run(&format!("conntrack -R {}", file.path().display()));
    let sources = |filter| -> BTreeSet<_> {
        let found = read(filter);
        let sources: BTreeSet<_> = found.iter().map(|it| it.original.src).collect();
        assert_eq!(sources.len(), found.len(), "a connection was told twice");
        sources
    };
    let all = sources(ConnectionFilter::default());
    assert_eq!(all.len(), 50_000);
    let src = "10.7.0.0/16".parse::<ipnet::IpNet>().expect("a prefix");
    let part = sources(ConnectionFilter { src: Some(src), ..ConnectionFilter::default() });
    assert_eq!(part.len(), 250);
    assert!(part.iter().all(|it| src.contains(it)));
}

#[test]
fn a_host_that_tracks_nothing_has_no_connections() {
    let _world = World::new();
    run("ping -n -c 1 -W 1 127.0.0.1");
    assert_eq!(read(ConnectionFilter::default()), []);
}
