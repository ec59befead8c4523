//! Connections that were not made: each is told once, with what connect(2) or SO_ERROR says.

use super::actor::Actor;
use super::support::{Test, Watch, is_of, run};
use agent_kernel::trace::tcp::What;
use nix::errno::Errno;

const UID: u32 = 40_000;
/// Of networks for documentation: routed by no test but the one that says so.
const ELSEWHERE: &str = "192.0.2.2";

/// The only event is a failure to connect there with that error, by the actor.
fn only_failed(test: &Test, watch: &mut Watch, by: &mut Actor, to: (&str, u16), error: Errno) {
    let events = watch.all(by);
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0].what, What::Connect { error: Some(error as u32) });
    assert_eq!((events[0].dst.to_string().as_str(), events[0].dst_port), to);
    is_of(&events[0], by, test);
}

fn error(error: Errno) -> String {
    format!("error {}", error as i32)
}

/// A port of this namespace that nobody listens at any more.
fn free_port(by: &mut Actor, address: &str) -> u16 {
    let port = by.listen(address);
    by.tell("unlisten");
    port
}

#[test]
fn a_refused_connection_is_told_once() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut actor = Actor::start(&test, UID);
    for address in ["127.0.0.1", "::1"] {
        let port = free_port(&mut actor, address);
        let connect = format!("connect {address} {port}");
        assert_eq!(actor.tell(&connect), error(Errno::ECONNREFUSED));
        only_failed(&test, &mut watch, &mut actor, (address, port), Errno::ECONNREFUSED);
    }
}

#[test]
fn a_refused_connection_that_nobody_waited_for_is_told_once() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut actor = Actor::start(&test, UID);
    let port = free_port(&mut actor, "127.0.0.1");
    // On loopback the answer is there before the call returns, and is told only when asked for.
    let begin = format!("begin 127.0.0.1 {port}");
    let begun = actor.tell(&begin);
    assert!(begun == error(Errno::ECONNREFUSED) || begun == error(Errno::EINPROGRESS), "{begun}");
    actor.tell("end");
    only_failed(&test, &mut watch, &mut actor, ("127.0.0.1", port), Errno::ECONNREFUSED);
}

#[test]
fn a_connection_without_a_route_is_told_once() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut actor = Actor::start(&test, UID);
    for address in [ELSEWHERE, "2001:db8::2"] {
        let connect = format!("connect {address} 80");
        assert_eq!(actor.tell(&connect), error(Errno::ENETUNREACH));
        only_failed(&test, &mut watch, &mut actor, (address, 80), Errno::ENETUNREACH);
    }
    run(&format!("ip route add blackhole {ELSEWHERE}/32"));
    assert_eq!(actor.tell(&format!("connect {ELSEWHERE} 80")), error(Errno::EINVAL));
    only_failed(&test, &mut watch, &mut actor, (ELSEWHERE, 80), Errno::EINVAL);
}

#[test]
fn a_connection_without_a_free_port_is_told_once() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut actor = Actor::start(&test, UID);
    let mut server = Actor::start(&test, UID);
    let port = server.listen("127.0.0.1");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 20000").expect("set");
    actor.connect("127.0.0.1", port);
    server.tell("accept");
    let mut second = Actor::start(&test, UID);
    let connect = format!("connect 127.0.0.1 {port}");
    assert_eq!(second.tell(&connect), error(Errno::EADDRNOTAVAIL));
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 30000").expect("set");
    let events = watch.all(&mut second);
    assert_eq!(events.len(), 3, "{events:#?}");
    let error = Some(Errno::EADDRNOTAVAIL as u32);
    assert_eq!(events[2].what, What::Connect { error });
    assert_eq!((events[2].src, events[2].src_port), (None, 0));
    assert_eq!((events[2].dst.to_string().as_str(), events[2].dst_port), ("127.0.0.1", port));
    is_of(&events[2], &second, &test);
}

/// A link on which nothing answers.
fn silence() {
    run("ip link add silent0 type veth peer name silent1");
    run("ip addr add 192.0.2.1/24 dev silent0");
    run("ip link set silent0 up");
    run("ip link set silent1 up");
    run(&format!("ip neigh add {ELSEWHERE} lladdr 02:00:00:00:00:02 dev silent0 nud permanent"));
}

#[test]
fn a_connection_that_nobody_answers_is_told_once() {
    let test = Test::new();
    silence();
    let mut watch = test.watch(1 << 16);
    let mut actor = Actor::start(&test, UID);
    actor.tell("patience 100");
    assert_eq!(actor.tell(&format!("begin {ELSEWHERE} 80")), error(Errno::EINPROGRESS));
    assert_eq!(actor.tell(&format!("begin {ELSEWHERE} 80")), error(Errno::EALREADY));
    assert_eq!(actor.tell("end"), error(Errno::ETIMEDOUT));
    only_failed(&test, &mut watch, &mut actor, (ELSEWHERE, 80), Errno::ETIMEDOUT);
}

#[test]
fn a_connection_that_is_given_up_is_told_as_aborted() {
    let test = Test::new();
    silence();
    let mut watch = test.watch(1 << 16);
    let mut actor = Actor::start(&test, UID);
    assert_eq!(actor.tell(&format!("begin {ELSEWHERE} 80")), error(Errno::EINPROGRESS));
    actor.tell("give-up");
    only_failed(&test, &mut watch, &mut actor, (ELSEWHERE, 80), Errno::ECONNABORTED);
}

#[test]
fn a_call_that_makes_no_sense_is_no_connection() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut actor = Actor::start(&test, UID);
    let mut server = Actor::start(&test, UID);
    let port = server.listen("127.0.0.1");
    // Twice on one socket, the second time when it is connected.
    let begun = actor.tell(&format!("begin 127.0.0.1 {port}"));
    assert_eq!(begun, error(Errno::EINPROGRESS));
    server.tell("accept");
    assert_eq!(actor.tell(&format!("begin 127.0.0.1 {port}")), "");
    assert_eq!(actor.tell(&format!("begin 127.0.0.1 {port}")), error(Errno::EISCONN));
    let events = watch.all(&mut server);
    let whats: Vec<_> = events.iter().map(|event| &event.what).collect();
    assert_eq!(whats, [&What::Connect { error: None }, &What::Accept]);
    is_of(&events[0], &actor, &test);
    is_of(&events[1], &server, &test);
}
