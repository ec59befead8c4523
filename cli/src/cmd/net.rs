//! `net`: what netlink tells of hosts.

use super::{
    read::{self, ReadArgs, reads},
    sysinfo::parse_interval,
};
use crate::{
    args::Global,
    exit::Exit,
    view::net::{ConnectionView, LinkStatsView, RuleView, SocketView},
};
use clap::{Args, Subcommand};
use kctl_blocklist::parse_prefix;
use kctl_events::view::net::{AddrView, LinkView, NeighView, RouteView};
use kctl_proto::agent::v1::{self as agent, list_sockets_request::Protocol};
use std::time::Duration;

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
    /// TCP, UDP and unix sockets, and the processes that hold them
    Sockets(SocketsArgs),
    /// Connections that the kernel tracks, with address translation
    Conntrack(ConntrackArgs),
    /// Counters of links, and how fast they grow
    Stats(StatsArgs),
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
struct SocketsArgs {
    /// Only TCP; --tcp, --udp and --unix add up
    #[arg(long)]
    tcp: bool,
    /// Only UDP
    #[arg(long)]
    udp: bool,
    /// Only unix sockets
    #[arg(long, conflicts_with_all = ["inet", "inet6", "port"])]
    unix: bool,
    #[command(flatten)]
    family: FamilyArgs,
    /// Only those that wait for peers: LISTEN, and UDP and unix sockets in UNCONN
    #[arg(long)]
    listening: bool,
    /// Only in these states: ESTAB, LISTEN, TIME-WAIT, UNCONN and the others of ss(8)
    #[arg(
        long,
        value_name = "STATE[,STATE…]",
        value_delimiter = ',',
        conflicts_with = "listening"
    )]
    #[arg(value_parser = parse_state)]
    state: Vec<String>,
    /// Only TCP and UDP with this port at either end
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Leave out which processes hold them, which is most of the work
    #[arg(long)]
    no_processes: bool,
    /// Also round trip time, congestion window and retransmits of TCP
    #[arg(long)]
    info: bool,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct ConntrackArgs {
    #[command(flatten)]
    family: FamilyArgs,
    /// Only of this protocol: tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// Only those that began there
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    src: Option<String>,
    /// Only those that were meant to go there
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    dst: Option<String>,
    /// Only with this port at either end, before or after address translation
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct StatsArgs {
    #[command(flatten)]
    interface: InterfaceArg,
    /// How long to watch how fast the counters grow, up to 5s; 0 tells no rates
    #[arg(long, value_name = "DURATION", value_parser = parse_watch, default_value = "1s")]
    interval: u32,
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
        NetCommand::Sockets(args) => read::run(global, &args.read, &args.request()).await,
        NetCommand::Conntrack(args) => {
            let request = agent::ListConnectionsRequest {
                family: args.family.number(),
                protocol: args.protocol.unwrap_or_default(),
                src: args.src.unwrap_or_default(),
                dst: args.dst.unwrap_or_default(),
                port: args.port.unwrap_or_default().into(),
            };
            read::run(global, &args.read, &request).await
        }
        NetCommand::Stats(args) => {
            let (interface, interval_ms) = (args.interface.name(), args.interval);
            let request = agent::ListLinkStatsRequest { interface, interval_ms };
            let interval = Duration::from_millis(interval_ms.into());
            read::watch(global, &args.read, &request, interval).await
        }
    }
}

impl SocketsArgs {
    fn request(&self) -> agent::ListSocketsRequest {
        let protocols =
            [(self.tcp, Protocol::Tcp), (self.udp, Protocol::Udp), (self.unix, Protocol::Unix)];
        let chosen = protocols.into_iter().filter(|(chosen, _)| *chosen);
        agent::ListSocketsRequest {
            protocols: chosen.map(|(_, protocol)| protocol.into()).collect(),
            family: self.family.number(),
            states: self.state.clone(),
            listening: self.listening,
            port: self.port.unwrap_or_default().into(),
            processes: !self.no_processes,
            tcp_info: self.info,
        }
    }
}

const STATES: [&str; 11] = [
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "UNCONN",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
];

fn parse_state(text: &str) -> Result<String, String> {
    let known = STATES.iter().find(|state| state.eq_ignore_ascii_case(text));
    let known = known.ok_or_else(|| format!("must be one of {}", STATES.join(", ")))?;
    Ok((*known).to_owned())
}

fn prefix(text: &str) -> Result<String, String> {
    parse_prefix(text).map(|prefix| prefix.to_string()).map_err(|error| error.to_string())
}

/// In milliseconds; none for counters alone.
fn parse_watch(text: &str) -> Result<u32, String> {
    if matches!(text, "0" | "0s" | "0ms") { Ok(0) } else { parse_interval(text) }
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
    ListSocketsRequest ListSocketsResponse sockets list_sockets SocketView,
    ListConnectionsRequest ListConnectionsResponse connections list_connections ConnectionView,
    ListLinkStatsRequest ListLinkStatsResponse stats list_link_stats LinkStatsView,
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

    #[test]
    fn states_intervals_and_prefixes_are_checked_before_anybody_is_asked() {
        assert_eq!(parse_state("time-wait").as_deref(), Ok("TIME-WAIT"));
        assert!(parse_state("OPEN").is_err());
        assert_eq!((parse_watch("0"), parse_watch("5s")), (Ok(0), Ok(5_000)));
        for text in ["6s", "1", "-1s", ""] {
            assert!(parse_watch(text).is_err(), "{text:?}");
        }
        assert_eq!(prefix("10.0.0.5").as_deref(), Ok("10.0.0.5/32"));
        assert!(prefix("10.0.0.5/33").is_err());
    }
}
