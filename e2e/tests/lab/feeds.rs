//! Feeds, from a file to the kernels: a swap under a flood, overlaps, hosts without room, restarts.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, BYSTANDER, Lab, Pinger, STORM_BLOCKED, Storm, ping, until, with_lab};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// Entries of a feed that is swapped: enough to take the agents a while.
const ENTRIES: u32 = 20_000;

/// A file of a feed: these lines, then `ENTRIES` addresses from 10.64.0.0 on, `shift` further.
fn file(lab: &Lab, name: &str, lines: &[&str], shift: u32) -> Result<PathBuf> {
    let mut text = String::from("; a feed\n");
    for line in lines {
        writeln!(text, "{line} ; listed")?;
    }
    for n in 0..ENTRIES {
        writeln!(text, "{}", std::net::Ipv4Addr::from(0x0a40_0000 + shift + n))?;
    }
    let path = lab.scratch().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

fn import(lab: &Lab, feed: &str, file: &std::path::Path) -> Result<Value> {
    let file = file.display().to_string();
    let args = ["blocklist", "import", "--name", feed, "--file", &file, "--all-hosts"];
    lab.json(&[&args[..], &["--timeout", "30s"]].concat())
}

fn answers(lab: &Lab, from: &str, host: &str) -> Result<bool> {
    let received = ping(&lab.place(from)?.namespace, None, lab.place(host)?.v4.into(), 3)?;
    ensure!(received == 0 || received == 3, "{host} answered {received} of 3 pings of {from}");
    Ok(received == 3)
}

fn statuses(answer: &Value) -> Vec<&str> {
    let hosts = answer["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    hosts.iter().filter_map(|host| host["status"].as_str()).collect()
}

#[test]
fn a_swap_lets_nothing_pass_that_both_feeds_block_and_loses_nobody_else_a_packet() -> Result<()> {
    with_lab(1, |lab| {
        let token = lab.token(&[])?;
        let tcx = &mut lab.add_host(&token)?.daemon;
        tcx.arg("--mode");
        tcx.arg("tcx");
        tcx.start()?;
        lab.wait_in_sync(SOON)?;
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        let (storm4, storm6) = (STORM_BLOCKED.0.to_string(), STORM_BLOCKED.1.to_string());
        let all = [attacker.as_str(), &storm4, &storm6];
        let (one, two) = (file(lab, "one", &all, 0)?, file(lab, "two", &all, ENTRIES / 2)?);
        let answer = import(lab, "drop", &one)?;
        assert_eq!(statuses(&answer), ["applied"; 2]);
        assert_eq!(answer["feed"]["entries"], ENTRIES + 3);
        ensure!(!answers(lab, ATTACKER, "web-1")?, "the attacker is blocked");

        let host = lab.place("web-1")?.v4.into();
        let blocked = Pinger::start(&lab.place(ATTACKER)?.namespace, None, host)?;
        let free = Pinger::start(&lab.place(BYSTANDER)?.namespace, None, host)?;
        until("both ask", SOON, || Ok(blocked.tally().sent > 20 && free.tally().replies > 20))?;
        let before = blocked.tally().sent;
        let swap = |file: &PathBuf| -> Result<()> {
            let answer = import(lab, "drop", file)?;
            assert_eq!(statuses(&answer), ["applied"; 2]);
            assert_eq!(answer["feed"]["added"], ENTRIES / 2);
            Ok(())
        };
        [&two, &one, &two, &one].into_iter().try_for_each(swap)?;
        let flood = blocked.tally();
        ensure!(flood.sent > before + 20, "a flood all along: {flood:?}");
        assert_eq!(flood.replies, 0, "not one packet passes");
        until("every request of the bystander is answered", SOON, || {
            let tally = free.tally();
            // The last requests may be under way.
            Ok(tally.sent - tally.replies < 20)
        })?;
        drop((blocked, free));
        // And as fast as it can be, which leaves no room for others on the way.
        let storms = [Storm::start(lab, "web-1")?, Storm::start(lab, "web-2")?];
        [&two, &one].into_iter().try_for_each(swap)?;
        storms.into_iter().try_for_each(|storm| storm.end(lab).map(drop))?;
        lab.wait_in_sync(SOON).map(drop)
    })
}

#[test]
fn an_address_of_two_feeds_and_a_block_is_dropped_until_the_last_goes() -> Result<()> {
    with_lab(1, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        let path = lab.scratch().join("feed");
        std::fs::write(&path, format!("{attacker}\n10.64.0.0/16\n"))?;
        ensure!(answers(lab, ATTACKER, "web-1")?, "nothing is blocked yet");
        import(lab, "a", &path)?;
        import(lab, "b", &path)?;
        lab.kctl(&["block", &attacker, "--all-hosts"])?.code(0)?;
        let gone = |feed: &str| {
            let args = ["blocklist", "import", "--name", feed, "--file", "/dev/null"];
            let refused = lab.kctl(&[&args[..], &["--all-hosts"]].concat())?.code(1)?;
            ensure!(refused.stderr.contains("--allow-empty"), "{refused}");
            lab.kctl(&[&args[..], &["--all-hosts", "--allow-empty"]].concat())?.code(0)
        };
        gone("a")?;
        ensure!(!answers(lab, ATTACKER, "web-1")?, "feed b and the block are left");
        lab.kctl(&["unblock", &attacker, "--all-hosts"])?.code(0)?;
        ensure!(!answers(lab, ATTACKER, "web-1")?, "feed b is left");
        let rows = lab.json(&["blocklist", "--prefix", &attacker])?;
        assert_eq!(rows[0]["source"], "feed:b", "{rows}");
        ensure!(rows[0]["packets"].as_u64() >= Some(3), "{rows}");
        gone("b")?;
        ensure!(answers(lab, ATTACKER, "web-1")?, "nothing is left");
        assert_eq!(lab.json(&["blocklist", "feeds"])?, json!([]));
        Ok(())
    })
}

#[test]
fn a_host_without_room_fails_keeps_what_it_has_and_the_others_take_the_feed() -> Result<()> {
    with_lab(1, |lab| {
        let token = lab.token(&[])?;
        let small = lab.add_host(&token)?;
        small.daemon.arg("--max-entries");
        small.daemon.arg("1000");
        small.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        let small_feed = lab.scratch().join("small");
        std::fs::write(&small_feed, format!("{attacker}\n"))?;
        import(lab, "drop", &small_feed)?;

        let large = file(lab, "large", &["10.63.0.0/16"], 0)?.display().to_string();
        let args = ["blocklist", "import", "--name", "drop", "--all-hosts", "--file", &large];
        let dry = lab.kctl(&[&args[..], &["--dry-run", "-o", "json"]].concat())?.code(3)?.json()?;
        let foreseen: Vec<_> = dry["forecast"].as_array().context("forecast")?.iter().collect();
        assert_eq!(foreseen[0]["added"], ENTRIES + 1);
        ensure!(foreseen[0]["error"].is_null(), "{dry}");
        assert_eq!(foreseen[1]["error"]["code"], "RESOURCE_EXHAUSTED", "{dry}");
        ensure!(!answers(lab, ATTACKER, "web-1")?, "a dry run changes nothing");

        let real = lab.kctl(&[&args[..], &["--timeout", "30s", "-o", "json"]].concat())?;
        let real = real.code(3)?.json()?;
        assert_eq!(statuses(&real), ["applied", "failed"]);
        assert_eq!(real["hosts"][1]["error"]["code"], "RESOURCE_EXHAUSTED", "{real}");
        ensure!(answers(lab, ATTACKER, "web-1")?, "the new feed does not have the attacker");
        ensure!(!answers(lab, ATTACKER, "web-2")?, "the full host keeps the old feed whole");
        let host = lab.host("web-2")?;
        assert_eq!(host["filter"]["in_sync"], false, "{host}");
        // Smaller again, it follows.
        import(lab, "drop", &small_feed)?;
        lab.wait_in_sync(SOON).map(drop)
    })
}

#[test]
fn a_feed_outlives_agent_and_controller_and_comes_back_as_it_went() -> Result<()> {
    with_lab(1, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        let path = file(lab, "feed", &[&attacker, "2001:db8:1::/48"], 0)?;
        let imported = import(lab, "drop", &path)?;
        let exported = lab.kctl(&["blocklist", "export", "--name", "drop"])?.code(0)?;
        let back = lab.scratch().join("back");
        std::fs::write(&back, &exported.stdout)?;
        let again = import(lab, "drop", &back)?;
        assert_eq!(again["revision"], imported["revision"], "an export changes nothing");
        assert_eq!(again["feed"]["added"], 0);

        lab.agent_mut("web-1")?.daemon.kill9()?;
        ensure!(!answers(lab, ATTACKER, "web-1")?, "the kernel filters without its agent");
        lab.controller().kill9()?;
        lab.start_controller()?;
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(Duration::from_secs(30))?;
        ensure!(!answers(lab, ATTACKER, "web-1")?, "it is blocked still");
        let rows = lab.json(&["blocklist", "--source", "feed:drop"])?;
        let rows = rows.as_array().context("rows")?;
        let distinct: BTreeSet<_> = rows.iter().map(|row| row["prefix"].as_str()).collect();
        assert_eq!(distinct.len(), usize::try_from(ENTRIES)? + 2);
        // The host itself tells the same, and one entry of it can be put out of force there.
        let local = lab.kctl_on("web-1", &["blocklist", "--prefix", &attacker, "-o", "json"])?;
        assert_eq!(local.code(0)?.json()?[0]["source"], "feed:drop");
        lab.kctl_on("web-1", &["unblock", &attacker, "--force"])?.code(0)?;
        ensure!(answers(lab, ATTACKER, "web-1")?, "it is suspended");
        let rows = lab.json(&["blocklist", "--prefix", &attacker])?;
        assert_eq!(rows[0]["suspended_on"], json!(["web-1"]), "{rows}");
        Ok(())
    })
}

#[test]
fn what_must_stay_reachable_is_refused_with_its_line_and_protected_by_the_guard() -> Result<()> {
    with_lab(1, |lab| {
        let attacker = lab.place(ATTACKER)?.v4.to_string();
        let listed = lab.scratch().join("listed");
        std::fs::write(&listed, format!("# partners\n{attacker}\n"))?;
        let listed = listed.display().to_string();
        let protect = ["blocklist", "import", "--name", "partners", "--action", "protect"];
        lab.kctl(&[&protect[..], &["--all-hosts", "--file", &listed]].concat())?.code(0)?;

        let path = lab.scratch().join("feed");
        let own = lab.place("web-1")?.v4.to_string();
        std::fs::write(&path, format!("10.64.0.0/16\n{own}\n{attacker}\n127.0.0.0/8\n"))?;
        let path = path.display().to_string();
        let args = ["blocklist", "import", "--name", "drop", "--all-hosts", "--file", &path];
        let refused = lab.kctl(&args)?.code(1)?;
        for line in ["line 2: ", "line 3: ", "line 4: "] {
            ensure!(refused.stderr.contains(line), "{line}: {refused}");
        }
        ensure!(refused.stderr.contains("3 prefixes refused, nothing was changed"), "{refused}");
        assert_eq!(lab.json(&["blocklist", "feeds"])?.as_array().map(Vec::len), Some(1));

        let forced =
            lab.kctl(&[&args[..], &["--force", "-o", "json"]].concat())?.code(0)?.json()?;
        ensure!(forced["warnings"].to_string().contains("never-block list"), "{forced}");
        ensure!(answers(lab, ATTACKER, "web-1")?, "the guard lets it pass");
        let none = ["--all-hosts", "--file", "/dev/null", "--allow-empty"];
        lab.kctl(&[&protect[..], &none].concat())?.code(0)?;
        ensure!(!answers(lab, ATTACKER, "web-1")?, "with the partners gone it is blocked");
        Ok(())
    })
}
