//! `cargo xtask bench`: runs the benchmarks and puts what they measured side by side.

mod feeds;
mod fleet;
mod flow;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    cargo::{cargo, project},
    packages,
};

/// Criterion's folder of results, below the build's.
const RESULTS: &str = "target/criterion";
/// The row that the others are compared with.
const OURS: &str = "kctl";

/// One measured row.
#[derive(Debug, PartialEq)]
struct Row {
    group: String,
    name: String,
    median: Duration,
}

/// What criterion writes beside its estimates.
#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: String,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    /// Nanoseconds.
    point_estimate: f64,
}

/// Runs the benchmarks whose names hold `filter`, and prints medians and ratios. Some take minutes, and
/// run only when they are asked for.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    match filter {
        Some("flow") => return flow::run(),
        Some("feeds") => return feeds::run(),
        Some("fleet") => return fleet::run(),
        // Their figures are of one moment: they put them side by side themselves.
        Some(own @ ("counters" | "events" | "filter")) => {
            packages::ensure_bench("bench")?;
            let mut bench = cargo();
            bench.args(["bench", "--package", "agent-kernel", "--bench", own]);
            ensure!(bench.status().context("cargo bench")?.success(), "the benchmark failed");
            return Ok(());
        }
        _ => {}
    }
    packages::ensure_bench("bench")?;
    let results = project().join(RESULTS);
    // Those of another run would be shown as of this one.
    match fs::remove_dir_all(&results) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut benches = cargo();
    benches.args(["bench", "--package", "agent-kernel", "--bench", "reads", "--"]);
    benches.args(filter).env("CRITERION_HOME", &results);
    ensure!(benches.status().context("cargo bench")?.success(), "the benchmarks failed");
    let rows = rows(&results)?;
    ensure!(!rows.is_empty(), "no benchmark has such a name");
    print!("{}", table(&rows));
    Ok(())
}

fn rows(results: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for group in folders(results)? {
        for function in folders(&group)? {
            let new = function.join("new");
            if !new.is_dir() {
                continue;
            }
            let benchmark: Benchmark = json(&new.join("benchmark.json"))?;
            let estimates: Estimates = json(&new.join("estimates.json"))?;
            rows.push(Row {
                group: benchmark.group_id,
                name: benchmark.function_id,
                median: Duration::from_secs_f64(estimates.median.point_estimate / 1e9),
            });
        }
    }
    // Ours first, and then the fastest.
    rows.sort_by(|a, b| {
        let key = |row: &Row| (row.group.clone(), row.name != OURS, row.median);
        key(a).cmp(&key(b))
    });
    Ok(rows)
}

fn folders(parent: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(parent).with_context(|| parent.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = &row.group;
            text.push_str(&format!("\n{group:<34}{:>12}   kctl takes\n", "median"));
        }
        let ours = rows.iter().find(|it| it.group == row.group && it.name == OURS);
        let ratio = ours.filter(|_| row.name != OURS).map_or_else(String::new, |ours| {
            format!("   {:.2} of it", ours.median.as_secs_f64() / row.median.as_secs_f64())
        });
        let median = format!("{:.1?}", row.median);
        text.push_str(&format!("  {:<32}{median:>12}{ratio}\n", row.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_beside_ours() {
        let row = |name: &str, us| Row {
            group: "processes".to_owned(),
            name: name.to_owned(),
            median: Duration::from_micros(us),
        };
        let lines = [
            String::new(),
            format!("{:<34}{:>12}   kctl takes", "processes", "median"),
            format!("  {:<32}{:>12}", "kctl", "8.0ms"),
            format!("  {:<32}{:>12}   0.20 of it", "ps aux", "40.0ms"),
            String::new(),
        ];
        let expected = lines.join("\n");
        assert_eq!(table(&[row("kctl", 8_000), row("ps aux", 40_000)]), expected);
    }
}
