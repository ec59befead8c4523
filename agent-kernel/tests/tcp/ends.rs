//! A whole connection: made, accepted, ended, by which process, with how many bytes, and how long.

use super::actor::Actor;
use super::support::{Test, ends, is_close, is_of, one};
use agent_kernel::trace::tcp::{Event, What};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const CLIENT: u32 = 54_321;
const SERVER: u32 = 12_345;

/// A connection on which the client sends and receives so many bytes; the events of it.
fn whole(address: &str, sent: usize, received: usize) {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen(address);
    let before_ns = boot_ns();
    let start = Instant::now();
    let local = client.connect(address, port);
    assert_eq!(server.tell("accept"), local.to_string());
    let established = Instant::now();
    server.ask(&format!("receive {sent}"));
    client.tell(&format!("send {sent}"));
    server.answer();
    client.ask(&format!("receive {received}"));
    server.tell(&format!("send {received}"));
    client.answer();
    let at_least = established.elapsed();
    client.tell("finish");
    assert_eq!(server.tell("receive-all"), "0");
    server.tell("close");
    assert_eq!(client.tell("receive-all"), "0");
    client.tell("close");
    let at_most = start.elapsed();
    let after_ns = boot_ns();

    let events = watch.all(&mut client);
    assert_eq!(events.len(), 4, "{events:#?}");
    let connect = one(&events, |event| event.what == What::Connect { error: None });
    let accept = one(&events, |event| event.what == What::Accept);
    let both = |accepted| {
        one(
            &events,
            |event| matches!(event.what, What::Close { accepted: Some(is), .. } if is == accepted),
        )
    };
    let (left, taken) = (both(false), both(true));
    for event in &events {
        let remote = SocketAddr::new(address.parse().expect("an address"), port);
        assert_eq!(ends(event), ((local.ip(), local.port()), (remote.ip(), remote.port())));
        assert!((before_ns..=after_ns).contains(&event.boot_ns));
    }
    is_of(connect, &client, &test);
    is_of(left, &client, &test);
    is_of(accept, &server, &test);
    is_of(taken, &server, &test);
    carried(left, sent, received, at_least..=at_most);
    carried(taken, received, sent, at_least..=at_most);
    assert_eq!(watch.tracer.lost(), 0);
    assert_eq!(watch.tracer.untracked().expect("a map"), 0);
}

fn carried(
    event: &Event,
    sent: usize,
    received: usize,
    length: std::ops::RangeInclusive<Duration>,
) {
    let What::Close { sent_bytes, received_bytes, duration_ns, .. } = event.what else {
        panic!("{event:?}")
    };
    assert_eq!(sent_bytes, Some(sent as u64));
    assert_eq!(received_bytes, Some(received as u64));
    let duration = Duration::from_nanos(duration_ns.expect("known"));
    assert!(length.contains(&duration), "{duration:?} is not in {length:?}");
}

fn boot_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("a clock");
    now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs()
}

#[test]
fn a_connection_of_ipv4_is_told_whole() {
    whole("127.0.0.1", 12_345, 1);
}

#[test]
fn a_connection_of_ipv6_is_told_whole() {
    whole("::1", 1, 0);
}

#[test]
fn a_connection_that_carries_nothing_carries_nothing() {
    whole("127.0.0.1", 0, 0);
}

#[test]
fn a_connection_that_carries_much_carries_just_that() {
    whole("::1", 50_000_001, 3_000_000);
}

#[test]
fn an_ipv4_address_is_one_also_on_a_socket_of_ipv6() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("::");
    let local = client.connect("127.0.0.1", port);
    server.tell("accept");
    let events = watch.all(&mut client);
    assert_eq!(events.len(), 2, "{events:#?}");
    for event in &events {
        let to = ([127, 0, 0, 1].into(), port);
        assert_eq!(ends(event), ((local.ip(), local.port()), to));
    }
}

/// A FIN counts as a byte of the sequence, also one that nobody acknowledged: so who closes first, and
/// how, must not change the sum.
#[test]
fn bytes_are_right_however_a_connection_ends() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("127.0.0.1");
    for end in ["client closes", "server closes", "both close", "reset", "unread"] {
        client.connect("127.0.0.1", port);
        server.tell("accept");
        server.ask("receive 100");
        client.tell("send 100");
        server.answer();
        client.ask("receive 10");
        server.tell("send 10");
        client.answer();
        let (mut more_sent, mut more_received) = (0, 0);
        match end {
            "client closes" => {
                client.tell("close");
                assert_eq!(server.tell("receive-all"), "0");
                server.tell("close");
            }
            "server closes" => {
                server.tell("close");
                assert_eq!(client.tell("receive-all"), "0");
                client.tell("close");
            }
            "both close" => {
                client.tell("finish");
                server.tell("finish");
                assert_eq!(client.tell("receive-all"), "0");
                assert_eq!(server.tell("receive-all"), "0");
                client.tell("close");
                server.tell("close");
            }
            "reset" => {
                client.tell("reset");
                // Nothing came, and so its socket is closed already.
                server.tell("close");
            }
            _ => {
                // Data that is not read when the socket is closed resets the connection.
                client.tell("send 7");
                (more_sent, more_received) = (7, 7);
                // The SYN is a byte too.
                acknowledged(&local_of(&client), 108);
                server.tell("close");
                client.tell("close");
            }
        }
        let events = watch.all(&mut client);
        let closes: Vec<_> = events.iter().filter(|event| is_close(event)).collect();
        assert_eq!(closes.len(), 2, "{end}: {events:#?}");
        for close in closes {
            let What::Close { sent_bytes, received_bytes, accepted, .. } = close.what else {
                panic!()
            };
            let bytes = (sent_bytes.expect("known"), received_bytes.expect("known"));
            let expected = match accepted {
                Some(false) => (100 + more_sent, 10),
                _ => (10, 100 + more_received),
            };
            assert_eq!(bytes, expected, "{end}: {close:#?}");
        }
    }
}

/// What `ss` shows of the sockets of an actor.
fn local_of(actor: &Actor) -> String {
    let lines = super::support::run("ss -Htnpi state connected");
    let pid = format!("pid={},", actor.pid());
    assert!(lines.contains(&pid), "{lines}");
    pid
}

/// Waits until `ss` shows that so many bytes were acknowledged to an actor.
fn acknowledged(pid: &str, bytes: u32) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = super::support::run("ss -OHtnpi state connected");
        let line = text.lines().find(|line| line.contains(pid)).unwrap_or_default();
        if line.contains(&format!("bytes_acked:{bytes} ")) {
            return;
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::yield_now();
    }
}
