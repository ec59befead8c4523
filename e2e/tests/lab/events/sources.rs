//! Processes, connections and the network: each event on the one host that it happened on.

use std::{fs, os::unix::fs::symlink, process::Command};

use anyhow::{Context, Result};
use kctl_e2e::{Lab, with_lab};
use serde_json::{Value, json};

use super::support::{SOON, follow, on};

/// The one event of a type on a host that satisfies a condition, and none on the other hosts.
fn only<'a>(
    events: &'a [Value],
    kind: &'a str,
    host: &str,
    condition: impl Fn(&Value) -> bool,
) -> Result<&'a Value> {
    let found: Vec<&Value> =
        events.iter().filter(|event| event["type"] == kind && condition(&event[kind])).collect();
    match found.as_slice() {
        [one] if one["host"] == host => Ok(one),
        other => anyhow::bail!("{kind} on {host}: {other:?}"),
    }
}

fn python(lab: &Lab, host: &str, code: &str) -> Result<kctl_e2e::Output> {
    lab.on_host(host, Command::new("python3").args(["-c", code]))?.code(0)
}

#[test]
fn a_process_is_told_by_its_own_host() -> Result<()> {
    with_lab(3, |lab| {
        let mut reader = follow(lab, &["--type", "exec,exit"])?;
        // A name that nobody else has.
        let program = lab.scratch().join("odd name");
        symlink(fs::canonicalize("/bin/sh")?, &program)?;
        let path = program.to_str().context("UTF-8")?;
        let mut command = Command::new(&program);
        command.args(["-c", "exit 7", "an argument", "", "ünï"]);
        lab.on_host("web-2", &command)?.code(7)?;
        let events = reader.wait_for("its end is told", SOON, |events| {
            on(events, "exit", "web-2").any(|event| event["exit"]["code"] == 7)
        })?;
        let exec = only(&events, "exec", "web-2", |exec| exec["path"] == path)?;
        let exec = &exec["exec"];
        assert_eq!(exec["argv"], json!([path, "-c", "exit 7", "an argument", "", "ünï"]));
        assert_eq!(exec["argv_truncated"], false);
        assert_eq!((&exec["comm"], &exec["uid"]), (&json!("odd name"), &json!(0)));
        let exit = only(&events, "exit", "web-2", |exit| exit["pid"] == exec["pid"])?;
        assert_eq!(exit["exit"]["code"], 7);
        assert_eq!(exit["exit"]["signal"], Value::Null);
        assert_eq!(on(&events, "exec", "web-1").count() + on(&events, "exec", "web-3").count(), 0);
        Ok(())
    })
}

#[test]
fn a_connection_is_told_by_both_of_its_hosts() -> Result<()> {
    with_lab(3, |lab| {
        let mut reader = follow(lab, &["--type", "connect,accept,close"])?;
        for to in lab.place("web-2")?.addresses() {
            let from = lab.place("web-1")?.addresses()[usize::from(to.is_ipv6())].to_string();
            let to = to.to_string();
            let server = format!(
                "import socket\ns = socket.create_server(('{to}', 4711), family=socket.AF_INET6 if ':' in '{to}' else socket.AF_INET)\n\
                 c, _ = s.accept()\nn = 0\nwhile True:\n  d = c.recv(65536)\n  if not d: break\n  n += len(d)\n\
                 c.sendall(b'x' * 10)\nc.close()\nprint(n)"
            );
            let mut command = Command::new("python3");
            command.args(["-c", &server]);
            let mut server = lab.spawn_on("web-2", &command)?;
            let client = format!(
                "import socket, time\nfor _ in range(200):\n  try:\n    s = socket.create_connection(('{to}', 4711)); break\n  \
                 except ConnectionRefusedError: time.sleep(0.05)\ns.sendall(b'y' * 100000)\ns.shutdown(socket.SHUT_WR)\n\
                 print(s.getsockname()[1])\nwhile s.recv(100): pass"
            );
            let port = python(lab, "web-1", &client)?.stdout.trim().parse::<u16>()?;
            assert!(server.child.wait()?.success());
            let is = |event: &Value| event["src_port"] == port || event["dst_port"] == port;
            let events = reader.wait_for("both ends are told", SOON, |events| {
                ["web-1", "web-2"]
                    .iter()
                    .all(|host| on(events, "close", host).any(|event| is(&event["close"])))
            })?;
            let connect = only(&events, "connect", "web-1", is)?;
            let accept = only(&events, "accept", "web-2", is)?;
            for event in [&connect["connect"], &accept["accept"]] {
                assert_eq!((&event["src"], &event["dst"]), (&json!(from), &json!(to)), "{event}");
                assert_eq!((&event["src_port"], &event["dst_port"]), (&json!(port), &json!(4711)));
                assert_eq!(event["comm"], "python3", "{event}");
            }
            let closed = |host| on(&events, "close", host).find(|event| is(&event["close"]));
            let (here, there) = (closed("web-1").context("one")?, closed("web-2").context("one")?);
            assert_eq!(
                (&here["close"]["bytes_sent"], &here["close"]["bytes_received"]),
                (&json!(100_000), &json!(10))
            );
            assert_eq!(
                (&there["close"]["bytes_sent"], &there["close"]["bytes_received"]),
                (&json!(10), &json!(100_000))
            );
        }
        Ok(())
    })
}

#[test]
fn changes_of_the_network_are_those_that_ip_shows() -> Result<()> {
    with_lab(2, |lab| {
        let mut reader =
            follow(lab, &["--type", "link,addr,route,neigh", "--host", "web-1,web-2"])?;
        let ip = |lab: &Lab, words: &str| {
            let mut command = Command::new("ip");
            command.args(words.split(' '));
            lab.on_host("web-1", &command)?.code(0)
        };
        ip(lab, "link add kx0 type veth peer name kx1")?;
        ip(lab, "addr add 10.99.0.1/24 dev kx0")?;
        ip(lab, "link set kx0 up")?;
        ip(lab, "link set kx1 up")?;
        ip(lab, "route add 10.98.0.0/16 via 10.99.0.9 dev kx0 metric 77")?;
        ip(lab, "neigh add 10.99.0.9 lladdr 02:00:00:00:00:09 dev kx0")?;
        let links = ip(lab, "-j link show kx0")?.json()?;
        reader.wait_for("the last is told", SOON, |events| {
            on(events, "neigh", "web-1").any(|event| event["neigh"]["address"] == "10.99.0.9")
        })?;
        ip(lab, "link del kx0")?;
        let events = reader.wait_for("its end is told", SOON, |events| {
            on(events, "link", "web-1")
                .any(|event| event["link"]["change"] == "removed" && event["link"]["name"] == "kx0")
        })?;
        let added = only(&events, "link", "web-1", |link| {
            link["change"] == "added" && link["name"] == "kx0"
        })?;
        assert_eq!(added["link"]["index"], links[0]["ifindex"]);
        assert_eq!(added["link"]["mac"], links[0]["address"]);
        assert_eq!(added["link"]["kind"], "veth");
        let addr = only(&events, "addr", "web-1", |addr| {
            addr["change"] == "added" && addr["address"] == "10.99.0.1"
        })?;
        assert_eq!(
            (&addr["addr"]["prefix_len"], &addr["addr"]["interface"]),
            (&json!(24), &json!("kx0"))
        );
        let route = only(&events, "route", "web-1", |route| {
            route["change"] == "added" && route["dst"] == "10.98.0.0/16"
        })?;
        assert_eq!(
            (&route["route"]["gateway"], &route["route"]["metric"]),
            (&json!("10.99.0.9"), &json!(77))
        );
        let neigh = only(&events, "neigh", "web-1", |neigh| {
            neigh["change"] == "added" && neigh["address"] == "10.99.0.9"
        })?;
        assert_eq!(neigh["neigh"]["mac"], "02:00:00:00:00:09");
        Ok(())
    })
}
