//! What happened before anybody asked.

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, with_lab};
use serde_json::Value;

use super::support::{SOON, now, of, only_opens, open};

const HOSTS: [&str; 3] = ["web-1", "web-2", "web-3"];

fn past(lab: &Lab, args: &[&str]) -> Result<Vec<Value>> {
    let output = lab.kctl(&[&["events", "-o", "jsonl"], args].concat())?.code(0)?;
    output.stdout.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
}

#[test]
fn the_newest_of_all_hosts_and_what_was_since() -> Result<()> {
    with_lab(3, |lab| {
        let paths: Vec<String> =
            HOSTS.iter().map(|host| only_opens(lab, host, &[])).collect::<Result<_>>()?;
        let begun = now()?;
        for round in 0..10 {
            for (host, path) in HOSTS.iter().zip(&paths) {
                // More of one host than of another.
                let count = if *host == "web-2" { 20 } else { 2 + round };
                lab.on_host(host, &open(lab, host, path, count, 0)?)?.code(0)?;
            }
        }
        let total = 10 * 20 + 2 * (0..10).map(|round| 2 + round).sum::<u64>();
        let all = |lab: &Lab| past(lab, &["--since", &begun, "--type", "open"]);
        let mut events = Vec::new();
        kctl_e2e::until("the history has all", SOON, || {
            events = all(lab)?;
            Ok(of(&events, "open").count() as u64 >= total)
        })?;
        let opens: Vec<Value> = of(&events, "open").cloned().collect();
        assert_eq!(opens.len() as u64, total);
        let times: Vec<_> = opens.iter().map(|event| event["time"].as_str()).collect();
        ensure!(times.is_sorted(), "{times:?}");
        let last = past(lab, &["--last", "100", "--type", "open"])?;
        let last: Vec<Value> = of(&last, "open").cloned().collect();
        assert_eq!(last, opens[opens.len() - 100..]);
        // Between two moments.
        let middle = opens[opens.len() / 2]["time"].as_str().context("a time")?;
        let until = past(lab, &["--since", &begun, "--until", middle, "--type", "open"])?;
        let expected: Vec<&Value> =
            opens.iter().filter(|event| event["time"].as_str() <= Some(middle)).collect();
        assert_eq!(of(&until, "open").collect::<Vec<_>>(), expected);
        // The controller dies; what it had is there still.
        lab.controller().kill9()?;
        lab.start_controller()?;
        lab.wait_in_sync(SOON)?;
        let again = all(lab)?;
        let again: Vec<Value> = of(&again, "open").cloned().collect();
        assert_eq!(again, opens);
        Ok(())
    })
}
