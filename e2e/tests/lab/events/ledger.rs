//! Nothing is silently lost: whatever is too small or too slow, what was made is what is received and
//! what is told as lost, to the last one.

use anyhow::{Context, Result, ensure};
use kctl_e2e::{CONTROLLER, EventReader, Lab, metrics, sample, with_lab};
use serde_json::Value;
use std::time::Duration;

use super::support::{SOON, follow, in_order, lost, of, only_opens, open};

const MANY: u64 = 100_000;
/// A debug build on a busy machine prints some thousand lines a second.
const LONG: Duration = Duration::from_secs(120);

const KERNEL: &str = "kernel_ring";
const AGENT: &str = "agent_ring";
const READER: &str = "subscriber";

/// Waits until received and lost make up what was made, and no more.
fn balanced(reader: &mut EventReader, made: u64) -> Result<Vec<Value>> {
    let sum = |events: &[Value]| of(events, "open").count() as u64 + lost(events);
    let events = reader.wait_for("the ledger balances", LONG, |events| sum(events) >= made)?;
    assert_eq!(sum(&events), made, "{} received", of(&events, "open").count());
    in_order(&events, "web-1")?;
    Ok(events)
}

/// How many events the daemon of a place counts as lost at a stage.
fn counted(lab: &Lab, place: &str, stage: &str) -> Result<f64> {
    let name = format!("kctl_events_lost_total{{stage=\"{stage}\"}}");
    sample(&metrics(lab, place)?, &name)
}

/// Sees to it that what a daemon counts as lost at a stage since then is what the reader was told, and
/// that it is something. A connection that is made anew since a daemon stood still for too long takes what
/// it was told anew too; of what the kernel lost that makes no difference.
fn counts(lab: &Lab, place: &str, stage: &str, before: f64, events: &[Value]) -> Result<()> {
    let at_stage = of(events, "lost").filter(|event| event["lost"]["stage"] == stage);
    let told: u64 = at_stage.filter_map(|event| event["lost"]["count"].as_u64()).sum();
    ensure!(told > 0, "the load is too small to tell");
    let counted = counted(lab, place, stage)? - before;
    // What tells of a loss can itself be lost later on the way, and is told there.
    let all_there = stage == KERNEL && told == lost(events);
    let fits = if all_there { counted == told as f64 } else { counted >= told as f64 };
    ensure!(fits, "{counted} counted, {told} told");
    Ok(())
}

fn load(lab: &Lab, path: &str, count: u64, rate: u64) -> Result<()> {
    lab.on_host("web-1", &open(lab, "web-1", path, count, rate)?)?.code(0).map(drop)
}

#[test]
fn a_reader_that_is_stopped_for_a_while() -> Result<()> {
    with_lab(1, |lab| {
        let path = only_opens(lab, "web-1", &[])?;
        let mut reader = follow(lab, &[])?;
        load(lab, &path, 1, 0)?;
        reader.wait_for("it reads", SOON, |events| of(events, "open").count() == 1)?;
        let before = counted(lab, CONTROLLER, READER)?;
        reader.stop()?;
        load(lab, &path, 3 * MANY, 0)?;
        reader.cont()?;
        load(lab, &path, 1, 0)?;
        let events = balanced(&mut reader, 3 * MANY + 2)?;
        // On a machine where the load takes so long that its connection is given up, it comes back to the
        // history, which may have it all.
        let cut_off = reader.stderr()?.contains("trying again");
        if !cut_off {
            counts(lab, CONTROLLER, READER, before, &events)?;
        }
        // At its end it says so too.
        let (_, said, status) = reader.interrupt()?;
        ensure!(status.success(), "{status}");
        ensure!(cut_off || said.contains(" lost ("), "{said}");
        Ok(())
    })
}

#[test]
fn a_tiny_ring_of_the_kernel() -> Result<()> {
    with_lab(1, |lab| {
        let path = only_opens(lab, "web-1", &["--kernel-ring=16KiB"])?;
        let mut reader = follow(lab, &[])?;
        let before = counted(lab, "web-1", KERNEL)?;
        load(lab, &path, MANY, 0)?;
        let events = balanced(&mut reader, MANY)?;
        counts(lab, "web-1", KERNEL, before, &events)
    })
}

#[test]
fn a_tiny_ring_of_the_agent() -> Result<()> {
    with_lab(1, |lab| {
        let path = only_opens(lab, "web-1", &["--event-ring=64KiB"])?;
        let mut reader = follow(lab, &[])?;
        // Nobody fetches while the controller stands still.
        load(lab, &path, 1, 0)?;
        reader.wait_for("it reads", SOON, |events| of(events, "open").count() == 1)?;
        let before = counted(lab, "web-1", AGENT)?;
        lab.controller().stop()?;
        load(lab, &path, MANY, 0)?;
        lab.controller().cont()?;
        load(lab, &path, 1, 0)?;
        let events = balanced(&mut reader, MANY + 2)?;
        counts(lab, "web-1", AGENT, before, &events)
    })
}

#[test]
fn a_controller_that_is_killed_and_comes_back() -> Result<()> {
    with_lab(1, |lab| {
        let path = only_opens(lab, "web-1", &[])?;
        let mut reader = follow(lab, &[])?;
        let mut running = lab.spawn_on("web-1", &open(lab, "web-1", &path, 20_000, 5_000)?)?;
        reader.wait_for("the load runs", SOON, |events| of(events, "open").count() > 2_000)?;
        lab.controller().kill9()?;
        lab.start_controller()?;
        ensure!(running.child.wait()?.success(), "the load failed");
        let events = balanced(&mut reader, 20_000)?;
        let hosts: Vec<_> = of(&events, "open").map(|event| &event["host"]).collect();
        assert!(hosts.iter().all(|host| **host == "web-1"));
        reader.stderr()?.contains("lost").then_some(()).context("it says that it was cut off")
    })
}
