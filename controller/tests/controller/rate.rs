//! Figures: what events cost the controller. Nothing is judged but the ledger; in a release build, with
//! more events than by default (`KCTL_RATE_EVENTS`), the printed figures mean something.

use crate::{
    events::fleet,
    support::{Controller, events::exec, stream::follow},
};
use kctl_proto::controller::v1::WatchEventsRequest;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const CHUNK: u64 = 250;

/// CPU time of a process in seconds, and its resident memory and the most of it, MiB.
fn cost(pid: u32) -> (f64, u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: f64 =
        fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let mib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).expect("there");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") >> 10
    };
    (ticks / 100.0, mib("VmRSS"), mib("VmHWM"))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_three_hosts_pass_merge_history_and_one_reader() {
    let wanted = std::env::var("KCTL_RATE_EVENTS").ok().and_then(|text| text.parse().ok());
    let each: u64 = wanted.unwrap_or(5_000);
    let pace = std::env::var("KCTL_RATE_PER_SECOND").ok().and_then(|text| text.parse::<u64>().ok());
    let controller = Controller::start();
    let api = controller.api().await;
    let hosts = fleet(&controller, &api, ["a", "b", "c"]).await;
    let mut reader = api.watch(follow()).await.expect("follows");
    let before = cost(controller.pid());
    let started = Instant::now();
    let tellers: Vec<_> = hosts.iter().map(|(host, _)| Arc::clone(&host.teller)).collect();
    let making = tellers.into_iter().map(|teller| {
        std::thread::spawn(move || {
            for chunk in 0..each / CHUNK {
                teller.tell((0..CHUNK).map(|_| exec("/usr/bin/something")));
                if let Some(pace) = pace {
                    let due = Duration::from_secs_f64((chunk * CHUNK) as f64 / pace as f64);
                    std::thread::sleep(due.saturating_sub(started.elapsed()));
                }
            }
        })
    });
    let making: Vec<_> = making.collect();
    let (mut told, mut late, mut lost) = (0, 0, 0);
    while told < 3 * each / CHUNK * CHUNK {
        assert!(reader.next().await);
        // Nothing piles up here.
        told += reader.ledger();
        late += reader.told.iter().filter(|told| told.event.late).count();
        lost += reader.lost("subscriber");
        reader.told.clear();
        reader.filtered = 0;
    }
    let seconds = started.elapsed().as_secs_f64();
    making.into_iter().for_each(|making| making.join().expect("no panic"));
    let after = cost(controller.pid());
    let cpu = after.0 - before.0;
    eprintln!(
        "{told} events in {seconds:.2} s: {:.0} a second, {late} late, {lost} lost by a reader that shares \
         its processors with the agents; controller: {:.2} µs of CPU an event, {:.2} cores, {} MiB before, {} after, {} at most",
        told as f64 / seconds,
        cpu * 1e6 / told as f64,
        cpu / seconds,
        before.1,
        after.1,
        after.2,
    );
    let past = WatchEventsRequest { since_unix_ns: Some(0), ..WatchEventsRequest::default() };
    let started = Instant::now();
    let past = api.past(past).await;
    let of_history = past.lost("history");
    assert_eq!(past.ledger(), told);
    eprintln!(
        "{} events read back in {:.2} s, {of_history} not kept",
        past.of_hosts().count(),
        started.elapsed().as_secs_f64()
    );
}
