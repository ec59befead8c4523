//! TCP in a network namespace of the test's own, where nobody else connects: exactly what it did.

use super::support::{config, open};
use agent_kernel::counters::{CountersConfig, Source, Tcp};
use agent_kernel::trace::Scope;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
const CLOSED: u64 = 30;
const RESET: u64 = 10;
const REFUSED: u64 = 20;

#[test]
fn connections_resets_and_segments_sent_again_are_those_that_were() {
    unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: a network namespace");
    run("ip link set lo up");
    // /proc/net is that of the process's first thread, which is elsewhere.
    let root = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink("/proc/thread-self/net", root.path().join("net")).expect("a link");
    let config = config([Source::Tcp], Scope::Host);
    let mut counters = open(&CountersConfig { proc_root: root.path().to_owned(), ..config });
    let mut tcp = || counters.read().expect("a reading").counted.tcp.expect("counted");
    let before = tcp();
    assert_eq!((before.active_opens, before.passive_opens), (0, 0), "a namespace of its own");

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    for _ in 0..CLOSED {
        let (mut client, server) = pair(&listener, address);
        drop(server);
        client.read_to_end(&mut Vec::new()).expect("it ends");
    }
    for _ in 0..RESET {
        let (client, mut server) = pair(&listener, address);
        let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&client, sockopt::Linger, &at_once).expect("set");
        drop(client);
        server.read_to_end(&mut Vec::new()).expect_err("it was reset");
    }
    let (mut client, mut server) = pair(&listener, address);
    drop(listener);
    for _ in 0..REFUSED {
        assert!(TcpStream::connect(address).is_err(), "nobody listens");
    }
    // Segments that are lost on their way, and sent again until they are not.
    run("nft add table inet lost");
    run("nft add chain inet lost in { type filter hook input priority 0 ; }");
    run(&format!("nft add rule inet lost in tcp dport {} drop", address.port()));
    client.write_all(b"again").expect("sent");
    let port = client.local_addr().expect("an address").port();
    within("it is sent again and again", || retransmits(port) >= 2);
    run("nft delete table inet lost");
    server.read_exact(&mut [0; 5]).expect("it comes at last");
    // Until the acknowledgement is there it may be sent once more.
    within("both tell the same", || tcp().retransmits - before.retransmits == retransmits(port));

    let after = tcp();
    let of = |value: fn(&Tcp) -> u64| value(&after) - value(&before);
    assert_eq!(of(|tcp| tcp.active_opens), CLOSED + RESET + REFUSED + 1);
    assert_eq!(of(|tcp| tcp.passive_opens), CLOSED + RESET + 1);
    assert_eq!(of(|tcp| tcp.failed_attempts), REFUSED);
    // Both ends are here: who sends a reset leaves the connection as who gets it (RFC 4022).
    assert_eq!(of(|tcp| tcp.connection_resets), 2 * RESET);
    assert_eq!(of(|tcp| tcp.resets_sent), RESET + REFUSED);
    assert!(of(|tcp| tcp.segments_sent) >= of(|tcp| tcp.segments_received), "{after:?}");
}

fn pair(listener: &TcpListener, address: SocketAddr) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(address).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    (client, server)
}

/// What ss(8) says of the socket of a local port: `retrans:NOW/ALL`.
fn retransmits(port: u16) -> u64 {
    let shown = run(&format!("ss -Htin sport = {port}"));
    let words = shown.split_whitespace();
    let all = words.filter_map(|word| word.strip_prefix("retrans:")?.split_once('/')).next();
    all.map_or(0, |(_, all)| all.parse().expect("a number"))
}

fn within(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    let output = command.args(words).output().expect(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
