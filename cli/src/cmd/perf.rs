//! `perf`: what kernels are busy with, interval by interval.

mod asks;
mod rounds;

use super::hosts;
use super::read::{ReadArgs, asks};
use crate::{
    args::Global,
    connect::Target,
    exit::{Exit, usage},
    output::Format,
    time::{milliseconds, parse_duration},
};
use asks::Asks;
use clap::{Args, ValueEnum};
use kctl_proto::agent::v1 as agent;
use rounds::{Rounds, Shown};
use std::cell::RefCell;

/// Arguments of `perf`.
#[derive(Debug, Args)]
pub(crate) struct PerfArgs {
    /// How long to count for each row, 100ms to 5m
    #[arg(long, value_name = "DURATION", value_parser = parse_interval, default_value = "5s")]
    interval: u32,
    /// So many intervals [default: until Ctrl-C; with -o json and yaml 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// What a line is of [default: host, or what --syscalls and --pid are about]
    #[arg(long, value_enum, value_name = "WHAT")]
    by: Option<By>,
    /// Only these system calls, by name
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', conflicts_with = "pid")]
    syscalls: Vec<String>,
    /// Only this process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// At most so many system calls or processes of each host, those with the most
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    top: u32,
    #[command(flatten)]
    read: ReadArgs,
}

/// What a line is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    // Plain comments: with doc comments clap would print a list.
    Host,
    Syscall,
    Process,
}

impl PerfArgs {
    fn by(&self) -> anyhow::Result<By> {
        let implied = match (self.syscalls.is_empty(), self.pid) {
            (false, _) => Some(By::Syscall),
            (_, Some(_)) => Some(By::Process),
            _ => None,
        };
        match (self.by, implied) {
            (Some(By::Host | By::Process), Some(By::Syscall)) => {
                Err(usage("--syscalls is about --by syscall"))
            }
            (Some(By::Host | By::Syscall), Some(By::Process)) => {
                Err(usage("--pid is about --by process; system calls are not counted by both"))
            }
            (by, implied) => Ok(by.or(implied).unwrap_or(By::Host)),
        }
    }
}

/// Runs `perf`.
pub(crate) async fn run(global: &Global, args: PerfArgs) -> anyhow::Result<Exit> {
    let (format, by) = (global.format()?, args.by()?);
    let target = Target::of(global)?;
    let selection = args.read.selection(&target)?;
    // One document has an end.
    let once = matches!(format, Format::Json | Format::Yaml).then_some(1);
    let request = agent::WatchCountersRequest {
        interval_ms: args.interval,
        count: args.count.or(once).unwrap_or_default(),
        by_syscall: by == By::Syscall,
        by_process: by == By::Process,
        syscalls: args.syscalls.clone(),
        pid: args.pid.unwrap_or_default(),
        top: args.top,
    };
    let connection = target.connect(global).await?;
    let known = hosts::rows_over(&connection, &target, selection.clone()).await?;
    let known = known.into_iter().map(|host| host.name).collect();
    let shown = match by {
        By::Host => Shown::Hosts,
        By::Syscall => Shown::Syscalls,
        By::Process => Shown::Processes,
    };
    let rounds = RefCell::new(Rounds::new(format, shown, known));
    let asks = Asks { connection: &connection, target: &target, request, rounds: &rounds };
    tokio::select! {
        biased;
        Ok(()) = tokio::signal::ctrl_c() => {}
        told = asks.run(selection) => told?,
    }
    rounds.into_inner().finish(args.read.strict())
}

/// In milliseconds.
fn parse_interval(text: &str) -> Result<u32, String> {
    match u32::try_from(milliseconds(parse_duration(text)?)) {
        Ok(ms @ 100..=300_000) => Ok(ms),
        _ => Err("must be 100ms to 5m".to_owned()),
    }
}

asks! { perf_service_client PerfServiceClient
    WatchCountersRequest WatchCountersResponse watch_counters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_limits() {
        assert_eq!(parse_interval("5m"), Ok(300_000));
        for text in ["6m", "99ms", "0s", "x"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }
}
