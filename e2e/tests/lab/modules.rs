//! `kctl modules` over the fleet. The hosts of the lab share one kernel, which may have no modules:
//! with `--all` there are those that are part of it.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use kctl_e2e::with_lab;
use serde_json::Value;

#[test]
fn every_host_tells_its_modules_and_their_parameters() -> Result<()> {
    with_lab(2, |lab| {
        lab.agent_mut("web-2")?.daemon.kill9()?;
        let rows = lab.json(&["modules", "--all"])?;
        assert_eq!(rows[1]["error"]["code"], "UNAVAILABLE", "{rows}");
        let modules = rows[0]["modules"].as_array().context("modules")?;
        let ours: BTreeSet<_> =
            modules.iter().filter_map(|module| module["name"].as_str()).collect();
        let theirs: Vec<_> = fs::read_dir("/sys/module")?
            .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
            .collect::<Result<_>>()?;
        assert_eq!(ours, theirs.iter().map(String::as_str).collect());
        // It is part of every kernel that can be booted with a console.
        let printk = modules.iter().find(|module| module["name"] == "printk").context("printk")?;
        assert_eq!((&printk["built_in"], &printk["users"]), (&true.into(), &Value::Null));
        let time = fs::read_to_string("/sys/module/printk/parameters/time")?;
        assert_eq!(printk["parameters"]["time"], time.trim(), "{printk}");

        // Those of /proc/modules alone; a kernel without modules has no such file.
        let loaded = fs::read_to_string("/proc/modules").unwrap_or_default();
        let local = lab.kctl_on("web-1", &["modules", "-o", "json"])?.code(0)?.json()?;
        let count = local[0]["modules"].as_array().context("modules")?.len();
        assert_eq!(count, loaded.lines().count(), "{local}");
        let args = ["modules", "--all", "--name", "printk", "--host", "web-1"];
        let table = lab.kctl(&[&args[..], &["-o", "wide"]].concat())?.code(0)?;
        ensure!(table.stdout.starts_with("HOST"), "{table}");
        ensure!(table.stdout.contains(&format!("time={}", time.trim())), "{table}");
        let jsonl = lab.kctl(&[&args[..], &["-o", "jsonl"]].concat())?.code(0)?;
        ensure!(jsonl.stdout.lines().count() == 1, "{jsonl}");
        Ok(())
    })
}
