//! `sysinfo`: hosts as a whole.

use super::read::{self, Read, ReadArgs};
use crate::{
    args::Global,
    exit::Exit,
    time::{milliseconds, parse_duration},
    view::system::SystemView,
};
use clap::Args;
use kctl_proto::{
    agent::v1::{self as agent, system_service_client::SystemServiceClient as AgentClient},
    controller::v1::{self as api, system_service_client::SystemServiceClient as FleetClient},
};
use tonic::{Response, Status, Streaming, transport::Channel};

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
    read::run(global, &args.read, &request).await
}

/// In milliseconds.
fn parse_interval(text: &str) -> Result<u32, String> {
    match u32::try_from(milliseconds(parse_duration(text)?)) {
        Ok(ms) if ms <= 5_000 => Ok(ms),
        _ => Err("must be at most 5s".to_owned()),
    }
}

impl Read for agent::GetSystemRequest {
    type Part = agent::GetSystemResponse;
    type Twin = api::GetSystemResponse;
    type Record = SystemView;

    async fn of_agent(&self, channel: Channel) -> Result<Response<Streaming<Self::Part>>, Status> {
        AgentClient::new(channel).get_system(*self).await
    }

    async fn of_fleet(
        &self,
        channel: Channel,
        selection: Option<agent::Selection>,
        timeout_ms: u64,
    ) -> Result<Response<Streaming<Self::Twin>>, Status> {
        // A host that watches is not silent.
        let timeout_ms = timeout_ms.saturating_add(self.interval_ms.into());
        let request = api::GetSystemRequest { selection, timeout_ms, request: Some(*self) };
        FleetClient::new(channel).get_system(request).await
    }

    fn records(part: Self::Part) -> Vec<SystemView> {
        part.system.into_iter().map(SystemView::from).collect()
    }
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
