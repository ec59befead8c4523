//! Many connections, and a ring that is too small for them: what is read and what is lost is all.

use super::actor::Actor;
use super::support::{LONG, Test};
use std::time::Instant;

const CONNECTIONS: usize = 10_000;

#[test]
fn what_is_read_and_what_is_lost_is_all_there_was() {
    let test = Test::new();
    let mut watch = test.watch(1 << 14);
    let mut client = Actor::start(&test, 31_111);
    let mut server = Actor::start(&test, 32_222);
    let port = server.listen("127.0.0.1");
    let half = CONNECTIONS / 2;
    // Nobody reads at first.
    server.ask(&format!("serve {half}"));
    client.tell(&format!("visit 127.0.0.1 {port} {half}"));
    server.answer();
    server.ask(&format!("serve {half}"));
    client.ask(&format!("visit 127.0.0.1 {port} {half}"));
    // Made, taken, and ended on both sides.
    let (mut read, mut lost) = (0, 0);
    let deadline = Instant::now() + LONG;
    while read + lost < 4 * CONNECTIONS as u64 {
        read += watch.tracer.drain().events().count() as u64;
        lost += watch.tracer.lost();
        assert!(Instant::now() < deadline, "{read} read and {lost} lost");
    }
    client.answer();
    server.answer();
    assert!(lost > 0, "the ring was too large for this test");
    let more = watch.all(&mut client);
    assert_eq!(read + lost + more.len() as u64 + watch.tracer.lost(), 4 * CONNECTIONS as u64);
    assert_eq!(watch.tracer.untracked().expect("a map"), 0);
}
