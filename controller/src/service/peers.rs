//! Which peers of hosts a change would hit: hosts know their sockets.

use crate::{
    fanout::{ask_each, collected},
    registry::HostView,
};
use kctl_blocklist::{Prefixes, Service};
use kctl_proto::{
    agent::v1::{ListPeersRequest, Peers, blocklist_service_client::BlocklistServiceClient},
    controller::v1::HostForecast,
};
use kctl_rpc::Channel;
use std::{sync::Arc, time::Duration};
use tonic::Status;

/// Prefixes in one message: 850 kilobytes at most.
const CHUNK: usize = 50_000;

/// Asks each host who would be hit by what it would get, and adds that to its forecast.
pub(super) async fn add(
    forecasts: &mut [HostForecast],
    hosts: Vec<(HostView, Arc<Prefixes>)>,
    service: Option<Service>,
    limit: Duration,
) {
    let asked = ask_each(hosts, limit, |channel, prefixes| peers(channel, prefixes, service));
    for answer in collected(asked).await {
        let forecast = forecasts.iter_mut().find(|forecast| forecast.host == answer.host);
        let Some(forecast) = forecast else { continue };
        match answer.result {
            Ok(peers) => forecast.peers = Some(peers),
            Err(error) => forecast.peers_error = Some(error),
        }
    }
}

async fn peers(
    channel: Channel,
    prefixes: Arc<Prefixes>,
    service: Option<Service>,
) -> Result<Peers, Status> {
    let (port, port_last, protocol) = Service::to_proto(service);
    let first = ListPeersRequest {
        port,
        port_last,
        protocol: protocol.into(),
        ..ListPeersRequest::default()
    };
    let chunks: Vec<_> = prefixes.packed(CHUNK).collect();
    let chunks = chunks.into_iter().map(|prefixes| ListPeersRequest {
        prefixes: Some(prefixes),
        ..ListPeersRequest::default()
    });
    let requests: Vec<_> = std::iter::once(first).chain(chunks).collect();
    let mut client = BlocklistServiceClient::new(channel);
    let answer = client.list_peers(futures_util::stream::iter(requests)).await?.into_inner();
    Ok(answer.peers.unwrap_or_default())
}
