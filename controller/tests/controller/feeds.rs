//! A feed is replaced as a whole: durable, refused as a whole, and hosts get the difference.

use crate::support::{Api, Changed, Controller, agent::Agent, all, block, changed, names, unblock};
use kctl_blocklist::{pack, parse_prefix};
use kctl_proto::{
    agent::v1 as pb,
    controller::v1::{
        self as api, blocklist_service_client::BlocklistServiceClient, change_response::Message,
        host_result::Status as Outcome, import_feed_request::Part,
    },
};
use tonic::{Code, Status};

/// One import, to be changed by tests.
struct Import {
    header: api::import_feed_request::Header,
    prefixes: pb::Prefixes,
}

fn feed(name: &str, prefixes: &[&str]) -> Import {
    let parsed: Vec<_> =
        prefixes.iter().map(|prefix| parse_prefix(prefix).expect("valid")).collect();
    Import {
        header: api::import_feed_request::Header {
            name: name.to_owned(),
            selection: Some(all()),
            entries: parsed.len() as u64,
            timeout_ms: 10_000,
            ..Default::default()
        },
        prefixes: pack(&parsed),
    }
}

impl Import {
    fn with(mut self, change: impl FnOnce(&mut api::import_feed_request::Header)) -> Self {
        change(&mut self.header);
        self
    }

    async fn send(self, api: &Api) -> Result<tonic::Streaming<api::ChangeResponse>, Status> {
        let parts = [Part::Header(self.header), Part::Chunk(self.prefixes)];
        let parts = parts.map(|part| api::ImportFeedRequest { part: Some(part) });
        let mut client = BlocklistServiceClient::new(api.0.clone());
        Ok(client.import_feed(tokio_stream::iter(parts)).await?.into_inner())
    }

    async fn run(self, api: &Api) -> Result<Changed, Status> {
        changed(self.send(api).await?).await
    }

    async fn refused(self, api: &Api) -> api::Refused {
        let first = self.send(api).await.expect("answers").message().await.expect("answers");
        match first.and_then(|first| first.message) {
            Some(Message::Refused(refused)) => refused,
            other => panic!("{other:?}"),
        }
    }

    async fn foreseen(self, api: &Api) -> Changed {
        self.with(|it| it.dry_run = true).run(api).await.expect("answers")
    }
}

async fn feeds(api: &Api) -> Vec<api::list_feeds_response::Feed> {
    let mut client = BlocklistServiceClient::new(api.0.clone());
    client.list_feeds(api::ListFeedsRequest {}).await.expect("lists").into_inner().feeds
}

fn difference(changed: &Changed) -> (u64, u64, u64) {
    let feed = changed.accepted.feed.expect("an import tells it");
    (feed.entries, feed.added, feed.removed)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_replaces_its_feed_and_hosts_get_the_difference() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let _connection = agent.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;

    let first = feed("drop", &["10.0.0.1", "10.0.0.2", "2001:db8::/32"]).run(&api).await;
    let first = first.expect("accepted");
    assert_eq!((first.outcome("web-1"), difference(&first)), (Outcome::Applied, (3, 3, 0)));
    // Another order, a repeat, host bits: the same feed, and no revision.
    let again = feed("drop", &["2001:db8::5/32", "10.0.0.2", "10.0.0.1", "10.0.0.1"]);
    let again = again.run(&api).await.expect("accepted");
    assert_eq!(again.accepted.revision, first.accepted.revision);
    assert_eq!((again.outcome("web-1"), difference(&again)), (Outcome::Applied, (3, 0, 0)));

    let next = feed("drop", &["10.0.0.1", "10.0.0.3"]).run(&api).await.expect("accepted");
    assert_eq!(next.accepted.revision, first.accepted.revision + 1);
    assert_eq!((next.outcome("web-1"), difference(&next)), (Outcome::Applied, (2, 1, 2)));
    assert_eq!(agent.prefixes(), ["10.0.0.1/32", "10.0.0.3/32"]);
    assert_eq!(agent.state().fed.last(), Some(&(1, 2)));
    let host = api.until_in_sync("web-1").await;
    let store = host.status.and_then(|status| status.store).expect("told");
    assert_eq!(store.revision, next.accepted.revision);

    // Its entries are those of a source of its own, beside what people block.
    api.block(block("10.0.0.1", all())).await.expect("accepted");
    let still = api.unblock(unblock("10.0.0.1", all())).await.expect("accepted");
    let still = &still.accepted.still_blocked_by[0].key.as_ref().expect("key").source;
    assert_eq!(still, "feed:drop");
    let not_manual = api.unblock(unblock("10.0.0.1", all())).await.expect_err("a feed's");
    assert!(not_manual.message().contains("feed:drop"), "{not_manual}");

    // For other hosts, under another action: web-1 loses it.
    let moved = feed("drop", &["10.0.0.1"])
        .with(|it| (it.selection, it.allow_empty) = (Some(selection("zone=b")), true));
    let moved = moved.run(&api).await.expect("accepted");
    assert_eq!(moved.hosts.len(), 0);
    api.until_in_sync("web-1").await;
    assert_eq!(agent.prefixes(), [""; 0]);
    // All but the first set, which was empty, went as a difference.
    assert_eq!(agent.state().applied.iter().filter(|whole| **whole).count(), 1);

    let listed = feeds(&api).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].entries, listed[0].revision), (1, moved.accepted.revision));
    let head = listed[0].head.as_ref().expect("told");
    assert_eq!((head.name.as_str(), head.action()), ("drop", pb::Action::Drop));
}

fn selection(text: &str) -> pb::Selection {
    crate::support::selector(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_stay_reachable_is_refused_by_prefix_and_a_force_goes_on() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    agent.state().status.addresses = vec!["10.9.0.7".to_owned()];
    let _connection = agent.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;
    let listed =
        api::BlockRequest { action: pb::Action::Protect.into(), ..block("192.0.2.0/28", all()) };
    let before = api.block(listed).await.expect("accepted").accepted.revision;

    let bad = ["127.0.0.0/8", "10.9.0.0/16", "192.0.2.3", "192.0.2.4", "10.0.0.1"];
    let refused = feed("drop", &bad).refused(&api).await;
    let told: Vec<_> = refused.lines.iter().map(|line| line.prefix.as_str()).collect();
    assert_eq!(told, ["10.9.0.0/16", "127.0.0.0/8", "192.0.2.3/32", "192.0.2.4/32"]);
    assert!(refused.lines[0].why.contains("web-1's own address"), "{refused:?}");
    assert_eq!(refused.total, 4);
    assert_eq!(feeds(&api).await.len(), 0);
    assert_eq!(agent.prefixes(), ["192.0.2.0/28"]);

    let many: Vec<String> = (0..100).map(|n| format!("127.0.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let refused = feed("drop", &many).refused(&api).await;
    assert_eq!((refused.lines.len(), refused.total), (20, 100));

    // Monitoring drops nothing, so nothing is refused.
    let monitor = feed("watch", &bad).with(|it| it.action = pb::Action::Monitor.into());
    assert_eq!(monitor.run(&api).await.expect("accepted").accepted.revision, before + 1);
    let forced = feed("drop", &bad).with(|it| it.force = true).run(&api).await.expect("accepted");
    assert_eq!(forced.outcome("web-1"), Outcome::Applied);
    assert_eq!(forced.accepted.warnings.len(), 2, "{forced:?}");
    assert!(forced.accepted.warnings[0].contains("never-block list"), "{forced:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_or_means_nothing_changes_nothing() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let _connection = agent.connect(&controller, &api).await;
    let first = feed("drop", &["10.0.0.1"]).run(&api).await.expect("accepted");
    let cases: [(Import, Code); 7] = [
        (feed("drop", &["10.0.0.2"]).with(|it| it.entries = 2), Code::InvalidArgument),
        (feed("drop", &["10.0.0.2", "10.0.0.3"]).with(|it| it.entries = 1), Code::InvalidArgument),
        (feed("drop", &["10.0.0.2"]).with(|it| it.entries = u64::MAX), Code::InvalidArgument),
        (feed("a b", &["10.0.0.2"]), Code::InvalidArgument),
        (feed("drop", &["10.0.0.2"]).with(|it| it.ttl_ms = Some(0)), Code::InvalidArgument),
        (
            feed("drop", &["10.0.0.2"]).with(|it| it.selection = Some(names(&["web-9"]))),
            Code::NotFound,
        ),
        (feed("drop", &[]), Code::FailedPrecondition),
    ];
    for (import, code) in cases {
        let what = format!("{:?}", import.header);
        assert_eq!(import.run(&api).await.expect_err("refused").code(), code, "{what}");
    }
    // A stream that breaks off before its header.
    let mut client = BlocklistServiceClient::new(api.0.clone());
    let nothing = client.import_feed(tokio_stream::iter([])).await.expect_err("refused");
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let listed = feeds(&api).await;
    assert_eq!((listed[0].entries, listed[0].revision), (1, first.accepted.revision));

    let gone = feed("drop", &[]).with(|it| it.allow_empty = true).run(&api).await.expect("goes");
    assert_eq!((gone.outcome("web-1"), difference(&gone)), (Outcome::Applied, (0, 0, 1)));
    assert_eq!((feeds(&api).await.len(), agent.prefixes().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_room_fails_and_the_others_take_the_feed() {
    let controller = Controller::start();
    let api = controller.api().await;
    let (small, large) = (
        Agent::new(&controller, &api, "small").await,
        Agent::new(&controller, &api, "web-1").await,
    );
    if let Some(filter) = &mut small.state().status.filter {
        filter.max_entries = 2;
    }
    let _small = small.connect(&controller, &api).await;
    let _large = large.connect(&controller, &api).await;
    api.until_in_sync("small").await;
    let three = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    let foreseen = feed("drop", &three).foreseen(&api).await;
    let errors: Vec<_> =
        foreseen.forecasts.iter().map(|it| it.error.as_ref().map(|e| &*e.code)).collect();
    assert_eq!(errors, [Some("RESOURCE_EXHAUSTED"), None]);

    small.state().refuse = Some(Status::resource_exhausted("filter: no room"));
    let changed = feed("drop", &three).run(&api).await.expect("accepted");
    assert_eq!(changed.outcome("small"), Outcome::Failed);
    assert_eq!(changed.error("small").code, "RESOURCE_EXHAUSTED");
    assert_eq!(changed.outcome("web-1"), Outcome::Applied);
    // The host that is full already keeps nobody from blocking on the others.
    let urgent = api.block(block("10.0.0.9", all())).await.expect("accepted");
    assert_eq!(urgent.outcome("web-1"), Outcome::Applied);
    assert_eq!(large.prefixes().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_each_host_would_get_and_lose() {
    let controller = Controller::start();
    let api = controller.api().await;
    let (one, two) = (
        Agent::new(&controller, &api, "web-1").await,
        Agent::new(&controller, &api, "web-2").await,
    );
    let _one = one.connect(&controller, &api).await;
    let _two = two.connect(&controller, &api).await;
    api.until_in_sync("web-2").await;
    feed("drop", &["10.0.0.1", "10.0.0.2"]).run(&api).await.expect("accepted");
    feed("other", &["10.0.1.1"]).run(&api).await.expect("accepted");
    let around = api.block(block("10.0.2.0/24", names(&["web-1"]))).await.expect("accepted");

    let next = ["10.0.0.1", "10.0.1.1", "10.0.2.7", "10.0.3.1"];
    let foreseen = feed("drop", &next).foreseen(&api).await;
    assert_eq!(foreseen.accepted.revision, around.accepted.revision);
    assert_eq!(difference(&foreseen), (4, 3, 1));
    let told: Vec<_> = foreseen
        .forecasts
        .iter()
        .map(|it| (it.host.as_str(), it.added, it.removed, it.covered))
        .collect();
    assert_eq!(told, [("web-1", 3, 1, 2), ("web-2", 3, 1, 1)]);

    let dry = api::BlockRequest { dry_run: true, ..block("10.0.1.1", all()) };
    let foreseen = api.block(dry).await.expect("answers").forecasts;
    let forecasts: Vec<_> =
        foreseen.into_iter().map(|it| (it.host, it.added, it.covered)).collect();
    assert_eq!(forecasts, [("web-1".to_owned(), 1, 1), ("web-2".to_owned(), 1, 1)]);
    assert_eq!(feeds(&api).await.iter().map(|feed| feed.entries).sum::<u64>(), 3);
    assert_eq!(one.prefixes().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_outlives_its_controller_and_is_recovered_from_hosts() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let connection = agent.connect(&controller, &api).await;
    let import = feed("drop", &["10.0.0.1", "2001:db8::/32"])
        .with(|it| (it.reason, it.ttl_ms) = ("listed".to_owned(), Some(3_600_000)));
    let imported = import.run(&api).await.expect("accepted");
    drop(connection);

    let controller = controller.restart(|_| {});
    let api = controller.api().await;
    let listed = feeds(&api).await;
    assert_eq!((listed[0].entries, listed[0].revision), (2, imported.accepted.revision));
    let connection = agent.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;
    assert_eq!(agent.state().applied.len(), 2, "the host has it, so nothing is sent again");
    drop(connection);

    // A lost store: the entries come back as the feed that they were.
    let controller = controller.restart(|data_dir| {
        for file in ["store.db", "store.db-wal", "store.db-shm"] {
            let _ = std::fs::remove_file(data_dir.join(file));
        }
    });
    let api = controller.api().await;
    let _connection = agent.connect(&controller, &api).await;
    let recovered = api.recover(&["web-1"]).await.expect("recovers");
    assert_eq!(recovered.entries, 2);
    api.until_in_sync("web-1").await;
    let head = feeds(&api).await.remove(0).head.expect("told");
    assert_eq!((head.name.as_str(), head.reason.as_str()), ("drop", "listed"));
    assert!(head.ttl_ms.is_some_and(|ttl| (3_500_000..=3_600_000).contains(&ttl)), "{head:?}");
    assert_eq!(agent.prefixes(), ["10.0.0.1/32", "2001:db8::/32"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_over_leaves_the_list_and_hosts() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let _connection = agent.connect(&controller, &api).await;
    let brief = feed("drop", &["10.0.0.1"]).with(|it| it.ttl_ms = Some(1));
    brief.run(&api).await.expect("accepted");
    crate::support::eventually("the feed goes", async || {
        (feeds(&api).await.is_empty() && agent.prefixes().is_empty()).then_some(())
    })
    .await;
    api.until_in_sync("web-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_has_feeds_whole_but_for_what_was_hit() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let _connection = agent.connect(&controller, &api).await;
    feed("drop", &["10.0.0.1", "10.0.0.2", "10.1.0.0/16"]).run(&api).await.expect("accepted");
    agent.state().hits = vec![pb::list_hits_response::Hit {
        prefix: "10.0.0.2/32".to_owned(),
        action: pb::Action::Drop.into(),
        packets: 5,
        bytes: 300,
        ..Default::default()
    }];
    let list = async |request: api::ListBlocklistRequest| {
        let mut client = BlocklistServiceClient::new(api.0.clone());
        let mut answers = client.list_blocklist(request).await.expect("lists").into_inner();
        let (mut items, mut rest) = (Vec::new(), Vec::new());
        while let Some(message) = answers.message().await.expect("lists") {
            items.extend(message.items);
            for feed in message.feeds {
                kctl_blocklist::unpack(&feed.prefixes.unwrap_or_default(), &mut rest)
                    .expect("valid");
            }
        }
        (items, rest.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (items, rest) =
        list(api::ListBlocklistRequest { ask_hosts: true, ..Default::default() }).await;
    assert_eq!(rest, ["10.0.0.1/32", "10.1.0.0/16"]);
    let key = items[0].entry.as_ref().and_then(|entry| entry.key.clone()).expect("key");
    assert_eq!((key.prefix.as_str(), key.source.as_str()), ("10.0.0.2/32", "feed:drop"));
    assert_eq!((items.len(), items[0].hits[0].packets), (1, 5));
    let inside = api::ListBlocklistRequest { prefix: "10.1.2.3".to_owned(), ..Default::default() };
    assert_eq!(list(inside).await.1, ["10.1.0.0/16"]);
    let users = api::ListBlocklistRequest { source: "user:".to_owned(), ..Default::default() };
    assert_eq!(list(users).await.1.len(), 0);
}
