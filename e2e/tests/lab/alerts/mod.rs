//! Alerts: told once when a value crosses its threshold and once when it is over. Hosts of the lab share
//! a kernel: system calls, page faults and switches are those of the host's cgroup, links those of its
//! network namespace, and file systems those of the machine.

mod fleet;
mod support;
mod values;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use kctl_e2e::{EventReader, with_lab};
use serde_json::Value;
use support::{Disk, HOST, SOON, firing, follow, states, with_thresholds};

/// Maps a mebibyte, has the kernel fill it with zeros, and gives it back.
const FAULTS: &str = "open(my $zero, '<', '/dev/zero'); while (1) { \
    my $at = syscall(9, 0, 1 << 20, 3, 0x22, -1, 0); \
    syscall(0, fileno($zero), $at, 1 << 20); syscall(11, $at, 1 << 20) }";

#[test]
fn a_load_fires_once_and_is_over_once_and_its_process_is_named() -> Result<()> {
    with_lab(1, |lab| {
        let chosen = [
            ("--alert-syscalls", "2000 clear 1000"),
            ("--alert-faults", "2000 clear 1000"),
            ("--alert-switches", "400 clear 100"),
        ];
        with_thresholds(lab, &chosen, "500ms")?;
        let mut events = follow(lab)?;
        let loads = [
            ("syscalls", "while (1) { syscall(110) }"),
            ("faults", FAULTS),
            ("switches", "while (1) { select(undef, undef, undef, 0.0002) }"),
        ];
        for (name, program) in loads {
            let mut perl = Command::new("perl");
            perl.args(["-e", program]);
            let load = lab.spawn_on(HOST, &perl)?;
            let pid = load.child.id();
            let of_it = |events: &[Value], state: &str| -> Vec<Value> {
                let alerts = events.iter().map(|event| &event["alert"]);
                let of = alerts.filter(|it| it["name"] == name && it["state"] == state);
                of.filter(|it| it["cause"]["pid"] == pid).cloned().collect()
            };
            let fires = |events: &[Value]| !of_it(events, "firing").is_empty();
            let told = events.wait_for(&format!("{name} fires"), SOON, fires)?;
            let alert = &of_it(&told, "firing")[0];
            assert_eq!((&alert["cause"]["comm"], &alert["unit"]), (&"perl".into(), &"/s".into()));
            ensure!(alert["value"].as_f64() >= alert["threshold"].as_f64(), "{alert}");
            ensure!(alert["cause"]["value"].as_f64() > Some(0.0), "{alert}");
            ensure!(alert["object"].is_null(), "{alert}");
            if name == "syscalls" {
                assert_eq!(alert["cause"]["syscall"], "getppid", "{alert}");
                let row = firing(lab)?;
                let same = row.iter().find(|it| it["name"] == name).context("in hosts")?;
                assert_eq!(same, alert);
                let text = lab.kctl(&["hosts", "describe", HOST])?.code(0)?;
                ensure!(text.stdout.contains("syscalls FIRING"), "{text}");
                ensure!(text.stdout.contains(&format!("perl[{pid}]")), "{text}");
            }
            drop(load);
            let over = |events: &[Value]| !of_it(events, "cleared").is_empty();
            let told = events.wait_for(&format!("{name} is over"), SOON, over)?;
            let cleared = &of_it(&told, "cleared")[0];
            assert_eq!(cleared["since"], alert["since"], "{cleared}");
            ensure!(cleared["value"].as_f64() < Some(2_000.0), "{cleared}");
            assert_eq!((of_it(&told, "firing").len(), of_it(&told, "cleared").len()), (1, 1));
        }
        let none_fires = || Ok(firing(lab)?.is_empty());
        kctl_e2e::until("nothing fires", SOON, none_fires)?;
        // For people, and for spreadsheets.
        let text = lab.kctl(&["events", "--last", "100", "--type", "alert", "--comm", "perl"])?;
        ensure!(text.code(0)?.stdout.contains("alert   syscalls FIRING"), "a line");
        let filter = "alert.name == 'faults' && alert.state == 'cleared'";
        let args = ["events", "--last", "100", "--filter", filter, "-o", "csv"];
        let csv = lab.kctl(&args)?.code(0)?;
        ensure!(csv.stdout.contains(",alert,") && csv.stdout.contains("cleared"), "{csv}");
        Ok(())
    })
}

#[test]
fn to_and_fro_within_the_hysteresis_is_silent() -> Result<()> {
    with_lab(1, |lab| {
        let chosen = [
            ("--alert-disk", "90 clear 50"),
            ("--alert-link", "6 clear 3"),
            ("--alert-memory", "0.001"),
        ];
        let daemon = &mut lab.agent_mut(HOST)?.daemon;
        daemon.arg("--alert-link-window=1h");
        with_thresholds(lab, &chosen, "0s")?;
        let (disk, clock) = (Disk::mount(lab, "disk")?, Disk::mount(lab, "clock")?);
        let mut events = follow(lab)?;
        let ip = |args: &str| {
            let mut command = Command::new("ip");
            command.args(args.split(' '));
            lab.on_host(HOST, &command)?.code(0).map(drop)
        };
        ip("link add v0 type veth peer name v1")?;
        ip("link set v0 up")?;
        ip("link set v1 up")?;
        clock.wait_for_a_look(&mut events)?;

        // A file system.
        let of_disk = |events: &EventReader| -> Result<Vec<String>> {
            let events = events.events()?;
            let states = states(&events, "disk", &disk.object());
            Ok(states.into_iter().map(str::to_owned).collect())
        };
        for percent in [89, 95, 60, 100, 51, 95, 55] {
            disk.fill(percent)?;
            clock.wait_for_a_look(&mut events)?;
            let expected: &[&str] = if percent == 89 { &[] } else { &["firing"] };
            assert_eq!(of_disk(&events)?, expected, "{percent} %");
        }
        let row = firing(lab)?.into_iter().find(|it| it["object"] == disk.object());
        let row = row.context("it fires")?;
        ensure!(row["value"].as_f64().is_some_and(|it| (94.0..96.0).contains(&it)), "{row}");
        ensure!(row["cause"].is_null(), "{row}");
        disk.fill(40)?;
        clock.wait_for_a_look(&mut events)?;
        assert_eq!(of_disk(&events)?, ["firing", "cleared"]);

        // A link. Each loss of the carrier is a change, and each return.
        let of_link = |events: &EventReader| -> Result<Vec<String>> {
            let events = events.events()?;
            let states = states(&events, "link", &"v0".into());
            Ok(states.into_iter().map(str::to_owned).collect())
        };
        for (round, expected) in
            [(1, &[][..]), (2, &[]), (3, &["firing"]), (4, &["firing"]), (5, &["firing"])]
        {
            ip("link set v1 down")?;
            ip("link set v1 up")?;
            clock.wait_for_a_look(&mut events)?;
            assert_eq!(of_link(&events)?, expected, "{round}");
        }
        // What is gone is over.
        ip("link del v0")?;
        clock.wait_for_a_look(&mut events)?;
        assert_eq!(of_link(&events)?, ["firing", "cleared"]);
        let told = events.events()?;
        let last = told.iter().rfind(|it| it["alert"]["object"] == "v0").context("told")?;
        ensure!(last["alert"]["value"].is_null(), "{last}");

        // Memory is of the whole machine, and some process has most of it.
        let row = firing(lab)?.into_iter().find(|it| it["name"] == "memory").context("fires")?;
        ensure!(row["cause"]["pid"].is_u64() && row["cause"]["comm"].is_string(), "{row}");
        Ok(())
    })
}
