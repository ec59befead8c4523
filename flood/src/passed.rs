//! What gets past a filter of two sources, as nftables counts it in the stack behind.

use crate::Sent;
use anyhow::{Context, Result, ensure};
use std::{
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

const TABLE: &str = "flood";
const COUNTERS: [&str; 2] = ["first", "second"];

/// Counts from now on what comes of these sources into this thread's network namespace, and goes no further.
pub fn count_passed(sources: [Ipv4Addr; 2]) -> Result<()> {
    let [first, second] = COUNTERS;
    let text = format!(
        "table ip {TABLE} {{\ncounter {first} {{ }}\ncounter {second} {{ }}\n\
         chain in {{\ntype filter hook prerouting priority -300\n\
         ip saddr {} counter name {first} drop\nip saddr {} counter name {second} drop\n}}\n}}\n",
        sources[0], sources[1]
    );
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    nft.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft: {text}");
    Ok(())
}

/// What came so far of the first and of the second source.
pub fn passed() -> Result<[u64; 2]> {
    let mut nft = Command::new("nft");
    let output = nft.args(["-j", "list", "counters", "table", "ip", TABLE]).output()?;
    let said = || String::from_utf8_lossy(&output.stdout).into_owned();
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(said)?;
    let of = |name: &str| {
        let all = listed["nftables"].as_array()?;
        let counter = all.iter().map(|it| &it["counter"]).find(|it| it["name"] == name)?;
        counter["packets"].as_u64()
    };
    let [first, second] = COUNTERS.map(of);
    Ok([first.with_context(said)?, second.with_context(said)?])
}

/// Whether all that was sent of the second source has come: what the end of the pair had no room for never
/// came to the filter, whichever source it was of.
pub fn all_passed(sent: &Sent, passed: [u64; 2]) -> bool {
    passed[1] + sent.refused >= sent.turns[1]
}
