//! Figures: what a large fleet costs one controller. Agents speak the real protocol, many in this process.
//! Nothing is judged but that every host is reached; in a release build, with more hosts than by default
//! (`KCTL_FLEET_HOSTS`), the printed figures mean something.

use crate::support::{
    Api, Controller,
    agent::{Agent, join},
    all, block,
};
use kctl_proto::controller::v1::{CreateTokenRequest, host, host_result::Status as Outcome};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
use tonic::Code;

/// Longer than a busy machine takes for anything here.
const PATIENCE: Duration = Duration::from_secs(120);
/// Joins at once.
const JOINS: usize = 16;
/// As the real agent waits between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Resident memory of a process and the most of it, MiB.
fn memory(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let mib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).expect("there");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") >> 10
    };
    (mib("VmRSS"), mib("VmHWM"))
}

/// Connects whenever it is not connected, as the real agent does.
async fn keep(agent: Agent, controller: String) {
    let mut wait = FIRST_WAIT;
    loop {
        let since = Instant::now();
        if let Ok(mut connected) = agent.try_connect(&controller).await {
            let _ = (&mut connected.0).await;
            if since.elapsed() >= Duration::from_secs(1) {
                wait = FIRST_WAIT;
            }
        }
        sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn joined(controller: &Controller, api: &Api, count: usize) -> Vec<Agent> {
    let token = api.token(CreateTokenRequest::default()).await.token;
    let places = Arc::new(Semaphore::new(JOINS));
    let mut joins = JoinSet::new();
    for number in 0..count {
        let (places, token) = (Arc::clone(&places), token.clone());
        let address = controller.address.clone();
        joins.spawn(async move {
            let _place = places.acquire_owned().await.expect("open");
            let name = format!("host-{number:04}");
            let credentials = loop {
                match join(&address, &token, &name).await {
                    // All of them come from one address, and are not let in faster.
                    Err(busy) if busy.code() == Code::ResourceExhausted => {
                        sleep(Duration::from_millis(rand::random_range(200..1_000))).await;
                    }
                    joined => break joined.expect("joins"),
                }
            };
            Agent::with(&name, credentials)
        });
    }
    joins.join_all().await
}

/// Waits until every host is connected and in sync.
async fn all_there(api: &Api, count: usize) {
    let started = Instant::now();
    loop {
        let hosts = api.hosts().await;
        let good = |it: &&kctl_proto::controller::v1::Host| {
            it.state() == host::State::Connected && it.in_sync
        };
        let there = hosts.values().filter(good).count();
        if there == count {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{there} of {count} hosts are there");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_joins_is_blocked_and_comes_back_after_a_restart() {
    let count = number("KCTL_FLEET_HOSTS", 40);
    let blocks = number("KCTL_FLEET_BLOCKS", 5);
    // As many files as this process may have: it is both ends of the agents.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("its own");
    let controller = Controller::start();
    let api = controller.api().await;
    let alone = memory(controller.pid()).0;

    let started = Instant::now();
    let agents = joined(&controller, &api, count).await;
    let join = started.elapsed();
    let started = Instant::now();
    let mut fleet = JoinSet::new();
    for agent in &agents {
        fleet.spawn(keep(agent.clone(), controller.address.clone()));
    }
    all_there(&api, count).await;
    let connect = started.elapsed();

    let mut times = Vec::with_capacity(blocks);
    for number in 0..blocks {
        let prefix = format!("198.18.{}.{}", number / 256, number % 256);
        let started = Instant::now();
        let changed = api.block(block(&prefix, all())).await.expect("accepted");
        times.push(started.elapsed());
        let applied = |host: &&String| changed.outcome(host) == Outcome::Applied;
        assert_eq!(changed.hosts.keys().filter(applied).count(), count);
    }
    assert!(agents.iter().all(|agent| agent.prefixes().len() == blocks));
    times.sort_unstable();
    let part = |percent: usize| times[(times.len() - 1) * percent / 100];
    let (now, peak) = memory(controller.pid());

    drop(api);
    let controller = controller.restart(|_| {});
    let started = Instant::now();
    let api = controller.api().await;
    all_there(&api, count).await;
    let storm = started.elapsed();
    let (after, peak_after) = memory(controller.pid());

    println!("{count} hosts, {blocks} blocks");
    for (what, value) in [
        ("join, all hosts", format!("{join:.2?}")),
        ("connect and in sync, all hosts", format!("{connect:.2?}")),
        ("block --all-hosts, p50", format!("{:.1?}", part(50))),
        ("block --all-hosts, p99", format!("{:.1?}", part(99))),
        ("block --all-hosts, slowest", format!("{:.1?}", part(100))),
        ("controller's memory without hosts", format!("{alone} MiB")),
        ("controller's memory after the blocks (most)", format!("{now} MiB ({peak} MiB)")),
        ("killed and started, until all are in sync", format!("{storm:.2?}")),
        ("controller's memory after it (most)", format!("{after} MiB ({peak_after} MiB)")),
    ] {
        println!("  {what:<46}{value:>18}");
    }
}
