//! What rules name beside a source: ranges of ports and interfaces; what is never blocked, in numbers; and
//! what a dry run foresees.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, Lab, Place, ping, until, with_lab};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_millis(400);

/// Whether the attacker gets a connection.
fn connects(lab: &Lab, to: SocketAddr) -> Result<bool> {
    let attacker = lab.place(ATTACKER)?;
    Ok(attacker.namespace.within(|| TcpStream::connect_timeout(&to, PATIENCE))?.is_ok())
}

fn statuses(answer: &Value) -> Vec<&str> {
    let hosts = answer["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    hosts.iter().filter_map(|host| host["status"].as_str()).collect()
}

#[test]
fn a_range_of_ports_is_closed_on_every_host_and_no_port_beside_it() -> Result<()> {
    with_lab(3, |lab| {
        let mut ends = Vec::new();
        let mut listening = Vec::new();
        for host in lab.hosts() {
            let place = lab.place(host)?;
            for address in place.addresses() {
                for port in [7_999, 8_000, 8_500, 8_999, 9_000] {
                    let end = SocketAddr::from((address, port));
                    listening.push(place.namespace.within(|| TcpListener::bind(end))??);
                    ends.push(end);
                }
            }
        }
        let [v4, v6] = lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
        let range = ["--port", "8000-8999/tcp", "--all-hosts"];
        let answer = lab.json(&[&["block", &v4, &v6][..], &range].concat())?;
        assert_eq!(statuses(&answer), ["applied"; 3]);
        for end in &ends {
            let is_open = !(8_000..=8_999).contains(&end.port());
            assert_eq!(connects(lab, *end)?, is_open, "{end}");
        }
        let entries = lab.json(&["blocklist", "--hits"])?;
        let entries = entries.as_array().context("an array")?;
        assert_eq!(entries.len(), 2, "each range once: {entries:?}");
        for entry in entries {
            let shown = (&entry["port"], &entry["port_last"], &entry["protocol"]);
            assert_eq!(shown, (&json!(8_000), &json!(8_999), &json!("tcp")));
            // Three ports of three hosts.
            ensure!(entry["packets"].as_u64() >= Some(9), "{entry}");
        }
        let table = lab.kctl(&["blocklist"])?.code(0)?;
        ensure!(table.stdout.contains("8000-8999/tcp"), "{}", table.stdout);
        let rules = lab.json(&["stats", "--host", "web-1"])?;
        assert_eq!(rules[0]["rules"].as_array().map(Vec::len), Some(2), "{rules}");

        lab.kctl(&["unblock", &v4, "--port", "8000-8998/tcp", "--all-hosts"])?.code(1)?;
        lab.kctl(&[&["unblock", &v4, &v6][..], &range].concat())?.code(0)?;
        for end in ends {
            assert!(connects(lab, end)?, "{end}");
        }
        let everyone = ["block", "0.0.0.0/0", "--port", "1-1024/tcp", "--all-hosts"];
        lab.kctl(&everyone)?.code(1)?.stderr_says("ssh port")?;
        Ok(())
    })
}

/// Joins a host and the attacker by another link: `eth1` there with 10.79.0.1, and the attacker with .2.
fn second_link(lab: &Lab, host: &str) -> Result<()> {
    let (host, attacker) = (lab.place(host)?, lab.place(ATTACKER)?);
    let ip = |at: &Place, args: &str| -> Result<()> {
        let mut command = Command::new("ip");
        command.args(args.split_whitespace());
        at.namespace.output(command)?.code(0)?;
        Ok(())
    };
    let peer = attacker.namespace.name();
    ip(host, &format!("link add eth1 type veth peer name eth1 netns {peer}"))?;
    for (at, last) in [(host, 1), (attacker, 2)] {
        ip(at, &format!("addr add 10.79.0.{last}/24 dev eth1"))?;
        ip(at, &format!("addr add fd79::{last}/64 dev eth1 nodad"))?;
        ip(at, "link set eth1 up")?;
    }
    Ok(())
}

const SECOND: [&str; 2] = ["10.79.0.1", "fd79::1"];

#[test]
fn an_entry_of_an_interface_holds_there_alone_and_again_when_it_comes_back() -> Result<()> {
    with_lab(3, |lab| {
        let everyone = ["0.0.0.0/0", "::/0", "--force", "--port", "5000-5999/udp", "--all-hosts"];
        // Nobody has it: recorded, and told.
        let absent = [&["block"][..], &everyone, &["--interface", "eth1"]].concat();
        let answer = lab.json(&absent)?;
        assert_eq!(statuses(&answer), ["applied"; 3]);
        for host in answer["hosts"].as_array().context("an array")? {
            ensure!(host["warnings"][0].as_str().is_some_and(|it| it.contains("eth1")), "{host}");
        }
        let describe = lab.kctl(&["hosts", "describe", "web-1"])?.code(0)?;
        ensure!(describe.stdout.contains("absent:       eth1"), "{}", describe.stdout);
        lab.kctl(
            &[&["unblock"][..], &everyone[..2], &everyone[3..], &["--interface", "eth1"]].concat(),
        )?
        .code(0)?;

        // One has it and does not filter it.
        second_link(lab, "web-1")?;
        until("the agent has seen the interface", SOON, || {
            let hosts = lab.json(&["hosts", "describe", "web-1"])?;
            let unfiltered = hosts["filter"]["unfiltered_interfaces"].to_string()
                + &hosts[0]["filter"]["unfiltered_interfaces"].to_string();
            Ok(unfiltered.contains("eth1"))
        })?;
        let block = ["block", "10.79.0.2", "fd79::2", "--interface", "eth1", "--host", "web-1"];
        let refused = lab.kctl(&[&block[..], &["-o", "json"]].concat())?.code(3)?.json()?;
        let error = &refused["hosts"][0]["error"];
        assert_eq!(error["code"], "FAILED_PRECONDITION");
        ensure!(
            error["message"].as_str().is_some_and(|it| it.contains("--interface eth1")),
            "{error}"
        );

        // Filtered, it holds there, and the same source passes by the other interface.
        let agent = lab.agent_mut("web-1")?;
        agent.daemon.terminate()?;
        agent.daemon.arg("--interface");
        agent.daemon.arg("eth1");
        agent.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let answers = |lab: &Lab, to: &str| -> Result<bool> {
            let to: IpAddr = to.parse()?;
            Ok(ping(&lab.place(ATTACKER)?.namespace, None, to, 2)? == 2)
        };
        until("the interface is filtered, the entry holds", SOON, || {
            Ok(!answers(lab, SECOND[0])? && !answers(lab, SECOND[1])?)
        })?;
        let [v4, v6] = lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
        lab.kctl(&["block", &v4, &v6, "--interface", "eth1", "--all-hosts"])?;
        for address in lab.place("web-1")?.addresses() {
            assert!(answers(lab, &address.to_string())?, "it enters by eth0");
        }
        let entries = lab.json(&["blocklist"])?;
        ensure!(entries.as_array().is_some_and(|it| it.iter().all(|it| it["interface"] == "eth1")));

        // It goes, and comes back with another index.
        let mut command = Command::new("ip");
        command.args(["link", "del", "eth1"]);
        lab.place("web-1")?.namespace.output(command)?.code(0)?;
        second_link(lab, "web-1")?;
        until("the entry holds again", SOON, || {
            Ok(!answers(lab, SECOND[0])? && !answers(lab, SECOND[1])?)
        })?;
        lab.kctl(&["unblock", "10.79.0.2", "fd79::2", "--interface", "eth1", "--host", "web-1"])?
            .code(0)?;
        until(
            "it is unblocked",
            SOON,
            || Ok(answers(lab, SECOND[0])? && answers(lab, SECOND[1])?),
        )?;
        Ok(())
    })
}

#[test]
fn a_large_never_block_feed_is_above_every_block() -> Result<()> {
    with_lab(3, |lab| {
        let (inside, beside) = (Place::in_prefix(1), Place::in_prefix(2));
        let mut text = format!("{}\n{}\n", inside[0], inside[1]);
        for number in 0..70_000_u32 {
            let _ = writeln!(text, "{}", std::net::Ipv4Addr::from(0x0b00_0000 + number * 3));
        }
        let file = lab.scratch().join("never.txt");
        fs::write(&file, text)?;
        let file = file.display().to_string();
        let import = ["blocklist", "import", "--name", "never", "--file", &file];
        let import = [&import[..], &["--action", "protect", "--all-hosts"]].concat();
        // A busy machine with debug builds takes its time.
        let import = [&["--timeout", "60s"][..], &import].concat();
        lab.kctl(&import)?.code(0)?;
        let wide = ["10.78.0.0/16", "fd78::/32", "--all-hosts"];
        lab.kctl(&[&["block"][..], &wide].concat())?.code(1)?.stderr_says("never-block list")?;
        lab.kctl(&[&["block", "--force"][..], &wide].concat())?.code(0)?;
        let attacker = &lab.place(ATTACKER)?.namespace;
        for host in lab.hosts() {
            for (family, to) in lab.place(host)?.addresses().into_iter().enumerate() {
                assert_eq!(ping(attacker, Some(inside[family]), to, 2)?, 2, "{host} {to}");
                assert_eq!(ping(attacker, Some(beside[family]), to, 2)?, 0, "{host} {to}");
            }
        }
        lab.kctl(
            &[
                &import[..6],
                &["--file", "/dev/null", "--action", "protect", "--all-hosts", "--allow-empty"],
            ]
            .concat(),
        )?
        .code(0)?;
        for (family, to) in lab.place("web-1")?.addresses().into_iter().enumerate() {
            assert_eq!(ping(attacker, Some(inside[family]), to, 2)?, 0, "no longer protected");
        }
        Ok(())
    })
}

#[test]
fn a_port_that_some_sources_keep_is_open_to_them_and_nothing_else_is() -> Result<()> {
    with_lab(1, |lab| {
        let attacker = lab.place(ATTACKER)?;
        let host = lab.place("web-1")?;
        let (mut ends, mut listening) = (Vec::new(), Vec::new());
        for address in host.addresses() {
            for port in [5_431, 5_432, 5_433, 5_434] {
                let end = SocketAddr::from((address, port));
                listening.push(host.namespace.within(|| TcpListener::bind(end))??);
                ends.push(end);
            }
        }
        let [v4, v6] = attacker.addresses().map(|address| address.to_string());
        let kept = [&v4, &v6, "--port", "5432-5433/tcp", "--all-hosts"];
        lab.kctl(&[&["protect", "add"], &kept[..]].concat())?.code(0)?;
        // The rest of what they send may be blocked: no refusal, and a dry run knows what it would hit.
        let block = ["block", &v4, &v6, "--all-hosts"];
        let (mut open, mut accepted) = (Vec::new(), Vec::new());
        for (end, listener) in ends.iter().zip(&listening) {
            open.push(attacker.namespace.within(|| TcpStream::connect_timeout(end, SOON))??);
            accepted.push(listener.accept()?);
        }
        let dry = lab.json(&[&block[..], &["--dry-run"]].concat())?;
        let peers = dry["forecast"][0]["peers"].as_array().context("peers")?;
        let ports: Vec<_> = peers.iter().filter_map(|peer| peer["port"].as_u64()).collect();
        assert_eq!(ports, [5_431, 5_434, 5_431, 5_434], "{dry}");
        assert_eq!(statuses(&lab.json(&block)?), ["applied"]);
        let is_kept = |end: &SocketAddr| (5_432..=5_433).contains(&end.port());
        let as_kept = |lab: &Lab| -> Result<()> {
            for end in &ends {
                assert_eq!(connects(lab, *end)?, is_kept(end), "{end}");
            }
            Ok(())
        };
        as_kept(lab)?;
        for end in host.addresses() {
            assert_eq!(ping(&attacker.namespace, None, end, 2)?, 0, "{end}");
        }
        let listed = lab.json(&["protect", "list"])?;
        assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
        let shown = (&listed[0]["port"], &listed[0]["port_last"], &listed[0]["protocol"]);
        assert_eq!(shown, (&json!(5_432), &json!(5_433), &json!("tcp")));
        // Through a restart of the agent too.
        lab.agent_mut("web-1")?.daemon.kill9()?;
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        as_kept(lab)?;
        lab.kctl(&[&["protect", "remove"], &kept[..]].concat())?.code(0)?;
        for end in &ends {
            ensure!(!connects(lab, *end)?, "{end}");
        }
        Ok(())
    })
}

#[test]
fn a_dry_run_names_the_peers_that_it_would_hit() -> Result<()> {
    with_lab(3, |lab| {
        let attacker = lab.place(ATTACKER)?;
        let host = lab.place("web-1")?;
        let mut open = Vec::new();
        for (address, port) in host.addresses().into_iter().zip([8_080, 8_081]) {
            let end = SocketAddr::from((address, port));
            let listener = host.namespace.within(|| TcpListener::bind(end))??;
            for _ in 0..2 {
                let client =
                    attacker.namespace.within(|| TcpStream::connect_timeout(&end, SOON))??;
                open.push((client, listener.accept()?.0));
            }
        }
        let [v4, v6] = attacker.addresses().map(|address| address.to_string());
        let block = ["block", &v4, &v6, "--all-hosts", "--dry-run"];
        let answer = lab.json(&block)?;
        let forecast = answer["forecast"].as_array().context("a forecast")?;
        assert_eq!(forecast.len(), 3);
        for row in forecast {
            let peers = row["peers"].as_array().with_context(|| row.to_string())?;
            if row["host"] != "web-1" {
                assert_eq!(peers.len(), 0, "{row}");
                continue;
            }
            assert_eq!((peers.len(), &row["peers_total"]), (2, &json!(2)), "{row}");
            for (address, port) in [(&v4, 8_080), (&v6, 8_081)] {
                let peer = peers.iter().find(|peer| peer["address"] == **address);
                let peer = peer.with_context(|| row.to_string())?;
                assert_eq!((&peer["sockets"], &peer["port"]), (&json!(2), &json!(port)));
                ensure!(peer["process"].is_string() && peer["pid"] == std::process::id(), "{peer}");
            }
        }
        let table = lab.kctl(&block)?.code(0)?.stdout;
        ensure!(table.contains("WOULD HIT") && table.contains(&v4), "{table}");
        // A port that no socket has, and one that some have.
        for (ports, hit) in [("9000-9999/tcp", 0), ("8000-8080/tcp", 1)] {
            let answer = lab.json(&[&block[..], &["--port", ports]].concat())?;
            let rows = answer["forecast"].as_array().context("a forecast")?.iter();
            let total: u64 = rows.filter_map(|row| row["peers_total"].as_u64()).sum();
            assert_eq!(total, hit, "{ports}: {answer}");
        }
        // A feed's, and one host's own.
        let file = lab.scratch().join("list.txt");
        fs::write(&file, format!("{v4}\n"))?;
        let file = file.display().to_string();
        let import = ["blocklist", "import", "--name", "list", "--file", &file];
        let answer = lab.json(&[&import[..], &["--all-hosts", "--dry-run"]].concat())?;
        ensure!(
            answer["forecast"].to_string().contains(&format!("\"address\":\"{v4}\"")),
            "{answer}"
        );
        let own =
            lab.kctl_on("web-1", &["block", &v6, "--dry-run", "-o", "json"])?.code(0)?.json()?;
        assert_eq!(own["forecast"][0]["peers"][0]["address"], v6, "{own}");
        assert_eq!(lab.json(&["blocklist"])?, json!([]));
        Ok(())
    })
}
