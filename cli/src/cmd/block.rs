//! `block` and `unblock`.

use super::{
    change::{self, Request, Verb},
    prefixes,
};
use crate::{
    args::{Global, HostSelection, parse_service},
    connect::Target,
    exit::{Exit, usage},
    time::{milliseconds, parse_duration},
};
use clap::{Args, ValueHint};
use kctl_blocklist::Service;
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{BlockRequest, UnblockRequest},
};
use std::time::Duration;

/// Arguments of `block`.
#[derive(Debug, Args)]
pub(crate) struct BlockArgs {
    /// Source addresses or prefixes: 10.0.0.5, 10.0.0.0/24, 2001:db8::/64
    #[arg(value_name = "PREFIX", required_unless_present = "file")]
    prefixes: Vec<String>,
    /// Only packets to this port, or to the ports of a range: 22, 8000-8999/tcp
    #[arg(long, value_name = "N[-M][/tcp|udp]", value_parser = parse_service)]
    port: Option<Service>,
    /// Only packets that enter by this interface
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    interface: String,
    /// End by itself after this time: 90s, 10m, 1h, 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Why, for whoever reads the blocklist
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Count and report the packets, and let them pass
    #[arg(long)]
    monitor: bool,
    /// Check and answer, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Block although it covers an address that must stay reachable
    #[arg(long)]
    force: bool,
    /// Record it although no known host is selected
    #[arg(long)]
    allow_empty: bool,
    /// Read prefixes from a file, one a line, with # comments; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<String>,
    #[command(flatten)]
    selection: HostSelection,
}

/// Arguments of `unblock`.
#[derive(Debug, Args)]
pub(crate) struct UnblockArgs {
    /// Prefixes as they were blocked
    #[arg(value_name = "PREFIX", required_unless_present = "file")]
    prefixes: Vec<String>,
    /// Entries of this port or range; without it entries of every port
    #[arg(long, value_name = "N[-M][/tcp|udp]", value_parser = parse_service)]
    port: Option<Service>,
    /// Entries of this interface; without it entries of every interface
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    interface: String,
    /// Only entries that were made with --monitor
    #[arg(long)]
    monitor: bool,
    /// With --agent: suspend the controller's entries on this host for at most an hour
    #[arg(long)]
    force: bool,
    /// Don't fail when no known host is selected
    #[arg(long)]
    allow_empty: bool,
    /// Read prefixes from a file, one a line, with # comments; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<String>,
    #[command(flatten)]
    selection: HostSelection,
}

/// Blocks.
pub(crate) async fn block(global: &Global, args: BlockArgs) -> anyhow::Result<Exit> {
    let prefixes = prefixes::read(&args.prefixes, args.file.as_deref()).await?;
    let target = Target::of(global)?;
    let selection = args.selection.for_change(&target)?;
    fleet_only(&target, args.allow_empty)?;
    let (port, port_last, protocol) = Service::to_proto(args.port);
    let action = if args.monitor { agent::Action::Monitor } else { agent::Action::Drop };
    let request = BlockRequest {
        prefixes,
        port,
        port_last,
        protocol: protocol.into(),
        action: action.into(),
        ttl_ms: args.ttl.map(milliseconds),
        reason: args.reason,
        selection,
        force: args.force,
        interface: args.interface,
        dry_run: args.dry_run,
        allow_empty: args.allow_empty,
        timeout_ms: 0,
    };
    let verb = if args.monitor {
        Verb { now: "monitor", past: "monitoring" }
    } else {
        Verb { now: "block", past: "blocked" }
    };
    change::run(global, &target, Request::Block(request), &verb).await
}

/// Unblocks.
pub(crate) async fn unblock(global: &Global, args: UnblockArgs) -> anyhow::Result<Exit> {
    let prefixes = prefixes::read(&args.prefixes, args.file.as_deref()).await?;
    let target = Target::of(global)?;
    let selection = args.selection.for_change(&target)?;
    fleet_only(&target, args.allow_empty)?;
    if args.force && matches!(target, Target::Controller(_)) {
        return Err(usage("unblock --force suspends entries on one host: it wants --agent"));
    }
    let (port, port_last, protocol) = Service::to_proto(args.port);
    let action = if args.monitor { agent::Action::Monitor } else { agent::Action::Unspecified };
    let request = UnblockRequest {
        prefixes,
        port,
        port_last,
        protocol: protocol.into(),
        interface: args.interface,
        action: action.into(),
        selection,
        allow_empty: args.allow_empty,
        timeout_ms: 0,
    };
    let verb = Verb { now: "unblock", past: "unblocked" };
    change::run(global, &target, Request::Unblock { request, force: args.force }, &verb).await
}

/// For flags about a selection of hosts.
pub(crate) fn fleet_only(target: &Target, allow_empty: bool) -> anyhow::Result<()> {
    match target {
        Target::Agent(_) if allow_empty => {
            Err(usage("--allow-empty is about a selection of hosts, and --agent speaks to one"))
        }
        _ => Ok(()),
    }
}
