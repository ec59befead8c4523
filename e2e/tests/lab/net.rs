//! `kctl net` over a fleet: what each host's kernel says, and a host that does not answer costs its
//! own row only.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, with_lab};
use serde_json::Value;

/// A read that nobody delays, in a debug build on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(1500);

fn rows(document: &Value) -> Result<&Vec<Value>> {
    document.as_array().with_context(|| format!("{document}: not a list"))
}

/// How many of each noun a host's own `ip` counts.
fn counted_by_ip(lab: &Lab, host: &str, words: &[&str]) -> Result<usize> {
    let mut command = Command::new("ip");
    command.arg("-j").args(words);
    let answer = lab.place(host)?.namespace.output(command)?.code(0)?;
    Ok(rows(&answer.json()?)?.len())
}

#[test]
fn every_host_tells_its_routes() -> Result<()> {
    with_lab(2, |lab| {
        let mut command = Command::new("ip");
        command.args(["route", "add", "blackhole", "10.51.0.0/16", "table", "100"]);
        lab.place("web-2")?.namespace.output(command)?.code(0)?;
        let answer = lab.json(&["net", "routes"])?;
        let answered = rows(&answer)?;
        ensure!(answered.len() == 2, "{answer}");
        for (row, host) in answered.iter().zip(["web-1", "web-2"]) {
            ensure!(row["host"] == host, "{answer}");
            let expected = counted_by_ip(lab, host, &["-4", "route", "show", "table", "all"])?
                + counted_by_ip(lab, host, &["-6", "route", "show", "table", "all"])?;
            ensure!(rows(&row["routes"])?.len() == expected, "{expected}: {row}");
        }
        let answer = lab.json(&["net", "routes", "--table", "100"])?;
        ensure!(answer[0]["routes"] == Value::Array(Vec::new()), "{answer}");
        ensure!(answer[1]["routes"][0]["dst"] == "10.51.0.0/16", "{answer}");
        ensure!(answer[1]["routes"][0]["type"] == "blackhole", "{answer}");

        // The same from the host itself, without the controller.
        let local = lab.kctl_on("web-2", &["net", "routes", "-o", "json"])?.code(0)?.json()?;
        let fleet = lab.json(&["net", "routes", "--host", "web-2"])?;
        ensure!(local == fleet, "{local}\n{fleet}");

        let none = lab.kctl(&["net", "routes", "--interface", "eth7"])?.code(1)?;
        ensure!(none.stdout.contains("link \"eth7\": no such device"), "{none}");
        Ok(())
    })
}

#[test]
fn every_noun_has_as_many_as_the_host_itself_counts() -> Result<()> {
    with_lab(1, |lab| {
        let run = |line: &str| -> Result<()> {
            let mut command = Command::new("ip");
            command.args(line.split(' '));
            lab.place("web-1")?.namespace.output(command)?.code(0).map(drop)
        };
        run("link add br7 type bridge")?;
        run("addr add 192.0.2.1/24 dev br7")?;
        run("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev br7 nud permanent")?;
        run("rule add from 192.0.2.0/24 lookup 7 priority 70")?;
        for (noun, words) in [
            ("links", &["link"][..]),
            ("addrs", &["addr", "show"]),
            ("rules", &["-4", "rule", "show"]),
        ] {
            let mut args = vec!["net", noun];
            args.extend((noun == "rules").then_some("-4"));
            let answer = lab.json(&args)?;
            let mut expected = counted_by_ip(lab, "web-1", words)?;
            if noun == "addrs" {
                let mut command = Command::new("ip");
                command.args(["-o", "addr", "show"]);
                let lines = lab.place("web-1")?.namespace.output(command)?.code(0)?;
                expected = lines.stdout.lines().count();
            }
            ensure!(rows(&answer[0][noun])?.len() == expected, "{expected}: {answer}");
            let table = lab.kctl(&["net", noun, "-o", "wide"])?.code(0)?;
            ensure!(table.stdout.starts_with("HOST"), "{table}");
        }
        let addrs = lab.json(&["net", "addrs", "--interface", "br7", "-4"])?;
        let addr = &addrs[0]["addrs"][0];
        ensure!(addr["interface"] == "br7" && addr["address"] == "192.0.2.1", "{addrs}");
        ensure!(addr["prefix_len"] == 24 && addr["valid_seconds"].is_null(), "{addrs}");
        let links = lab.json(&["net", "links", "--interface", "eth0"])?;
        let link = &links[0]["links"][0];
        ensure!(link["kind"] == "veth" && link["xdp"][0]["mode"] == "xdp-native", "{links}");
        ensure!(link["statistics"]["rx_packets"].as_u64() > Some(0), "{links}");
        let neigh = lab.json(&["net", "neigh", "--interface", "br7"])?;
        let known = serde_json::json!([{"family": "inet", "interface": "br7", "flags": [],
            "address": "192.0.2.9", "mac": "02:00:00:00:00:09", "state": "PERMANENT"}]);
        let permanent: Vec<_> =
            rows(&neigh[0]["neigh"])?.iter().filter(|row| row["state"] == "PERMANENT").collect();
        ensure!(serde_json::json!(permanent) == known, "{neigh}");
        let rules = lab.json(&["net", "rules", "-4"])?;
        let rule = rows(&rules[0]["rules"])?.iter().find(|rule| rule["priority"] == 70);
        let rule = rule.with_context(|| rules.to_string())?;
        ensure!(rule["src"] == "192.0.2.0/24" && rule["table"] == 7, "{rules}");
        Ok(())
    })
}

#[test]
fn a_frozen_host_costs_its_own_row_only() -> Result<()> {
    with_lab(3, |lab| {
        lab.agent("web-2")?.daemon.stop()?;
        let read = ["net", "routes", "--timeout", "1s"];
        let outcome = frozen(lab, &read);
        lab.agent("web-2")?.daemon.cont()?;
        outcome
    })
}

fn frozen(lab: &Lab, read: &[&str]) -> Result<()> {
    let answered =
        lab.kctl(&[read, &["--host", "web-1,web-3", "-o", "jsonl"]].concat())?.code(0)?;
    ensure!(answered.elapsed < AT_ONCE, "{answered}");

    let answer = lab.kctl(&[read, &["-o", "jsonl"]].concat())?.code(0)?;
    let lines: Vec<Value> =
        answer.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 3, "{answer}");
    ensure!(lines[..2].iter().all(|row| row["routes"].is_array()), "{answer}");
    ensure!(lines[2]["host"] == "web-2", "{answer}");
    ensure!(lines[2]["error"]["code"] == "DEADLINE_EXCEEDED", "{answer}");
    ensure!(answer.elapsed >= Duration::from_secs(1), "{answer}");

    let strict = lab.kctl(&[read, &["--strict", "-o", "json"]].concat())?.code(3)?;
    let document = strict.json()?;
    let hosts: Vec<_> = rows(&document)?.iter().map(|row| row["host"].clone()).collect();
    ensure!(hosts == ["web-1", "web-2", "web-3"], "{strict}");

    let table = lab.kctl(read)?.code(0)?;
    ensure!(table.stdout.contains("ERROR") && table.stdout.contains("web-2"), "{table}");
    lab.kctl(&[read, &["--host", "web-2"]].concat())?.code(1)?;
    Ok(())
}
