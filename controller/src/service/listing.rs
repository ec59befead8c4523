//! What `ListBlocklist` answers: the controller's entries, and what hosts know of them.

use super::{Api, READ_WAIT, read_selection, wait};
use crate::{
    fanout::{ask, collected},
    registry::HostView,
    status::Error,
};
use futures_util::TryStreamExt as _;
use kctl_blocklist::{Action, Entry, EntryKey, now_unix_ms, parse_prefix};
use kctl_proto::{
    agent::v1::{
        self as pb, blocklist_service_client::BlocklistServiceClient, list_hits_response::Hit,
    },
    controller::v1::{
        self as api, HostError, ListBlocklistResponse,
        list_blocklist_response::{Item, item::HostHits},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tonic::{Status, transport::Channel};

/// Entries in one message.
const CHUNK: usize = 1_000;

/// What one host told.
struct Told {
    hits: Vec<Hit>,
    blocklist: HostBlocklist,
}

/// All messages of a host's list.
#[derive(Default)]
pub(super) struct HostBlocklist {
    pub(super) entries: Vec<pb::Entry>,
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
}

impl Api {
    /// The messages of one answer.
    pub(super) async fn listing(
        &self,
        request: api::ListBlocklistRequest,
    ) -> Result<Vec<ListBlocklistResponse>, Error> {
        let filter = self.filter(&request)?;
        let now = now_unix_ms();
        let mut items: BTreeMap<(EntryKey, String), Item> = {
            let desired = self.store.desired();
            let desired = desired.borrow();
            let candidates: Vec<&Arc<Entry>> = match filter.prefix {
                Some(prefix) => desired.overlapping(prefix).collect(),
                None => desired.entries().collect(),
            };
            candidates
                .into_iter()
                .filter(|entry| filter.matches(entry, now))
                .map(|entry| {
                    let item = Item { entry: Some(entry.to_proto(now)), ..Item::default() };
                    ((entry.key.clone(), String::new()), item)
                })
                .collect()
        };
        let mut errors = Vec::new();
        if request.ask_hosts {
            let limit = wait(request.timeout_ms, READ_WAIT);
            errors = add_told(&mut items, &filter, limit).await;
        }
        let items: Vec<Item> = items.into_values().collect();
        let mut messages: Vec<_> = items
            .chunks(CHUNK)
            .map(|items| ListBlocklistResponse { items: items.to_vec(), errors: Vec::new() })
            .collect();
        match messages.last_mut() {
            Some(last) => last.errors = errors,
            None => messages.push(ListBlocklistResponse { items: Vec::new(), errors }),
        }
        Ok(messages)
    }

    fn filter(&self, request: &api::ListBlocklistRequest) -> Result<Filter, Error> {
        let selection = read_selection(request.selection.clone())?;
        let prefix = match request.prefix.as_str() {
            "" => None,
            text => Some(parse_prefix(text).map_err(|error| Error::Invalid(error.to_string()))?),
        };
        let actions = Action::from_proto(request.action())
            .map_or_else(|| vec![Action::Drop, Action::Monitor], |action| vec![action]);
        let hosts = self.registry.select(&selection)?;
        Ok(Filter {
            labels: hosts.iter().map(|host| (host.name.clone(), host.labels())).collect(),
            hosts,
            all: selection == kctl_blocklist::Selection::All,
            prefix,
            source: request.source.clone(),
            actions,
        })
    }
}

/// Adds hit counters and local entries, and returns the hosts that did not answer.
async fn add_told(
    items: &mut BTreeMap<(EntryKey, String), Item>,
    filter: &Filter,
    limit: Duration,
) -> Vec<HostError> {
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
        add_local(items, filter, view, told.blocklist.entries);
        add_suspended(items, view, told.blocklist.suspended);
        add_hits(items, view, &told.hits);
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
        if entry.key.source.starts_with("local:") && filter.matches(&entry, now) {
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
    suspended: Vec<pb::SuspendedEntry>,
) {
    let keys: BTreeSet<EntryKey> = suspended
        .into_iter()
        .filter_map(|suspended| EntryKey::try_from(suspended.key?).ok())
        .collect();
    for key in keys {
        if let Some(item) = items.get_mut(&(key, String::new())) {
            item.suspended_on.push(host.name.clone());
        }
    }
}

/// The kernel counts by prefix, service and action; every entry of these gets the count.
fn add_hits(items: &mut BTreeMap<(EntryKey, String), Item>, host: &HostView, hits: &[Hit]) {
    let mut by_rule: HashMap<(&str, u32, i32), Vec<&Hit>> = HashMap::new();
    for hit in hits {
        by_rule.entry((&hit.prefix, hit.port, hit.action)).or_default().push(hit);
    }
    let labels = host.labels();
    for ((_, maker), item) in items.iter_mut() {
        let Some(wire) = item.entry.as_ref() else { continue };
        let Some(key) = wire.key.as_ref() else { continue };
        let Some(found) = by_rule.get(&(key.prefix.as_str(), key.port, key.action)) else {
            continue;
        };
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
    let (hits, blocklist) = tokio::try_join!(hits, host_blocklist(channel))?;
    Ok(Told { hits, blocklist })
}

/// Everything that a host says it holds.
pub(super) async fn host_blocklist(channel: Channel) -> Result<HostBlocklist, Status> {
    let mut client = BlocklistServiceClient::new(channel);
    let messages = client.list_blocklist(pb::ListBlocklistRequest {}).await?.into_inner();
    messages
        .try_fold(HostBlocklist::default(), |mut list, message| async move {
            list.entries.extend(message.entries);
            list.suspended.extend(message.suspended);
            list.state = list.state.or(message.state);
            Ok(list)
        })
        .await
}
