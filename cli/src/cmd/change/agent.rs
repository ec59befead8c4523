//! A change by one agent, which knows of no other host.

use super::{Answer, Request, reader::Reader, uncertain};
use crate::{
    cmd::hosts,
    connect::{CHANGE_TIMEOUT, Connection},
    exit::usage,
    view::{
        change::{APPLIED, FAILED, ForecastRow, HostResultRow, Recorded, microseconds},
        entry::EntryRow,
    },
};
use anyhow::Context as _;
use kctl_blocklist::now_unix_ms;
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{BlockRequest, UnblockRequest},
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use std::time::Instant;

/// Sends the change to the agent.
pub(super) async fn by_agent(
    connection: &Connection,
    request: Request,
    reader: Reader,
) -> anyhow::Result<Answer> {
    let wait = connection.wait(CHANGE_TIMEOUT);
    let host = hosts::local_status(connection).await?.name;
    let mut client =
        agent::blocklist_service_client::BlocklistServiceClient::new(connection.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let begun = Instant::now();
    let (recorded, not_enforced, peers) = match request {
        Request::Block(request) => {
            let dry_run = request.dry_run;
            let local = local_block(request);
            let response = connection.call(wait, client.block(local)).await.map_err(uncertain)?;
            let (prefixes, warnings) = (response.prefixes, response.warnings);
            (
                Recorded {
                    revision: None,
                    prefixes,
                    feed: None,
                    warnings,
                    still_blocked_by: None,
                    dry_run,
                },
                response.not_enforced,
                response.peers,
            )
        }
        Request::Unblock { request, force } => {
            let local = local_unblock(request, force);
            let response = connection.call(wait, client.unblock(local)).await.map_err(uncertain)?;
            let now = now_unix_ms();
            let covering = response.still_blocked_by.into_iter();
            let recorded = Recorded {
                revision: None,
                prefixes: response.prefixes,
                feed: None,
                warnings: response.warnings,
                still_blocked_by: Some(
                    covering.map(|entry| EntryRow::of_entry(entry, now)).collect(),
                ),
                dry_run: false,
            };
            (recorded, None, None)
        }
        Request::Import(_) => return Err(usage("blocklist import wants a controller")),
    };
    let elapsed_ms = Some(microseconds(begun.elapsed().as_secs_f64() * 1_000.0));
    let status = if not_enforced.is_some() { FAILED } else { APPLIED };
    let forecast = peers.map(|peers| ForecastRow::of_agent(host.clone(), &recorded, peers));
    let error = not_enforced.map(Into::into);
    let row = HostResultRow { host, status, elapsed_ms, error, warnings: Vec::new() };
    reader.host(&recorded, &row).context("answer")?;
    if let Some(forecast) = &forecast {
        reader.forecast(&recorded, forecast).context("answer")?;
    }
    let forecast = forecast.into_iter().collect();
    Ok(Answer { recorded, hosts: vec![row], forecast, lost: None })
}

fn local_block(request: BlockRequest) -> agent::BlockRequest {
    agent::BlockRequest {
        prefixes: request.prefixes,
        port: request.port,
        protocol: request.protocol,
        action: request.action,
        ttl_ms: request.ttl_ms,
        reason: request.reason,
        force: request.force,
        dry_run: request.dry_run,
        port_last: request.port_last,
        interface: request.interface,
    }
}

fn local_unblock(request: UnblockRequest, force: bool) -> agent::UnblockRequest {
    agent::UnblockRequest {
        prefixes: request.prefixes,
        port: request.port,
        protocol: request.protocol,
        action: request.action,
        force,
        port_last: request.port_last,
        interface: request.interface,
    }
}
