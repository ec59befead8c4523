//! `protect`: the never-block list.

use super::{
    block::fleet_only,
    blocklist,
    change::{self, Request, Verb},
    prefixes,
};
use crate::{
    args::{Global, HostSelection, parse_service},
    connect::Target,
    exit::Exit,
};
use clap::{Args, Subcommand};
use kctl_blocklist::Service;
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{BlockRequest, UnblockRequest},
};

/// Arguments of `protect`.
#[derive(Debug, Args)]
pub(crate) struct ProtectArgs {
    #[command(subcommand)]
    command: ProtectCommand,
}

#[derive(Debug, Subcommand)]
enum ProtectCommand {
    /// Never block these sources, their packets to a port, or anybody's to a port
    Add(AddArgs),
    /// Let them be blocked again
    Remove(RemoveArgs),
    /// What is protected by hand; "hosts describe" shows what hosts protect by themselves
    List(ListArgs),
}

#[derive(Debug, Args)]
struct What {
    /// Source addresses or prefixes
    #[arg(value_name = "PREFIX", required_unless_present = "port")]
    prefixes: Vec<String>,
    /// Only packets to this port, or to those of a range; without prefixes those of every source
    #[arg(long, value_name = "N[-M][/tcp|udp]", value_parser = parse_service)]
    port: Option<Service>,
    /// Record it although no known host is selected
    #[arg(long)]
    allow_empty: bool,
}

#[derive(Debug, Args)]
struct AddArgs {
    #[command(flatten)]
    what: What,
    /// Why, for whoever reads the list
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    selection: HostSelection,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    selection: HostSelection,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    selection: HostSelection,
}

/// Runs `protect`.
pub(crate) async fn run(global: &Global, args: ProtectArgs) -> anyhow::Result<Exit> {
    match args.command {
        ProtectCommand::Add(args) => add(global, args).await,
        ProtectCommand::Remove(args) => remove(global, args).await,
        ProtectCommand::List(args) => blocklist::protected(global, &args.selection).await,
    }
}

async fn add(global: &Global, args: AddArgs) -> anyhow::Result<Exit> {
    let prefixes = args.what.prefixes().await?;
    let target = Target::of(global)?;
    fleet_only(&target, args.what.allow_empty)?;
    let (port, port_last, protocol) = Service::to_proto(args.what.port);
    let request = BlockRequest {
        prefixes,
        port,
        port_last,
        protocol: protocol.into(),
        action: agent::Action::Protect.into(),
        reason: args.reason,
        selection: args.selection.for_change(&target)?,
        allow_empty: args.what.allow_empty,
        ..BlockRequest::default()
    };
    let verb = Verb { now: "protect", past: "protected" };
    change::run(global, &target, Request::Block(request), &verb).await
}

async fn remove(global: &Global, args: RemoveArgs) -> anyhow::Result<Exit> {
    let prefixes = args.what.prefixes().await?;
    let target = Target::of(global)?;
    fleet_only(&target, args.what.allow_empty)?;
    let (port, port_last, protocol) = Service::to_proto(args.what.port);
    let request = UnblockRequest {
        prefixes,
        port,
        port_last,
        protocol: protocol.into(),
        action: agent::Action::Protect.into(),
        selection: args.selection.for_change(&target)?,
        allow_empty: args.what.allow_empty,
        ..UnblockRequest::default()
    };
    let verb = Verb { now: "unprotect", past: "unprotected" };
    change::run(global, &target, Request::Unblock { request, force: false }, &verb).await
}

impl What {
    async fn prefixes(&self) -> anyhow::Result<Vec<String>> {
        if self.prefixes.is_empty() {
            return Ok(vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]);
        }
        prefixes::read(&self.prefixes, None).await
    }
}
