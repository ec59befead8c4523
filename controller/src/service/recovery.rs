//! `RecoverBlocklist` and `AdoptHosts`: what to do when store and hosts do not know each other.

use super::{Api, READ_WAIT, listing::host_blocklist, named, wait};
use crate::{
    audit::{Audited, list},
    auth::Caller,
    change::recover::Recover,
    fanout::{Answered, ask, collected, settled},
    registry::HostView,
    status::{Error, error_data},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use kctl_blocklist::{Entry, EntryKey, Feed, FeedHead, now_unix_ms, unpack};
use kctl_proto::{
    agent::v1 as pb,
    controller::v1::{self as api, HostResult, host_result::Status as Outcome},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, time::timeout};
use tonic::Code;

impl Api {
    /// Takes the entries of hosts.
    pub(super) async fn recover(
        &self,
        caller: &Caller,
        request: api::RecoverBlocklistRequest,
    ) -> Result<api::RecoverBlocklistResponse, Error> {
        let limit = wait(request.timeout_ms, READ_WAIT);
        let names = list(&request.from_hosts);
        let audited = Audited::of_user(caller, "blocklist recover".to_owned(), names);
        let (recover, mut warnings) = match self.told(request.from_hosts, limit).await {
            Ok(told) => told,
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error);
            }
        };
        let store_id = recover.store_id.clone();
        let of_store: Vec<String> = recover.states.keys().cloned().collect();
        let committed = audited.write(&self.store, move |model| recover.decide(model)).await?;
        warnings.extend(committed.value.warnings);
        let mut hosts = self.registry.hosts();
        hosts.retain(|host| of_store.contains(&host.name));
        let mut results: Vec<HostResult> =
            settled(hosts, committed.revision, committed.at, limit).collect().await;
        results.sort_by(|a, b| a.host.cmp(&b.host));
        Ok(api::RecoverBlocklistResponse {
            store_id,
            revision: committed.revision,
            entries: committed.value.entries,
            warnings,
            hosts: results,
        })
    }

    /// Asks the named hosts, and those of the same store for entries that the named ones can't have.
    async fn told(
        &self,
        names: Vec<String>,
        limit: Duration,
    ) -> Result<(Recover, Vec<String>), Error> {
        let named = self.registry.select(&named(names)?)?;
        let mut store_id = String::new();
        for host in &named {
            let own = store_of(host)?;
            if !store_id.is_empty() && store_id != own {
                return Err(Error::Precondition(format!(
                    "host {:?}: holds another store than the other hosts; recover from hosts of one \
                     store",
                    host.name
                )));
            }
            own.clone_into(&mut store_id);
        }
        let is_named = |name: &str| named.iter().any(|host| host.name == name);
        let mut of_store = self.registry.hosts();
        of_store.retain(|host| {
            let same = host.store_state().is_some_and(|state| state.store_id == store_id);
            host.session.is_some() && same
        });
        let now = now_unix_ms();
        let mut states = BTreeMap::new();
        let mut entries: BTreeMap<EntryKey, Entry> = BTreeMap::new();
        let mut feeds: BTreeMap<String, Feed> = BTreeMap::new();
        let mut warnings = Vec::new();
        for Answered { host, result } in
            collected(ask(of_store, limit, |it| host_blocklist(it, false))).await
        {
            let told = match result {
                Ok(told) => told,
                Err(error) if is_named(&host) => {
                    return Err(Error::Precondition(format!("host {host:?}: {}", error.message)));
                }
                Err(error) => {
                    warnings.push(format!("host {host:?}: not asked: {}", error.message));
                    continue;
                }
            };
            for wire in told.entries {
                let entry = Entry::from_proto(wire, now)
                    .map_err(|error| Error::Precondition(format!("host {host:?}: {error}")))?;
                let elsewhere =
                    || !named.iter().any(|named| entry.concerns(&named.name, &named.labels()));
                if !entry.key.is_local() && (is_named(&host) || elsewhere()) {
                    entries.entry(entry.key.clone()).or_insert(entry);
                }
            }
            for feed in told_feeds(&host, told.feeds, now)? {
                let elsewhere =
                    || !named.iter().any(|named| feed.concerns(&named.name, &named.labels()));
                let newer =
                    |known: &Feed| known.head().imported_unix_ms < feed.head().imported_unix_ms;
                let name = feed.head().name.clone();
                if (is_named(&host) || elsewhere()) && feeds.get(&name).is_none_or(newer) {
                    feeds.insert(name, feed);
                }
            }
            states.extend(told.state.map(|state| (host, state)));
        }
        Ok((Recover { store_id, states, entries, feeds }, warnings))
    }

    /// Makes hosts take this store's set.
    pub(super) async fn adopt(
        &self,
        caller: &Caller,
        request: api::AdoptHostsRequest,
    ) -> Result<api::AdoptHostsResponse, Error> {
        let limit = wait(request.timeout_ms, READ_WAIT);
        let names = list(&request.names);
        let audited = Audited::of_user(caller, "hosts adopt".to_owned(), names);
        let chosen =
            named(request.names).and_then(|named| caller.scope.change(&self.registry, &named));
        let hosts = match chosen {
            Ok(hosts) => hosts,
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error);
            }
        };
        // Recorded before any host hears of it.
        audited.write(&self.store, |_| Ok((Vec::new(), ()))).await?;
        let asked: FuturesUnordered<_> =
            hosts.into_iter().map(|host| adopt_one(host, limit)).collect();
        let mut hosts: Vec<HostResult> = asked.collect().await;
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        Ok(api::AdoptHostsResponse { hosts })
    }
}

/// Puts the parts of a host's feeds together.
fn told_feeds(
    host: &str,
    parts: Vec<pb::FeedEntries>,
    now_unix_ms: i64,
) -> Result<Vec<Feed>, Error> {
    let bad = |why: String| Error::Precondition(format!("host {host:?}: {why}"));
    let mut feeds: BTreeMap<String, (FeedHead, Vec<ipnet::IpNet>)> = BTreeMap::new();
    for part in parts {
        let head = FeedHead::from_proto(part.head.unwrap_or_default(), now_unix_ms)
            .map_err(|error| bad(error.to_string()))?;
        let (_, prefixes) = feeds.entry(head.name.clone()).or_insert((head, Vec::new()));
        unpack(&part.prefixes.unwrap_or_default(), prefixes)
            .map_err(|error| bad(error.to_string()))?;
    }
    let feed = |(head, prefixes): (_, Vec<_>)| Feed::new(head, prefixes.into_iter().collect());
    Ok(feeds.into_values().map(feed).collect())
}

/// The store that a connected host holds.
fn store_of(host: &HostView) -> Result<&str, Error> {
    if host.session.is_none() {
        return Err(Error::Precondition(format!("{}; reconnect it first", host.not_connected())));
    }
    let state = host.store_state().filter(|state| !state.store_id.is_empty());
    state.map(|state| state.store_id.as_str()).ok_or_else(|| {
        Error::Precondition(format!(
            "host {:?}: holds no controller's entries; recover from another host",
            host.name
        ))
    })
}

async fn adopt_one(host: HostView, limit: Duration) -> HostResult {
    let started = Instant::now();
    let (status, error) = match &host.session {
        None => (Outcome::Pending, Some(error_data(Code::Unavailable, host.not_connected()))),
        Some(session) => {
            let (sender, receiver) = oneshot::channel();
            let asked = async {
                session.adopt.send(sender).await.ok()?;
                receiver.await.ok()
            };
            match timeout(limit, asked).await {
                Ok(Some(Ok(()))) => (Outcome::Applied, None),
                Ok(Some(Err(error))) => (Outcome::Failed, Some(error)),
                Ok(None) => (Outcome::Pending, Some(lost(&host.name))),
                Err(_) => (Outcome::Pending, Some(silent(&host.name, limit))),
            }
        }
    };
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    let warnings = Vec::new();
    HostResult { host: host.name, status: status.into(), elapsed_ms, error, warnings }
}

fn lost(host: &str) -> pb::Error {
    error_data(Code::Unavailable, format!("host {host:?}: connection lost; run the command again"))
}

fn silent(host: &str, limit: Duration) -> pb::Error {
    let message = format!("host {host:?}: no answer within {} ms", limit.as_millis());
    error_data(Code::DeadlineExceeded, message)
}
