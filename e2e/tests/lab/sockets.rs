//! `kctl net sockets`, `conntrack` and `stats` over a fleet, beside what ss(8), conntrack(8) and
//! /proc/net/dev say on the hosts.

use std::{
    collections::BTreeSet,
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, until, with_lab};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

fn run(lab: &Lab, host: &str, line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().context("a program")?);
    command.args(words);
    Ok(lab.place(host)?.namespace.output(command)?.code(0)?.stdout)
}

fn list<'a>(row: &'a Value, noun: &str) -> Result<&'a Vec<Value>> {
    row[noun].as_array().with_context(|| format!("no {noun}: {row}"))
}

/// One TCP connection between two hosts: the listener, its end, and the other host's end.
fn connection(lab: &Lab) -> Result<(TcpListener, TcpStream, TcpStream)> {
    let server = lab.place("web-2")?;
    let listener = server.namespace.within(|| TcpListener::bind((server.v4, 0)))??;
    let to = listener.local_addr()?;
    let client = lab.place("web-1")?.namespace.within(|| TcpStream::connect(to))??;
    let accepted = listener.accept()?.0;
    Ok((listener, accepted, client))
}

#[test]
fn both_ends_of_a_connection_are_told_with_their_process() -> Result<()> {
    with_lab(2, |lab| {
        let (listener, accepted, client) = connection(lab)?;
        let port = listener.local_addr()?.port().to_string();
        let answer = lab.json(&["net", "sockets", "--port", &port])?;
        let own = |socket: &Value| {
            let processes = socket["processes"].as_array().into_iter().flatten();
            processes.filter(|it| it["pid"] == std::process::id()).count() == 1
        };
        let (one, two) = (list(&answer[0], "sockets")?, list(&answer[1], "sockets")?);
        ensure!(answer[0]["host"] == "web-1" && answer[1]["host"] == "web-2", "{answer}");
        ensure!(one.len() == 1 && two.len() == 2, "{answer}");
        ensure!(one.iter().chain(two).all(own), "{answer}");
        let end = |address: std::net::SocketAddr| json!([address.ip().to_string(), address.port()]);
        let ends = |it: &Value| {
            let local = json!([it["local_address"], it["local_port"]]);
            (local, json!([it["peer_address"], it["peer_port"]]))
        };
        let expected = (end(client.local_addr()?), end(client.peer_addr()?));
        ensure!(ends(&one[0]) == expected && one[0]["state"] == "ESTAB", "{answer}");
        let listening = two.iter().find(|it| it["state"] == "LISTEN").context("a listener")?;
        ensure!(listening["peer_address"].is_null() && listening["backlog"] == 0, "{answer}");
        ensure!(listening["backlog_limit"].as_u64() > Some(0), "{answer}");
        ensure!(listening["rx_queue_bytes"].is_null(), "{answer}");
        let established = two.iter().find(|it| it["state"] == "ESTAB").context("its end")?;
        ensure!(ends(established) == (expected.1, expected.0), "{answer}");
        ensure!(established["user"] == "root" && established["uid"] == 0, "{answer}");

        // On the host itself the same, with no controller.
        let args = ["net", "sockets", "--port", &port, "-o", "json"];
        let local = lab.kctl_on("web-2", &args)?.code(0)?.json()?;
        let inodes =
            |list: &[Value]| list.iter().map(|it| it["inode"].as_u64()).collect::<BTreeSet<_>>();
        ensure!(inodes(list(&local[0], "sockets")?) == inodes(two), "{local}");
        drop(accepted);
        Ok(())
    })
}

#[test]
fn the_whole_list_is_that_of_ss_and_flags_are_heeded() -> Result<()> {
    with_lab(2, |lab| {
        let _connection = connection(lab)?;
        let other = lab.place("web-1")?.namespace.within(|| UdpSocket::bind("[::1]:0"))??;
        let mut answer = Value::Null;
        // The agent's own connections come and go.
        until("kctl and ss tell the same sockets", SOON, || {
            answer = lab.json(&["net", "sockets", "--no-processes"])?;
            for (at, host) in ["web-1", "web-2"].into_iter().enumerate() {
                let lines = run(lab, host, "ss -HOtuxane")?;
                let unix = |line: &str| line.starts_with("u_");
                let word = |line: &str, at| line.split_whitespace().nth(at).map(str::to_owned);
                let tag = |line: &str| {
                    line.split_whitespace().find_map(|it| Some(it.strip_prefix("ino:")?.to_owned()))
                };
                let inode = |line: &str| if unix(line) { word(line, 5) } else { tag(line) };
                let theirs: BTreeSet<_> =
                    lines.lines().map(|line| (inode(line), word(line, 1))).collect();
                let row = list(&answer[at], "sockets")?;
                let text = |it: &Value| Some(it.as_u64().unwrap_or(0).to_string());
                let state = |it: &Value| it["state"].as_str().map(str::to_owned);
                let ours: BTreeSet<_> =
                    row.iter().map(|it| (text(&it["inode"]), state(it))).collect();
                if ours != theirs || row.len() != lines.lines().count() {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        let all = list(&answer[0], "sockets")?;
        ensure!(
            all.iter().all(|it| it["processes"] == json!([]) && it["tcp"].is_null()),
            "{answer}"
        );

        let listed = |args: &[&str]| -> Result<Vec<Value>> {
            let args = [&["net", "sockets", "--host", "web-1"], args].concat();
            Ok(list(&lab.json(&args)?[0], "sockets")?.clone())
        };
        let port = other.local_addr()?.port();
        let udp = listed(&["--udp", "-6", "--listening"])?;
        ensure!(udp.iter().any(|it| it["local_port"] == port), "{udp:?}");
        ensure!(udp.iter().all(|it| it["family"] == "inet6" && it["protocol"] == "udp"), "{udp:?}");
        let measured = listed(&["--tcp", "--state", "estab", "--info"])?;
        ensure!(!measured.is_empty(), "the agent's own connection at least");
        ensure!(
            measured.iter().all(|it| it["tcp"]["congestion_window"].as_u64() > Some(0)),
            "{measured:?}"
        );
        let unix = listed(&["--unix"])?;
        let socket = lab.agent("web-1")?.socket.display().to_string();
        let own = unix.iter().find(|it| it["path"] == *socket && it["state"] == "LISTEN");
        let own = own.with_context(|| format!("the agent's own socket: {unix:?}"))?;
        ensure!(own["processes"][0]["comm"] == "kctl-agent", "{own}");
        let table = lab.kctl(&["net", "sockets", "-o", "wide"])?.code(0)?;
        ensure!(
            table.stdout.starts_with("HOST") && table.stdout.contains("kctl-agent/"),
            "{table}"
        );
        Ok(())
    })
}

#[test]
fn a_tracked_connection_is_told_by_the_host_that_tracks() -> Result<()> {
    with_lab(2, |lab| {
        run(lab, "web-1", "nft add table inet kctl_test")?;
        run(
            lab,
            "web-1",
            "nft add chain inet kctl_test out { type filter hook output priority 0 ; }",
        )?;
        run(lab, "web-1", "nft add rule inet kctl_test out ct state new accept")?;
        run(lab, "web-1", "sysctl -q -w net.netfilter.nf_conntrack_acct=1")?;
        let (_listener, _accepted, client) = connection(lab)?;
        let port = client.peer_addr()?.port().to_string();
        let args = ["net", "conntrack", "--port", &port, "--protocol", "tcp"];
        let mut answer = Value::Null;
        until("the connection is tracked", SOON, || {
            answer = lab.json(&args)?;
            Ok(answer[0]["conntrack"][0]["state"] == "ESTABLISHED")
        })?;
        // The other host tracks nothing.
        ensure!(answer[1]["conntrack"] == json!([]), "{answer}");
        let tracked = list(&answer[0], "conntrack")?;
        ensure!(tracked.len() == 1, "{answer}");
        let (local, peer) = (client.local_addr()?, client.peer_addr()?);
        let flow = |src: std::net::SocketAddr, dst: std::net::SocketAddr| {
            json!([src.ip().to_string(), src.port(), dst.ip().to_string(), dst.port()])
        };
        let told = |it: &Value| json!([it["src"], it["src_port"], it["dst"], it["dst_port"]]);
        ensure!(told(&tracked[0]) == flow(local, peer), "{answer}");
        ensure!(told(&tracked[0]["reply"]) == flow(peer, local), "{answer}");
        ensure!(tracked[0]["packets"].as_u64() > Some(0), "{answer}");
        ensure!(tracked[0]["timeout_seconds"].as_u64() > Some(1_000), "{answer}");
        let theirs = run(lab, "web-1", "conntrack -L -o id")?;
        let id = format!("id={}", tracked[0]["id"]);
        ensure!(theirs.lines().any(|line| line.ends_with(&id)), "{answer}\n{theirs}");

        let from = local.ip().to_string();
        let answer = lab.json(&["net", "conntrack", "--host", "web-1", "--src", &from, "-4"])?;
        ensure!(!list(&answer[0], "conntrack")?.is_empty(), "{answer}");
        let answer = lab.json(&["net", "conntrack", "--host", "web-1", "--dst", "192.0.2.0/24"])?;
        ensure!(answer[0]["conntrack"] == json!([]), "{answer}");
        let refused = lab.kctl(&["net", "conntrack", "--protocol", "tpc"])?.code(1)?;
        ensure!(refused.stdout.contains("protocol \"tpc\": must be a number"), "{refused}");
        Ok(())
    })
}

#[test]
fn links_have_their_counters_and_rates_of_the_time_that_passed() -> Result<()> {
    with_lab(2, |lab| {
        run(lab, "web-1", "ip link add kt0 type bridge")?;
        let answer = lab.json(&["net", "stats", "--interval", "0"])?;
        for (at, host) in ["web-1", "web-2"].into_iter().enumerate() {
            let lines = run(lab, host, "cat /proc/net/dev")?;
            let theirs: BTreeSet<_> = lines
                .lines()
                .skip(2)
                .filter_map(|line| line.split(':').next())
                .map(str::trim)
                .collect();
            let stats = list(&answer[at], "stats")?;
            let ours: BTreeSet<_> =
                stats.iter().filter_map(|it| it["interface"].as_str()).collect();
            ensure!(ours == theirs, "{answer}\n{lines}");
            ensure!(stats.iter().all(|it| it["rates"].is_null()), "{answer}");
        }
        // Traffic that nobody else makes, over the loopback: packets of 1,000 bytes as long as it is
        // watched.
        let loopback = |answer: &Value| -> Result<Value> {
            let stats = list(&answer[0], "stats")?.iter().find(|it| it["interface"] == "lo");
            Ok(stats.with_context(|| answer.to_string())?.clone())
        };
        let args = ["net", "stats", "--host", "web-2", "--interface", "lo"];
        let before = loopback(&lab.json(&[&args[..], &["--interval", "0"]].concat())?)?;
        let host = &lab.place("web-2")?.namespace;
        let (to, from) = host.within(|| {
            Ok::<_, std::io::Error>((
                UdpSocket::bind("127.0.0.1:0")?,
                UdpSocket::bind("127.0.0.1:0")?,
            ))
        })??;
        from.connect(to.local_addr()?)?;
        let watched = std::thread::scope(|scope| -> Result<Value> {
            let watching = scope.spawn(|| lab.json(&[&args[..], &["--interval", "3s"]].concat()));
            while !watching.is_finished() {
                from.send(&[0; 972])?;
                std::thread::yield_now();
            }
            watching.join().expect("no panic")
        })?;
        let after = loopback(&watched)?;
        let number = |of: &Value, key: &str| of[key].as_u64().with_context(|| of.to_string());
        for key in ["rx_bytes", "rx_packets"] {
            ensure!(number(&after, key)? > number(&before, key)?, "{before}\n{after}");
        }
        let rates = &after["rates"];
        let rate = |key: &str| rates[key].as_f64().with_context(|| after.to_string());
        // Each packet is 1,000 bytes long, 972 of them ours, and goes out as it comes in.
        let bytes_each = rate("rx_bytes_per_second")? / rate("rx_packets_per_second")?;
        ensure!((999.0..=1_001.0).contains(&bytes_each), "{after}");
        let (rx, tx) = (rate("rx_bytes_per_second")?, rate("tx_bytes_per_second")?);
        ensure!((rx - tx).abs() < 1.0, "{after}");
        ensure!(rate("interval_ms")? >= 3_000.0, "{after}");
        // In all the time since `before` no more than that can have come.
        let seconds = rate("interval_ms")? / 1_000.0;
        let more = number(&after, "rx_bytes")? - number(&before, "rx_bytes")?;
        let more = f64::from(u32::try_from(more)?);
        ensure!(rx > 0.0 && rx * seconds <= more + 1.0, "{before}\n{after}");

        // Nothing comes any more, so that everybody counts the same.
        let quiet = loopback(&lab.json(&[&args[..], &["--interval", "0"]].concat())?)?;
        let theirs: Value = serde_json::from_str(&run(lab, "web-2", "ip -j -s link show lo")?)?;
        let (rx, tx) = (&theirs[0]["stats64"]["rx"], &theirs[0]["stats64"]["tx"]);
        let expected = json!({
            "interface": "lo", "index": theirs[0]["ifindex"], "rates": null,
            "rx_packets": rx["packets"], "rx_bytes": rx["bytes"], "rx_errors": rx["errors"],
            "rx_dropped": rx["dropped"], "multicast": rx["multicast"], "tx_packets": tx["packets"],
            "tx_bytes": tx["bytes"], "tx_errors": tx["errors"], "tx_dropped": tx["dropped"],
            "collisions": tx["collisions"],
        });
        ensure!(quiet == expected, "{quiet}\n{theirs}");
        let lines = run(lab, "web-2", "cat /proc/net/dev")?;
        let line = lines.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("lo")?;
        let columns: Vec<_> =
            line.split_whitespace().map(str::parse::<u64>).collect::<Result<_, _>>()?;
        ensure!(quiet["rx_bytes"] == columns[0] && quiet["rx_packets"] == columns[1], "{lines}");
        ensure!(quiet["tx_bytes"] == columns[8] && quiet["tx_packets"] == columns[9], "{lines}");

        let none = lab.kctl(&["net", "stats", "--interface", "eth7"])?.code(1)?;
        ensure!(none.stdout.contains("link \"eth7\": no such device"), "{none}");
        let table = lab.kctl(&["net", "stats", "--interval", "10ms", "-o", "wide"])?.code(0)?;
        ensure!(table.stdout.starts_with("HOST") && table.stdout.contains("RX/s"), "{table}");
        Ok(())
    })
}

#[test]
fn a_link_that_is_replaced_meanwhile_has_no_rate() -> Result<()> {
    with_lab(1, |lab| {
        let mut answer = Value::Null;
        // It is not there at every moment.
        until("a replaced link is told", 2 * SOON, || {
            let args = ["net", "stats", "--interval", "500ms", "-o", "json"];
            answer = std::thread::scope(|scope| -> Result<Value> {
                let watching = scope.spawn(|| lab.kctl(&args)?.json());
                while !watching.is_finished() {
                    run(lab, "web-1", "ip link add kt9 type bridge")?;
                    // It stands for most of the time: the kernel can tell its links in peace.
                    for _ in 0..10 {
                        run(lab, "web-1", "ip link show kt9")?;
                    }
                    run(lab, "web-1", "ip link del kt9")?;
                }
                watching.join().expect("no panic")
            })?;
            // Links that change faster than they are told are an error, which is no rate either.
            if answer[0]["error"]["code"] == "FAILED_PRECONDITION" {
                return Ok(false);
            }
            let stats = list(&answer[0], "stats")?;
            let link = |name: &str| stats.iter().find(|it| it["interface"] == name);
            ensure!(link("eth0").is_some_and(|it| it["rates"].is_object()), "{answer}");
            ensure!(link("kt9").is_none_or(|it| it["rates"].is_null()), "{answer}");
            Ok(link("kt9").is_some())
        })?;
        Ok(())
    })
}
