//! `net`: what routing netlink tells of hosts.

use super::read::{self, Read, ReadArgs};
use crate::{args::Global, exit::Exit, view::net::RouteView};
use clap::{Args, Subcommand};
use kctl_proto::{
    agent::v1::{self as agent, netlink_service_client::NetlinkServiceClient as AgentClient},
    controller::v1::{self as api, netlink_service_client::NetlinkServiceClient as FleetClient},
};
use tonic::{Response, Status, Streaming, transport::Channel};

/// Arguments of `net`.
#[derive(Debug, Args)]
pub(crate) struct NetArgs {
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Debug, Subcommand)]
enum NetCommand {
    /// Routes of every table, IPv4 and IPv6
    Routes(RoutesArgs),
}

#[derive(Debug, Args)]
struct RoutesArgs {
    #[command(flatten)]
    family: FamilyArgs,
    /// Only of this table: main, local, default or a number
    #[arg(long, value_name = "TABLE", value_parser = parse_table)]
    table: Option<u32>,
    /// Only through this interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct FamilyArgs {
    /// Only IPv4
    #[arg(short = '4')]
    inet: bool,
    /// Only IPv6
    #[arg(short = '6')]
    inet6: bool,
}

impl FamilyArgs {
    fn family(&self) -> agent::Family {
        match (self.inet, self.inet6) {
            (true, _) => agent::Family::Inet,
            (_, true) => agent::Family::Inet6,
            _ => agent::Family::Unspecified,
        }
    }
}

/// Runs `net`.
pub(crate) async fn run(global: &Global, args: NetArgs) -> anyhow::Result<Exit> {
    match args.command {
        NetCommand::Routes(args) => {
            let request = agent::ListRoutesRequest {
                family: args.family.family().into(),
                table: args.table.unwrap_or_default(),
                interface: args.interface.unwrap_or_default(),
            };
            read::run(global, &args.read, &request).await
        }
    }
}

fn parse_table(text: &str) -> Result<u32, String> {
    match text {
        "default" => Ok(253),
        "main" => Ok(254),
        "local" => Ok(255),
        number => match number.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err("must be main, local, default or a number from 1".to_owned()),
        },
    }
}

impl Read for agent::ListRoutesRequest {
    type Part = agent::ListRoutesResponse;
    type Twin = api::ListRoutesResponse;
    type Record = RouteView;

    async fn of_agent(&self, channel: Channel) -> Result<Response<Streaming<Self::Part>>, Status> {
        AgentClient::new(channel).list_routes(self.clone()).await
    }

    async fn of_fleet(
        &self,
        channel: Channel,
        selection: Option<agent::Selection>,
        timeout_ms: u64,
    ) -> Result<Response<Streaming<Self::Twin>>, Status> {
        let request = Some(self.clone());
        let request = api::ListRoutesRequest { selection, timeout_ms, request };
        FleetClient::new(channel).list_routes(request).await
    }

    fn records(part: Self::Part) -> Vec<RouteView> {
        part.routes.into_iter().map(RouteView::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_names_and_numbers() {
        assert_eq!(parse_table("main"), Ok(254));
        assert_eq!(parse_table("4294967295"), Ok(u32::MAX));
        for text in ["", "0", "mine", "-1", "4294967296"] {
            assert!(parse_table(text).is_err(), "{text:?}");
        }
    }
}
