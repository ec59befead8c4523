//! `kctl events` as a process: what it prints and asks, and how it comes back.

use crate::{
    agent::Agent,
    fixture::{
        Answers, Fleet, Pki, command,
        events::{
            self, AgentPlays, BEGIN, End, FleetPlays, Script, cursor, dropped, event, lost,
            of_agent, of_host,
        },
        kctl, write_private,
    },
};
use kctl_proto::{
    agent::v1::{
        self as agent, ConnectionEvent, EventProcess, EventType, ExecEvent, event::Payload,
        subscribe::Start,
    },
    controller::v1::{HostCursor, WatchEventsResponse},
};
use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};
use tonic::{Status, service::Routes};

async fn fleet(scripts: Vec<Script<WatchEventsResponse>>) -> Fleet {
    Fleet::start(Answers { events: FleetPlays::of(scripts), ..Answers::default() }).await
}

fn past(messages: Vec<WatchEventsResponse>) -> Vec<Script<WatchEventsResponse>> {
    vec![(messages, End::Close)]
}

/// kctl while it runs.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: tokio::process::Command, line: &str) -> Self {
        let mut child = command
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kctl starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    fn of(fleet: &Fleet, line: &str) -> Self {
        Self::start(command(&fleet.config()), line)
    }

    /// The next line, while kctl goes on.
    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(20), self.lines.next_line());
        line.await.expect("a line within 20 s").expect("readable").expect("a line before the end")
    }

    async fn json(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.line().await).expect("JSON")
    }

    /// Exit code and standard error, after a signal.
    async fn signalled(self, signal: &str) -> (Option<i32>, String) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
        self.ended().await
    }

    async fn ended(mut self) -> (Option<i32>, String) {
        let mut stderr = self.child.stderr.take().expect("piped");
        let mut text = String::new();
        let end = async {
            while self.lines.next_line().await.expect("readable").is_some() {}
            stderr.read_to_string(&mut text).await.expect("UTF-8");
            self.child.wait().await.expect("it ends").code()
        };
        let code = tokio::time::timeout(Duration::from_secs(20), end).await;
        (code.expect("kctl ends within 20 s"), text)
    }
}

fn drops(seqs: impl IntoIterator<Item = u64>) -> Vec<agent::Event> {
    seqs.into_iter().map(|seq| dropped(seq, 1)).collect()
}

#[tokio::test]
async fn lines_of_json_have_the_shapes_that_scripts_lean_on() {
    let mut far = of_host("web-2", vec![lost(17, "kernel_ring", 1_200)]);
    far.events[0].late = true;
    let fleet = fleet(past(vec![of_host("web-1", vec![dropped(991, 1)]), far])).await;
    let ran = fleet.kctl("events -o jsonl").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let drop = serde_json::json!({"time": "2026-01-02T03:04:05.991000000Z", "host": "web-1",
        "boot_id": "boot", "seq": 991, "type": "drop", "drop": {"src": "10.0.0.5",
        "dst": "10.0.0.9", "src_port": 41_000, "dst_port": 22, "protocol": "tcp",
        "tcp_flags": "SYN", "interface": "eth0", "rule": "10.0.0.5/32", "rule_port": null,
        "rule_port_last": null, "rule_protocol": null, "rule_interface": null, "reason": null, "packets": 1, "bytes": null, "sources": null}});
    let lost = serde_json::json!({"time": "2026-01-02T03:04:05.017000000Z", "host": "web-2",
        "boot_id": "boot", "seq": 17, "late": true, "type": "lost",
        "lost": {"stage": "kernel_ring", "count": 1_200, "source": null, "name": null}});
    assert_eq!(lines, [drop, lost]);
    assert_eq!(ran.stderr, "1 event from 2 hosts, 1,200 lost (kernel_ring on web-2 1,200)\n");
    // Nothing was said: the newest of the past.
    let (_, asked) = fleet.answers.events.last();
    assert_eq!((asked.last, asked.follow, asked.since_unix_ns), (Some(100), false, None));
    assert_eq!((asked.filter, asked.selection), (None, None));
}

#[tokio::test]
async fn arguments_reach_the_controller() {
    let fleet = fleet(past(vec![of_host("web-1", drops([1]))])).await;
    let line = "events --since 2026-01-02T03:04:05Z --until 2026-01-02T03:04:06Z --last 5 --host web-1 \
                --type drop,exec --src 10.0.0.0/8 --dst fd09::1 --port 22,23 --pid 7 --comm sh \
                --path /etc --filter drop.packets>0 -o jsonl";
    let ran = fleet.kctl(line).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let (_, asked) = fleet.answers.events.last();
    assert_eq!(
        (asked.since_unix_ns, asked.until_unix_ns),
        (Some(BEGIN), Some(BEGIN + 1_000_000_000))
    );
    assert_eq!(asked.last, Some(5));
    let names = agent::selection::Names { names: vec!["web-1".to_owned()] };
    let names = agent::Selection { hosts: Some(agent::selection::Hosts::Names(names)) };
    assert_eq!(asked.selection, Some(names));
    let filter = agent::EventFilter {
        types: vec![EventType::Drop.into(), EventType::Exec.into()],
        expression: "drop.packets>0".to_owned(),
        src: vec!["10.0.0.0/8".to_owned()],
        dst: vec!["fd09::1".to_owned()],
        ports: vec![22, 23],
        pids: vec![7],
        comms: vec!["sh".to_owned()],
        paths: vec!["/etc".to_owned()],
    };
    assert_eq!(asked.filter, Some(filter));
}

#[tokio::test]
async fn every_format_is_whole() {
    let scripts = || past(vec![of_host("web-1", drops([1])), of_host("web-2", drops([1]))]);
    let (code, json) = fleet(scripts()).await.json("events").await;
    assert_eq!((code, json.as_array().map(Vec::len)), (0, Some(2)));
    assert_eq!(json[1]["host"], "web-2");
    let (code, json) = fleet(past(vec![])).await.json("events").await;
    assert_eq!((code, json), (0, serde_json::json!([])));
    // A broken stream leaves a whole document, too.
    let broken = vec![(vec![of_host("web-1", drops([1]))], End::Fail(Status::data_loss("gone")))];
    let (code, json) = fleet(broken).await.json("events").await;
    assert_eq!((code, json.as_array().map(Vec::len)), (1, Some(1)));
    let ran = fleet(scripts()).await.kctl("events -o yaml").await;
    assert_eq!(ran.stdout.matches("- time: ").count(), 2, "{ran:?}");
    assert!(ran.stdout.contains("\n  drop:\n    src: \"10.0.0.5\"\n"), "{ran:?}");
    assert_eq!(fleet(past(vec![])).await.kctl("events -o yaml").await.stdout, "[]\n");
    let ran = fleet(scripts()).await.kctl("events").await;
    let line = "2026-01-02T03:04:05.001Z web-1        drop    10.0.0.5:41000 → 10.0.0.9:22 tcp SYN eth0, 1 packet";
    assert_eq!(ran.stdout.lines().next(), Some(line), "{ran:?}");
    let ran = fleet(scripts()).await.kctl("events -o wide").await;
    assert!(ran.stdout.contains("05.001000000Z") && ran.stdout.contains("[boot 1]"), "{ran:?}");
}

#[tokio::test]
async fn csv_is_a_log_with_columns_for_all_types() {
    let exec = ExecEvent {
        process: Some(EventProcess {
            pid: Some(7),
            uid: Some(0),
            comm: "sh".to_owned(),
            ..Default::default()
        }),
        path: "/bin/sh".to_owned(),
        argv: vec!["sh".to_owned(), "-c".to_owned(), "echo \"a,b\"\n".to_owned()],
        ..ExecEvent::default()
    };
    let connect = ConnectionEvent {
        src: "10.0.0.9".to_owned(),
        dst: "2001:db8::1".to_owned(),
        src_port: 40_000,
        dst_port: 443,
        error: Some(111),
        ..ConnectionEvent::default()
    };
    let events =
        vec![dropped(1, 3), event(2, Payload::Exec(exec)), event(3, Payload::Connect(connect))];
    let ran = fleet(past(vec![of_host("=web", events)])).await.kctl("events -o csv").await;
    let lines: Vec<_> = ran.stdout.split_terminator("\r\n").collect();
    assert_eq!(
        lines,
        [
            "time,host,action,src,src_port,dst,dst_port,protocol,interface,rule,packets,bytes,pid,uid,\
         comm,path,outcome,detail,boot_id,seq",
            "2026-01-02T03:04:05.001000000Z,'=web,drop,10.0.0.5,41000,10.0.0.9,22,tcp,eth0,10.0.0.5/32,3,,\
         ,,,,,\"10.0.0.5:41000 → 10.0.0.9:22 tcp SYN eth0, 3 packets\",boot,1",
            "2026-01-02T03:04:05.002000000Z,'=web,exec,,,,,,,,,,7,0,sh,/bin/sh,,\
         \"sh[7] sh -c echo \"\"a,b\"\"\",boot,2",
            "2026-01-02T03:04:05.003000000Z,'=web,connect,10.0.0.9,40000,2001:db8::1,443,tcp,,,,,,,,,\
         ECONNREFUSED,10.0.0.9:40000 → [2001:db8::1]:443: ECONNREFUSED,boot,3",
        ]
    );
    // Also without an event.
    let ran = fleet(past(vec![])).await.kctl("events -o csv").await;
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
}

#[tokio::test]
async fn nothing_that_a_host_tells_steers_a_terminal() {
    let exec = ExecEvent { path: "\x1b[2J\nx\u{202e}".to_owned(), ..ExecEvent::default() };
    let events = vec![event(1, Payload::Exec(exec))];
    let ran = fleet(past(vec![of_host("a\x1b", events)])).await.kctl("events").await;
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    assert!(
        ran.stdout.contains("a\\u{1b}") && ran.stdout.contains("\\u{1b}[2J\\nx\\u{202e}"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn a_lost_connection_is_taken_up_where_it_was_left() {
    let first = (vec![of_host("web-1", drops(1..=3)), of_host("web-2", drops([7]))], End::Hang);
    // What came twice is shown once.
    let second = (vec![of_host("web-1", drops(2..=5)), of_host("web-2", drops([8]))], End::Hang);
    let fleet = fleet(vec![first, second]).await;
    let mut kctl = Running::of(&fleet, "events -f -o jsonl --since 10m");
    for expected in [("web-1", 1), ("web-1", 2), ("web-1", 3), ("web-2", 7)] {
        let json = kctl.json().await;
        assert_eq!(
            (json["host"].as_str(), json["seq"].as_u64()),
            (Some(expected.0), Some(expected.1))
        );
    }
    let (_, asked) = fleet.answers.events.last();
    assert!(asked.since_unix_ns.is_some() && asked.follow && asked.after.is_empty());
    // The way back is not free at once, either.
    fleet.answers.slams.store(2, Ordering::Relaxed);
    fleet.answers.cut.notify_one();
    let told = kctl.json().await;
    assert_eq!((&told["host"], &told["type"]), (&"-".into(), &"host".into()));
    assert_eq!((&told["host_state"]["state"], &told["seq"]), (&"disconnected".into(), &1.into()));
    assert!(told["host_state"]["reason"].as_str().is_some_and(|it| it.contains("connection lost")));
    assert_eq!(kctl.json().await["host_state"]["state"], "connected");
    for expected in [("web-1", 4), ("web-1", 5), ("web-2", 8)] {
        let json = kctl.json().await;
        assert_eq!(
            (json["host"].as_str(), json["seq"].as_u64()),
            (Some(expected.0), Some(expected.1))
        );
    }
    let (times, asked) = fleet.answers.events.last();
    let after = |host: &str, seq| HostCursor { host: host.to_owned(), cursor: Some(cursor(seq)) };
    assert_eq!((times, asked.after), (2, vec![after("web-1", 3), after("web-2", 7)]));
    assert_eq!((asked.since_unix_ns, asked.follow), (None, true));
    let (code, stderr) = kctl.signalled("INT").await;
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert!(
        lines[0].contains("connection lost") && lines[0].ends_with("; trying again"),
        "{stderr}"
    );
    assert_eq!(lines[1..], ["connected again", "7 events from 2 hosts, 0 lost"]);
}

#[tokio::test]
async fn a_refusal_ends_what_follows_with_its_reason() {
    let passing = || End::Fail(Status::unavailable("starting"));
    let denied = || End::Fail(Status::permission_denied("user \"a\": may not see events"));
    let fleet = fleet(vec![
        (vec![of_host("web-1", drops([1]))], passing()),
        (vec![], passing()),
        (vec![], denied()),
    ])
    .await;
    let ran = fleet.kctl("events -f -o jsonl").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("may not see events"), "{ran:?}");
    assert!(ran.stderr.contains("1 event from 1 host, 0 lost"), "{ran:?}");
    assert_eq!(fleet.answers.events.last().0, 3);
    // At the start nothing is tried twice.
    fleet.configure("kctl://user/revoked");
    let ran = fleet.kctl("events -f").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("revoked"), "{ran:?}");
}

#[tokio::test]
async fn the_end_comes_when_it_was_asked_for() {
    let hang =
        || vec![(vec![of_host("web-1", drops(1..=5)), of_host("web-2", drops([1]))], End::Hang)];
    // In the middle of a message.
    let ran = fleet(hang()).await.kctl("events -f -o json --exit-after 3").await;
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("a whole document");
    assert_eq!((ran.code, json.as_array().map(Vec::len)), (0, Some(3)), "{ran:?}");
    assert_eq!(ran.stderr, "3 events from 1 host, 0 lost\n");
    let ran = fleet(hang()).await.kctl("events -f -o json --for 3s").await;
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("a whole document");
    assert_eq!((ran.code, json.as_array().map(Vec::len)), (0, Some(6)), "{ran:?}");
    assert_eq!(ran.stderr, "6 events from 2 hosts, 0 lost\n");
    // And by SIGTERM.
    let fleet = fleet(hang()).await;
    let mut kctl = Running::of(&fleet, "events -f");
    assert!(kctl.line().await.contains("web-1"));
    let (code, stderr) = kctl.signalled("TERM").await;
    assert_eq!((code, stderr.as_str()), (Some(0), "6 events from 2 hosts, 0 lost\n"));
}

#[tokio::test]
async fn ctrl_c_ends_also_what_nobody_reads() {
    // More than a pipe holds.
    let fleet = fleet(vec![(vec![of_host("web-1", drops(1..=5_000))], End::Hang)]).await;
    let mut kctl = Running::of(&fleet, "events -f -o jsonl");
    kctl.line().await;
    let pid = kctl.child.id().expect("it runs").to_string();
    let sent = std::process::Command::new("kill").args(["-s", "INT", &pid]).status();
    assert!(sent.expect("kill runs").success());
    let ended = tokio::time::timeout(Duration::from_secs(20), kctl.child.wait()).await;
    assert_eq!(ended.expect("it ends").expect("status").code(), Some(0));
}

#[tokio::test]
async fn the_end_waits_for_a_reader_that_takes_its_time() {
    for (line, ms) in [
        ("events -o jsonl", 2_000),
        ("events -f -o jsonl --for 3s", 5_000),
        ("events -f -o jsonl --exit-after 5000", 2_000),
    ] {
        let end = if line.contains("-f") { End::Hang } else { End::Close };
        let fleet = fleet(vec![(vec![of_host("web-1", drops(1..=5_000))], end)]).await;
        let mut kctl = Running::of(&fleet, line);
        kctl.line().await;
        // Longer than kctl would wait after Ctrl-C, with more than a pipe holds left to write.
        let early = tokio::time::timeout(Duration::from_millis(ms), kctl.child.wait()).await;
        assert!(early.is_err(), "{line}: {early:?}");
        let mut lines = 1;
        while let Some(line) = kctl.lines.next_line().await.expect("readable") {
            serde_json::from_str::<serde_json::Value>(&line).expect("a whole line");
            lines += 1;
        }
        let (code, stderr) = kctl.ended().await;
        assert_eq!(code, Some(0), "{line}: {stderr}");
        if line.contains("--for") {
            // What it had read by then, whole.
            assert!(lines < 5_000, "{line}: {lines}");
            assert_eq!(stderr, format!("{lines} events from 1 host, 0 lost\n"), "{line}");
        } else {
            assert_eq!((lines, &*stderr), (5_000, "5,000 events from 1 host, 0 lost\n"), "{line}");
        }
    }
}

#[tokio::test]
async fn a_reader_that_went_away_ends_it_quietly() {
    let fleet = fleet(vec![(vec![of_host("web-1", drops(1..=5_000))], End::Hang)]).await;
    let mut kctl = Running::of(&fleet, "events -f -o jsonl");
    kctl.line().await;
    let Running { mut child, lines } = kctl;
    drop(lines);
    let mut stderr = String::new();
    let ended = async {
        child.stderr.take().expect("piped").read_to_string(&mut stderr).await.expect("UTF-8");
        child.wait().await.expect("it ends").code()
    };
    let code = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn what_can_not_be_is_not_believed() {
    let mut lies = of_host("web-1", drops([1, 2, 2, 1, 3]));
    lies.events.push(agent::Event { seq: 4, payload: None, ..agent::Event::default() });
    let ran = fleet(past(vec![lies])).await.kctl("events -o jsonl").await;
    let seqs: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(seqs.iter().filter_map(|it| it["seq"].as_u64()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(seqs[3]["type"], "unknown", "an event of a later version is not left out");
    assert!(ran.stderr.contains("4 events from 1 host"), "{ran:?}");

    let mut nobody = of_host("web-1", drops([1]));
    nobody.events[0].origin = 7;
    let ran = fleet(past(vec![nobody])).await.kctl("events -f -o jsonl").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(ran.stderr.contains("without its host"), "{ran:?}");
}

#[tokio::test]
async fn mistakes_are_told_before_anything_connects() {
    // Nobody listens there.
    let folder = tempfile::tempdir().expect("temp dir");
    let config = folder.path().join("config.toml");
    write_private(&config, &Pki::new().context("127.0.0.1:1", "kctl://user/admin"));
    for (args, word) in [
        (vec!["--type", "dorp"], "type \"dorp\": unknown; there are drop, "),
        (vec!["--filter", "drop.packets >"], "line 1, column 15: something is missing"),
        (
            vec!["--filter", "drop.sorce == 'a'"],
            "drop has no field \"sorce\"; there are bytes, dst, ",
        ),
        (
            vec!["--type", "exec", "--filter", "drop.src == 'a'"],
            "events of this type are not asked for",
        ),
        (vec!["--filter", "drop.packets"], "not true or false"),
        (vec!["--filter", "drop.src > 3"], "compares text with a number"),
        (vec!["--filter", " "], "is empty"),
        (vec!["--src", "web-1"], "src \"web-1\""),
        (vec!["--comm", "a-name-of-16-byte"], "15 bytes"),
        (vec!["--since", "5m", "--until", "10m"], "--until is before --since"),
        (vec!["--agent", "unix:///a", "--since", "5m", "--last", "3"], "not both"),
        (vec!["-f", "--until", "10m"], "cannot be used with"),
        (vec!["-o", "xml"], "xml"),
    ] {
        let ended = command(&config).arg("events").args(&args).output().await.expect("kctl runs");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?}: {stderr}");
    }
    let ran = kctl(&config, "events", "").await;
    assert_eq!(ran.code, 1, "{ran:?}");
}

#[tokio::test]
async fn the_schema_fits_what_is_printed() {
    let ran = kctl(Path::new("/nonexistent"), "events --dump-schema", "").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let schema: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(schema["$defs"]["Packets"]["properties"]["sources"].is_object());
}

fn agent(scripts: Vec<Script<agent::WatchEventsResponse>>) -> (Agent, Arc<AgentPlays>) {
    let plays = Arc::new(AgentPlays::of(scripts));
    let service = events::Agent(Arc::clone(&plays));
    let service = agent::events_service_server::EventsServiceServer::new(service);
    (Agent::with(Routes::new(service)), plays)
}

#[tokio::test]
async fn one_agent_is_subscribed_to_and_taken_up_again() {
    let (agent, plays) = agent(vec![
        (vec![of_agent(drops(1..=3))], End::Close),
        (vec![of_agent(drops(3..=4))], End::Hang),
    ]);
    let mut kctl = Running::start(agent.command(), "events -f -o jsonl --last 2 --type drop");
    let mut seqs = Vec::new();
    while seqs.len() < 4 {
        let json = kctl.json().await;
        if json["type"] == "drop" {
            seqs.push(json["seq"].as_u64().expect("a number"));
        }
    }
    assert_eq!(seqs, [1, 2, 3, 4]);
    let asked = plays.asked.lock().expect("lock").clone();
    let starts: Vec<_> = asked.iter().map(|it| it.start.clone()).collect();
    assert_eq!(starts, [Some(Start::Last(2)), Some(Start::After(cursor(3)))]);
    assert!(asked.iter().all(|it| it.follow && it.filter.is_some()));
    let (code, stderr) = kctl.signalled("INT").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.ends_with("4 events from 1 host, 0 lost\n"), "{stderr}");
}

#[tokio::test]
async fn the_past_of_one_agent_ends_where_it_was_asked_to() {
    let (agent, plays) = agent(vec![(vec![of_agent(drops(1..=3))], End::Close)]);
    let (code, json) = agent.json("events --until 2026-01-02T03:04:05.002Z").await;
    assert_eq!((code, json.as_array().map(Vec::len)), (Some(0), Some(2)));
    assert_eq!(plays.last().1.start, Some(Start::SinceUnixNs(1)));
    let output = agent.run("events --host web-1").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
