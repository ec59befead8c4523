//! `BlocklistService`: what this host blocks.

use crate::access;
use crate::enforcer::{Apply, Block, Enforcer, Unblock};
use crate::set::Held;
use crate::status::{invalid, to_status};
use agent_kernel::filter::{self, Hit, Until};
use agent_kernel::sys::boottime_ns;
use futures_util::{Stream, stream};
use ipnet::IpNet;
use kctl_blocklist::{Action, Entry, EntryKey, Service, now_unix_ms, parse_prefix};
use kctl_proto::agent::v1::{
    self as pb, apply_blocklist_request::Part, blocklist_service_server::BlocklistService,
};
use std::collections::BTreeSet;
use std::pin::Pin;
use tonic::{Request, Response, Status, Streaming};

/// Entries in one message of a listing.
const CHUNK: usize = 1_000;

/// Answers for this host's blocklist.
#[derive(Debug)]
pub(super) struct Blocklist {
    enforcer: Enforcer,
}

impl Blocklist {
    pub(super) fn new(enforcer: Enforcer) -> Self {
        Self { enforcer }
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl BlocklistService for Blocklist {
    async fn apply_blocklist(
        &self,
        request: Request<Streaming<pb::ApplyBlocklistRequest>>,
    ) -> Result<Response<pb::ApplyBlocklistResponse>, Status> {
        let apply = read_apply(request.into_inner()).await?;
        let applied = self.enforcer.run(move |it| it.apply(apply)).await;
        Ok(Response::new(applied.and_then(|applied| applied).map_err(to_status)?))
    }

    type ListBlocklistStream = Messages<pb::ListBlocklistResponse>;

    async fn list_blocklist(
        &self,
        _request: Request<pb::ListBlocklistRequest>,
    ) -> Result<Response<Self::ListBlocklistStream>, Status> {
        let listed = self.enforcer.run(|it| {
            let entries: Vec<_> = it.set().entries().map(|held| it.to_proto(held)).collect();
            (it.state(), it.suspended(), entries)
        });
        let (state, suspended, entries) = listed.await.map_err(to_status)?;
        let head = pb::ListBlocklistResponse { entries: Vec::new(), suspended, state: Some(state) };
        let rest = chunks(entries).map(|entries| pb::ListBlocklistResponse {
            entries,
            suspended: Vec::new(),
            state: None,
        });
        let messages: Vec<_> = std::iter::once(head).chain(rest).map(Ok).collect();
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    type ListHitsStream = Messages<pb::ListHitsResponse>;

    async fn list_hits(
        &self,
        _request: Request<pb::ListHitsRequest>,
    ) -> Result<Response<Self::ListHitsStream>, Status> {
        let hits = self.enforcer.run(|it| Ok(it.filter()?.hits()?)).await;
        let hits = hits.and_then(|hits| hits).map_err(to_status)?;
        let hits = hits.iter().map(hit_to_proto).collect();
        let messages: Vec<_> = chunks(hits).map(|hits| Ok(pb::ListHitsResponse { hits })).collect();
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn block(
        &self,
        request: Request<pb::BlockRequest>,
    ) -> Result<Response<pb::BlockResponse>, Status> {
        let source = local_source(&request)?;
        let request = request.into_inner();
        let action = Action::from_proto(request.action()).unwrap_or(Action::Drop);
        let block = Block {
            prefixes: prefixes(&request.prefixes)?,
            service: Service::from_proto(request.port, request.protocol()).map_err(invalid)?,
            action,
            ttl_ms: ttl(request.ttl_ms, action)?,
            reason: request.reason,
            force: request.force,
            dry_run: request.dry_run,
            source,
        };
        let canonical = block.prefixes.iter().map(ToString::to_string).collect();
        let blocked = self.enforcer.run(move |it| it.block(&block)).await;
        let blocked = blocked.and_then(|blocked| blocked).map_err(to_status)?;
        Ok(Response::new(pb::BlockResponse {
            prefixes: canonical,
            warnings: blocked.warnings,
            not_enforced: blocked.not_enforced,
        }))
    }

    async fn unblock(
        &self,
        request: Request<pb::UnblockRequest>,
    ) -> Result<Response<pb::UnblockResponse>, Status> {
        let by = local_source(&request)?;
        let request = request.into_inner();
        let unblock = Unblock {
            prefixes: prefixes(&request.prefixes)?,
            service: Service::from_proto(request.port, request.protocol()).map_err(invalid)?,
            actions: Action::from_proto(request.action())
                .map_or(vec![Action::Drop, Action::Monitor], |action| vec![action]),
            force: request.force,
            by,
        };
        let canonical = unblock.prefixes.iter().map(ToString::to_string).collect();
        let unblocked = self.enforcer.run(move |it| it.unblock(&unblock)).await;
        let unblocked = unblocked.and_then(|unblocked| unblocked).map_err(to_status)?;
        Ok(Response::new(pb::UnblockResponse {
            prefixes: canonical,
            still_blocked_by: unblocked.still_blocked_by,
            warnings: unblocked.warnings,
        }))
    }
}

/// Reads the whole stream before anything is changed.
async fn read_apply(mut messages: Streaming<pb::ApplyBlocklistRequest>) -> Result<Apply, Status> {
    let first = messages.message().await?.and_then(|message| message.part);
    let Some(Part::Header(header)) = first else {
        return Err(Status::invalid_argument("the first message must be a header"));
    };
    let mut apply = Apply { header, upserts: Vec::new(), removals: Vec::new() };
    while let Some(message) = messages.message().await? {
        let Some(Part::Chunk(chunk)) = message.part else {
            return Err(Status::invalid_argument("every further message must be a chunk"));
        };
        for entry in chunk.upserts {
            apply.upserts.push(held(entry)?);
        }
        for key in chunk.removals {
            apply.removals.push(EntryKey::try_from(key).map_err(invalid)?);
        }
    }
    Ok(apply)
}

fn held(entry: pb::Entry) -> Result<Held, Status> {
    let until = match entry.ttl_ms {
        None => Until::FOREVER,
        Some(ttl_ms) => Until::at(boottime_ns().saturating_add(ttl_ms.saturating_mul(1_000_000))),
    };
    let entry = Entry::from_proto(entry, now_unix_ms()).map_err(invalid)?;
    if entry.key.source.starts_with("local:") {
        return Err(Status::invalid_argument("source: local entries are made on the host itself"));
    }
    Ok(Held { entry, until })
}

fn local_source<T>(request: &Request<T>) -> Result<String, Status> {
    access::local(request).ok_or_else(|| {
        Status::permission_denied("local entries are made over the host's own socket")
    })
}

/// Canonical prefixes without repeats, in the order given.
fn prefixes(texts: &[String]) -> Result<Vec<IpNet>, Status> {
    if texts.is_empty() {
        return Err(Status::invalid_argument("prefixes: at least one is needed"));
    }
    let mut seen = BTreeSet::new();
    let mut prefixes = Vec::with_capacity(texts.len());
    for text in texts {
        let prefix =
            parse_prefix(text).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if seen.insert(prefix) {
            prefixes.push(prefix);
        }
    }
    Ok(prefixes)
}

fn ttl(ttl_ms: Option<u64>, action: Action) -> Result<Option<u64>, Status> {
    match ttl_ms {
        Some(0) => Err(Status::invalid_argument("ttl_ms: must be at least 1")),
        Some(_) if action == Action::Protect => {
            Err(Status::invalid_argument("ttl_ms: never-block entries do not expire"))
        }
        ttl_ms => Ok(ttl_ms),
    }
}

/// A rule's counter on the wire.
pub(super) fn hit_to_proto(hit: &Hit) -> pb::list_hits_response::Hit {
    let (port, protocol) = match hit.key.service {
        None => (0, pb::Protocol::Unspecified),
        Some((filter::Protocol::Tcp, port)) => (port, pb::Protocol::Tcp),
        Some((filter::Protocol::Udp, port)) => (port, pb::Protocol::Udp),
    };
    let action = match hit.action {
        filter::Action::Drop => pb::Action::Drop,
        filter::Action::Monitor => pb::Action::Monitor,
    };
    pb::list_hits_response::Hit {
        prefix: hit.key.prefix.to_string(),
        port: port.into(),
        protocol: protocol.into(),
        action: action.into(),
        packets: hit.packets,
        bytes: hit.bytes,
    }
}

fn chunks<T>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(CHUNK).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}
