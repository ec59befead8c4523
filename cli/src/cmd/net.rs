//! `net`: what routing netlink tells of hosts.

use super::read::{self, ReadArgs, reads};
use crate::{
    args::Global,
    exit::Exit,
    view::net::{AddrView, LinkView, NeighView, RouteView, RuleView},
};
use clap::{Args, Subcommand};
use kctl_proto::agent::v1 as agent;

/// Arguments of `net`.
#[derive(Debug, Args)]
pub(crate) struct NetArgs {
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Debug, Subcommand)]
enum NetCommand {
    /// Links: kind, state, MTU, MAC, XDP programs, counters
    Links(LinksArgs),
    /// Addresses of every link
    Addrs(AddrsArgs),
    /// Routes of every table, IPv4 and IPv6
    Routes(RoutesArgs),
    /// Neighbours: which MAC an address of the same link has
    Neigh(NeighArgs),
    /// Rules: which table a packet's route is looked up in
    Rules(RulesArgs),
}

#[derive(Debug, Args)]
struct LinksArgs {
    #[command(flatten)]
    interface: InterfaceArg,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct AddrsArgs {
    #[command(flatten)]
    family: FamilyArgs,
    #[command(flatten)]
    interface: InterfaceArg,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct RoutesArgs {
    #[command(flatten)]
    family: FamilyArgs,
    /// Only of this table: main, local, default or a number
    #[arg(long, value_name = "TABLE", value_parser = parse_table)]
    table: Option<u32>,
    #[command(flatten)]
    interface: InterfaceArg,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct NeighArgs {
    /// Also those that need no resolving, multicast groups mostly (NOARP), and those without a state
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    family: FamilyArgs,
    #[command(flatten)]
    interface: InterfaceArg,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct RulesArgs {
    #[command(flatten)]
    family: FamilyArgs,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct InterfaceArg {
    /// Only of this interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

impl InterfaceArg {
    fn name(self) -> String {
        self.interface.unwrap_or_default()
    }
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
    fn number(&self) -> i32 {
        let family = match (self.inet, self.inet6) {
            (true, _) => agent::Family::Inet,
            (_, true) => agent::Family::Inet6,
            _ => agent::Family::Unspecified,
        };
        family.into()
    }
}

/// Runs `net`.
pub(crate) async fn run(global: &Global, args: NetArgs) -> anyhow::Result<Exit> {
    match args.command {
        NetCommand::Links(args) => {
            let request = agent::ListLinksRequest { interface: args.interface.name() };
            read::run(global, &args.read, &request).await
        }
        NetCommand::Addrs(args) => {
            let (family, interface) = (args.family.number(), args.interface.name());
            let request = agent::ListAddrsRequest { family, interface };
            read::run(global, &args.read, &request).await
        }
        NetCommand::Routes(args) => {
            let (family, interface) = (args.family.number(), args.interface.name());
            let table = args.table.unwrap_or_default();
            let request = agent::ListRoutesRequest { family, table, interface };
            read::run(global, &args.read, &request).await
        }
        NetCommand::Neigh(args) => {
            let (family, interface) = (args.family.number(), args.interface.name());
            let request = agent::ListNeighboursRequest { family, interface, all: args.all };
            read::run(global, &args.read, &request).await
        }
        NetCommand::Rules(args) => {
            let request = agent::ListRulesRequest { family: args.family.number() };
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

reads! { netlink_service_client NetlinkServiceClient
    ListLinksRequest ListLinksResponse links list_links LinkView,
    ListAddrsRequest ListAddrsResponse addrs list_addrs AddrView,
    ListRoutesRequest ListRoutesResponse routes list_routes RouteView,
    ListNeighboursRequest ListNeighboursResponse neighbours list_neighbours NeighView,
    ListRulesRequest ListRulesResponse rules list_rules RuleView,
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
