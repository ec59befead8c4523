//! `hosts`: every known host, one in detail, removal and adoption.

use super::{completion::Names, wants_controller};
use crate::{
    args::{Global, HostSelection, host_name},
    connect::{Connection, READ_TIMEOUT, Target},
    exit::{Exit, usage},
    output::{self, Table, note, warn},
    time::milliseconds,
    view::{
        ErrorView,
        change::{self, HostResultRow},
        host::{HostRow, description, table},
    },
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use kctl_blocklist::{Selection, now_unix_ms};
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{
        AdoptHostsRequest, ListHostsRequest, RemoveHostsRequest,
        hosts_service_client::HostsServiceClient, remove_hosts_response::Removed,
    },
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use serde::Serialize;

/// Arguments of `hosts`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct HostsArgs {
    #[command(subcommand)]
    command: Option<HostsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum HostsCommand {
    /// Every known host (what "kctl hosts" alone does)
    List(ListArgs),
    /// Everything about these hosts: interfaces, what is missing and why, sync
    Describe(DescribeArgs),
    /// Revoke these hosts' certificates and forget them; their kernels go on filtering
    Remove(RemoveArgs),
    /// Make these hosts take this controller's blocklist although they hold another store's
    Adopt(AdoptArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    selection: HostSelection,
}

#[derive(Debug, Args)]
struct DescribeArgs {
    /// Hosts; none with --agent
    #[arg(value_name = "NAME", value_parser = host_name, add = Names::Hosts.candidates())]
    names: Vec<String>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Hosts
    #[arg(value_name = "NAME", required = true, value_parser = host_name, add = Names::Hosts.candidates())]
    names: Vec<String>,
    /// First take the filter off the hosts, which must be connected for it
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Args)]
struct AdoptArgs {
    /// Hosts
    #[arg(value_name = "NAME", required = true, value_parser = host_name, add = Names::Hosts.candidates())]
    names: Vec<String>,
}

/// Runs `hosts`.
pub(crate) async fn run(global: &Global, args: HostsArgs) -> anyhow::Result<Exit> {
    match args.command {
        None => list(global, &args.list).await,
        Some(HostsCommand::List(args)) => list(global, &args).await,
        Some(HostsCommand::Describe(args)) => describe(global, args).await,
        Some(HostsCommand::Remove(args)) => remove(global, args).await,
        Some(HostsCommand::Adopt(args)) => adopt(global, args).await,
    }
}

/// The status of the one host behind an agent's socket.
pub(crate) async fn local_status(connection: &Connection) -> anyhow::Result<agent::HostStatus> {
    let channel = connection.channel.clone();
    let mut client = agent::host_service_client::HostServiceClient::new(channel);
    let call = client.get_status(agent::GetStatusRequest {});
    let response = connection.call(connection.wait(READ_TIMEOUT), call).await?;
    response.status.context("the agent did not tell its status")
}

pub(super) async fn rows(
    global: &Global,
    target: &Target,
    selection: Option<agent::Selection>,
) -> anyhow::Result<Vec<HostRow>> {
    rows_over(&target.connect(global).await?, target, selection).await
}

/// The selected hosts that are known, over a connection that is there.
pub(super) async fn rows_over(
    connection: &Connection,
    target: &Target,
    selection: Option<agent::Selection>,
) -> anyhow::Result<Vec<HostRow>> {
    match target {
        Target::Agent(_) => Ok(vec![local_status(connection).await?.into()]),
        Target::Controller(_) => {
            let call = async {
                HostsServiceClient::new(connection.channel.clone())
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .list_hosts(ListHostsRequest { selection })
                    .await
            };
            let response = connection.call(connection.wait(READ_TIMEOUT), call).await?;
            let row = |host| HostRow::from(host).with_escalation(response.escalates);
            Ok(response.hosts.into_iter().map(row).collect())
        }
    }
}

async fn list(global: &Global, args: &ListArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    let selection = args.selection.for_read(&target)?;
    let rows = rows(global, &target, selection).await?;
    output::rows(format, "hosts", &rows, || table(&rows, format, now_unix_ms()))?;
    if format.for_people() {
        let skewed = rows.iter().filter_map(|row| Some((&row.name, row.version_skew.as_ref()?)));
        let warnings: Vec<_> = skewed.map(|(name, why)| format!("host {name:?}: {why}")).collect();
        warn(&warnings);
    }
    Ok(Exit::Done)
}

async fn describe(global: &Global, args: DescribeArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    let selection = match &target {
        Target::Controller(_) if args.names.is_empty() => {
            return Err(usage("hosts describe: name at least one host"));
        }
        Target::Controller(_) => {
            Some((&Selection::Names(args.names.iter().cloned().collect())).into())
        }
        Target::Agent(_) => None,
    };
    let rows = rows(global, &target, selection).await?;
    if let Some(name) = args.names.iter().find(|name| rows.iter().all(|row| row.name != **name)) {
        anyhow::bail!("host {name:?}: not known here; see \"kctl hosts\"");
    }
    if format.for_people() {
        let now = now_unix_ms();
        let texts: Vec<_> = rows.iter().map(|row| description(row, now)).collect();
        output::print(&texts.join("\n"))?;
    } else {
        output::rows(format, "hosts", &rows, || table(&rows, format, 0))?;
    }
    Ok(Exit::Done)
}

/// What became of one host's removal.
#[derive(Debug, Serialize)]
struct RemovedRow {
    host: String,
    status: &'static str,
    /// What `--detach` took away.
    detached: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorView>,
}

impl From<Removed> for RemovedRow {
    fn from(removed: Removed) -> Self {
        Self {
            host: removed.host,
            status: if removed.error.is_some() { change::FAILED } else { "removed" },
            detached: removed.detached,
            error: removed.error.map(ErrorView::from),
        }
    }
}

async fn remove(global: &Global, args: RemoveArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    wants_controller(&target, "hosts remove")?;
    let connection = target.connect(global).await?;
    let request = RemoveHostsRequest { names: args.names, detach: args.detach };
    let mut client = HostsServiceClient::new(connection.channel.clone());
    let call = client.remove_hosts(request);
    let response = connection.call(connection.wait(READ_TIMEOUT), call).await?;
    let rows: Vec<_> = response.hosts.into_iter().map(RemovedRow::from).collect();
    output::rows(format, "hosts", &rows, || {
        let mut table = Table::new(&["HOST", "STATUS", "DETACHED", "ERROR"]);
        for row in &rows {
            let error = row.error.as_ref().map_or_else(String::new, |error| error.message.clone());
            let detached = row.detached.join(", ");
            table.row([row.host.clone(), row.status.to_owned(), detached, error]);
        }
        table
    })?;
    let failed = rows.iter().filter(|row| row.error.is_some()).count();
    Ok(Exit::of_read(rows.len(), failed, true))
}

async fn adopt(global: &Global, args: AdoptArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    wants_controller(&target, "hosts adopt")?;
    let connection = target.connect(global).await?;
    let wait = connection.wait(READ_TIMEOUT);
    let request = AdoptHostsRequest { names: args.names, timeout_ms: milliseconds(wait) };
    let mut client = HostsServiceClient::new(connection.channel.clone());
    let response = connection.call(wait, client.adopt_hosts(request)).await?;
    let rows: Vec<_> = response.hosts.into_iter().map(HostResultRow::from).collect();
    output::rows(format, "hosts", &rows, || change::table(&rows))?;
    if format.for_people() {
        note("adopted hosts now follow this controller's blocklist");
    }
    Ok(change::exit(&rows))
}
