//! What was told before: found again by time, over restarts, in bounded space, and onwards without gap
//! or repeat.

use crate::{
    events::{connect, fleet},
    support::{
        Api, Controller,
        agent::Agent,
        events::{Teller, drop_of, exec, now_unix_ns},
        eventually, names,
        stream::{Reader, follow, types},
    },
};
use kctl_proto::{
    agent::v1::{EventType, host_event::State, subscribe::Start},
    controller::v1::WatchEventsRequest,
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::Code;

const MS: i64 = 1_000_000;

fn past() -> WatchEventsRequest {
    WatchEventsRequest { since_unix_ns: Some(0), ..WatchEventsRequest::default() }
}

/// Waits until the history has so many events of hosts.
async fn stored(api: &Api, request: WatchEventsRequest, count: usize) -> Reader {
    eventually("stored", async || {
        let reader = api.past(request.clone()).await;
        (reader.of_hosts().count() >= count).then_some(reader)
    })
    .await
}

fn is_in_order(reader: &Reader) -> bool {
    reader.of_hosts().map(|told| told.event.time_unix_ns).is_sorted()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_found_by_time_and_the_newest_of_all_hosts() {
    let controller = Controller::start();
    let api = controller.api().await;
    let hosts = fleet(&controller, &api, ["a", "b", "c"]).await;
    // Of each host a hundred, one a millisecond, 300 ms long in all; one in ten is a drop.
    let start = now_unix_ns() - 10_000 * MS;
    for (i, (host, _)) in hosts.iter().enumerate() {
        let time = |at: usize| start + (at * 3 + i) as i64 * MS;
        let what = |at: usize| if at % 10 == 9 { drop_of("10.0.0.1") } else { exec("/x") };
        for part in 0..10 {
            host.teller
                .tell_at((part * 10..part * 10 + 10).map(|at| (time(at), what(at))).collect());
        }
    }
    let all = stored(&api, past(), 300).await;
    assert!(is_in_order(&all));
    assert_eq!((all.ledger(), all.losses().count()), (300, 0));
    for (host, _) in &hosts {
        assert_eq!(all.seqs(&host.name), (1..=100).collect::<Vec<_>>());
    }

    let request = WatchEventsRequest {
        since_unix_ns: Some(start + 100 * MS),
        until_unix_ns: Some(start + 199 * MS),
        ..WatchEventsRequest::default()
    };
    let some = api.past(request).await;
    let times: Vec<_> =
        some.of_hosts().map(|told| (told.event.time_unix_ns - start) / MS).collect();
    assert_eq!(times, (100..200).collect::<Vec<_>>());

    let last = |count| WatchEventsRequest { last: Some(count), ..WatchEventsRequest::default() };
    let until = |request| WatchEventsRequest { until_unix_ns: Some(start + 1_000 * MS), ..request };
    let newest = api.past(until(last(100))).await;
    let times: Vec<_> =
        newest.of_hosts().map(|told| (told.event.time_unix_ns - start) / MS).collect();
    assert_eq!(times, (200..300).collect::<Vec<_>>());
    let drops = WatchEventsRequest { filter: types(&[EventType::Drop]), ..until(last(7)) };
    let drops = api.past(drops).await;
    let times: Vec<_> =
        drops.of_hosts().map(|told| (told.event.time_unix_ns - start) / MS).collect();
    assert_eq!(times, [239, 267, 268, 269, 297, 298, 299]);
    let of_one = WatchEventsRequest { selection: Some(names(&["b"])), ..until(last(5)) };
    assert_eq!(api.past(of_one).await.seqs("b"), [96, 97, 98, 99, 100]);

    let drops = WatchEventsRequest { filter: types(&[EventType::Drop]), ..past() };
    let drops = api.past(drops).await;
    assert_eq!((drops.of_hosts().count(), drops.filtered), (30, 270));
    for wrong in [
        WatchEventsRequest { follow: true, until_unix_ns: Some(1), ..past() },
        WatchEventsRequest { after: all.after(), ..past() },
        last(1_000_000),
    ] {
        assert_eq!(api.watch(wrong).await.err().expect("refused").code(), Code::InvalidArgument);
    }
}

/// Events in the background until told to stop.
fn stream(
    teller: &Arc<Teller>,
    pause: Duration,
) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let teller = Arc::clone(teller);
    let thread = std::thread::spawn(move || {
        let stopped =
            || stopped.recv_timeout(pause) != Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        while !stopped() {
            teller.tell((0..20).map(|_| exec("/stream")));
        }
    });
    (stop, thread)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_goes_over_into_what_comes_without_gap_or_repeat() {
    let controller = Controller::start();
    let api = controller.api().await;
    let hosts = fleet(&controller, &api, ["a", "b"]).await;
    // Readers that do not read yet must lose nothing, however long a machine takes to open them all.
    let pause = Duration::from_millis(20);
    let streams: Vec<_> = hosts.iter().map(|(host, _)| stream(&host.teller, pause)).collect();
    let mut readers = Vec::new();
    for request in [past(), WatchEventsRequest { last: Some(50), ..Default::default() }] {
        for _ in 0..5 {
            let request = WatchEventsRequest { follow: true, ..request.clone() };
            readers.push(api.watch(request).await.expect("follows"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    for (stop, thread) in streams {
        drop(stop);
        thread.join().expect("no panic");
    }
    for (i, reader) in readers.iter_mut().enumerate() {
        for (host, _) in &hosts {
            let produced = host.teller.produced();
            reader.until_produced(&host.name, produced).await;
            let seqs = reader.seqs(&host.name);
            let first = if i < 5 { 1 } else { seqs[0] };
            assert_eq!(seqs, (first..=produced).collect::<Vec<_>>(), "reader {i}");
        }
        assert_eq!(reader.losses().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_after_a_controller_that_was_killed() {
    let mut controller = Controller::start();
    let mut api = controller.api().await;
    let agents =
        [Agent::new(&controller, &api, "a").await, Agent::new(&controller, &api, "b").await];
    let mut reader = api.watch(follow()).await.expect("follows");
    let mut open = Vec::new();
    for agent in &agents {
        open.push(connect(&controller, &api, agent).await);
    }
    let streams: Vec<_> =
        agents.iter().map(|agent| stream(&agent.teller, Duration::from_millis(1))).collect();
    let (mut seqs, mut ledger) = ([Vec::new(), Vec::new()], 0);
    for round in 0..3 {
        reader.until("some", |reader| reader.of_hosts().count() > 500).await;
        let after = reader.after();
        for (seqs, agent) in seqs.iter_mut().zip(&agents) {
            seqs.extend(reader.seqs(&agent.name));
        }
        ledger += reader.ledger();
        controller = controller.restart(|_| {});
        open.clear();
        api = controller.api().await;
        // Before the hosts are back, and after.
        if round == 1 {
            for agent in &agents {
                open.push(connect(&controller, &api, agent).await);
            }
        }
        reader = api.watch(WatchEventsRequest { after, ..follow() }).await.expect("follows");
        if round != 1 {
            for agent in &agents {
                open.push(connect(&controller, &api, agent).await);
            }
        }
    }
    for (stop, thread) in streams {
        drop(stop);
        thread.join().expect("no panic");
    }
    for (seqs, agent) in seqs.iter_mut().zip(&agents) {
        let produced = agent.teller.produced();
        reader.until_produced(&agent.name, produced).await;
        seqs.extend(reader.seqs(&agent.name));
        assert_eq!(*seqs, (1..=produced).collect::<Vec<_>>(), "{}", agent.name);
    }
    ledger += reader.ledger();
    assert_eq!(ledger, agents.iter().map(|agent| agent.teller.produced()).sum::<u64>());
    // And the history has it all, the agents' rings having kept what the killed ones had not written.
    let all = api.past(past()).await;
    assert_eq!((all.ledger(), all.losses().count()), (ledger, 0));
    assert!(agents.iter().all(|agent| all.seqs(&agent.name).is_sorted()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_loses_a_second_at_most_and_says_so() {
    let controller = Controller::start();
    let api = controller.api().await;
    let [(agent, connected)] = fleet(&controller, &api, ["a"]).await;
    let mut reader = api.watch(follow()).await.expect("follows");
    agent.teller.tell((0..100).map(|_| exec("/old")));
    reader.until_produced("a", 100).await;
    // Nobody asks the history for anything meanwhile.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    agent.teller.tell((0..10).map(|_| exec("/new")));
    reader.until_produced("a", 110).await;
    let controller = controller.restart(|_| {});
    let told = |text: &str| controller.begun.iter().any(|line| line.contains(text));
    assert!(told("did not stop properly"), "{:?}", controller.begun);
    drop(connected);
    let api = controller.api().await;
    let left = api.past(past()).await.seqs("a");
    assert!(left.len() >= 100, "{}", left.len());
    assert_eq!(left, (1..=left.len() as u64).collect::<Vec<_>>());
    // The host still has it.
    let _connected = connect(&controller, &api, &agent).await;
    let Some(Start::After(cursor)) =
        agent.teller.subscribed.lock().expect("whole")[1].start.clone()
    else {
        panic!("it goes on where it was")
    };
    assert_eq!(cursor.seq, left.len() as u64);
    assert_eq!(stored(&api, past(), 110).await.seqs("a"), (1..=110).collect::<Vec<_>>());

    let (address, data_dir) = controller.stop();
    let controller = Controller::start_in(data_dir, &address);
    let api = controller.api().await;
    assert_eq!(api.past(past()).await.seqs("a").len(), 110, "a stop loses nothing");
    assert!(!controller.begun.iter().any(|line| line.contains("did not stop properly")));
}

/// Bytes of all files of the history.
fn history_bytes(data_dir: &Path) -> u64 {
    let files = std::fs::read_dir(data_dir).expect("there").map(|file| file.expect("readable"));
    let files = files.filter(|file| file.file_name().to_string_lossy().starts_with("events.db"));
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_stays_below_its_cap_and_tells_what_is_gone() {
    const CAP: u64 = 16 << 20;
    let dir = tempfile::tempdir().expect("temporary directory");
    let controller = Controller::start_with(dir, "127.0.0.1:0", &["--history-bytes", "16MiB"]);
    let api = controller.api().await;
    let [(agent, _connected)] = fleet(&controller, &api, ["a"]).await;
    let mut reader = api.watch(follow()).await.expect("follows");
    agent.teller.tell([exec("/first")]);
    reader.until_produced("a", 1).await;
    let first = reader.after();
    let long = "x".repeat(1_000);
    let mut most = 0;
    for _ in 0..60 {
        agent.teller.tell((0..500).map(|_| exec(&long)));
        reader.until_produced("a", agent.teller.produced()).await;
        most = history_bytes(controller.data_dir.path()).max(most);
        assert!(most <= CAP, "{most}");
    }
    assert!(most > CAP / 2, "{most}");
    assert_eq!((reader.ledger(), reader.losses().count()), (30_001, 0));

    // Whoever comes back after so long is told how many are gone.
    let mut again =
        api.watch(WatchEventsRequest { after: first, ..follow() }).await.expect("follows");
    again.until_produced("a", 30_001).await;
    assert!(again.lost("history") > 10_000, "{}", again.lost("history"));
    assert_eq!(again.ledger(), 30_000);
    let all = api.past(past()).await;
    assert_eq!(all.losses().count(), 0);
    assert_eq!(all.seqs("a").last(), Some(&30_001));
    assert!(history_bytes(controller.data_dir.path()) <= CAP);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_read_is_set_aside() {
    let controller = Controller::start();
    let api = controller.api().await;
    let [(agent, connected)] = fleet(&controller, &api, ["a"]).await;
    agent.teller.tell([exec("/x"), exec("/y")]);
    stored(&api, past(), 2).await;
    let controller = controller.restart(|data_dir| {
        // What is in the log alone would be found there.
        std::fs::remove_file(data_dir.join("events.db-wal")).expect("there");
        std::fs::write(data_dir.join("events.db"), "garbage ".repeat(10_000)).expect("writes");
    });
    let told = |text: &str| controller.begun.iter().any(|line| line.contains(text));
    assert!(told("it is set aside"), "{:?}", controller.begun);
    drop(connected);
    let aside = controller.data_dir.path().join("events.db.unreadable");
    assert!(std::fs::read(aside).expect("there").starts_with(b"garbage"));
    let api = controller.api().await;
    assert_eq!(api.past(past()).await.of_hosts().count(), 0);
    let _connected = connect(&controller, &api, &agent).await;
    // What the host still holds comes again.
    assert_eq!(stored(&api, past(), 2).await.seqs("a"), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_history_readers_go_on_from_the_hosts_themselves() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let controller = Controller::start_with(dir, "127.0.0.1:0", &["--history-bytes", "0"]);
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "a").await;
    let _connected = agent.connect(&controller, &api).await;
    agent.teller.tell([exec("/nobody/listens")]);
    let refused = api.watch(past()).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let mut reader = api.watch(follow()).await.expect("follows");
    eventually("followed", async || {
        (!agent.teller.subscribed.lock().expect("whole").is_empty()).then_some(())
    })
    .await;
    agent.teller.tell([exec("/one"), exec("/two")]);
    reader.until("told", |reader| reader.seqs("a") == [2, 3]).await;
    let after = reader.after();
    drop(reader);
    agent.teller.tell([exec("/three")]);
    let mut reader = api.watch(WatchEventsRequest { after, ..follow() }).await.expect("follows");
    reader.until("told", |reader| reader.seqs("a") == [4]).await;
    assert_eq!(reader.losses().count(), 0);
    assert!(!controller.data_dir.path().join("events.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn old_events_are_forgotten_and_lines_of_the_controller_are_found_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let controller = Controller::start_with(dir, "127.0.0.1:0", &["--history-age", "30m"]);
    let api = controller.api().await;
    let [(agent, _connected)] = fleet(&controller, &api, ["a"]).await;
    let hour = 3_600_000 * MS;
    agent.teller.tell_at(vec![(now_unix_ns() - hour, exec("/old"))]);
    stored(&api, past(), 1).await;
    let started = Instant::now();
    while api.past(past()).await.of_hosts().count() == 1 {
        assert!(started.elapsed() < Duration::from_secs(30), "not forgotten");
        agent.teller.tell_at(vec![(now_unix_ns() - hour, exec("/old"))]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        if api.past(past()).await.of_hosts().count() == 0 {
            break;
        }
    }
    let told = api.past(past()).await;
    assert_eq!(told.states(), [("a".to_owned(), State::Connected)]);
}
