//! What hosts' detections block, raised to every host: within a number and a rate, and never against the
//! never-block list.

use crate::support::{Api, Controller, agent::Agent, all, block, eventually, names};
use kctl_blocklist::{Action, Entry, EntryKey, Selection, now_unix_ms, parse_prefix};
use kctl_proto::{
    agent::v1 as pb,
    controller::v1::{self as api, audit_service_client::AuditServiceClient},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

fn start(limits: &[&str]) -> Controller {
    let folder = tempfile::tempdir().expect("temporary directory");
    Controller::start_with(folder, "127.0.0.1:0", &[&["--detect-escalate"], limits].concat())
}

/// The agent's detection blocks these addresses for ten minutes.
fn detect(agent: &Agent, addresses: impl Iterator<Item = String>) {
    let mut state = agent.state();
    for address in addresses {
        let now = now_unix_ms();
        let key = EntryKey {
            prefix: parse_prefix(&address).expect("valid"),
            service: None,
            interface: None,
            action: Action::Drop,
            source: "auto:portscan".to_owned(),
            selection: Selection::Names([agent.name.clone()].into()),
        };
        state.own.push(Entry {
            key,
            reason: "20 ports within 10 s".to_owned(),
            created_unix_ms: now,
            expires_unix_ms: Some(now + 600_000),
            exceptions: Vec::new(),
        });
        state.status.auto_made += 1;
    }
    drop(state);
    agent.tell();
}

/// Prefixes that are blocked on every host because of a host's detection.
async fn raised(api: &Api) -> BTreeSet<String> {
    let request = api::ListBlocklistRequest { source: "auto:".to_owned(), ..Default::default() };
    let entries = api.list(request).await.0.into_iter().filter(|item| item.host.is_empty());
    entries.filter_map(|item| Some(item.entry?.key?.prefix)).collect()
}

/// How often the audit log says that there are too many.
async fn refused(api: &Api, why: &str) -> usize {
    let mut client = AuditServiceClient::new(api.0.clone());
    let request = api::ListAuditRequest::default();
    let mut lines = client.list_audit(request).await.expect("listed").into_inner();
    let mut count = 0;
    while let Some(message) = lines.message().await.expect("listed") {
        let about =
            |line: &&api::AuditLine| line.who.starts_with("auto:") && line.outcome.contains(why);
        count += message.lines.iter().filter(about).count();
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_findings_raises_so_many_and_no_more() {
    let limits = ["--detect-max-blocks=7", "--detect-max-blocks-per-second=1000"];
    let controller = start(&limits);
    let api = controller.api().await;
    let (one, two) = (
        Agent::new(&controller, &api, "web-1").await,
        Agent::new(&controller, &api, "web-2").await,
    );
    let _open = (one.connect(&controller, &api).await, two.connect(&controller, &api).await);
    // Whoever forges sources can have two hosts find them.
    detect(&one, (1..=20).map(|last| format!("10.1.0.{last}")));
    detect(&two, (1..=20).map(|last| format!("10.2.0.{last}")));
    eventually("all are looked at", async || {
        (refused(&api, "7 automatic entries").await == 33).then_some(())
    })
    .await;
    assert_eq!(raised(&api).await.len(), 7);
    for agent in [&one, &two] {
        api.until_in_sync(&agent.name).await;
        assert_eq!(agent.prefixes().len(), 7);
    }
    // An entry that goes makes room for the next finding.
    let gone = raised(&api).await.pop_first().expect("some");
    api.unblock(crate::support::unblock(&gone, all())).await.expect("accepted");
    detect(&one, ["10.3.0.1".to_owned()].into_iter());
    eventually("the next is raised", async || {
        raised(&api).await.contains("10.3.0.1/32").then_some(())
    })
    .await;
    assert_eq!(raised(&api).await.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_raised_at_a_rate() {
    let controller = start(&["--detect-max-blocks-per-second=4"]);
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let _open = agent.connect(&controller, &api).await;
    let begin = Instant::now();
    detect(&agent, (1..=16).map(|last| format!("10.1.0.{last}")));
    eventually("all are raised in the end", async || {
        // What is allowed at once, and as many as the time since gives.
        let count = raised(&api).await.len();
        let most = 4.0 + 4.0 * begin.elapsed().as_secs_f64();
        assert!(count as f64 <= most, "{count} after {:?}", begin.elapsed());
        (count == 16).then_some(())
    })
    .await;
    assert!(begin.elapsed() >= Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_stay_reachable_for_any_host_is_not_raised() {
    let controller = start(&[]);
    let api = controller.api().await;
    let (one, two) = (
        Agent::new(&controller, &api, "web-1").await,
        Agent::new(&controller, &api, "web-2").await,
    );
    two.state().status.addresses.push("10.0.0.2".to_owned());
    two.state().status.protected.push("10.0.0.254/32".to_owned());
    let _open = (one.connect(&controller, &api).await, two.connect(&controller, &api).await);
    let protect = pb::Action::Protect.into();
    let partner = api::BlockRequest { action: protect, ..block("10.8.0.0/16", names(&["web-2"])) };
    api.block(partner).await.expect("accepted");
    // Another host's list, address and gateway; and the controller, as hosts reach it.
    let kept = ["10.8.7.6", "10.0.0.2", "10.0.0.254", "127.0.0.1"];
    detect(&one, kept.into_iter().chain(["10.1.0.1"]).map(str::to_owned));
    eventually("the last is raised", async || (!raised(&api).await.is_empty()).then_some(())).await;
    assert_eq!(raised(&api).await.into_iter().collect::<Vec<_>>(), ["10.1.0.1/32"]);
    assert_eq!(refused(&api, "").await, kept.len() + 1, "each is in the log, with what came of it");
}
