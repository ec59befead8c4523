//! Events as they come: one order, hosts that are off or away, and a ledger that adds up.

use crate::support::{
    Api, Controller,
    agent::{Agent, Connected},
    events::{drop_of, exec, lost, now_unix_ns},
    eventually, names, selector,
    stream::{Reader, follow, types},
};
use kctl_proto::{
    agent::v1::{EventFilter, EventType, event::Payload, host_event::State},
    controller::v1::WatchEventsRequest,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tonic::Code;

const MS: i64 = 1_000_000;

/// Connected hosts whose events are followed.
pub(crate) async fn fleet<const N: usize>(
    controller: &Controller,
    api: &Api,
    names: [&str; N],
) -> [(Agent, Connected); N] {
    let mut fleet = Vec::new();
    for name in names {
        let agent = Agent::new(controller, api, name).await;
        let connected = connect(controller, api, &agent).await;
        fleet.push((agent, connected));
    }
    fleet.try_into().unwrap_or_else(|_| panic!("as many"))
}

/// Connects a host and waits until its events are followed.
pub(crate) async fn connect(controller: &Controller, api: &Api, agent: &Agent) -> Connected {
    let before = agent.teller.subscribed.lock().expect("whole").len();
    let connected = agent.connect(controller, api).await;
    let followed =
        async || (agent.teller.subscribed.lock().expect("whole").len() > before).then_some(());
    eventually("followed", followed).await;
    connected
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_three_hosts_come_in_one_order() {
    let controller = Controller::start();
    let api = controller.api().await;
    let hosts = fleet(&controller, &api, ["web-1", "web-2", "web-3"]).await;
    let mut reader = api.watch(follow()).await.expect("follows");
    let bursts = hosts.iter().map(|(host, _)| {
        let teller = Arc::clone(&host.teller);
        std::thread::spawn(move || {
            for round in 0..200 {
                teller.tell((0..5).map(|at| exec(&format!("/{round}/{at}"))));
                teller.tell((5..10).map(|at| exec(&format!("/{round}/{at}"))));
                std::thread::sleep(Duration::from_micros(500));
            }
        })
    });
    let bursts: Vec<_> = bursts.collect();
    reader.until("all", |reader| reader.of_hosts().count() == 6_000).await;
    bursts.into_iter().for_each(|burst| burst.join().expect("no panic"));
    // A host that is slow to be heard on a busy machine is late, and says so.
    let in_time = reader.of_hosts().filter(|told| !told.event.late);
    let times: Vec<i64> = in_time.map(|told| told.event.time_unix_ns).collect();
    assert!(times.is_sorted(), "{} in time", times.len());
    assert!(times.len() > 3_000, "{} in time", times.len());
    for (host, _) in &hosts {
        assert_eq!(reader.seqs(&host.name), (1..=2_000).collect::<Vec<_>>());
    }
    let boots: BTreeSet<_> = reader.of_hosts().map(|told| (&*told.host, &*told.boot_id)).collect();
    assert_eq!(boots.len(), 3);
    assert!(
        boots.contains(&("web-1", "boot-of-web-1")),
        "the certificate names the host: {boots:?}"
    );
    assert_eq!(reader.ledger(), 6_000);
    assert_eq!(reader.live, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_off_is_told_and_marked() {
    let controller = Controller::start();
    let api = controller.api().await;
    let right = Agent::new(&controller, &api, "right").await;
    let off = Agent::new(&controller, &api, "off").await;
    off.teller.offset_ns.store(-60_000 * MS, Ordering::Relaxed);
    let mut reader = api.watch(follow()).await.expect("follows");
    let _right = connect(&controller, &api, &right).await;
    let _off = connect(&controller, &api, &off).await;
    reader.until("told", |reader| reader.word("off", State::ClockOff).is_some()).await;
    let offset = reader.word("off", State::ClockOff).and_then(|word| word.clock_offset_ms);
    assert!(offset.is_some_and(|offset| (-70_000..=-59_000).contains(&offset)), "{offset:?}");
    for i in 0..10 {
        off.teller.tell([exec(&format!("/off/{i}"))]);
        right.teller.tell([exec(&format!("/right/{i}"))]);
    }
    reader.until("all", |reader| reader.of_hosts().count() == 20).await;
    for told in reader.of_hosts() {
        assert_eq!(told.event.clock_off, told.host == "off", "{told:?}");
        let age = now_unix_ns() - told.event.time_unix_ns;
        assert_eq!(age > 59_000 * MS, told.host == "off", "shown as it says");
    }
    assert_eq!(reader.seqs("off"), (1..=10).collect::<Vec<_>>());
    // Who comes now must know it too.
    let late = api.watch(follow()).await.expect("follows");
    assert!(late.word("off", State::ClockOff).is_some(), "{:?}", late.states());
    off.teller.offset_ns.store(0, Ordering::Relaxed);
    reader.until("right", |reader| reader.word("off", State::ClockRight).is_some()).await;
    off.teller.tell([exec("/now/right")]);
    reader.until("all", |reader| reader.of_hosts().count() == 21).await;
    assert!(!reader.told.last().expect("some").event.clock_off);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_host_holds_up_nobody() {
    let controller = Controller::start();
    let api = controller.api().await;
    let [(a, _a), (b, _b), (c, _c)] = fleet(&controller, &api, ["a", "b", "c"]).await;
    let mut reader = api.watch(follow()).await.expect("follows");
    a.teller.tell([exec("/before")]);
    reader.until("before", |reader| reader.of_hosts().count() == 1).await;
    c.teller.frozen.send_replace(true);
    c.teller.tell([exec("/frozen")]);
    for i in 0..5 {
        a.teller.tell([exec(&format!("/a/{i}"))]);
        b.teller.tell([exec(&format!("/b/{i}"))]);
        let all = |reader: &Reader| reader.of_hosts().count() == 3 + 2 * i;
        reader.until("the others go on", all).await;
    }
    let lags = ("c".to_owned(), State::Lags);
    assert_eq!(reader.states().iter().filter(|told| **told == lags).count(), 1);
    c.teller.frozen.send_replace(false);
    reader.until("caught up", |reader| reader.word("c", State::CaughtUp).is_some()).await;
    reader.until("all", |reader| reader.of_hosts().count() == 12).await;
    assert_eq!(reader.seqs("c"), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_come_and_go_are_told() {
    let controller = Controller::start();
    let api = controller.api().await;
    Agent::new(&controller, &api, "away").await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let other = Agent::new(&controller, &api, "web-2").await;
    let request = WatchEventsRequest { selection: Some(names(&["away", "web-1"])), ..follow() };
    let mut reader = api.watch(request).await.expect("follows");
    let away = |name: &str| (name.to_owned(), State::Disconnected);
    assert_eq!(reader.states(), [away("away"), away("web-1")]);
    let _other = connect(&controller, &api, &other).await;
    other.teller.tell([exec("/other")]);
    let connected = connect(&controller, &api, &agent).await;
    agent.teller.tell([exec("/one"), lost(7), exec("/two")]);
    reader.until("told", |reader| reader.seqs("web-1") == [1, 2, 3]).await;
    drop(connected);
    reader.until("gone", |reader| reader.states().len() == 4).await;
    agent.teller.tell([exec("/three")]);
    let _again = connect(&controller, &api, &agent).await;
    reader.until("told", |reader| reader.seqs("web-1") == [1, 2, 3, 4]).await;
    // What happened before it was back comes before that.
    reader.until("back", |reader| reader.states().len() == 5).await;
    let states: Vec<_> = reader.states().into_iter().skip(2).collect();
    let of = |state| ("web-1".to_owned(), state);
    assert_eq!(states, [of(State::Connected), of(State::Disconnected), of(State::Connected)]);
    assert_eq!(reader.ledger(), agent.teller.produced());
    assert_eq!(reader.seqs("web-2"), [0; 0]);

    let unknown = WatchEventsRequest { selection: Some(names(&["web-9"])), ..follow() };
    assert_eq!(api.watch(unknown).await.err().expect("refused").code(), Code::NotFound);
    let bad = EventFilter { types: vec![99], ..EventFilter::default() };
    let bad = WatchEventsRequest { filter: Some(bad), ..follow() };
    assert_eq!(api.watch(bad).await.err().expect("refused").code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_out_is_counted_and_labels_are_followed() {
    let controller = Controller::start();
    let api = controller.api().await;
    let [(a, _a), (b, _b)] = fleet(&controller, &api, ["a", "b"]).await;
    a.state().status.labels.insert("role".to_owned(), "web".to_owned());
    a.tell();
    api.until("a", |host| host.status.as_ref().is_some_and(|status| !status.labels.is_empty()))
        .await;
    let filter = types(&[EventType::Drop]);
    let selection = Some(selector("role=web"));
    let request = WatchEventsRequest { selection, filter, ..follow() };
    let mut reader = api.watch(request).await.expect("follows");
    a.teller.tell([
        drop_of("10.0.0.1"),
        exec("/left/out"),
        lost(3),
        exec("/left/out"),
        drop_of("10.0.0.2"),
    ]);
    b.teller.tell([drop_of("10.0.0.3")]);
    reader.until_produced("a", 7).await;
    assert_eq!((reader.seqs("a"), reader.filtered, reader.ledger()), (vec![1, 3, 5], 2, 7));
    // A message without events tells, a little later, where the reader is.
    a.teller.tell([exec("/left/out")]);
    reader.until_produced("a", 8).await;
    assert_eq!(reader.filtered, 3);
    b.state().status.labels.insert("role".to_owned(), "web".to_owned());
    b.tell();
    api.until("b", |host| host.status.as_ref().is_some_and(|status| !status.labels.is_empty()))
        .await;
    b.teller.tell([drop_of("10.0.0.4")]);
    reader.until("b too", |reader| reader.seqs("b") == [2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_is_told_what_it_lost_to_the_last_one() {
    let controller = Controller::start();
    let api = controller.api().await;
    let [(a, _a), (b, _b)] = fleet(&controller, &api, ["a", "b"]).await;
    let mut fast = api.watch(follow()).await.expect("follows");
    let mut slow = controller.api().await.watch(follow()).await.expect("follows");
    let long = "x".repeat(2_000);
    // It stands still while much more comes than the ring and the windows hold; b tells once only.
    b.teller.tell([exec("/b")]);
    for _ in 0..60 {
        a.teller.tell((0..500).map(|_| exec(&long)));
        fast.until_produced("a", a.teller.produced()).await;
    }
    assert_eq!(fast.ledger(), 30_001);
    assert_eq!(fast.losses().count(), 0);
    slow.until_produced("a", 30_000).await;
    assert!(slow.lost("subscriber") > 0, "{}", slow.told.len());
    let losses: Vec<_> = slow.losses().map(|lost| (&lost.stage, &lost.name, lost.count)).collect();
    assert_eq!(slow.ledger(), 30_001, "{losses:?}");
    a.teller.tell([exec("/after")]);
    slow.until_produced("a", 30_001).await;
    assert_eq!(slow.ledger(), 30_002);
    assert_eq!(slow.seqs("a").last(), Some(&30_001));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_stands_still_loses_what_the_agents_ring_had_no_room_for() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "a").await.with_ring(5_000);
    let _connected = connect(&controller, &api, &agent).await;
    let mut reader = api.watch(follow()).await.expect("follows");
    let process = Pid::from_raw(controller.pid().cast_signed());
    kill(process, Signal::SIGSTOP).expect("it runs");
    let long = "x".repeat(1_000);
    for _ in 0..100 {
        agent.teller.tell((0..500).map(|_| exec(&long)));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    kill(process, Signal::SIGCONT).expect("it runs");
    reader.until_produced("a", agent.teller.produced()).await;
    assert!(reader.lost("agent_ring") > 0);
    assert_eq!(reader.ledger(), agent.teller.produced());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asked_for_does_not_travel() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let controller = Controller::start_with(dir, "127.0.0.1:0", &["--history-types", "drop"]);
    let api = controller.api().await;
    let [(agent, _connected)] = fleet(&controller, &api, ["a"]).await;
    let subscribed = || agent.teller.subscribed.lock().expect("whole").clone();
    let kinds = |at: usize| subscribed()[at].filter.clone().expect("a filter").types;
    assert_eq!(kinds(0), [1, 50, 51]);
    let drops = WatchEventsRequest { filter: types(&[EventType::Drop]), ..follow() };
    let _covered = api.watch(drops).await.expect("follows");
    assert_eq!(subscribed().len(), 1, "served from what comes anyway");

    let execs = || WatchEventsRequest { filter: types(&[EventType::Exec]), ..follow() };
    let mut one = api.watch(execs()).await.expect("follows");
    let two = api.watch(execs()).await.expect("follows");
    eventually("its own feed", async || (subscribed().len() == 2).then_some(())).await;
    assert_eq!(kinds(1), [i32::from(EventType::Exec)]);
    agent.teller.tell([drop_of("10.0.0.1"), exec("/x")]);
    one.until("told", |reader| reader.seqs("a") == [2]).await;
    assert_eq!(one.filtered, 1);
    drop((one, two));
    let open = || agent.teller.open.load(Ordering::SeqCst);
    eventually("ended with its last reader", async || (open() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_does_not_wait_behind_readers_that_stand_still() {
    use crate::support::{all, block};
    let controller = Controller::start();
    let api = controller.api().await;
    let [(agent, _connected)] = fleet(&controller, &api, ["a"]).await;
    // Readers of feeds of their own that never take anything, each over a connection of its own.
    let mut standing = Vec::new();
    for i in 0..8 {
        let comms = vec![format!("nobody-{i}"), String::new()];
        let filter = Some(EventFilter { comms, ..EventFilter::default() });
        let reader = controller.api().await;
        standing
            .push(reader.watch(WatchEventsRequest { filter, ..follow() }).await.expect("follows"));
    }
    let long = "x".repeat(2_000);
    for _ in 0..20 {
        agent.teller.tell((0..500).map(|_| exec(&long)));
        let changed = api.block(block("10.0.0.5", all())).await.expect("accepted");
        assert!(changed.hosts["a"].elapsed_ms < 1_000.0, "{:?}", changed.hosts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_for_operators() {
    let mut controller = Controller::start();
    let api = controller.api().await;
    let [(agent, connected)] = fleet(&controller, &api, ["a"]).await;
    let mut reader = api.watch(follow()).await.expect("follows");
    agent.teller.tell([exec("/x")]);
    reader.until("told", |reader| arguments(reader) == [2]).await;
    drop(connected);
    let past = || WatchEventsRequest { since_unix_ns: Some(0), ..WatchEventsRequest::default() };
    assert_eq!(arguments(&api.past(past()).await), [2]);
    for (round, (role, expected)) in
        [("viewer", 0), ("operator", 2), ("another", 0), ("admin", 2)].into_iter().enumerate()
    {
        controller = controller.restart(|data_dir| {
            let store = rusqlite::Connection::open(data_dir.join("store.db")).expect("opens");
            store.execute("UPDATE users SET role = ?1", [role]).expect("takes it");
        });
        let api = controller.api().await;
        let mut reader = api.watch(follow()).await.expect("follows");
        let _connected = connect(&controller, &api, &agent).await;
        agent.teller.tell([exec("/y")]);
        reader.until("told", |reader| arguments(reader) == [expected]).await;
        let expected = vec![expected; round + 2];
        assert_eq!(arguments(&api.past(past()).await), expected, "{role}");
        let last = WatchEventsRequest { last: Some(100), ..WatchEventsRequest::default() };
        assert_eq!(arguments(&api.past(last).await), expected, "{role}");
    }
}

/// How many arguments each exec came with.
fn arguments(reader: &Reader) -> Vec<usize> {
    let execs = reader.told.iter().filter_map(|told| match &told.event.payload {
        Some(Payload::Exec(exec)) => Some(exec.argv.len()),
        _ => None,
    });
    execs.collect()
}
