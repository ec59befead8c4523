//! Expiry belongs to the kernel: it comes on time with nobody left to enforce it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kctl_e2e::{ATTACKER, Pinger, until, with_lab};

#[test]
fn a_ttl_ends_on_time_with_every_agent_and_the_controller_frozen() -> Result<()> {
    with_lab(3, |lab| {
        let attacker = lab.place(ATTACKER)?;
        let [v4, v6] = attacker.addresses().map(|address| address.to_string());
        let hosts: Vec<_> = lab.hosts().map(str::to_owned).collect();

        let before = Instant::now();
        lab.kctl(&["block", &v4, &v6, "--all-hosts", "--ttl", "2s"])?.code(0)?;
        let after = Instant::now();
        for host in &hosts {
            lab.agent(host)?.daemon.stop()?;
        }
        lab.controller().stop()?;

        let attacker = &lab.place(ATTACKER)?.namespace;
        let mut pingers = Vec::new();
        for host in &hosts {
            for address in lab.place(host)?.addresses() {
                pingers.push((address, Pinger::start(attacker, None, address)?));
            }
        }
        let mut first_replies = vec![None; pingers.len()];
        until("every host answers again", Duration::from_secs(10), || {
            for ((_, pinger), first) in pingers.iter().zip(&mut first_replies) {
                if first.is_none() && pinger.tally().replies > 0 {
                    *first = Some(Instant::now());
                }
            }
            Ok(first_replies.iter().all(Option::is_some))
        })?;
        for ((address, pinger), first) in pingers.iter().zip(first_replies.into_iter().flatten()) {
            // Not before the TTL has passed since the earliest moment that the host can have begun
            // it at, and soon after it has passed since the latest.
            let earliest = first.saturating_duration_since(before);
            let latest = first.saturating_duration_since(after);
            ensure!(earliest >= Duration::from_secs(2), "{address}: open after {earliest:?}");
            ensure!(latest <= Duration::from_millis(2500), "{address}: open after {latest:?}");
            let tally = pinger.tally();
            ensure!(tally.sent > tally.replies + 500, "{address}: {tally:?} was hardly blocked");
        }
        Ok(())
    })
}
