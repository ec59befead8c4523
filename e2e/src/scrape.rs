//! What the daemons tell over HTTP, as curl gets it.

use crate::{CONTROLLER, Lab};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    /// 0 without any.
    pub status: u16,
    /// Without its headers.
    pub body: String,
}

/// Where the daemon of a place, a host's agent or the controller, serves its metrics unless it is told
/// otherwise.
pub fn metrics_url(place: &str) -> &'static str {
    if place == CONTROLLER { "http://127.0.0.1:7480" } else { "http://127.0.0.1:7481" }
}

/// Runs curl at a place.
pub fn curl(lab: &Lab, place: &str, args: &[&str]) -> Result<Answer> {
    let mut command = Command::new("curl");
    command.args(["-s", "--max-time", "30", "--noproxy", "*", "-w", "\n%{http_code}"]).args(args);
    let output = lab.place(place)?.namespace.output(command)?;
    let (body, status) = output.stdout.rsplit_once('\n').context("a status")?;
    Ok(Answer { status: status.parse()?, body: body.to_owned() })
}

/// The metrics of the daemon of a place.
pub fn metrics(lab: &Lab, place: &str) -> Result<String> {
    let answer = curl(lab, place, &[&format!("{}/metrics", metrics_url(place))])?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body)
}

/// The value of a sample, with its labels as they are written.
pub fn sample(metrics: &str, name: &str) -> Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("{name} in {metrics}"))?.parse()?)
}
