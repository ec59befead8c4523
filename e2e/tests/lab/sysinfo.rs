//! `kctl sysinfo` over the fleet. The hosts of the lab share one kernel, which the test reads as well.

use std::fs;

use anyhow::{Context, Result, ensure};
use kctl_e2e::with_lab;

#[test]
fn every_host_tells_what_its_kernel_is_and_how_busy() -> Result<()> {
    with_lab(2, |lab| {
        lab.agent_mut("web-2")?.daemon.kill9()?;
        let rows = lab.json(&["sysinfo", "--interval", "100ms"])?;
        let rows = rows.as_array().context("rows")?;
        ensure!(rows.len() == 2, "{rows:?}");
        let local = lab.kctl_on("web-1", &["sysinfo", "-o", "json"])?.code(0)?.json()?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        for row in [&rows[0], &local[0]] {
            assert_eq!(row["host"], "web-1", "{row}");
            assert_eq!(row["kernel"], kernel.trim(), "{row}");
            let bits: u64 = fs::read_to_string("/proc/sys/kernel/tainted")?.trim().parse()?;
            let taint = row["taint"].as_array().context("taint")?;
            assert_eq!(taint.len(), bits.count_ones() as usize, "{row}");
            let cpu = &row["cpu"];
            let shares = ["user", "system", "idle", "iowait", "steal"];
            let share = |name| cpu[format!("{name}_percent")].as_f64();
            let total: f64 = shares.into_iter().filter_map(share).sum();
            ensure!((total - 100.0).abs() < 0.1, "{row}");
            ensure!(row["memory"]["total_bytes"].as_u64() > row["memory"]["used_bytes"].as_u64());
        }
        assert_eq!(rows[1]["host"], "web-2");
        assert_eq!(rows[1]["error"]["code"], "UNAVAILABLE");
        let table = lab.kctl(&["sysinfo", "-o", "wide"])?.code(0)?;
        ensure!(table.stdout.contains(kernel.trim()), "{table}");
        Ok(())
    })
}
