//! What `ListBlocklist` answers: the controller's entries, and what hosts know of them.

use super::{Api, READ_WAIT, read_selection, wait};
use crate::{
    auth::Caller,
    fanout::{ask, collected},
    registry::HostView,
    status::Error,
};
use futures_util::TryStreamExt as _;
use kctl_blocklist::{Action, Entry, EntryKey, FEED_SOURCE, Feed, now_unix_ms, pack, parse_prefix};
use kctl_proto::{
    agent::v1::{
        self as pb, blocklist_service_client::BlocklistServiceClient, list_hits_response::Hit,
    },
    controller::v1::{
        self as api, HostError, ListBlocklistResponse,
        list_blocklist_response::{Item, item::HostHits},
    },
};
use kctl_rpc::Channel;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use tonic::Status;

/// Entries in one message.
const CHUNK: usize = 1_000;
/// Prefixes of a feed in one message: 850 kilobytes at most.
const FEED_CHUNK: usize = 50_000;

/// What one host told.
struct Told {
    hits: Vec<Hit>,
    blocklist: HostBlocklist,
}

/// All messages of a host's list.
#[derive(Default)]
pub(super) struct HostBlocklist {
    pub(super) entries: Vec<pb::Entry>,
    pub(super) feeds: Vec<pb::FeedEntries>,
    suspended: Vec<pb::SuspendedEntry>,
    pub(super) state: Option<pb::StoreState>,
}

/// Which entries are wanted.
struct Filter {
    hosts: Vec<HostView>,
    /// Names and labels of these.
    labels: Vec<(String, BTreeMap<String, String>)>,
    /// Whether every host is meant, also those that are not known yet.
    all: bool,
    prefix: Option<ipnet::IpNet>,
    source: String,
    actions: Vec<Action>,
}

impl Filter {
    fn matches(&self, entry: &Entry, now_unix_ms: i64) -> bool {
        let overlaps = |prefix: ipnet::IpNet| {
            prefix.contains(&entry.key.prefix) || entry.key.prefix.contains(&prefix)
        };
        self.actions.contains(&entry.key.action)
            && entry.key.source.starts_with(&self.source)
            && entry.expires_unix_ms.is_none_or(|ends| ends > now_unix_ms)
            && self.prefix.is_none_or(overlaps)
            && (self.all || self.labels.iter().any(|(name, labels)| entry.concerns(name, labels)))
    }

    /// What is wanted of a feed.
    fn of_feed(&self, feed: &Feed, now_unix_ms: i64) -> Option<Feed> {
        let head = feed.head();
        let wanted = self.actions.contains(&head.action)
            && format!("{FEED_SOURCE}{}", head.name).starts_with(&self.source)
            && head.expires_unix_ms.is_none_or(|ends| ends > now_unix_ms)
            && (self.all || self.labels.iter().any(|(name, labels)| feed.concerns(name, labels)));
        let all = || match self.prefix {
            None => feed.clone(),
            Some(prefix) => Feed::new(head.clone(), feed.prefixes().overlapping(prefix).collect()),
        };
        wanted.then(all)
    }
}

/// Everything of one answer: entries with what hosts told of them, and feeds' entries of which there
/// is nothing to tell.
struct Listed {
    items: BTreeMap<(EntryKey, String), Item>,
    feeds: Vec<Feed>,
}

impl Listed {
    /// Makes items of the feeds' entries of a prefix.
    fn take_out(&mut self, prefix: ipnet::IpNet, now_unix_ms: i64) {
        for feed in self.feeds.iter().filter(|feed| feed.prefixes().contains(prefix)) {
            let entry = feed.head().entry(prefix);
            let wire = entry.to_proto(now_unix_ms);
            let item = Item { entry: Some(wire), ..Item::default() };
            self.items.entry((entry.key, String::new())).or_insert(item);
        }
    }

    fn messages(self, errors: Vec<HostError>, now_unix_ms: i64) -> Vec<ListBlocklistResponse> {
        let Self { items, feeds } = self;
        let mut messages: Vec<ListBlocklistResponse> = Vec::new();
        for feed in feeds {
            let head = feed.head();
            let told =
                |prefix: &&ipnet::IpNet| !items.contains_key(&(head.key(**prefix), String::new()));
            let prefixes: Vec<_> = match items.is_empty() {
                true => feed.prefixes().as_slice().to_vec(),
                false => feed.prefixes().as_slice().iter().filter(told).copied().collect(),
            };
            messages.extend(prefixes.chunks(FEED_CHUNK).map(|prefixes| {
                let head = Some(head.to_proto(now_unix_ms));
                let feeds = vec![pb::FeedEntries { head, prefixes: Some(pack(prefixes)) }];
                ListBlocklistResponse { feeds, ..ListBlocklistResponse::default() }
            }));
        }
        let items: Vec<Item> = items.into_values().collect();
        messages.extend(items.chunks(CHUNK).map(|items| ListBlocklistResponse {
            items: items.to_vec(),
            ..ListBlocklistResponse::default()
        }));
        match messages.last_mut() {
            Some(last) => last.errors = errors,
            None => messages.push(ListBlocklistResponse { errors, ..Default::default() }),
        }
        messages
    }
}

impl Api {
    /// The messages of one answer.
    pub(super) async fn listing(
        &self,
        caller: &Caller,
        request: api::ListBlocklistRequest,
    ) -> Result<Vec<ListBlocklistResponse>, Error> {
        let filter = self.filter(caller, &request)?;
        let now = now_unix_ms();
        let mut listed = {
            let desired = self.store.desired();
            let desired = desired.borrow();
            let items = desired.entries().filter(|entry| filter.matches(entry, now)).map(|entry| {
                let item = Item { entry: Some(entry.to_proto(now)), ..Item::default() };
                ((entry.key.clone(), String::new()), item)
            });
            let feeds = desired.feeds().filter_map(|feed| filter.of_feed(feed, now));
            Listed { items: items.collect(), feeds: feeds.collect() }
        };
        let mut errors = Vec::new();
        if request.ask_hosts {
            let limit = wait(request.timeout_ms, READ_WAIT);
            errors = add_told(&mut listed, &filter, limit).await;
        }
        Ok(listed.messages(errors, now))
    }

    fn filter(
        &self,
        caller: &Caller,
        request: &api::ListBlocklistRequest,
    ) -> Result<Filter, Error> {
        let selection = read_selection(request.selection.clone())?;
        let prefix = match request.prefix.as_str() {
            "" => None,
            text => Some(parse_prefix(text).map_err(|error| Error::Invalid(error.to_string()))?),
        };
        let actions = Action::from_proto(request.action)
            .map_err(|error| Error::Invalid(error.to_string()))?
            .map_or_else(|| vec![Action::Drop, Action::Monitor], |action| vec![action]);
        let hosts = caller.scope.read(&self.registry, &selection)?;
        Ok(Filter {
            labels: hosts.iter().map(|host| (host.name.clone(), host.labels())).collect(),
            hosts,
            all: selection == kctl_blocklist::Selection::All && caller.scope.is_all(),
            prefix,
            source: request.source.clone(),
            actions,
        })
    }
}

/// Adds hit counters and local entries, and returns the hosts that did not answer.
async fn add_told(listed: &mut Listed, filter: &Filter, limit: Duration) -> Vec<HostError> {
    let now = now_unix_ms();
    let mut errors = Vec::new();
    for answer in collected(ask(filter.hosts.clone(), limit, told)).await {
        let told = match answer.result {
            Ok(told) => told,
            Err(error) => {
                errors.push(HostError { host: answer.host, error: Some(error) });
                continue;
            }
        };
        let Some(view) = filter.hosts.iter().find(|view| view.name == answer.host) else {
            continue;
        };
        let Told { hits, blocklist } = told;
        let suspended: BTreeSet<EntryKey> = blocklist
            .suspended
            .into_iter()
            .filter_map(|suspended| EntryKey::try_from(suspended.key?).ok())
            .collect();
        let hit = hits.iter().filter(|hit| hit.port == 0 && hit.interface.is_empty());
        let hit = hit.filter_map(|hit| parse_prefix(&hit.prefix).ok());
        hit.chain(suspended.iter().map(|key| key.prefix))
            .for_each(|prefix| listed.take_out(prefix, now));
        let items = &mut listed.items;
        add_local(items, filter, view, blocklist.entries);
        add_suspended(items, view, suspended);
        add_hits(items, view, &hits);
    }
    errors
}

fn add_local(
    items: &mut BTreeMap<(EntryKey, String), Item>,
    filter: &Filter,
    host: &HostView,
    entries: Vec<pb::Entry>,
) {
    let now = now_unix_ms();
    for wire in entries {
        let Ok(entry) = Entry::from_proto(wire, now) else { continue };
        if entry.key.is_local() && filter.matches(&entry, now) {
            let item = Item {
                entry: Some(entry.to_proto(now)),
                host: host.name.clone(),
                ..Item::default()
            };
            items.insert((entry.key, host.name.clone()), item);
        }
    }
}

fn add_suspended(
    items: &mut BTreeMap<(EntryKey, String), Item>,
    host: &HostView,
    suspended: BTreeSet<EntryKey>,
) {
    for key in suspended {
        if let Some(item) = items.get_mut(&(key, String::new())) {
            item.suspended_on.push(host.name.clone());
        }
    }
}

/// The kernel counts by prefix, service and action; every entry of these gets the count.
fn add_hits(items: &mut BTreeMap<(EntryKey, String), Item>, host: &HostView, hits: &[Hit]) {
    let mut by_rule: HashMap<_, Vec<&Hit>> = HashMap::new();
    for hit in hits {
        let rule = (hit.prefix.as_str(), hit.port, hit.port_last, hit.interface.as_str());
        by_rule.entry((rule, hit.action)).or_default().push(hit);
    }
    let labels = host.labels();
    for ((_, maker), item) in items.iter_mut() {
        let Some(wire) = item.entry.as_ref() else { continue };
        let Some(key) = wire.key.as_ref() else { continue };
        let rule = (key.prefix.as_str(), key.port, key.port_last, key.interface.as_str());
        let Some(found) = by_rule.get(&(rule, key.action)) else { continue };
        let concerned = || {
            let entry = Entry::from_proto(wire.clone(), 0);
            entry.is_ok_and(|entry| entry.concerns(&host.name, &labels))
        };
        if *maker != host.name && !(maker.is_empty() && concerned()) {
            continue;
        }
        let both = i32::from(pb::Protocol::Unspecified);
        let counted = found.iter().filter(|hit| {
            key.protocol == both || hit.protocol == both || hit.protocol == key.protocol
        });
        let (packets, bytes) = counted
            .fold((0, 0), |(packets, bytes), hit| (packets + hit.packets, bytes + hit.bytes));
        if packets > 0 {
            item.hits.push(HostHits { host: host.name.clone(), packets, bytes });
        }
    }
}

async fn told(channel: Channel) -> Result<Told, Status> {
    let mut client = BlocklistServiceClient::new(channel.clone());
    let hits = async {
        let messages = client.list_hits(pb::ListHitsRequest {}).await?.into_inner();
        messages
            .try_fold(Vec::new(), |mut hits, message| async move {
                hits.extend(message.hits);
                Ok(hits)
            })
            .await
    };
    let (hits, blocklist) = tokio::try_join!(hits, host_blocklist(channel, true))?;
    Ok(Told { hits, blocklist })
}

/// Everything that a host says it holds, or only what it made itself.
pub(super) async fn host_blocklist(
    channel: Channel,
    local_only: bool,
) -> Result<HostBlocklist, Status> {
    let mut client = BlocklistServiceClient::new(channel);
    let messages =
        client.list_blocklist(pb::ListBlocklistRequest { local_only }).await?.into_inner();
    messages
        .try_fold(HostBlocklist::default(), |mut list, message| async move {
            list.entries.extend(message.entries);
            list.feeds.extend(message.feeds);
            list.suspended.extend(message.suspended);
            list.state = list.state.or(message.state);
            Ok(list)
        })
        .await
}
