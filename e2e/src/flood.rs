//! An attacker that is blocked everywhere and goes on all the same.

use crate::{ATTACKER, Lab, Pinger, until};
use anyhow::{Result, ensure};
use std::{net::IpAddr, time::Duration};

const SOON: Duration = Duration::from_secs(60);

/// Blocks every address of the attacker on all hosts.
pub fn block_attacker(lab: &Lab) -> Result<()> {
    let [v4, v6] = lab.place(ATTACKER)?.addresses().map(|address| address.to_string());
    lab.kctl(&["block", &v4, &v6, "--all-hosts", "--timeout", "10s"])?.code(0).map(drop)
}

/// Continuous pings from the attacker to every address of every host.
pub fn flood(lab: &Lab) -> Result<Vec<(IpAddr, Pinger)>> {
    let attacker = &lab.place(ATTACKER)?.namespace;
    let mut pingers = Vec::new();
    for host in lab.hosts() {
        for address in lab.place(host)?.addresses() {
            pingers.push((address, Pinger::start(attacker, None, address)?));
        }
    }
    Ok(pingers)
}

/// Fails when a ping was answered.
pub fn nothing_passed(pingers: &[(IpAddr, Pinger)]) -> Result<()> {
    for (address, pinger) in pingers {
        // A busy machine sends fewer in the same time.
        until("enough was sent to tell", SOON, || Ok(pinger.tally().sent > 500))?;
        let tally = pinger.tally();
        ensure!(tally.replies == 0, "{address}: {tally:?}");
    }
    Ok(())
}
