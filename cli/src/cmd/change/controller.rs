//! A change by the controller, which records it and tells what became of it on each host.

use super::{Answer, Request, reader::Reader, uncertain};
use crate::{
    connect::{CHANGE_TIMEOUT, Connection},
    time::milliseconds,
    view::{
        change::{ForecastRow, HostResultRow, Recorded},
        entry::EntryRow,
    },
};
use kctl_blocklist::now_unix_ms;
use kctl_proto::controller::v1::{
    BlockRequest, ChangeResponse, UnblockRequest, blocklist_service_client::BlocklistServiceClient,
    change_response::Message,
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use std::time::Duration;
use tonic::Streaming;

/// How long hosts are waited for after an import, where nobody said otherwise.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends the change to the controller.
pub(super) async fn by_controller(
    connection: &Connection,
    request: Request,
    mut reader: Reader,
) -> anyhow::Result<Answer> {
    let import = match &request {
        Request::Import(import) => Some(import.clone()),
        _ => None,
    };
    let default = if import.is_some() { IMPORT_TIMEOUT } else { CHANGE_TIMEOUT };
    let hosts_wait = connection.wait(default);
    // A large set takes its time to be checked and stored.
    let size = u64::try_from(request.prefixes()).unwrap_or(u64::MAX);
    let wait = hosts_wait + Duration::from_millis(size);
    let timeout_ms = milliseconds(hosts_wait);
    let mut client = BlocklistServiceClient::new(connection.channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let unblock = matches!(request, Request::Unblock { .. });
    let (dry_run, call) = match request {
        Request::Block(request) => {
            let request = BlockRequest { timeout_ms, ..request };
            (request.dry_run, connection.call(wait, client.block(request)).await)
        }
        Request::Unblock { request, .. } => {
            let request = UnblockRequest { timeout_ms, ..request };
            (false, connection.call(wait, client.unblock(request)).await)
        }
        Request::Import(import) => {
            let messages = tokio_stream::iter(import.messages(timeout_ms));
            (import.header.dry_run, connection.call(wait, client.import_feed(messages)).await)
        }
    };
    let mut stream = call.map_err(uncertain)?;
    let first = connection.next(wait, &mut stream).await.map_err(uncertain)?;
    let accepted = match (first.and_then(|first| first.message), &import) {
        (Some(Message::Accepted(accepted)), _) => accepted,
        (Some(Message::Refused(refused)), Some(import)) => return Err(import.refused(&refused)),
        _ => anyhow::bail!("the controller did not say what it recorded; see \"kctl blocklist\""),
    };
    let now = now_unix_ms();
    let covering = accepted.still_blocked_by.into_iter();
    let recorded = Recorded {
        revision: Some(accepted.revision),
        prefixes: accepted.prefixes,
        feed: import.as_ref().map(|import| import.became(accepted.feed)),
        warnings: accepted.warnings,
        still_blocked_by: unblock
            .then(|| covering.map(|entry| EntryRow::of_entry(entry, now)).collect()),
        dry_run,
    };
    reader.recorded(accepted.hosts);
    let told = usize::try_from(accepted.hosts).unwrap_or(0);
    read_hosts(connection, wait, &mut stream, recorded, told, &reader).await
}

/// Reads one answer a host.
async fn read_hosts(
    connection: &Connection,
    wait: Duration,
    stream: &mut Streaming<ChangeResponse>,
    recorded: Recorded,
    all: usize,
    reader: &Reader,
) -> anyhow::Result<Answer> {
    let (mut hosts, mut forecast) = (Vec::new(), Vec::new());
    let lost = loop {
        match connection.next(wait, stream).await {
            Ok(Some(ChangeResponse { message: Some(Message::Host(host)) })) => {
                let host = HostResultRow::from(host);
                reader.host(&recorded, &host)?;
                hosts.push(host);
            }
            Ok(Some(ChangeResponse { message: Some(Message::Forecast(told)) })) => {
                let told = ForecastRow::from(told);
                reader.forecast(&recorded, &told)?;
                forecast.push(told);
            }
            Ok(Some(_)) => {}
            Ok(None) if hosts.len() + forecast.len() < all => {
                let told = hosts.len() + forecast.len();
                break Some(anyhow::anyhow!("{told} of {all} hosts were told of"));
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    Ok(Answer { recorded, hosts, forecast, lost })
}
