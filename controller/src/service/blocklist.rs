//! `kctl.controller.v1.BlocklistService`.

use super::{Answers, Api, CHANGE_WAIT, peers, wait};
use crate::{
    audit::{Audited, list},
    auth::Caller,
    change::{block::Block, forecast, unblock::Unblock},
    fanout::settled,
    reachable::Reachable,
    registry::HostView,
    status::Error,
    store::Committed,
};
use futures_util::{StreamExt as _, stream};
use kctl_blocklist::{Prefixes, Selection, Service, now_unix_ms};
use kctl_proto::controller::v1::{
    self as api, ChangeResponse, blocklist_service_server::BlocklistService,
    change_response::Message,
};
use std::{sync::Arc, time::Duration};
use tonic::{Request, Response, Status, Streaming};

#[tonic::async_trait]
impl BlocklistService for Api {
    type BlockStream = Answers<ChangeResponse>;
    type UnblockStream = Answers<ChangeResponse>;
    type ImportFeedStream = Answers<ChangeResponse>;
    type ListBlocklistStream = Answers<api::ListBlocklistResponse>;

    async fn block(
        &self,
        request: Request<api::BlockRequest>,
    ) -> Result<Response<Self::BlockStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let limit = wait(request.timeout_ms, CHANGE_WAIT);
        if request.dry_run {
            let (block, selection, told) = self.checked_block(&caller, request)?;
            let hosts = self.registry.hosts_of(&selection);
            let Told { prefixes, texts: warnings } = told;
            let accepted = api::Accepted { prefixes, warnings, ..api::Accepted::default() };
            let (revision, mut forecasts) = {
                let desired = self.store.desired();
                let desired = desired.borrow();
                (desired.revision, forecast::of_block(&hosts, &desired, &block))
            };
            if block.drops() {
                let all: Arc<Prefixes> = Arc::new(block.prefixes.iter().copied().collect());
                let hit = hosts.into_iter().map(|host| (host, Arc::clone(&all))).collect();
                peers::add(&mut forecasts, hit, block.service, limit).await;
            }
            return Ok(forecast(accepted, revision, forecasts));
        }
        let audited = Audited::of_user(&caller, describe(&request), hosts(&request.selection));
        let (block, selection, mut told) = match self.checked_block(&caller, request) {
            Ok(checked) => checked,
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error.into());
            }
        };
        let committed = audited.write(&self.store, move |model| Ok(block.decide(model))).await?;
        told.texts.extend(committed.value.warnings.iter().cloned());
        let accepted = api::Accepted {
            prefixes: told.prefixes,
            warnings: told.texts,
            ..api::Accepted::default()
        };
        let hosts = self.registry.hosts_of(&selection);
        Ok(answers(accepted, &committed, hosts, limit))
    }

    async fn unblock(
        &self,
        request: Request<api::UnblockRequest>,
    ) -> Result<Response<Self::UnblockStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let limit = wait(request.timeout_ms, CHANGE_WAIT);
        let what = format!(
            "unblock {}{}",
            list(&request.prefixes),
            more(request.port, request.port_last, request.protocol, &request.interface)
        );
        let audited = Audited::of_user(&caller, what, hosts(&request.selection));
        let checked = Unblock::parse(request).and_then(|unblock| {
            let hosts = caller.scope.change(&self.registry, &unblock.selection)?;
            unblock.check(&hosts)?;
            Ok((unblock, hosts))
        });
        let (unblock, hosts) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error.into());
            }
        };
        let selection = unblock.selection.clone();
        let prefixes = unblock.prefixes.iter().map(ToString::to_string).collect();
        let known = hosts.iter().map(|host| (host.name.clone(), host.labels())).collect();
        let committed =
            audited.write(&self.store, move |model| unblock.decide(model, &known)).await?;
        let now = now_unix_ms();
        let still_blocked_by = committed.value.iter().map(|entry| entry.to_proto(now)).collect();
        let accepted = api::Accepted { prefixes, still_blocked_by, ..api::Accepted::default() };
        let hosts = self.registry.hosts_of(&selection);
        Ok(answers(accepted, &committed, hosts, limit))
    }

    async fn import_feed(
        &self,
        request: Request<Streaming<api::ImportFeedRequest>>,
    ) -> Result<Response<Self::ImportFeedStream>, Status> {
        let caller = Caller::of(&request)?;
        self.import(&caller, request.into_inner()).await
    }

    async fn list_feeds(
        &self,
        request: Request<api::ListFeedsRequest>,
    ) -> Result<Response<api::ListFeedsResponse>, Status> {
        Ok(Response::new(self.feeds(&Caller::of(&request)?)))
    }

    async fn list_blocklist(
        &self,
        request: Request<api::ListBlocklistRequest>,
    ) -> Result<Response<Self::ListBlocklistStream>, Status> {
        let caller = Caller::of(&request)?;
        let messages = self.listing(&caller, request.into_inner()).await?;
        Ok(Response::new(stream::iter(messages.into_iter().map(Ok)).boxed()))
    }

    async fn recover_blocklist(
        &self,
        request: Request<api::RecoverBlocklistRequest>,
    ) -> Result<Response<api::RecoverBlocklistResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.recover(&caller, request.into_inner()).await?))
    }
}

/// What a checked block tells its caller.
struct Told {
    prefixes: Vec<String>,
    texts: Vec<String>,
}

impl Api {
    fn checked_block(
        &self,
        caller: &Caller,
        request: api::BlockRequest,
    ) -> Result<(Block, Selection, Told), Error> {
        let block = Block::parse(request, caller.source(), now_unix_ms())?;
        let hosts = caller.scope.change(&self.registry, &block.selection)?;
        let desired = self.store.desired();
        let desired = desired.borrow();
        let reachable =
            Reachable::new(&hosts, &self.controller_addresses(), caller.address, &desired);
        let texts = block.check(&hosts, &reachable, &desired)?;
        let prefixes = block.prefixes.iter().map(ToString::to_string).collect();
        let selection = block.selection.clone();
        Ok((block, selection, Told { prefixes, texts }))
    }
}

/// What was recorded, then one result a host as it comes.
pub(super) fn answers<T>(
    accepted: api::Accepted,
    committed: &Committed<T>,
    hosts: Vec<HostView>,
    limit: Duration,
) -> Response<Answers<ChangeResponse>> {
    let accepted = api::Accepted {
        revision: committed.revision,
        hosts: u32::try_from(hosts.len()).unwrap_or(u32::MAX),
        ..accepted
    };
    let first = stream::iter([Message::Accepted(accepted)]);
    let results = settled(hosts, committed.revision, committed.at, limit).map(Message::Host);
    let messages =
        first.chain(results).map(|message| Ok(ChangeResponse { message: Some(message) }));
    Response::new(messages.boxed())
}

/// What a dry run found, then what it would do on each host.
pub(super) fn forecast(
    accepted: api::Accepted,
    revision: u64,
    forecasts: Vec<api::HostForecast>,
) -> Response<Answers<ChangeResponse>> {
    let hosts = u32::try_from(forecasts.len()).unwrap_or(u32::MAX);
    let accepted = api::Accepted { revision, hosts, ..accepted };
    let first = std::iter::once(Message::Accepted(accepted));
    let messages = first.chain(forecasts.into_iter().map(Message::Forecast));
    let messages = messages.map(|message| Ok(ChangeResponse { message: Some(message) }));
    Response::new(stream::iter(messages.collect::<Vec<_>>()).boxed())
}

fn describe(request: &api::BlockRequest) -> String {
    let verb = match request.action() {
        kctl_proto::agent::v1::Action::Monitor => "monitor",
        kctl_proto::agent::v1::Action::Protect => "protect",
        _ => "block",
    };
    let ttl = request.ttl_ms.map(|ttl| format!(" for {ttl} ms")).unwrap_or_default();
    let force = if request.force { " forced" } else { "" };
    let reason = match request.reason.chars().take(200).collect::<String>() {
        reason if reason.is_empty() => reason,
        reason => format!(" because {reason:?}"),
    };
    let more = more(request.port, request.port_last, request.protocol, &request.interface);
    format!("{verb} {}{more}{ttl}{force}{reason}", list(&request.prefixes))
}

/// A refused call is told with the numbers that it came with.
fn more(port: u32, last: u32, protocol: i32, interface: &str) -> String {
    let port = match Service::from_proto(port, last, protocol) {
        Ok(None) => String::new(),
        Ok(Some(service)) => format!(" port {service}"),
        Err(_) => format!(" port {port}-{last}"),
    };
    if interface.is_empty() { port } else { format!("{port} on {interface}") }
}

pub(super) fn hosts(selection: &Option<kctl_proto::agent::v1::Selection>) -> String {
    let selection = selection.clone().map(Selection::try_from);
    selection.and_then(Result::ok).map(|selection| selection.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_proto::agent::v1::Protocol;

    #[test]
    fn the_audit_log_tells_ports_as_they_are_typed() {
        let told = |port, last, protocol: Protocol| more(port, last, protocol.into(), "");
        assert_eq!(told(0, 0, Protocol::Unspecified), "");
        assert_eq!(told(22, 0, Protocol::Tcp), " port 22/tcp");
        assert_eq!(told(8_000, 8_999, Protocol::Unspecified), " port 8000-8999");
        assert_eq!(told(9, 8, Protocol::Udp), " port 9-8");
        assert_eq!(more(0, 0, Protocol::Unspecified.into(), "eth1"), " on eth1");
    }
}
