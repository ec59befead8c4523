//! Connections made to here: told once, with the process that takes them, or without one.

use super::actor::Actor;
use super::support::{Test, ends, is_close, is_of, one};
use agent_kernel::trace::tcp::{ACCEPT_BOUND, What};
use std::time::Instant;

const CLIENT: u32 = 51_111;
const SERVER: u32 = 52_222;

#[test]
fn a_connection_that_is_taken_late_is_told_when_it_is_taken() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("127.0.0.1");
    let local = client.connect("127.0.0.1", port);
    // It has ended on the client's side, and can still be taken.
    client.tell("send 5");
    client.tell("finish");
    let before = watch.all(&mut client);
    assert_eq!(before.len(), 1, "{before:#?}");
    assert_eq!(before[0].what, What::Connect { error: None });
    server.tell("accept");
    let after = watch.all(&mut client);
    assert_eq!(after.len(), 1, "{after:#?}");
    assert_eq!(after[0].what, What::Accept);
    assert_eq!(ends(&after[0]).0, (local.ip(), local.port()));
    is_of(&after[0], &server, &test);
}

#[test]
fn a_connection_that_is_taken_too_late_is_told_before_and_only_then() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("::1");
    let made = Instant::now();
    client.connect("::1", port);
    let mut before = watch.until("the bound", |event| event.what == What::Accept);
    assert!(made.elapsed() >= ACCEPT_BOUND, "{:?}", made.elapsed());
    assert_eq!(before.pop().expect("the last").process, None);
    server.tell("accept");
    client.tell("close");
    server.tell("close");
    let after = watch.all(&mut client);
    assert_eq!(after.len(), 2, "{after:#?}");
    assert!(after.iter().all(is_close));
    // Its end knows who took it in the end.
    let taken = |what: &What| matches!(what, What::Close { accepted: Some(true), .. });
    is_of(one(&after, |event| taken(&event.what)), &server, &test);
}

/// The kernel resets what nobody took.
#[test]
fn a_listener_that_goes_away_leaves_connections_that_nobody_took() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("127.0.0.1");
    client.connect("127.0.0.1", port);
    server.tell("unlisten");
    client.tell("close");
    let events = watch.all(&mut client);
    assert_eq!(events.len(), 4, "{events:#?}");
    let accept = one(&events, |event| event.what == What::Accept);
    assert_eq!(accept.process, None);
    let taken = one(&events, |event| {
        matches!(event.what, What::Close { accepted: Some(true), sent_bytes: Some(0), .. })
    });
    assert_eq!(taken.process, None);
}

/// Two processes may wait at one listener: the one that gets the connection is told.
#[test]
fn the_process_that_gets_the_connection_is_told_not_the_one_that_listened() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("127.0.0.1");
    let taker: u32 = server.tell("fork-accept").parse().expect("a pid");
    client.connect("127.0.0.1", port);
    let events = watch.until("the accept", |event| event.what == What::Accept);
    let process = events.last().expect("it").process.as_ref().expect("known");
    assert_eq!((process.pid, process.ppid, process.uid), (taker, Some(server.pid()), Some(SERVER)));
}
