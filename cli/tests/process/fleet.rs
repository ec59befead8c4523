//! kctl as a process against a controller behind real mutual TLS: output and exit codes.

use crate::fixture::{Answers, Fleet, Pki, command, write_private};
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{
        Accepted, ChangeResponse, GetStatsResponse, Host, HostError, HostResult,
        ListBlocklistResponse, RemoveHostsResponse,
        change_response::Message,
        get_stats_response::Result as Outcome,
        host_result::Status as HostStatus,
        list_blocklist_response::{Item, item::HostHits},
        remove_hosts_response::Removed,
    },
};
use tonic::Status;

fn accepted(hosts: u32) -> Result<ChangeResponse, Status> {
    let accepted = Accepted {
        revision: 12,
        prefixes: vec!["10.0.0.5/32".to_owned()],
        warnings: vec!["host \"web-1\": eth1 is not filtered".to_owned()],
        hosts,
        ..Accepted::default()
    };
    Ok(ChangeResponse { message: Some(Message::Accepted(accepted)) })
}

fn result(host: &str, status: HostStatus) -> Result<ChangeResponse, Status> {
    let message = format!("host {host:?} is not connected");
    let error = agent::Error { code: "UNAVAILABLE".to_owned(), message };
    let result = HostResult {
        host: host.to_owned(),
        status: status.into(),
        elapsed_ms: 2.1,
        error: (status != HostStatus::Applied).then_some(error),
        warnings: Vec::new(),
    };
    Ok(ChangeResponse { message: Some(Message::Host(result)) })
}

fn changes(change: Vec<Result<ChangeResponse, Status>>) -> Answers {
    Answers { change, ..Answers::default() }
}

fn entry(prefix: &str) -> agent::Entry {
    let key = agent::EntryKey {
        prefix: prefix.to_owned(),
        action: agent::Action::Drop.into(),
        source: "user:admin".to_owned(),
        selection: Some(agent::Selection { hosts: Some(agent::selection::Hosts::All(true)) }),
        ..agent::EntryKey::default()
    };
    let reason = "scanner".to_owned();
    agent::Entry { key: Some(key), reason, created_unix_ms: 1, ..agent::Entry::default() }
}

#[tokio::test]
async fn block_applied_everywhere_exits_0() {
    let change = vec![
        accepted(2),
        result("web-2", HostStatus::Applied),
        result("web-1", HostStatus::Applied),
    ];
    let fleet = Fleet::start(changes(change)).await;
    let (code, json) = fleet
        .json("block 10.0.0.5 --port 22/tcp --ttl 1h --reason scanner --all-hosts --timeout 2s")
        .await;
    assert_eq!(code, 0);
    let hosts = serde_json::json!([
        {"host": "web-1", "status": "applied", "elapsed_ms": 2.1},
        {"host": "web-2", "status": "applied", "elapsed_ms": 2.1},
    ]);
    assert_eq!(json["hosts"], hosts);
    assert_eq!(json["revision"], 12);
    assert_eq!(json["prefixes"], serde_json::json!(["10.0.0.5/32"]));
    let asked = fleet.answers.blocked.lock().expect("lock").remove(0);
    assert_eq!((asked.port, asked.protocol()), (22, agent::Protocol::Tcp));
    assert_eq!((asked.ttl_ms, asked.timeout_ms), (Some(3_600_000), 2_000));
    assert_eq!(asked.action(), agent::Action::Drop);
    assert_eq!(asked.reason, "scanner");
    let all = Some(agent::selection::Hosts::All(true));
    assert_eq!(asked.selection.and_then(|selection| selection.hosts), all);
}

#[tokio::test]
async fn block_with_a_pending_host_exits_3_and_says_why() {
    let change = vec![
        accepted(2),
        result("web-1", HostStatus::Applied),
        result("web-2", HostStatus::Pending),
    ];
    let fleet = Fleet::start(changes(change)).await;
    let (code, json) = fleet.json("block 10.0.0.5 --all-hosts").await;
    assert_eq!(code, 3);
    let pending = serde_json::json!({"host": "web-2", "status": "pending",
        "error": {"code": "UNAVAILABLE", "message": "host \"web-2\" is not connected"}});
    assert_eq!(json["hosts"][1], pending);

    let ran = fleet.kctl("block 10.0.0.5 --all-hosts").await;
    assert_eq!(ran.code, 3);
    assert!(ran.stdout.starts_with("HOST"), "{ran:?}");
    assert!(ran.stderr.contains("blocked 1 prefix on 1 of 2 hosts (revision 12)"), "{ran:?}");
    assert!(ran.stderr.contains("warning: host \"web-1\": eth1"), "{ran:?}");

    let ran = fleet.kctl("block 10.0.0.5 --all-hosts -o jsonl").await;
    assert_eq!(ran.code, 3);
    let lines: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["status"], "pending");
    assert_eq!(lines[1]["revision"], 12);

    let ran = fleet.kctl("block 10.0.0.5 --all-hosts -o yaml").await;
    assert!(ran.stdout.contains("revision: 12"), "{ran:?}");
}

#[tokio::test]
async fn a_refused_change_exits_1_with_the_controllers_words() {
    let words = "10.0.0.5/32: covers the controller; use --force to block it all the same";
    let fleet = Fleet::start(changes(vec![Err(Status::failed_precondition(words))])).await;
    for format in ["table", "json"] {
        let ran = fleet.kctl(&format!("block 10.0.0.5 --all-hosts -o {format}")).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
        assert_eq!(ran.stderr, format!("error: {words}\n"));
    }
}

#[tokio::test]
async fn a_change_without_hosts_is_not_even_sent() {
    let fleet = Fleet::start(Answers::default()).await;
    let ran = fleet.kctl("block 10.0.0.5").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("--all-hosts"), "{ran:?}");
    assert!(fleet.answers.blocked.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn a_connection_lost_after_the_change_was_recorded_exits_3() {
    let change =
        vec![accepted(2), result("web-1", HostStatus::Applied), Err(Status::internal("broke"))];
    let fleet = Fleet::start(changes(change)).await;
    let ran = fleet.kctl("block 10.0.0.5 --all-hosts").await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("recorded"), "{ran:?}");
}

#[tokio::test]
async fn a_hundred_thousand_lines_from_a_file_arrive() {
    let fleet = Fleet::start(changes(vec![accepted(0)])).await;
    let file = tempfile::NamedTempFile::new().expect("temp file");
    let lines: String =
        (0..100_000u32).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n | 10 << 24))).collect();
    std::fs::write(file.path(), lines).expect("file");
    let line = format!("block --all-hosts --allow-empty --file {}", file.path().display());
    let ran = fleet.kctl(&line).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let asked = fleet.answers.blocked.lock().expect("lock").remove(0);
    assert_eq!(asked.prefixes.len(), 100_000);
    assert_eq!(asked.prefixes[256], "10.0.1.0/32");
    assert!(asked.allow_empty);
}

#[tokio::test]
async fn unblock_tells_what_still_covers_the_address() {
    let mut first = accepted(1);
    if let Ok(ChangeResponse { message: Some(Message::Accepted(accepted)) }) = &mut first {
        accepted.still_blocked_by = vec![entry("10.0.0.0/24")];
    }
    let fleet = Fleet::start(changes(vec![first, result("web-1", HostStatus::Applied)])).await;
    let (code, json) = fleet.json("unblock 10.0.0.5 --host web-1").await;
    assert_eq!(code, 0);
    assert_eq!(json["still_blocked_by"][0]["prefix"], "10.0.0.0/24");
    let asked = fleet.answers.unblocked.lock().expect("lock").remove(0);
    assert_eq!(asked.action(), agent::Action::Unspecified);
    let ran = fleet.kctl("unblock 10.0.0.5 --host web-1").await;
    assert!(ran.stderr.contains("still covered: 10.0.0.0/24"), "{ran:?}");
}

#[tokio::test]
async fn protect_takes_a_port_of_everybody_or_of_some() {
    let change = vec![accepted(1), result("web-1", HostStatus::Applied)];
    let fleet = Fleet::start(changes(change)).await;
    let (code, _) = fleet.json("protect add 10.0.0.0/24 --port 5432-5433 --all-hosts").await;
    assert_eq!(code, 0);
    let asked = fleet.answers.blocked.lock().expect("lock").remove(0);
    assert_eq!(
        (asked.port, asked.port_last, asked.prefixes),
        (5432, 5433, vec!["10.0.0.0/24".to_owned()])
    );
    let (code, _) = fleet.json("protect add --port 22/tcp --all-hosts").await;
    assert_eq!(code, 0);
    let asked = fleet.answers.blocked.lock().expect("lock").remove(0);
    assert_eq!(asked.action(), agent::Action::Protect);
    assert_eq!(asked.prefixes, ["0.0.0.0/0", "::/0"]);
    let (code, json) = fleet.json("protect list").await;
    assert_eq!((code, json), (0, serde_json::json!([])));
    let asked = fleet.answers.listed.lock().expect("lock").remove(0);
    assert_eq!(asked.action(), agent::Action::Protect);
}

fn blocklist() -> Answers {
    let hits =
        |host: &str, packets| HostHits { host: host.to_owned(), packets, bytes: 64 * packets };
    let hit = Item {
        entry: Some(entry("10.0.0.5/32")),
        hits: vec![hits("web-1", 40), hits("web-2", 2)],
        ..Item::default()
    };
    let quiet = Item { entry: Some(entry("10.0.0.6/32")), ..Item::default() };
    let error = agent::Error { code: "UNAVAILABLE".to_owned(), message: "gone".to_owned() };
    let errors = vec![HostError { host: "web-3".to_owned(), error: Some(error) }];
    let blocklist = vec![
        ListBlocklistResponse { items: vec![quiet], ..ListBlocklistResponse::default() },
        ListBlocklistResponse { items: vec![hit], errors, feeds: Vec::new() },
    ];
    Answers { blocklist, ..Answers::default() }
}

#[tokio::test]
async fn the_blocklist_has_numbers_and_names_silent_hosts() {
    let fleet = Fleet::start(blocklist()).await;
    let (code, json) = fleet.json("blocklist").await;
    assert_eq!(code, 0);
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    assert_eq!(json[1]["packets"], 42);
    assert_eq!(json[1]["bytes"], 2_688);
    assert_eq!(json[1]["hosts"], serde_json::json!({"all": true}));
    let (_, json) = fleet.json("blocklist --hits").await;
    assert_eq!(json.as_array().map(Vec::len), Some(1));
    let web_1 = serde_json::json!({"host": "web-1", "packets": 40, "bytes": 2560});
    assert_eq!(json[0]["hits"][0], web_1);
    let ran = fleet.kctl("blocklist --strict").await;
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("\"web-3\" are missing: gone"), "{ran:?}");
}

#[tokio::test]
async fn an_export_can_be_blocked_again() {
    let fleet = Fleet::start(blocklist()).await;
    let exported = fleet.kctl("blocklist export").await;
    assert_eq!(exported.code, 0);
    assert!(!fleet.answers.listed.lock().expect("lock")[0].ask_hosts);
    let again = Fleet::start(changes(vec![accepted(0)])).await;
    let line = "block --all-hosts --file -";
    let ran = crate::fixture::kctl(&again.config(), line, &exported.stdout).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let asked = again.answers.blocked.lock().expect("lock").remove(0);
    assert_eq!(asked.prefixes, ["10.0.0.6/32", "10.0.0.5/32"]);
}

#[tokio::test]
async fn recover_names_its_hosts() {
    let fleet = Fleet::start(Answers::default()).await;
    let (code, json) = fleet.json("blocklist recover --from-host web-1,web-2").await;
    assert_eq!((code, &json["revision"], &json["entries"]), (0, &9.into(), &4.into()));
}

fn stats(host: &str, answers: bool) -> GetStatsResponse {
    let error = agent::Error { code: "UNAVAILABLE".to_owned(), message: "gone".to_owned() };
    let count = agent::PacketCount { packets: 42, bytes: 2_688 };
    let stats = agent::Stats { dropped: Some(count), ..agent::Stats::default() };
    let result = if answers { Outcome::Stats(stats) } else { Outcome::Error(error) };
    GetStatsResponse { host: host.to_owned(), result: Some(result) }
}

#[tokio::test]
async fn stats_with_a_failed_host_exit_0_and_3_when_strict() {
    let stats = vec![stats("web-2", false), stats("web-1", true)];
    let fleet = Fleet::start(Answers { stats, ..Answers::default() }).await;
    let (code, json) = fleet.json("stats").await;
    assert_eq!(code, 0);
    assert_eq!(json[0]["packets"]["dropped"], 42);
    assert_eq!(json[1]["error"]["code"], "UNAVAILABLE");
    assert_eq!(fleet.kctl("stats --strict").await.code, 3);
    let ran = fleet.kctl("stats -o jsonl").await;
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 2));
}

#[tokio::test]
async fn stats_where_every_host_failed_exit_1() {
    let stats = vec![stats("web-1", false), stats("web-2", false)];
    let fleet = Fleet::start(Answers { stats, ..Answers::default() }).await;
    let (code, json) = fleet.json("stats").await;
    assert_eq!((code, json.as_array().map(Vec::len)), (1, Some(2)));
}

#[tokio::test]
async fn hosts_are_listed_described_and_removed() {
    let host = |name: &str| Host { name: name.to_owned(), state: 1, ..Host::default() };
    let error = agent::Error { code: "UNAVAILABLE".to_owned(), message: "gone".to_owned() };
    let removed = RemoveHostsResponse {
        hosts: vec![
            Removed { host: "web-1".to_owned(), ..Removed::default() },
            Removed { host: "web-2".to_owned(), error: Some(error), ..Removed::default() },
        ],
    };
    let hosts = vec![host("web-1"), host("web-2")];
    let fleet = Fleet::start(Answers { hosts, removed, ..Answers::default() }).await;
    let (code, json) = fleet.json("hosts").await;
    assert_eq!(
        (code, &json[1]["name"], &json[0]["state"]),
        (0, &"web-2".into(), &"connected".into())
    );
    let ran = fleet.kctl("hosts describe WEB-2").await;
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("web-2") && !ran.stdout.contains("web-1"), "{ran:?}");
    let ran = fleet.kctl("hosts --host web-9").await;
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "error: host \"web-9\": not known\n"));
    let (code, json) = fleet.json("hosts remove web-1 web-2").await;
    assert_eq!((code, &json[0]["status"]), (3, &"removed".into()));
    let ran = fleet.kctl("hosts adopt web-1").await;
    assert_eq!(ran.code, 1, "{ran:?}");
}

#[tokio::test]
async fn tokens_print_alone_for_a_file_and_whole_as_json() {
    let fleet = Fleet::start(Answers::default()).await;
    let ran = fleet.kctl("token create").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "kctl1.1a2b3c4d.secret.hash\n"));
    assert!(ran.stderr.contains("--token-file"), "{ran:?}");
    let (_, json) = fleet.json("token create --ttl 10m").await;
    assert_eq!(json["token"], "kctl1.1a2b3c4d.secret.hash");
    assert_eq!(json["expires"], "2026-01-02T03:04:05.678Z");
    assert!(json["uses"].is_null());
    assert_eq!(fleet.json("token create --uses 3").await.1["uses"], 3);
    assert_eq!(fleet.json("token revoke 1a2b3c4d").await.0, 0);
    assert_eq!(fleet.kctl("token revoke nope").await.code, 1);
    let ran = fleet.kctl("token list").await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "no tokens\n"));
}

#[tokio::test]
async fn version_tells_both_ends() {
    let fleet = Fleet::start(Answers::default()).await;
    let (code, json) = fleet.json("version").await;
    assert_eq!((code, &json["server"]["revision"]), (0, &12.into()));
    let (_, json) = fleet.json("version --client").await;
    assert!(json["server"].is_null());
}

#[tokio::test]
async fn refused_certificates_are_explained() {
    let fleet = Fleet::start(Answers::default()).await;
    for (identity, why) in
        [("kctl://user/revoked", "revoked"), ("kctl://host/web-1", "user certificate")]
    {
        fleet.configure(identity);
        let ran = fleet.kctl("hosts").await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains(why), "{ran:?}");
    }
    // The controller is another than the context's: its CA is not the pinned one.
    let foreign = Pki::new().context(&fleet.address.to_string(), "kctl://user/admin");
    write_private(&fleet.config(), &foreign);
    let ran = fleet.kctl("hosts").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("another CA"), "{ran:?}");
}

#[tokio::test]
async fn an_unreachable_controller_is_named_with_what_to_check() {
    let fleet = Fleet::start(Answers::default()).await;
    let ran = fleet.kctl("--server 127.0.0.1:1 hosts").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("127.0.0.1:1"), "{ran:?}");
    assert!(ran.stderr.contains("is kctl-controller running there"), "{ran:?}");

    // A server that takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback port");
    let address = silent.local_addr().expect("bound");
    let ran = fleet.kctl(&format!("--server {address} --timeout 300ms hosts")).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("no answer within 300 ms"), "{ran:?}");
}

#[tokio::test]
async fn an_interrupt_exits_130() {
    let fleet = Fleet::start(Answers::default()).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback port");
    let server = silent.local_addr().expect("bound").to_string();
    let child = command(&fleet.config())
        .args(["--server", &server, "--timeout", "30s", "hosts"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("kctl starts");
    let _connected = silent.accept().await.expect("kctl connects");
    let pid = child.id().expect("running").to_string();
    let killed = std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill");
    assert!(killed.success());
    let output = child.wait_with_output().await.expect("output");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let host = |n: usize| Host { name: format!("web-{n}"), state: 1, ..Host::default() };
    let hosts = (0..5_000).map(host).collect();
    let fleet = Fleet::start(Answers { hosts, ..Answers::default() }).await;
    let mut child = command(&fleet.config())
        .args(["hosts", "-o", "jsonl"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("kctl starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().await.expect("output");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[tokio::test]
async fn what_another_version_does_not_know_is_said() {
    let host = Host {
        name: "web-1".to_owned(),
        state: 77,
        version_skew: "kctl-agent 9.9.0 and kctl-controller 0.1.0 are too far apart".to_owned(),
        ..Host::default()
    };
    let fleet = Fleet::start(Answers { hosts: vec![host], ..Answers::default() }).await;
    let ran = fleet.kctl("hosts").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("unknown"), "{ran:?}");
    assert!(ran.stderr.contains("warning: host \"web-1\": kctl-agent 9.9.0"), "{ran:?}");
    let (_, json) = fleet.json("hosts").await;
    assert_eq!(json[0]["state"], "unknown");
    // The fixture has no such service.
    let ran = fleet.kctl("net links").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(ran.stderr.contains("does not know this call of kctl"), "{ran:?}");
}
