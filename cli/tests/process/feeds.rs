//! Files become feeds whole or not at all, and feeds become files.

use crate::fixture::{Answers, Fleet, Ran, command, kctl};
use kctl_blocklist::{pack, parse_prefix};
use kctl_proto::{
    agent::v1::{self as agent, Action},
    controller::v1::{
        Accepted, ChangeResponse, FeedDifference, HostForecast, HostResult, ListBlocklistResponse,
        Refused, change_response::Message, host_result::Status as HostStatus, list_feeds_response,
        refused,
    },
};
use serde_json::json;
use std::fmt::Write as _;

fn message(message: Message) -> ChangeResponse {
    ChangeResponse { message: Some(message) }
}

fn accepted() -> ChangeResponse {
    let feed = FeedDifference { entries: 3, added: 2, removed: 1 };
    message(Message::Accepted(Accepted {
        revision: 12,
        feed: Some(feed),
        hosts: 1,
        ..Accepted::default()
    }))
}

fn result(status: HostStatus, error: Option<agent::Error>) -> ChangeResponse {
    let host = "web-1".to_owned();
    message(Message::Host(HostResult {
        host,
        status: status.into(),
        elapsed_ms: 2.1,
        error,
        warnings: Vec::new(),
    }))
}

async fn importing(import: Vec<ChangeResponse>) -> Fleet {
    Fleet::start(Answers { import, ..Answers::default() }).await
}

async fn import(fleet: &Fleet, more: &str, file: &str) -> Ran {
    let line = format!("blocklist import --name drop --file - --all-hosts {more}");
    kctl(&fleet.config(), &line, file).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_each_kind_becomes_a_feed() {
    let fleet = importing(vec![accepted(), result(HostStatus::Applied, None)]).await;
    let files = [
        ("", "; Spamhaus\n10.0.0.1/32 ; SBL1\n# x\n2001:DB8::/32\n"),
        ("--format csv --column ip", "id,ip\n1,10.0.0.1\n2,2001:db8::5/32\n"),
        ("", "{\"cidr\":\"10.0.0.1\"}\n{\"cidr\":\"2001:db8::/32\"}\n{\"type\":\"metadata\"}\n"),
    ];
    for (more, file) in files {
        let ran = import(&fleet, &format!("--ttl 1h --action monitor -o json {more}"), file).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let answer: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let wanted = json!({"revision": 12, "dry_run": false, "warnings": [],
            "feed": {"name": "drop", "entries": 3, "added": 2, "removed": 1},
            "hosts": [{"host": "web-1", "status": "applied", "elapsed_ms": 2.1}]});
        assert_eq!(answer, wanted);
        let (header, prefixes) = fleet.answers.imported.lock().expect("lock").pop().expect("one");
        assert_eq!(prefixes, ["10.0.0.1/32", "2001:db8::/32"]);
        assert_eq!((header.name.as_str(), header.entries), ("drop", 2));
        assert_eq!((header.ttl_ms, header.action()), (Some(3_600_000), Action::Monitor));
        assert_eq!(header.timeout_ms, 10_000);
    }
    let people = import(&fleet, "", "10.0.0.1").await;
    assert!(
        people
            .stderr
            .contains("imported feed drop of 3 entries (2 added, 1 removed) on 1 of 1 host"),
        "{people:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_lines_with_bad_ones_name_these_and_send_nothing() {
    let fleet = importing(Vec::new()).await;
    let mut text = String::new();
    for n in 0..1_000_000_u32 {
        let address = std::net::Ipv4Addr::from(0x0100_0000 + n);
        let bad = if n % 40_000 == 39_999 { "/33" } else { "" };
        writeln!(text, "{address}{bad}").expect("fits");
    }
    let folder = tempfile::tempdir().expect("temp dir");
    let file = folder.path().join("feed");
    std::fs::write(&file, text).expect("file");
    let mut kctl = command(&fleet.config());
    kctl.args(["blocklist", "import", "--name", "drop", "--all-hosts", "--file"]).arg(&file);
    let ran = Ran::from(kctl.output().await.expect("runs"));
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("25 bad lines, nothing was changed"), "{}", ran.stderr);
    assert!(ran.stderr.contains("line 40000: \"1.0.156.63/33\""), "{}", ran.stderr);
    assert!(ran.stderr.trim_end().ends_with("and 5 more"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().filter(|line| line.contains("  line ")).count(), 20);
    assert!(fleet.answers.imported.lock().expect("lock").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_prefixes_are_told_with_their_lines() {
    let line = |prefix: &str| refused::Line {
        prefix: prefix.to_owned(),
        why: format!("{prefix} covers 10.0.0.7, web-1's own address"),
    };
    let refused = Refused { lines: vec![line("10.0.0.0/24")], total: 3 };
    let fleet = importing(vec![message(Message::Refused(refused))]).await;
    let ran = import(&fleet, "", "# feed\n10.0.1.1\n10.0.0.9/24\n").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("standard input: 3 prefixes refused, nothing was changed"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("\n  line 3: 10.0.0.0/24 covers"), "{ran:?}");
    assert!(ran.stderr.contains("and 2 more") && ran.stderr.contains("--force"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_is_exit_3_and_so_is_a_dry_run_that_foresees_it() {
    let full = agent::Error {
        code: "RESOURCE_EXHAUSTED".to_owned(),
        message: "filter: no room".to_owned(),
    };
    let fleet = importing(vec![accepted(), result(HostStatus::Failed, Some(full.clone()))]).await;
    let ran = import(&fleet, "", "10.0.0.1").await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stdout.contains("filter: no room"), "{ran:?}");

    let forecast = |error| {
        message(Message::Forecast(HostForecast {
            host: "web-1".to_owned(),
            added: 5,
            removed: 1,
            covered: 2,
            error,
            ..HostForecast::default()
        }))
    };
    for (error, code) in [(None, 0), (Some(full), 3)] {
        let fleet = importing(vec![accepted(), forecast(error)]).await;
        let ran = import(&fleet, "--dry-run -o json", "10.0.0.1").await;
        assert_eq!(ran.code, code, "{ran:?}");
        let answer: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let row = &answer["forecast"][0];
        assert_eq!(
            (&row["host"], &row["added"], &row["covered"]),
            (&json!("web-1"), &json!(5), &json!(2))
        );
        assert_eq!((&answer["dry_run"], &answer["hosts"]), (&json!(true), &json!([])));
        assert!(fleet.answers.imported.lock().expect("lock")[0].0.dry_run);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_on_the_command_line_are_usage_errors() {
    let fleet = importing(Vec::new()).await;
    for (more, file) in [
        ("--format plain --column 1", "10.0.0.1"),
        ("--format jsonl --column 1", "{}"),
        ("--column 0", "10.0.0.1"),
        ("--action reject", "10.0.0.1"),
        ("--ttl 0", "10.0.0.1"),
    ] {
        let ran = import(&fleet, more, file).await;
        assert_eq!(ran.code, 2, "{more}: {ran:?}");
    }
    for line in [
        "blocklist import --name a/b --file - --all-hosts",
        "blocklist import --name drop --all-hosts",
        "blocklist import --name drop --file -",
        "blocklist import --file - --all-hosts",
        "blocklist import --name drop --file - --agent unix:///nowhere",
        "blocklist export --name a/b",
    ] {
        assert_eq!(fleet.kctl(line).await.code, 2, "{line}");
    }
    assert!(fleet.answers.imported.lock().expect("lock").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_a_file_that_import_reads() {
    let prefixes =
        ["10.0.0.1", "10.1.0.0/16", "2001:db8::/32"].map(|text| parse_prefix(text).expect("valid"));
    let head = |name: &str| agent::FeedHead {
        name: name.to_owned(),
        action: Action::Drop.into(),
        selection: Some(agent::Selection { hosts: Some(agent::selection::Hosts::All(true)) }),
        imported_unix_ms: 1_767_323_045_678,
        ..agent::FeedHead::default()
    };
    let feed =
        |name: &str| agent::FeedEntries { head: Some(head(name)), prefixes: Some(pack(&prefixes)) };
    let blocklist = ListBlocklistResponse {
        feeds: vec![feed("drop"), feed("drop-more")],
        ..ListBlocklistResponse::default()
    };
    let fleet = Fleet::start(Answers {
        blocklist: vec![blocklist],
        feeds: vec![list_feeds_response::Feed {
            head: Some(head("drop")),
            entries: 3,
            revision: 9,
        }],
        import: vec![accepted(), result(HostStatus::Applied, None)],
        ..Answers::default()
    })
    .await;
    let exported = fleet.kctl("blocklist export --name drop").await;
    assert_eq!(exported.code, 0, "{exported:?}");
    assert!(exported.stdout.starts_with("# kctl feed drop, 3 entries, "), "{exported:?}");
    assert_eq!(fleet.answers.listed.lock().expect("lock")[0].source, "feed:drop");
    import(&fleet, "", &exported.stdout).await;
    let imported = fleet.answers.imported.lock().expect("lock").pop().expect("one").1;
    assert_eq!(imported, prefixes.map(|prefix| prefix.to_string()));

    // In a listing they are entries like others.
    let (code, rows) = fleet.json("blocklist").await;
    assert_eq!((code, rows.as_array().map(Vec::len)), (0, Some(6)));
    assert_eq!(
        (&rows[0]["prefix"], &rows[0]["source"]),
        (&json!("10.0.0.1/32"), &json!("feed:drop"))
    );
    let (code, feeds) = fleet.json("blocklist feeds").await;
    let wanted = json!([{"name": "drop", "action": "drop", "entries": 3, "hosts": {"all": true},
        "imported": "2026-01-02T03:04:05.678Z", "expires": null, "reason": "", "revision": 9}]);
    assert_eq!((code, feeds), (0, wanted));
}
