//! `sysinfo`: hosts as a whole.

use super::read::{self, ReadArgs, reads};
use crate::{
    args::Global,
    exit::Exit,
    time::{milliseconds, parse_duration},
    view::system::SystemView,
};
use clap::Args;
use kctl_proto::agent::v1 as agent;
use std::time::Duration;

/// Arguments of `sysinfo`.
#[derive(Debug, Args)]
pub(crate) struct SysinfoArgs {
    /// How long to watch where the CPU time goes, up to 5s
    #[arg(long, value_name = "DURATION", value_parser = parse_interval, default_value = "250ms")]
    interval: u32,
    #[command(flatten)]
    read: ReadArgs,
}

/// Runs `sysinfo`.
pub(crate) async fn run(global: &Global, args: SysinfoArgs) -> anyhow::Result<Exit> {
    let request = agent::GetSystemRequest { interval_ms: args.interval };
    let interval = Duration::from_millis(args.interval.into());
    read::watch(global, &args.read, &request, interval).await
}

/// In milliseconds.
pub(super) fn parse_interval(text: &str) -> Result<u32, String> {
    match u32::try_from(milliseconds(parse_duration(text)?)) {
        Ok(ms) if ms <= 5_000 => Ok(ms),
        _ => Err("must be at most 5s".to_owned()),
    }
}

reads! { system_service_client SystemServiceClient
    GetSystemRequest GetSystemResponse system get_system SystemView,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_short() {
        assert_eq!(parse_interval("5s"), Ok(5_000));
        for text in ["6s", "0s", "100d", "x"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }
}
