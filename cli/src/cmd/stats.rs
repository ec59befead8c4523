//! `stats`: packet counters.

use crate::{
    args::{Global, HostSelection},
    connect::{Connection, READ_TIMEOUT, Target},
    exit::Exit,
    output::{self, Format},
    time::milliseconds,
    view::{
        ErrorView,
        stats::{StatsResult, StatsRow, details, table},
    },
};
use anyhow::Context as _;
use clap::Args;
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{
        GetStatsRequest, GetStatsResponse, get_stats_response::Result as StatsOutcome,
        stats_service_client::StatsServiceClient,
    },
};

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Show this many rules and sources of each host
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    top: Option<u32>,
    /// Exit with 3 when a host did not answer
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    selection: HostSelection,
}

/// Runs `stats`.
pub(crate) async fn run(global: &Global, args: &StatsArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    let selection = args.selection.for_read(&target)?;
    let connection = target.connect(global).await?;
    let top = args.top.unwrap_or(0);
    let rows = match target {
        Target::Controller(_) => of_controller(&connection, selection, top, format).await?,
        Target::Agent(_) => vec![of_agent(&connection, top).await?],
    };
    // Each line went out when its host answered.
    if format != Format::Jsonl {
        output::rows(format, "hosts", &rows, || table(&rows))?;
    }
    if format.for_people() && (args.top.is_some() || format == Format::Wide || rows.len() == 1) {
        output::print(&details(&rows))?;
    }
    let failed = rows.iter().filter(|row| matches!(row.result, StatsResult::Failed { .. }));
    Ok(Exit::of_read(rows.len(), failed.count(), args.strict))
}

async fn of_controller(
    connection: &Connection,
    selection: Option<agent::Selection>,
    top: u32,
    format: Format,
) -> anyhow::Result<Vec<StatsRow>> {
    let wait = connection.wait(READ_TIMEOUT);
    let request = GetStatsRequest { selection, top, timeout_ms: milliseconds(wait) };
    let mut client = StatsServiceClient::new(connection.channel.clone());
    let mut stream = connection.call(wait, client.get_stats(request)).await?;
    let mut rows = Vec::new();
    while let Some(response) = connection.next(wait, &mut stream).await? {
        let row = row(response);
        if format == Format::Jsonl {
            output::line(&row)?;
        }
        rows.push(row);
    }
    rows.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(rows)
}

fn row(response: GetStatsResponse) -> StatsRow {
    let result = match response.result {
        Some(StatsOutcome::Stats(stats)) => StatsResult::Counters(Box::new(stats.into())),
        Some(StatsOutcome::Error(error)) => StatsResult::Failed { error: error.into() },
        None => StatsResult::Failed { error: ErrorView::from(agent::Error::default()) },
    };
    StatsRow { host: response.host, result }
}

async fn of_agent(connection: &Connection, top: u32) -> anyhow::Result<StatsRow> {
    let wait = connection.wait(READ_TIMEOUT);
    let host = super::hosts::local_status(connection).await?.name;
    let channel = connection.channel.clone();
    let mut client = agent::stats_service_client::StatsServiceClient::new(channel);
    let response = connection.call(wait, client.get_stats(agent::GetStatsRequest { top })).await?;
    let stats = response.stats.context("the agent did not tell its counters")?;
    Ok(StatsRow { host, result: StatsResult::Counters(Box::new(stats.into())) })
}
