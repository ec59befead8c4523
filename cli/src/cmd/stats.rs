//! `stats`: packet counters.

use crate::{
    args::{Global, HostSelection},
    connect::{Connection, READ_TIMEOUT, Target},
    exit::Exit,
    output::{self, Format},
    time::milliseconds,
    view::stats::{StatsResult, StatsRow, details, table},
};
use anyhow::Context as _;
use clap::Args;
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{
        GetStatsRequest, get_stats_response::Result as StatsOutcome,
        stats_service_client::StatsServiceClient,
    },
};
use std::time::Duration;

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
    let (top, wait) = (args.top.unwrap_or(0), connection.wait(READ_TIMEOUT));
    let mut rows = Vec::new();
    let told = answers_over(&connection, &target, selection, top, wait, |host, answer| {
        let row = row(host, answer);
        if format == Format::Jsonl {
            // Each line goes out when its host answers.
            output::line(&row)?;
        }
        rows.push(row);
        Ok(())
    });
    told.await?;
    rows.sort_by(|a, b| a.host.cmp(&b.host));
    if format != Format::Jsonl {
        output::rows(format, "hosts", &rows, || table(&rows))?;
    }
    if format.for_people() && (args.top.is_some() || format == Format::Wide || rows.len() == 1) {
        output::print(&details(&rows))?;
    }
    let failed = rows.iter().filter(|row| matches!(row.result, StatsResult::Failed { .. }));
    Ok(Exit::of_read(rows.len(), failed.count(), args.strict))
}

/// Asks, with so much time for each host, and hands on what each says as it comes.
pub(super) async fn answers_over(
    connection: &Connection,
    target: &Target,
    selection: Option<agent::Selection>,
    top: u32,
    wait: Duration,
    mut hear: impl FnMut(String, Result<agent::Stats, agent::Error>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let channel = connection.channel.clone();
    match target {
        Target::Controller(_) => {
            let request = GetStatsRequest { selection, top, timeout_ms: milliseconds(wait) };
            let mut client = StatsServiceClient::new(channel);
            let mut stream = connection.call(wait, client.get_stats(request)).await?;
            while let Some(response) = connection.next(wait, &mut stream).await? {
                let answer = match response.result {
                    Some(StatsOutcome::Stats(stats)) => Ok(stats),
                    Some(StatsOutcome::Error(error)) => Err(error),
                    None => Err(agent::Error::default()),
                };
                hear(response.host, answer)?;
            }
        }
        Target::Agent(_) => {
            let host = super::hosts::local_status(connection).await?.name;
            let mut client = agent::stats_service_client::StatsServiceClient::new(channel);
            let call = client.get_stats(agent::GetStatsRequest { top });
            let response = connection.call(wait, call).await?;
            let stats = response.stats.context("the agent did not tell its counters")?;
            hear(host, Ok(stats))?;
        }
    }
    Ok(())
}

fn row(host: String, answer: Result<agent::Stats, agent::Error>) -> StatsRow {
    let result = match answer {
        Ok(stats) => StatsResult::Counters(Box::new(stats.into())),
        Err(error) => StatsResult::Failed { error: error.into() },
    };
    StatsRow { host, result }
}
