//! What the tests of events share.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};
use kctl_e2e::{EventReader, Lab};
use serde_json::Value;

/// Generous: debug builds, and a machine that may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The time now as `--since` takes it.
pub(crate) fn now() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A reader of everything from now on.
pub(crate) fn follow(lab: &Lab, args: &[&str]) -> Result<EventReader> {
    lab.events(&[&["-f", "--since", &now()?], args].concat())
}

/// A host's agent with more arguments: it is started anew, and waited for.
pub(crate) fn with_args(lab: &mut Lab, host: &str, args: &[String]) -> Result<()> {
    let daemon = &mut lab.agent_mut(host)?.daemon;
    daemon.terminate()?;
    for arg in args {
        daemon.arg(arg);
    }
    daemon.start()?;
    lab.wait_in_sync(SOON).map(drop)
}

/// Those of a type.
pub(crate) fn of<'a>(events: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["type"] == kind)
}

/// Those of a type and host.
pub(crate) fn on<'a>(
    events: &'a [Value],
    kind: &'a str,
    host: &'a str,
) -> impl Iterator<Item = &'a Value> {
    of(events, kind).filter(move |event| event["host"] == host)
}

/// How many events are told as lost.
pub(crate) fn lost(events: &[Value]) -> u64 {
    of(events, "lost").filter_map(|event| event["lost"]["count"].as_u64()).sum()
}

/// Opens a file so many times as a process of a host, at so many a second.
pub(crate) fn open(lab: &Lab, host: &str, path: &str, count: u64, rate: u64) -> Result<Command> {
    // The host must be there.
    lab.agent(host)?;
    let mut command = Command::new(lab.binaries().join("kctl-lab-load"));
    command.args([path, &count.to_string(), &rate.to_string()]);
    Ok(command)
}

/// An agent that tells of nothing but opens of one file.
pub(crate) fn only_opens(lab: &mut Lab, host: &str, more: &[&str]) -> Result<String> {
    let path = lab.scratch().join(format!("opened on {host}"));
    std::fs::write(&path, "")?;
    let path = path.to_str().context("UTF-8")?.to_owned();
    let args = ["--events=open".to_owned(), format!("--open-path={path}")];
    let more = more.iter().map(|arg| (*arg).to_owned());
    with_args(lab, host, &args.into_iter().chain(more).collect::<Vec<_>>())?;
    Ok(path)
}

/// Every event of a host once, in the order of its numbers.
pub(crate) fn in_order(events: &[Value], host: &str) -> Result<()> {
    let numbers: Vec<_> = events
        .iter()
        .filter(|event| event["host"] == host)
        .map(|event| (event["boot_id"].as_str().unwrap_or_default(), event["seq"].as_u64()))
        .collect();
    let wrong = numbers.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].1 >= pair[1].1);
    anyhow::ensure!(wrong.is_none(), "{host}: {wrong:?}");
    Ok(())
}
