//! What gets past a filter of two sources, as nftables counts it in the stack behind.

use crate::{Addresses, DISCARD, Sent, TURNS};
use anyhow::{Context, Result, ensure};
use std::{
    array,
    io::Write as _,
    process::{Command, Stdio},
};

const TABLE: &str = "flood";
/// A counter for each of the frames that [`datagrams`](crate::datagrams) makes.
const COUNTERS: [&str; TURNS] = ["first4", "second4", "first6", "second6"];

/// Counts from now on which datagrams of these sources come into this thread's network namespace, and go no
/// further.
pub fn count_passed(sources: [Addresses; 2]) -> Result<()> {
    let [first, second] = sources;
    let matches = [
        format!("ip saddr {}", first.0),
        format!("ip saddr {}", second.0),
        format!("ip6 saddr {}", first.1),
        format!("ip6 saddr {}", second.1),
    ];
    let counters: String = COUNTERS.map(|name| format!("counter {name} {{ }}\n")).concat();
    let rules = array::from_fn::<_, TURNS, _>(|turn| {
        format!("{} udp dport {DISCARD} counter name {} drop\n", matches[turn], COUNTERS[turn])
    });
    let text = format!(
        "table inet {TABLE} {{\n{counters}\
         chain in {{\ntype filter hook prerouting priority -300\n{}}}\n}}\n",
        rules.concat()
    );
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    nft.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft: {text}");
    Ok(())
}

/// What came so far of each frame that [`datagrams`](crate::datagrams) makes.
pub fn passed() -> Result<[u64; TURNS]> {
    let mut nft = Command::new("nft");
    let output = nft.args(["-j", "list", "counters", "table", "inet", TABLE]).output()?;
    let said = || String::from_utf8_lossy(&output.stdout).into_owned();
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(said)?;
    let mut counts = [0; TURNS];
    for (name, count) in COUNTERS.iter().zip(&mut counts) {
        let all = listed["nftables"].as_array().with_context(said)?;
        let counter = all.iter().map(|it| &it["counter"]).find(|it| it["name"] == *name);
        *count = counter.and_then(|it| it["packets"].as_u64()).with_context(said)?;
    }
    Ok(counts)
}

/// Whether all that was sent of the second source has come: what the end of the pair had no room for never
/// came to the filter, whichever source it was of.
pub fn all_passed(sent: &Sent, passed: [u64; TURNS]) -> bool {
    passed[1] + passed[3] + sent.refused >= sent.turns[1] + sent.turns[3]
}

/// Whether nothing of the first source has come, and of the second some of each family, no more than was
/// sent.
pub fn only_second(sent: &Sent, passed: [u64; TURNS]) -> bool {
    let second = |turn: usize| (1..=sent.turns[turn]).contains(&passed[turn]);
    passed[0] == 0 && passed[2] == 0 && second(1) && second(3)
}

/// Whether a filter may have met so many of the first source.
pub fn all_met(sent: &Sent, met: u64) -> bool {
    let came = sent.turns[0] + sent.turns[2];
    (came.saturating_sub(sent.refused)..=came).contains(&met)
}
