//! `BlocklistService`: what this host blocks.

use super::peers::Wanted;
use crate::access;
use crate::enforcer::{Apply, Block, Enforcer, FeedEdit, Unblock, service_to_proto};
use crate::set::Held;
use crate::status::{invalid, to_status};
use agent_kernel::filter::{self, Hit, Until};
use agent_kernel::sys::boottime_ns;
use futures_util::{Stream, stream};
use ipnet::IpNet;
use kctl_blocklist::{
    Action, Entry, EntryKey, FeedHead, InvalidPacked, MAX_FEED_ENTRIES, Service,
    interface_from_proto, now_unix_ms, pack, parse_prefix, unpack,
};
use kctl_proto::agent::v1::{
    self as pb, apply_blocklist_request::Part, blocklist_service_server::BlocklistService,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use tonic::{Request, Response, Status, Streaming};

/// Entries in one message of a listing.
const CHUNK: usize = 1_000;
/// Prefixes of a feed in one message of a listing.
const FEED_CHUNK: usize = 50_000;

/// Answers for this host's blocklist.
#[derive(Debug)]
pub(super) struct Blocklist {
    enforcer: Enforcer,
    proc_root: PathBuf,
}

impl Blocklist {
    pub(super) fn new(enforcer: Enforcer, proc_root: PathBuf) -> Self {
        Self { enforcer, proc_root }
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
        request: Request<pb::ListBlocklistRequest>,
    ) -> Result<Response<Self::ListBlocklistStream>, Status> {
        let all = !request.into_inner().local_only;
        let listed = self.enforcer.run(move |it| {
            let entries = it.set().entries().filter(|held| all || held.is_local());
            let entries: Vec<_> = entries.map(|held| it.to_proto(held)).collect();
            let feeds = it.set().feeds().filter(|_| all);
            let feeds: Vec<_> =
                feeds.map(|held| (it.feed_to_proto(held), held.feed.clone())).collect();
            (it.state(), it.suspended(), entries, feeds)
        });
        let (state, suspended, entries, feeds) = listed.await.map_err(to_status)?;
        let empty = pb::ListBlocklistResponse::default;
        let first = pb::ListBlocklistResponse { suspended, state: Some(state), ..empty() };
        let entries = chunks(entries);
        let entries = entries.map(move |entries| pb::ListBlocklistResponse { entries, ..empty() });
        // Packed as the reader takes them.
        let feeds = feeds.into_iter().flat_map(|(head, feed)| {
            (0..feed.prefixes().len()).step_by(FEED_CHUNK).map(move |from| {
                let prefixes = feed.prefixes().as_slice()[from..].iter().take(FEED_CHUNK);
                let prefixes = Some(pack(prefixes));
                pb::FeedEntries { head: Some(head.clone()), prefixes }
            })
        });
        let feeds =
            feeds.map(move |feed| pb::ListBlocklistResponse { feeds: vec![feed], ..empty() });
        let messages = std::iter::once(first).chain(entries).chain(feeds).map(Ok);
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

    async fn list_peers(
        &self,
        request: Request<Streaming<pb::ListPeersRequest>>,
    ) -> Result<Response<pb::ListPeersResponse>, Status> {
        let wanted = read_wanted(request.into_inner()).await?;
        let peers = wanted.peers(&self.enforcer, self.proc_root.clone()).await?;
        Ok(Response::new(pb::ListPeersResponse { peers: Some(peers) }))
    }

    async fn block(
        &self,
        request: Request<pb::BlockRequest>,
    ) -> Result<Response<pb::BlockResponse>, Status> {
        let source = local_source(&request)?;
        let request = request.into_inner();
        let action = Action::from_proto(request.action).map_err(invalid)?.unwrap_or(Action::Drop);
        let block = Block {
            prefixes: prefixes(&request.prefixes)?,
            service: Service::from_proto(request.port, request.port_last, request.protocol)
                .map_err(invalid)?,
            interface: interface_from_proto(request.interface).map_err(invalid)?,
            action,
            ttl_ms: ttl(request.ttl_ms, action)?,
            reason: request.reason,
            force: request.force,
            dry_run: request.dry_run,
            source,
        };
        let canonical = block.prefixes.iter().map(ToString::to_string).collect();
        let foreseen = block.dry_run && action == Action::Drop;
        let wanted = foreseen.then(|| Wanted {
            prefixes: block.prefixes.iter().copied().collect(),
            service: block.service,
        });
        let blocked = self.enforcer.run(move |it| it.block(&block)).await;
        let blocked = blocked.and_then(|blocked| blocked).map_err(to_status)?;
        let peers = match wanted {
            Some(wanted) => Some(wanted.peers(&self.enforcer, self.proc_root.clone()).await?),
            None => None,
        };
        Ok(Response::new(pb::BlockResponse {
            prefixes: canonical,
            warnings: blocked.warnings,
            not_enforced: blocked.not_enforced,
            peers,
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
            service: Service::from_proto(request.port, request.port_last, request.protocol)
                .map_err(invalid)?,
            interface: interface_from_proto(request.interface.clone()).map_err(invalid)?,
            actions: Action::from_proto(request.action)
                .map_err(invalid)?
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

/// Reads what might be blocked.
async fn read_wanted(mut messages: Streaming<pb::ListPeersRequest>) -> Result<Wanted, Status> {
    let (mut prefixes, mut service, mut is_first) = (Vec::new(), None, true);
    while let Some(message) = messages.message().await? {
        if is_first {
            let protocol = message.protocol;
            service =
                Service::from_proto(message.port, message.port_last, protocol).map_err(invalid)?;
        }
        is_first = false;
        unpack(&message.prefixes.unwrap_or_default(), &mut prefixes).map_err(malformed)?;
        if prefixes.len() as u64 > MAX_FEED_ENTRIES {
            return Err(Status::invalid_argument("prefixes: are too many"));
        }
    }
    Ok(Wanted { prefixes: prefixes.into_iter().collect(), service })
}

fn malformed(error: InvalidPacked) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Reads the whole stream before anything is changed.
async fn read_apply(mut messages: Streaming<pb::ApplyBlocklistRequest>) -> Result<Apply, Status> {
    let first = messages.message().await?.and_then(|message| message.part);
    let Some(Part::Header(header)) = first else {
        return Err(Status::invalid_argument("the first message must be a header"));
    };
    let (upserts, removals, feeds) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut apply = Apply { header, upserts, removals, feeds };
    while let Some(message) = messages.message().await? {
        match message.part {
            Some(Part::Chunk(chunk)) => {
                for entry in chunk.upserts {
                    apply.upserts.push(held(entry)?);
                }
                for key in chunk.removals {
                    apply.removals.push(EntryKey::try_from(key).map_err(invalid)?);
                }
            }
            Some(Part::Feed(feed)) => read_feed(feed, &mut apply.feeds)?,
            _ => return Err(Status::invalid_argument("every further message must be a change")),
        }
    }
    Ok(apply)
}

/// Adds what one message tells of a feed.
fn read_feed(
    change: pb::apply_blocklist_request::FeedChange,
    feeds: &mut BTreeMap<String, FeedEdit>,
) -> Result<(), Status> {
    let edit = feeds.entry(change.name).or_default();
    unpack(&change.added.unwrap_or_default(), &mut edit.added).map_err(malformed)?;
    unpack(&change.removed.unwrap_or_default(), &mut edit.removed).map_err(malformed)?;
    if edit.added.len().max(edit.removed.len()) as u64 > MAX_FEED_ENTRIES {
        return Err(Status::invalid_argument("feed: has too many prefixes"));
    }
    edit.gone |= change.gone;
    if let Some(head) = change.head {
        let until = until(head.ttl_ms);
        edit.head = Some((FeedHead::from_proto(head, now_unix_ms()).map_err(invalid)?, until));
    }
    Ok(())
}

/// The end of what has this time left.
fn until(ttl_ms: Option<u64>) -> Until {
    ttl_ms.map_or(Until::FOREVER, |ttl_ms| {
        Until::at(boottime_ns().saturating_add(ttl_ms.saturating_mul(1_000_000)))
    })
}

fn held(entry: pb::Entry) -> Result<Held, Status> {
    let until = until(entry.ttl_ms);
    let entry = Entry::from_proto(entry, now_unix_ms()).map_err(invalid)?;
    if entry.key.is_local() {
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
    let (port, port_last, protocol) = service_to_proto(hit.key.service);
    let action = match hit.action {
        filter::Action::Drop => pb::Action::Drop,
        filter::Action::Monitor => pb::Action::Monitor,
    };
    pb::list_hits_response::Hit {
        prefix: hit.key.prefix.to_string(),
        port,
        port_last,
        protocol: protocol.into(),
        interface: hit.key.interface.map_or("", filter::Interface::name).to_owned(),
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
