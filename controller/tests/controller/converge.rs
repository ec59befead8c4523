//! Hosts follow desired state: at once when connected, later when not, and never a store that they
//! did not follow before.

use crate::support::{
    Controller, LIMIT, agent::Agent, all, block, eventually, names, selector, unblock,
};
use kctl_proto::{
    agent::v1 as pb,
    controller::v1 as api,
    controller::v1::{
        host_result::Status as Outcome, hosts_service_client::HostsServiceClient,
        stats_service_client::StatsServiceClient,
    },
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_block_reaches_connected_hosts_and_an_unblock_takes_it_back() {
    let controller = Controller::start();
    let api = controller.api().await;
    let (one, two) = (
        Agent::new(&controller, &api, "web-1").await,
        Agent::new(&controller, &api, "web-2").await,
    );
    let _one = one.connect(&controller, &api).await;
    let _two = two.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;

    let changed = api.block(block("10.0.0.5", all())).await.expect("accepted");
    assert_eq!(changed.accepted.prefixes, ["10.0.0.5/32"]);
    assert_eq!(changed.outcome("web-1"), Outcome::Applied);
    assert_eq!(changed.outcome("web-2"), Outcome::Applied);
    assert!(changed.hosts["web-1"].elapsed_ms > 0.0);
    assert_eq!(one.prefixes(), ["10.0.0.5/32"]);
    let host = api.until_in_sync("web-1").await;
    let store = host.status.and_then(|status| status.store).expect("told");
    assert_eq!(store.revision, changed.accepted.revision);

    let only = api.block(block("10.0.0.6", names(&["web-2"]))).await.expect("accepted");
    assert_eq!(only.hosts.len(), 1);
    assert_eq!(one.prefixes(), ["10.0.0.5/32"]);
    api.until_in_sync("web-1").await;

    // What one host is excepted from still covers the others, and is told so.
    let narrowed = api.unblock(unblock("10.0.0.5", names(&["web-1"]))).await.expect("accepted");
    assert_eq!(narrowed.outcome("web-1"), Outcome::Applied);
    assert_eq!(one.prefixes(), [""; 0]);
    api.until_in_sync("web-2").await;
    assert_eq!(two.prefixes(), ["10.0.0.5/32", "10.0.0.6/32"]);
    // Blocking again takes the exception away.
    api.block(block("10.0.0.5", all())).await.expect("accepted");
    assert_eq!(one.prefixes(), ["10.0.0.5/32"]);

    let around = api.block(block("10.0.0.0/24", all())).await.expect("accepted");
    assert_eq!(around.outcome("web-1"), Outcome::Applied);
    let gone = api.unblock(unblock("10.0.0.5", all())).await.expect("accepted");
    assert_eq!(one.prefixes(), ["10.0.0.0/24"]);
    let still: Vec<_> = gone
        .accepted
        .still_blocked_by
        .iter()
        .map(|e| &e.key.as_ref().expect("key").prefix)
        .collect();
    assert_eq!(still, ["10.0.0.0/24"]);
    let missing = api.unblock(unblock("10.0.0.5", all())).await.expect_err("gone");
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains("10.0.0.0/24"), "{missing}");
    // After the first set, everything went by difference.
    assert_eq!(one.state().applied.iter().filter(|whole| **whole).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_or_silent_is_pending_and_converges_later() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let never = api.block(block("10.0.0.1", all())).await.expect("accepted");
    assert_eq!(never.outcome("web-1"), Outcome::Pending);
    assert!(never.error("web-1").message.contains("not connected yet"), "{never:?}");

    let connection = agent.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;
    drop(connection);
    api.until("web-1", |host| host.state() == api::host::State::Disconnected).await;
    let away = api.block(block("10.0.0.2", all())).await.expect("accepted");
    assert_eq!(away.outcome("web-1"), Outcome::Pending);
    assert_eq!(away.error("web-1").code, "UNAVAILABLE");
    let message = &away.error("web-1").message;
    assert!(message.starts_with("host \"web-1\" is not connected since 20"), "{message}");
    assert!(message.ends_with('Z'), "{message}");

    let _connection = agent.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;
    assert_eq!(agent.prefixes(), ["10.0.0.1/32", "10.0.0.2/32"]);

    agent.state().silent = true;
    let started = Instant::now();
    let usual = api::BlockRequest { timeout_ms: 0, ..block("10.0.0.3", all()) };
    let silent = api.block(usual).await.expect("accepted");
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(silent.outcome("web-1"), Outcome::Pending);
    assert_eq!(silent.error("web-1").code, "DEADLINE_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_failed_and_drift_is_mended() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let _connection = agent.connect(&controller, &api).await;
    agent.state().refuse = Some(tonic::Status::resource_exhausted("maps are full"));
    let failed = api.block(block("10.0.0.1", all())).await.expect("accepted");
    assert_eq!(failed.outcome("web-1"), Outcome::Failed);
    assert_eq!(failed.error("web-1").code, "RESOURCE_EXHAUSTED");
    let host = api.hosts().await.remove("web-1").expect("known");
    assert!(!host.in_sync && host.reason.contains("maps are full"), "{host:?}");

    agent.state().refuse = None;
    agent.tell();
    api.until_in_sync("web-1").await;
    {
        let mut state = agent.state();
        state.entries.clear();
        state.store.digest = kctl_blocklist::Digest::default().to_bytes().into();
    }
    agent.tell();
    eventually("mended", async || (agent.prefixes() == ["10.0.0.1/32"]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_decide_and_a_change_of_labels_is_followed() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    agent.state().status.labels.insert("role".to_owned(), "web".to_owned());
    let _connection = agent.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;
    let web = api.block(block("10.0.0.1", selector("role=web"))).await.expect("accepted");
    assert_eq!(web.outcome("web-1"), Outcome::Applied);
    let nobody = api.block(block("10.0.0.2", selector("role=db"))).await.expect_err("no host");
    assert_eq!(nobody.code(), Code::FailedPrecondition);
    let request = api::BlockRequest { allow_empty: true, ..block("10.0.0.2", selector("role=db")) };
    api.block(request).await.expect("accepted");
    agent.state().status.labels.insert("role".to_owned(), "db".to_owned());
    agent.tell();
    eventually("labels", async || (agent.prefixes() == ["10.0.0.2/32"]).then_some(())).await;
    api.until_in_sync("web-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_connection_supersedes_the_older() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let mut first = agent.connect(&controller, &api).await;
    let _second = agent.try_connect(&controller.address).await.expect("connects");
    tokio::time::timeout(LIMIT, &mut first.0).await.expect("closed").expect("no panic");
    let changed = api.block(block("10.0.0.1", all())).await.expect("accepted");
    assert_eq!(changed.outcome("web-1"), Outcome::Applied);
    let host = api.hosts().await.remove("web-1").expect("known");
    assert_eq!(host.state(), api::host::State::Connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_expire_as_a_new_revision() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let _connection = agent.connect(&controller, &api).await;
    api.block(block("10.0.0.1", all())).await.expect("accepted");
    let request = api::BlockRequest { ttl_ms: Some(1_500), ..block("10.0.0.1", all()) };
    let shorter = api.block(request).await.expect("accepted");
    assert!(shorter.accepted.warnings[0].contains("shortened from never"), "{shorter:?}");
    assert_eq!(agent.prefixes(), ["10.0.0.1/32"]);
    eventually("expired", async || agent.prefixes().is_empty().then_some(())).await;
    let host = api.until_in_sync("web-1").await;
    let store = host.status.and_then(|status| status.store).expect("told");
    assert_eq!(store.revision, shorter.accepted.revision + 1);
    assert_eq!(api.list(api::ListBlocklistRequest::default()).await.0.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_controller_goes_on_where_it_was() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let connection = agent.connect(&controller, &api).await;
    api.block(block("10.0.0.1", all())).await.expect("accepted");
    let controller = controller.restart(|_| {});
    drop(connection);
    let api = controller.api().await;
    let host = api.hosts().await.remove("web-1").expect("known");
    assert_eq!(host.state(), api::host::State::Disconnected);
    let _connection = agent.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;
    let changed = api.block(block("10.0.0.2", all())).await.expect("accepted");
    assert_eq!(changed.outcome("web-1"), Outcome::Applied);
    assert_eq!(agent.prefixes(), ["10.0.0.1/32", "10.0.0.2/32"]);
    // The first set was whole; a restart does not send it again.
    assert_eq!(agent.state().applied.iter().filter(|whole| **whole).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_changes_nothing_until_it_is_recovered() {
    let controller = Controller::start();
    let api = controller.api().await;
    let (one, two) = (
        Agent::new(&controller, &api, "web-1").await,
        Agent::new(&controller, &api, "web-2").await,
    );
    let open = [one.connect(&controller, &api).await, two.connect(&controller, &api).await];
    api.block(block("10.0.0.1", all())).await.expect("accepted");
    api.block(block("10.0.0.2", names(&["web-2"]))).await.expect("accepted");
    let controller = controller.restart(|data_dir| {
        std::fs::remove_file(data_dir.join("store.db")).expect("was there");
    });
    drop(open);
    let api = controller.api().await;
    let _open = [one.connect(&controller, &api).await, two.connect(&controller, &api).await];
    let host = api.until("web-1", |host| host.reason.contains("does not know")).await;
    assert!(!host.in_sync && host.reason.contains("recover --from-host web-1"), "{host:?}");

    // Entries of its own can't be recovered over.
    let failed = api.block(block("10.0.0.9", all())).await.expect("recorded");
    assert_eq!(failed.outcome("web-1"), Outcome::Failed);
    assert_eq!(failed.error("web-1").code, "FAILED_PRECONDITION");
    assert_eq!(one.prefixes(), ["10.0.0.1/32"]);
    let own = api.recover(&["web-1"]).await.expect_err("has its own entries");
    assert_eq!(own.code(), Code::FailedPrecondition);
    api.unblock(unblock("10.0.0.9", all())).await.expect("removed");

    let recovered = api.recover(&["web-1"]).await.expect("recovers");
    assert_eq!(recovered.entries, 2, "web-1's, and web-2's that web-1 can't have");
    assert!(recovered.hosts.iter().all(|host| host.status() == Outcome::Applied), "{recovered:?}");
    api.until_in_sync("web-1").await;
    api.until_in_sync("web-2").await;
    assert_eq!(one.prefixes(), ["10.0.0.1/32"]);
    assert_eq!(two.prefixes(), ["10.0.0.1/32", "10.0.0.2/32"]);
    let again = api.recover(&["web-1"]).await.expect_err("known now");
    assert!(again.message().contains("nothing to recover"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_put_back_from_a_backup_is_told_apart_and_can_be_recovered_or_adopted() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let open = agent.connect(&controller, &api).await;
    api.block(block("10.0.0.1", all())).await.expect("accepted");
    let backup = tempfile::tempdir().expect("temporary directory");
    let files = ["store.db", "store.db-wal"];
    let controller = controller.restart(|data_dir| {
        for file in files {
            std::fs::copy(data_dir.join(file), backup.path().join(file)).expect("copies");
        }
    });
    drop(open);
    let api = controller.api().await;
    let open = agent.connect(&controller, &api).await;
    api.block(block("10.0.0.2", all())).await.expect("accepted");
    api.until_in_sync("web-1").await;

    let put_back = |data_dir: &std::path::Path| {
        for file in files {
            std::fs::copy(backup.path().join(file), data_dir.join(file)).expect("copies");
        }
    };
    let controller = controller.restart(put_back);
    drop(open);
    let api = controller.api().await;
    let open = agent.connect(&controller, &api).await;
    // Its own revisions pass the host's without making the host's state known.
    for last in 10..20 {
        api.block(block(&format!("10.0.1.{last}"), all())).await.expect("recorded");
    }
    let host = api.hosts().await.remove("web-1").expect("known");
    assert!(host.reason.contains("does not know"), "{host:?}");
    assert_eq!(agent.prefixes(), ["10.0.0.1/32", "10.0.0.2/32"]);

    let recovered = api.recover(&["web-1"]).await.expect("recovers the newer entries");
    assert_eq!(recovered.warnings.len(), 1, "{recovered:?}");
    api.until_in_sync("web-1").await;
    assert_eq!(agent.prefixes().len(), 12);

    let controller = controller.restart(put_back);
    drop(open);
    let api = controller.api().await;
    let _open = agent.connect(&controller, &api).await;
    let adopted = api.adopt("web-1").await;
    assert_eq!(adopted.hosts[0].status(), Outcome::Applied, "{adopted:?}");
    assert_eq!(agent.prefixes(), ["10.0.0.1/32"]);
    api.until_in_sync("web-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_prefixes_go_out_in_chunks_and_hits_come_back() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let _connection = agent.connect(&controller, &api).await;
    let prefixes = (0..10_000).map(|i| format!("10.1.{}.{}", i / 256, i % 256)).collect();
    let request = api::BlockRequest { prefixes, timeout_ms: 10_000, ..block("", all()) };
    let changed = api.block(request).await.expect("accepted");
    assert_eq!(changed.outcome("web-1"), Outcome::Applied, "{:?}", changed.hosts);
    assert_eq!(agent.state().entries.len(), 10_000);
    agent.state().hits = vec![pb::list_hits_response::Hit {
        prefix: "10.1.0.7/32".to_owned(),
        action: pb::Action::Drop.into(),
        packets: 42,
        bytes: 2_688,
        ..Default::default()
    }];
    let request = api::ListBlocklistRequest { ask_hosts: true, ..Default::default() };
    let (items, errors) = api.list(request).await;
    assert_eq!((items.len(), errors.len()), (10_000, 0));
    let hit: Vec<_> = items.iter().filter(|item| !item.hits.is_empty()).collect();
    assert_eq!(hit.len(), 1);
    assert_eq!((hit[0].hits[0].packets, hit[0].hits[0].host.as_str()), (42, "web-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_name_every_host_and_removal_can_detach() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    Agent::new(&controller, &api, "web-2").await;
    let _connection = agent.connect(&controller, &api).await;
    api.block(block("10.0.0.1", names(&["web-2"]))).await.expect("accepted");
    let local = api::BlockRequest { ttl_ms: Some(60_000), ..block("10.0.0.9", all()) };
    api.block(local).await.expect("accepted");
    {
        let mut state = agent.state();
        let mut entry = state.entries.values().next().expect("the one for all").clone();
        entry.key.source = "local:0".to_owned();
        state.entries.insert(entry.key.clone(), entry);
    }
    let request = api::ListBlocklistRequest { ask_hosts: true, ..Default::default() };
    let (items, errors) = api.list(request).await;
    let made: Vec<_> = items
        .iter()
        .map(|item| {
            let key = item.entry.as_ref().and_then(|entry| entry.key.as_ref()).expect("a key");
            (key.prefix.as_str(), key.source.as_str(), item.host.as_str())
        })
        .collect();
    assert_eq!(
        made,
        [
            ("10.0.0.1/32", "user:admin", ""),
            ("10.0.0.9/32", "local:0", "web-1"),
            ("10.0.0.9/32", "user:admin", "")
        ]
    );
    assert_eq!(errors.len(), 1);
    let error = errors[0].error.as_ref().expect("told");
    assert_eq!((errors[0].host.as_str(), error.code.as_str()), ("web-2", "UNAVAILABLE"));

    let mut client = StatsServiceClient::new(api.0.clone());
    let request = api::GetStatsRequest::default();
    let mut answers = client.get_stats(request).await.expect("asked").into_inner();
    let mut hosts = BTreeMap::new();
    while let Some(answer) = answers.message().await.expect("answered") {
        hosts.insert(answer.host, answer.result.expect("one or the other"));
    }
    assert!(matches!(hosts["web-1"], api::get_stats_response::Result::Stats(_)));
    assert!(matches!(hosts["web-2"], api::get_stats_response::Result::Error(_)));

    let mut client = HostsServiceClient::new(api.0.clone());
    let request = api::RemoveHostsRequest {
        names: vec!["web-1".to_owned(), "web-2".to_owned()],
        detach: true,
    };
    let removed = client.remove_hosts(request).await.expect("asked").into_inner().hosts;
    assert_eq!(removed[0].detached, ["link eth0"]);
    assert!(removed[1].error.is_some(), "{removed:?}");
    assert_eq!(api.hosts().await.into_keys().collect::<Vec<_>>(), ["web-2"]);
}
