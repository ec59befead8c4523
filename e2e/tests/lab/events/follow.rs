//! A reader that stays while parts of the path come and go.

use anyhow::{Result, ensure};
use kctl_e2e::with_lab;
use serde_json::Value;

use super::support::{SOON, follow, in_order, lost, of, on, only_opens, open};

#[test]
fn through_a_restart_of_the_controller_with_no_gap_and_no_repeat() -> Result<()> {
    with_lab(2, |lab| {
        let paths = [only_opens(lab, "web-1", &[])?, only_opens(lab, "web-2", &[])?];
        let mut reader = follow(lab, &["--type", "open"])?;
        let mut running = Vec::new();
        for (host, path) in ["web-1", "web-2"].iter().zip(&paths) {
            running.push(lab.spawn_on(host, &open(lab, host, path, 8_000, 2_000)?)?);
        }
        reader.wait_for("the load runs", SOON, |events| of(events, "open").count() > 1_000)?;
        lab.controller().terminate()?;
        lab.start_controller()?;
        for load in &mut running {
            ensure!(load.child.wait()?.success(), "the load failed");
        }
        let sum = |events: &[Value]| of(events, "open").count() as u64 + lost(events);
        let events = reader.wait_for("all have come", SOON, |events| sum(events) >= 16_000)?;
        assert_eq!(sum(&events), 16_000);
        // Both agents' rings have room for all of it.
        assert_eq!(lost(&events), 0);
        in_order(&events, "web-1")?;
        in_order(&events, "web-2")
    })
}

fn started(events: &[Value]) -> usize {
    on(events, "host", "web-1").filter(|it| it["host_state"]["state"] == "agent_started").count()
}

#[test]
fn through_a_restart_of_an_agent() -> Result<()> {
    with_lab(1, |lab| {
        let path = only_opens(lab, "web-1", &[])?;
        let mut reader = follow(lab, &["--type", "open"])?;
        let touch = |lab: &kctl_e2e::Lab, count| {
            lab.on_host("web-1", &open(lab, "web-1", &path, count, 0)?)?.code(0).map(drop)
        };
        touch(lab, 100)?;
        reader.wait_for("they are read", SOON, |events| of(events, "open").count() == 100)?;
        for (starts, kill) in [(1, false), (2, true)] {
            match kill {
                true => lab.agent_mut("web-1")?.daemon.kill9()?,
                false => lab.agent_mut("web-1")?.daemon.terminate().map(drop)?,
            }
            lab.agent_mut("web-1")?.daemon.start()?;
            // From then on it sees what processes do.
            reader.wait_for("the agent is back", SOON, |events| started(events) == starts)?;
            touch(lab, 100)?;
            // What an agent had not read yet when it was killed would be gone.
            let all = 100 + 100 * starts;
            let what = "those of now are read";
            reader.wait_for(what, SOON, |events| of(events, "open").count() == all)?;
        }
        let events = reader.events()?;
        in_order(&events, "web-1")?;
        // The numbers go on: with nothing lost there is a number for each event.
        assert_eq!(lost(&events), 0);
        assert_eq!(started(&events), 2);
        Ok(())
    })
}
