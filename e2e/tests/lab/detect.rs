//! Detection on real hosts: scans, floods and connection rates from a place of their own, with packets
//! made by hand; what is told, who is blocked and who is not.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{
    ATTACKER, BYSTANDER, EventReader, Lab, Place, SynSender, ping, syn_storm, until, with_lab,
};
use serde_json::{Value, json};

/// Generous: debug builds, and a machine that may be busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Joins a host whose agent has more arguments.
fn join(lab: &mut Lab, args: &[&str]) -> Result<()> {
    let token = lab.token(&[])?;
    let daemon = &mut lab.add_host(&token)?.daemon;
    for arg in args {
        daemon.arg(*arg);
    }
    daemon.start()?;
    lab.wait_in_sync(SOON).map(drop)
}

/// A reader of everything that detection tells from now on.
fn follow(lab: &Lab) -> Result<EventReader> {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"]).output()?;
    let now = String::from_utf8(output.stdout)?;
    lab.events(&["-f", "--since", now.trim(), "--type", "scan,flood,autoblock"])
}

fn syns(lab: &Lab) -> Result<SynSender> {
    SynSender::open(&lab.place(ATTACKER)?.namespace, &lab.place("web-1")?.namespace)
}

/// Tries so many ports from 1 on.
fn scan(sender: &SynSender, source: IpAddr, to: IpAddr, ports: u16) -> Result<()> {
    (1..=ports).try_for_each(|port| sender.send(source, to, 40_000, port))
}

/// What detection told: that a host connected is told to every reader, perhaps late.
fn told(events: &[Value]) -> impl Iterator<Item = &Value> {
    events.iter().filter(|it| it["type"] != "host")
}

fn of<'a>(events: &'a [Value], kind: &'a str, src: &'a str) -> Vec<&'a Value> {
    let found = events.iter().filter(|it| it["type"] == kind && it[kind]["src"] == src);
    found.map(|it| &it[kind]).collect()
}

/// The entries that detection made, as the controller tells.
fn automatic(lab: &Lab) -> Result<Vec<Value>> {
    let list = lab.json(&["blocklist", "--source", "auto:"])?;
    Ok(list.as_array().context("an array")?.clone())
}

fn reaches(lab: &Lab, from: &str, source: Option<IpAddr>) -> Result<bool> {
    let to = lab.place("web-1")?.v4.into();
    Ok(ping(&lab.place(from)?.namespace, source, to, 1)? == 1)
}

#[test]
fn scans_are_told_with_their_source_and_by_default_nobody_is_blocked() -> Result<()> {
    with_lab(1, |lab| {
        let mut reader = follow(lab)?;
        let sender = syns(lab)?;
        let (from, to) = (lab.place(ATTACKER)?.addresses(), lab.place("web-1")?.addresses());
        for (source, to) in from.into_iter().zip(to) {
            scan(&sender, source, to, 300)?;
            let src = source.to_string();
            let events =
                reader.wait_for("the scan", SOON, |events| !of(events, "scan", &src).is_empty())?;
            let wanted = json!({"src": src, "ports": 20, "first_ports": [1, 2, 3, 4, 5, 6, 7, 8],
                "interface": "eth0", "window_ms": 10_000});
            assert_eq!(of(&events, "scan", &src), [&wanted]);
        }
        // With whole connections, and too few of them elsewhere.
        let bystander = lab.place(BYSTANDER)?;
        let (few, many) = (bystander.v6.to_string(), bystander.v4.to_string());
        bystander.namespace.within(|| {
            for port in 1..=25 {
                let short = Duration::from_secs(1);
                let _ = TcpStream::connect_timeout(&SocketAddr::from((to[0], port)), short);
                let _ = TcpStream::connect_timeout(&SocketAddr::from((to[1], port % 10)), short);
            }
        })?;
        let events =
            reader.wait_for("the scan", SOON, |events| !of(events, "scan", &many).is_empty())?;
        assert_eq!(of(&events, "scan", &few), Vec::<&Value>::new());
        assert_eq!(told(&events).filter(|it| it["type"] != "scan").count(), 0);
        assert_eq!(automatic(lab)?, Vec::<Value>::new());
        assert!(reaches(lab, ATTACKER, None)?);
        // Filters find it again.
        let src = from[0].to_string();
        let found = lab.kctl(&["events", "--src", &src, "--port", "3", "-o", "jsonl"])?.code(0)?;
        ensure!(found.stdout.contains("\"type\":\"scan\""), "{found}");
        let other =
            lab.kctl(&["events", "--src", &src, "--port", "999", "-o", "jsonl"])?.code(0)?;
        ensure!(!other.stdout.contains("\"type\":\"scan\""), "{other}");
        Ok(())
    })
}

#[test]
fn who_scans_is_blocked_for_a_while_but_nobody_on_the_never_block_list() -> Result<()> {
    with_lab(0, |lab| {
        join(lab, &["--detect-portscan=block for 20s"])?;
        let sender = syns(lab)?;
        let listed = Place::in_prefix(1)[0];
        lab.kctl(&["protect", "add", &listed.to_string(), "--all-hosts"])?.code(0)?;
        let mut reader = follow(lab)?;
        let (attacker, to) = (lab.place(ATTACKER)?.v4, lab.place("web-1")?.v4);
        let src = attacker.to_string();
        // The never-block list, the host's own address, and then one that may be blocked.
        for source in [listed, to.into(), attacker.into()] {
            scan(&sender, source, to.into(), 20)?;
        }
        let events = reader
            .wait_for("the block", SOON, |events| !of(events, "autoblock", &src).is_empty())?;
        let block = of(&events, "autoblock", &src)[0];
        assert_eq!((&block["source"], &block["ttl_ms"]), (&json!("auto:portscan"), &json!(20_000)));
        assert_eq!(of(&events, "scan", &listed.to_string()).len(), 1, "it is told");
        assert_eq!(events.iter().filter(|it| it["type"] == "autoblock").count(), 1);
        let entries = automatic(lab)?;
        let [entry] = &entries[..] else { anyhow::bail!("{entries:?}") };
        assert_eq!(entry["prefix"], format!("{src}/32"));
        assert_eq!((&entry["source"], &entry["host"]), (&json!("auto:portscan"), &json!("web-1")));
        assert_eq!(entry["reason"], block["reason"]);
        ensure!(entry["reason"].as_str().is_some_and(|it| it.starts_with("20 ports")), "{entry}");
        assert!(!reaches(lab, ATTACKER, None)?);
        assert!(reaches(lab, ATTACKER, Some(listed))? && reaches(lab, BYSTANDER, None)?);

        // An agent that dies keeps it, to its end.
        lab.agent_mut("web-1")?.daemon.kill9()?;
        assert!(!reaches(lab, ATTACKER, None)?);
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        if let [kept] = &automatic(lab)?[..] {
            assert_eq!((&kept["prefix"], &kept["created"]), (&entry["prefix"], &entry["created"]));
        }
        until("it ends", Duration::from_secs(60), || reaches(lab, ATTACKER, None))?;

        // And somebody on the host can end it before.
        scan(&sender, attacker.into(), to.into(), 60)?;
        until("it is blocked again", SOON, || Ok(!reaches(lab, ATTACKER, None)?))?;
        lab.kctl_on("web-1", &["unblock", &src])?.code(0)?;
        assert!(reaches(lab, ATTACKER, None)?);
        Ok(())
    })
}

#[test]
fn a_connection_rate_blocks_exactly_its_source() -> Result<()> {
    with_lab(0, |lab| {
        let limit = "--detect-connections-limit=20";
        join(lab, &["--detect-connections=block for 5s", limit])?;
        let to = SocketAddr::from((lab.place("web-1")?.v4, 8_080));
        let _server = serve(lab, to)?;
        let mut reader = follow(lab)?;
        let connect = |from: &str, count: usize| -> Result<usize> {
            let short = Duration::from_secs(2);
            let each = || (0..count).filter(|_| TcpStream::connect_timeout(&to, short).is_ok());
            Ok(lab.place(from)?.namespace.within(|| each().count())?)
        };
        assert_eq!((connect(BYSTANDER, 20)?, connect(ATTACKER, 21)?), (20, 21));
        let src = lab.place(ATTACKER)?.v4.to_string();
        let events = reader
            .wait_for("the block", SOON, |events| !of(events, "autoblock", &src).is_empty())?;
        let flood = of(&events, "flood", &src)[0];
        let wanted = json!({"kind": "connections", "src": src, "dst_port": 8_080, "syns": 21,
            "progress": null, "sources": 1, "interface": "eth0", "duration_ms": 60_000});
        assert_eq!(flood, &wanted);
        assert_eq!(told(&events).count(), 2, "{events:?}");
        assert_eq!(of(&events, "autoblock", &src)[0]["source"], "auto:connections");
        assert!(reaches(lab, BYSTANDER, None)?);
        until("it ends", SOON, || reaches(lab, ATTACKER, None))?;
        let stats = lab.json(&["stats"])?;
        let ports = stats[0]["ports"].as_array().context("ports")?;
        let port = ports.iter().find(|it| it["port"] == 8_080).context("the port")?;
        assert_eq!(port["connections"], 41, "{stats}");
        Ok(())
    })
}

#[test]
fn forged_sources_fill_no_blocklist() -> Result<()> {
    with_lab(0, |lab| {
        let cap = "--detect-max-blocks=5";
        let rate = "--detect-max-blocks-per-second=1000";
        join(lab, &["--detect-portscan=block for 10m", cap, rate])?;
        let mut reader = follow(lab)?;
        let sender = syns(lab)?;
        let to = lab.place("web-1")?.v4;
        for number in 1..=40 {
            scan(&sender, IpAddr::from([10, 99, 0, number]), to.into(), 20)?;
        }
        let not_made = |events: &[Value]| -> u64 {
            events.iter().filter_map(|it| it["autoblock"]["not_made"].as_u64()).sum()
        };
        let events = reader.wait_for("all are told of", SOON, |events| not_made(events) == 35)?;
        assert_eq!(events.iter().filter(|it| it["type"] == "scan").count(), 40);
        let made = events.iter().filter(|it| it["autoblock"]["src"].is_string());
        assert_eq!(made.count(), 5);
        assert_eq!(automatic(lab)?.len(), 5);
        Ok(())
    })
}

#[test]
fn forged_sources_are_blocked_at_a_rate_and_those_of_a_never_block_feed_not_at_all() -> Result<()> {
    const RATE: u64 = 2;
    with_lab(0, |lab| {
        join(lab, &["--detect-portscan=block for 10m", "--detect-max-blocks-per-second=2"])?;
        let partners = lab.scratch().join("partners");
        std::fs::write(&partners, "10.98.0.0/28\n10.98.1.7\n")?;
        let file = partners.display().to_string();
        let import = ["blocklist", "import", "--name", "partners", "--action", "protect"];
        lab.kctl(&[&import[..], &["--file", &file, "--all-hosts"]].concat())?.code(0)?;
        let mut reader = follow(lab)?;
        let sender = syns(lab)?;
        let to = lab.place("web-1")?.v4;
        let begin = Instant::now();
        for listed in [[10, 98, 0, 1], [10, 98, 0, 14], [10, 98, 1, 7]] {
            scan(&sender, listed.into(), to.into(), 20)?;
        }
        for number in 1..=40 {
            scan(&sender, IpAddr::from([10, 99, 0, number]), to.into(), 20)?;
        }
        let made = |events: &[Value]| -> u64 {
            events.iter().filter(|it| it["autoblock"]["src"].is_string()).count() as u64
        };
        let not_made = |events: &[Value]| -> u64 {
            events.iter().filter_map(|it| it["autoblock"]["not_made"].as_u64()).sum()
        };
        let events = reader
            .wait_for("all are told of", SOON, |events| made(events) + not_made(events) == 40)?;
        assert_eq!(events.iter().filter(|it| it["type"] == "scan").count(), 43);
        let most = RATE + RATE * (begin.elapsed().as_secs() + 1);
        ensure!((RATE..=most).contains(&made(&events)), "{} made: {events:?}", made(&events));
        ensure!(events.iter().any(|it| {
            it["autoblock"]["reason"].as_str().is_some_and(|it| it.contains("more than 2"))
        }));
        let entries = automatic(lab)?;
        assert_eq!(entries.len() as u64, made(&events));
        let is_forged =
            |it: &Value| it["prefix"].as_str().is_some_and(|it| it.starts_with("10.99."));
        ensure!(entries.iter().all(is_forged), "{entries:?}");
        // And they are told of where people look.
        let row = lab.json(&["hosts", "describe", "web-1"])?;
        let scans =
            json!({"action": "block", "duration_ms": 600_000, "window_ms": 10_000, "ports": 20});
        let detection = &row[0]["detection"];
        assert_eq!((&detection["portscan"], &detection["escalate"]), (&scans, &json!(false)));
        assert_eq!(detection["max_blocks_per_second"], RATE);
        let text = lab.kctl(&["hosts", "describe", "web-1"])?.code(0)?.stdout;
        ensure!(text.contains("portscan: block for 10m, from 20 ports on within 10s"), "{text}");
        Ok(())
    })
}

#[test]
fn a_flood_of_random_sources_is_told_and_harms_no_client() -> Result<()> {
    with_lab(0, |lab| {
        // The client does what a limit of connections is for.
        join(
            lab,
            &["--detect-synflood=block", "--detect-portscan=block", "--detect-connections=off"],
        )?;
        let to = lab.place("web-1")?.addresses().map(|address| SocketAddr::from((address, 8_080)));
        let _servers = [serve(lab, to[0])?, serve(lab, to[1])?];
        let mut reader = follow(lab)?;
        let memory = lab.host("web-1")?["filter"]["memory_bytes"].clone();
        let client = &lab.place(BYSTANDER)?.namespace;
        let (transfers, over) = (AtomicU32::new(0), AtomicBool::new(false));
        let flood = syn_storm(lab, "web-1", 8_080)?;
        let sent = thread::scope(|scope| -> Result<_> {
            let client = scope.spawn(|| client.within(|| transfer(to, &transfers, &over)));
            let begin = Instant::now();
            let flooded = until("the client got on for three seconds", SOON, || {
                let enough = transfers.load(Relaxed) > 6 && flood.frames() > 50_000;
                Ok(client.is_finished() || begin.elapsed() > Duration::from_secs(3) && enough)
            });
            over.store(true, Relaxed);
            let sent = flood.end()?;
            client.join().expect("no panic")??;
            flooded.map(|_| sent)
        })?;
        let syns = |events: &[Value]| -> u64 {
            let floods = events.iter().filter_map(|it| it["flood"]["syns"].as_u64());
            floods.sum()
        };
        let seen = || -> Result<u64> {
            let stats = lab.json(&["stats"])?;
            let ports = stats[0]["ports"].as_array().context("ports")?;
            let port = ports.iter().find(|it| it["port"] == 8_080).context("the port")?;
            port["connections"].as_u64().context("a number")
        };
        let all = seen()?;
        let events = reader.wait_for("the flood", SOON, |events| syns(events) * 10 >= all * 9)?;
        // Attempts that nobody answered in time were made again.
        let made = sent.frames() + 2 * u64::from(transfers.load(Relaxed)) + 100;
        ensure!(syns(&events) <= all && all <= made, "{events:?}, {all} seen of {made}");
        ensure!(all + sent.refused >= sent.frames(), "{all} seen, {sent:?}");
        for event in told(&events) {
            let flood = &event["flood"];
            assert_eq!((&flood["kind"], &flood["src"]), (&json!("syn"), &Value::Null), "{event}");
            assert_eq!(flood["dst_port"], 8_080, "{event}");
            let number = |key: &str| flood[key].as_u64().unwrap_or(0);
            ensure!(number("sources") * 10 > number("syns").min(100_000), "{event}");
            ensure!(number("progress") < number("syns") / 4, "{event}");
        }
        assert_eq!(automatic(lab)?, Vec::<Value>::new());
        assert_eq!(lab.host("web-1")?["filter"]["memory_bytes"], memory);
        Ok(())
    })
}

#[test]
fn what_one_host_blocks_is_raised_to_all_of_them_once() -> Result<()> {
    with_lab(0, |lab| {
        lab.controller().kill9()?;
        lab.controller().arg("--detect-escalate");
        lab.start_controller()?;
        for _ in 0..3 {
            join(lab, &["--detect-portscan=block for 5m"])?;
        }
        let sender = syns(lab)?;
        let (attacker, to) = (lab.place(ATTACKER)?.v4, lab.place("web-1")?.v4);
        // A host's own address is refused, though no host would be asked to block it by name.
        scan(&sender, lab.place("web-2")?.v4.into(), to.into(), 20)?;
        scan(&sender, attacker.into(), to.into(), 20)?;
        let prefix = format!("{attacker}/32");
        let of_fleet = |entries: &[Value]| -> Vec<Value> {
            let of_all = |it: &&Value| it["hosts"]["all"] == true;
            entries.iter().filter(of_all).cloned().collect()
        };
        let mut fleet = Vec::new();
        until("it is raised", SOON, || {
            fleet = of_fleet(&automatic(lab)?);
            Ok(!fleet.is_empty())
        })?;
        lab.wait_in_sync(SOON)?;
        assert_eq!(fleet.len(), 1, "{fleet:?}");
        assert_eq!(
            (&fleet[0]["prefix"], &fleet[0]["source"]),
            (&json!(prefix), &json!("auto:portscan"))
        );
        ensure!(
            fleet[0]["reason"].as_str().is_some_and(|it| it.ends_with("(found by web-1)")),
            "{fleet:?}"
        );
        ensure!(fleet[0]["expires"].is_string(), "{fleet:?}");
        for host in ["web-2", "web-3"] {
            let to = lab.place(host)?.v4.into();
            assert_eq!(ping(&lab.place(ATTACKER)?.namespace, None, to, 1)?, 0, "{host}");
            assert_eq!(ping(&lab.place(BYSTANDER)?.namespace, None, to, 1)?, 1, "{host}");
        }
        // Who takes it away again is not overruled.
        lab.kctl(&["unblock", &attacker.to_string(), "--all-hosts"])?.code(0)?;
        scan(&sender, IpAddr::from([10, 99, 0, 1]), to.into(), 20)?;
        until("the next is raised", SOON, || {
            fleet = of_fleet(&automatic(lab)?);
            Ok(fleet.iter().any(|it| it["prefix"] == "10.99.0.1/32"))
        })?;
        assert_eq!(fleet.len(), 1, "{fleet:?}");
        Ok(())
    })
}

/// Says back whatever it is told, on a host.
fn serve(lab: &Lab, at: SocketAddr) -> Result<thread::JoinHandle<()>> {
    let listener = lab.place("web-1")?.namespace.within(|| TcpListener::bind(at))??;
    Ok(thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut buffer = [0; 4_096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    }))
}

/// Connects to one after the other and transfers until it is told to stop, and counts. Every time must do.
fn transfer(to: [SocketAddr; 2], count: &AtomicU32, over: &AtomicBool) -> Result<()> {
    for to in to.into_iter().cycle() {
        if over.load(Relaxed) {
            break;
        }
        let mut stream = TcpStream::connect_timeout(&to, SOON).context("connects")?;
        stream.set_read_timeout(Some(SOON))?;
        let mut answer = [0; 4_096];
        for round in 0..16_u8 {
            stream.write_all(&[round; 4_096])?;
            stream.read_exact(&mut answer).context("is answered")?;
            ensure!(answer == [round; 4_096], "something else came back");
        }
        count.fetch_add(1, Relaxed);
    }
    Ok(())
}
