//! `kctl ipc` over the fleet. The hosts of the lab share one IPC namespace, that of the test.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use kctl_e2e::with_lab;
use serde_json::Value;

/// Shared memory of the test, removed at its end.
struct Segment(String);

impl Segment {
    fn make() -> Result<Self> {
        let output = Command::new("ipcmk").args(["-M", "12345", "-p", "0640"]).output()?;
        let said = String::from_utf8(output.stdout)?;
        let id = said.split_whitespace().last().with_context(|| said.clone())?;
        Ok(Self(id.to_owned()))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let _ = Command::new("ipcrm").args(["-m", &self.0]).status();
    }
}

/// A file of the test in /dev/shm, removed at its end.
struct Shared(PathBuf);

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn every_host_tells_what_its_processes_share() -> Result<()> {
    with_lab(2, |lab| {
        let segment = Segment::make()?;
        let name = format!("kctl-e2e-{}", std::process::id());
        let shared = Shared(PathBuf::from("/dev/shm").join(&name));
        fs::write(&shared.0, [0; 777])?;
        lab.agent_mut("web-2")?.daemon.kill9()?;

        let rows = lab.json(&["ipc"])?;
        assert_eq!(rows[1]["error"]["code"], "UNAVAILABLE", "{rows}");
        let find = |kind: &str, key: &str, value: &str| -> Result<&Value> {
            let mut objects = rows[0]["ipc"].as_array().into_iter().flatten();
            let found = objects
                .find(|it| it["kind"] == kind && it[key].to_string().trim_matches('"') == value);
            found.with_context(|| rows.to_string())
        };
        let shm = find("shm", "id", &segment.0)?;
        assert_eq!((&shm["size_bytes"], &shm["attached"]), (&12_345.into(), &0.into()));
        assert_eq!((&shm["permissions"], &shm["user"]), (&"0640".into(), &"root".into()));
        ensure!(shm["attach_time"].is_null() && shm["change_time"].is_string(), "{shm}");
        let ipcs = Command::new("ipcs").args(["-m", "-i", &segment.0]).output()?;
        let ipcs = String::from_utf8(ipcs.stdout)?;
        ensure!(ipcs.contains("bytes=12345"), "{ipcs}");
        ensure!(ipcs.contains(&format!("cpid={}\t", shm["creator_pid"])), "{ipcs} {shm}");
        let file = find("posix_shm", "name", &name)?;
        assert_eq!(file["size_bytes"], 777, "{file}");

        let local = lab.kctl_on("web-1", &["ipc", "-o", "jsonl"])?.code(0)?;
        ensure!(local.stdout.lines().count() == 1 && local.stdout.contains(&name), "{local}");
        let table = lab.kctl(&["ipc", "-o", "wide"])?.code(0)?;
        ensure!(table.stdout.starts_with("HOST") && table.stdout.contains(&name), "{table}");
        Ok(())
    })
}
