//! Block and unblock, from kctl to the kernels: single addresses, prefixes, ports, VLANs, and which
//! entry wins.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{
    ATTACKER, BYSTANDER, Capture, Datagram, FrameSender, Lab, Place, ping, until, with_lab,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const PINGS: u32 = 5;

#[test]
fn an_address_is_dropped_on_every_host_until_it_is_unblocked() -> Result<()> {
    with_lab(3, |lab| {
        let [v4, v6] = lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
        everybody_answers(lab, ATTACKER, None)?;

        let answer = lab.json(&["block", &v4, &v6, "--all-hosts", "--reason", "scanner"])?;
        assert_eq!(answer["prefixes"], json!([format!("{v4}/32"), format!("{v6}/128")]));
        assert_eq!(statuses(&answer), ["applied"; 3]);
        nobody_answers(lab, ATTACKER, None)?;
        everybody_answers(lab, BYSTANDER, None)?;

        let entries = lab.json(&["blocklist"])?;
        let entry = &entries[0];
        assert_eq!(entry["prefix"], format!("{v4}/32"));
        assert_eq!(entry["reason"], "scanner");
        assert_eq!(entry["source"], "user:admin");
        assert_eq!(entry["hosts"], json!({"all": true}));
        for row in lab.json(&["stats"])?.as_array().context("stats is an array")? {
            let dropped = row["packets"]["dropped"].as_u64();
            ensure!(dropped >= Some(2 * u64::from(PINGS)), "{row}");
            assert_eq!(row["top_sources"].as_array().map(Vec::len), Some(2), "{row}");
        }

        lab.kctl(&["unblock", &v4, &v6, "--all-hosts"])?.code(0)?;
        everybody_answers(lab, ATTACKER, None)?;
        assert_eq!(lab.json(&["blocklist"])?, json!([]));
        Ok(())
    })
}

#[test]
fn a_prefix_covers_an_address_inside_and_not_one_beside() -> Result<()> {
    with_lab(3, |lab| {
        lab.kctl(&["block", "10.78.1.0/24", "fd78:0:0:1::/64", "--all-hosts"])?.code(0)?;
        for (inside, beside) in Place::in_prefix(1).into_iter().zip(Place::in_prefix(2)) {
            nobody_answers(lab, ATTACKER, Some(inside))?;
            everybody_answers(lab, ATTACKER, Some(beside))?;
        }
        everybody_answers(lab, ATTACKER, None)?;
        lab.kctl(&["unblock", "10.78.1.0/24", "fd78:0:0:1::/64", "--all-hosts"])?.code(0)?;
        for inside in Place::in_prefix(1) {
            everybody_answers(lab, ATTACKER, Some(inside))?;
        }
        Ok(())
    })
}

#[test]
fn tagged_frames_get_the_same_verdicts() -> Result<()> {
    with_lab(1, |lab| {
        let host = lab.place("web-1")?;
        let sender = FrameSender::open(&lab.place(ATTACKER)?.namespace)?;
        let mut capture = Capture::start(&host.namespace)?;
        // One address blocked as itself, one by its prefix, one not at all.
        let attacker = lab.place(ATTACKER)?.addresses();
        let [blocked_v4, blocked_v6] = attacker.map(|address| address.to_string());
        let prefixes = ["10.78.1.0/24", "fd78:0:0:1::/64"];
        lab.kctl(&[&["block", &blocked_v4, &blocked_v6, "--all-hosts"][..], &prefixes].concat())?
            .code(0)?;

        for (family, destination) in host.addresses().into_iter().enumerate() {
            for vlans in [vec![], vec![5], vec![5, 7]] {
                let mut send = |source: IpAddr, payload: &str| -> Result<usize> {
                    let payload = format!("{payload} from {source} with tags {vlans:?}");
                    let payload = payload.into_bytes();
                    let vlans = vlans.clone();
                    let datagram =
                        Datagram { source, destination, vlans, payload: payload.clone() };
                    let before = dropped(lab, "web-1")?;
                    sender.send(&datagram, &host.namespace)?;
                    // Either way something must be seen: the frame itself or its drop.
                    let what = format!("{}: passed or dropped", String::from_utf8_lossy(&payload));
                    until(&what, SOON, || {
                        Ok(capture.count(&payload) > 0 || dropped(lab, "web-1")?.0 > before.0)
                    })?;
                    let (packets, bytes) = dropped(lab, "web-1")?;
                    if packets > before.0 {
                        // The whole frame with its tags was looked at.
                        assert_eq!(
                            (packets, bytes),
                            (before.0 + 1, before.1 + datagram.frame_length())
                        );
                    }
                    Ok(capture.count(&payload))
                };
                for source in [attacker[family], Place::in_prefix(1)[family]] {
                    assert_eq!(send(source, "blocked")?, 0, "{source} {vlans:?}");
                }
                let free = Place::in_prefix(2)[family];
                assert_eq!(send(free, "free")?, 1, "{free} {vlans:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn an_inner_entry_never_shadows_an_outer_drop() -> Result<()> {
    with_lab(1, |lab| {
        let prefixes = ["10.78.1.0/24", "fd78:0:0:1::/64"];
        let inside = Place::in_prefix(1);
        let texts = inside.map(|address| address.to_string());
        lab.kctl(&[&["block", "--all-hosts"][..], &prefixes].concat())?.code(0)?;

        // An inner drop that expires.
        lab.kctl(&["block", &texts[0], &texts[1], "--all-hosts", "--ttl", "300ms"])?.code(0)?;
        nobody_answers(lab, ATTACKER, Some(inside[0]))?;
        until("the inner entries have expired", SOON, || {
            Ok(lab.json(&["blocklist"])?.as_array().map(Vec::len) == Some(2))
        })?;
        // An inner monitor.
        lab.kctl(&["block", &texts[0], &texts[1], "--all-hosts", "--monitor"])?.code(0)?;
        for address in inside {
            nobody_answers(lab, ATTACKER, Some(address))?;
        }

        // Without the outer drop the monitor only counts.
        lab.kctl(&[&["unblock", "--all-hosts"][..], &prefixes].concat())?.code(0)?;
        for address in inside {
            everybody_answers(lab, ATTACKER, Some(address))?;
        }
        let hit = lab.json(&["blocklist", "--hits"])?;
        for address in &texts {
            let entry = entry_of(&hit, address)?;
            assert_eq!(entry["action"], "monitor");
            assert_eq!(entry["packets"], PINGS, "{entry}");
        }
        Ok(())
    })
}

#[test]
fn a_port_entry_drops_that_port_only() -> Result<()> {
    with_lab(1, |lab| {
        let host = lab.place("web-1")?;
        let addresses = [80, 81].map(|port| SocketAddr::from((host.v4, port)));
        let [closed, open] = host.namespace.within(|| addresses.map(TcpListener::bind))?;
        let _listening = (closed?, open?);
        let attacker = lab.place(ATTACKER)?;
        let connects = |address: SocketAddr| -> Result<bool> {
            let patience = Duration::from_millis(500);
            let stream =
                attacker.namespace.within(|| TcpStream::connect_timeout(&address, patience))?;
            Ok(stream.is_ok())
        };
        assert!(connects(addresses[0])?);
        let v4 = attacker.v4.to_string();
        lab.kctl(&["block", &v4, "--port", "80/tcp", "--all-hosts"])?.code(0)?;
        assert!(!connects(addresses[0])?);
        assert!(connects(addresses[1])?);
        assert_eq!(ping(&attacker.namespace, None, host.v4.into(), PINGS)?, PINGS);
        // Removing the entry without naming its port would be another entry.
        lab.kctl(&["unblock", &v4, "--all-hosts"])?.code(1)?;
        lab.kctl(&["unblock", &v4, "--port", "80/tcp", "--all-hosts"])?.code(0)?;
        assert!(connects(addresses[0])?);
        Ok(())
    })
}

#[test]
fn a_block_on_some_hosts_leaves_the_others_alone() -> Result<()> {
    with_lab(3, |lab| {
        let v4 = lab.place(ATTACKER)?.v4.to_string();
        let answers = |lab: &Lab| -> Result<Vec<bool>> {
            let attacker = &lab.place(ATTACKER)?.namespace;
            lab.hosts()
                .map(|host| Ok(ping(attacker, None, lab.place(host)?.v4.into(), 2)? == 2))
                .collect()
        };
        let answer = lab.json(&["block", &v4, "--host", "web-1,web-3"])?;
        assert_eq!(statuses(&answer), ["applied"; 2]);
        assert_eq!(answers(lab)?, [false, true, false]);
        lab.kctl(&["unblock", &v4, "--host", "web-1,web-3"])?.code(0)?;

        // A narrower unblock is an exception.
        lab.kctl(&["block", &v4, "-l", "role=web"])?.code(0)?;
        assert_eq!(answers(lab)?, [false; 3]);
        lab.kctl(&["unblock", &v4, "--host", "web-2"])?.code(0)?;
        assert_eq!(answers(lab)?, [false, true, false]);
        lab.kctl(&["unblock", &v4, "-l", "role=web"])?.code(0)?;
        assert_eq!(answers(lab)?, [true; 3]);
        Ok(())
    })
}

/// Pings every host on both its addresses, or with `source` on the one of its family.
fn replies(lab: &Lab, from: &str, source: Option<IpAddr>) -> Result<Vec<(String, IpAddr, u32)>> {
    let mut replies = Vec::new();
    for host in lab.hosts() {
        for to in lab.place(host)?.addresses() {
            if source.is_none_or(|source| source.is_ipv4() == to.is_ipv4()) {
                let received = ping(&lab.place(from)?.namespace, source, to, PINGS)?;
                replies.push((host.to_owned(), to, received));
            }
        }
    }
    Ok(replies)
}

fn everybody_answers(lab: &Lab, from: &str, source: Option<IpAddr>) -> Result<()> {
    let replies = replies(lab, from, source)?;
    ensure!(replies.iter().all(|reply| reply.2 == PINGS), "{from} {source:?}: {replies:?}");
    Ok(())
}

fn nobody_answers(lab: &Lab, from: &str, source: Option<IpAddr>) -> Result<()> {
    let replies = replies(lab, from, source)?;
    ensure!(replies.iter().all(|reply| reply.2 == 0), "{from} {source:?}: {replies:?}");
    Ok(())
}

/// Dropped packets and bytes of one host.
fn dropped(lab: &Lab, host: &str) -> Result<(u64, u64)> {
    let stats = lab.json(&["stats", "--host", host])?;
    let count = |unit: &str| stats[0][unit]["dropped"].as_u64().context("stats without a count");
    Ok((count("packets")?, count("bytes")?))
}

fn statuses(answer: &Value) -> Vec<&str> {
    let hosts = answer["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    hosts.iter().filter_map(|host| host["status"].as_str()).collect()
}

fn entry_of<'a>(entries: &'a Value, address: &str) -> Result<&'a Value> {
    let entries = entries.as_array().context("blocklist is an array")?;
    let starts = format!("{address}/");
    let matches =
        |entry: &&Value| entry["prefix"].as_str().is_some_and(|prefix| prefix.starts_with(&starts));
    entries.iter().find(matches).with_context(|| format!("{address}: no entry"))
}
