//! Reading entries from the controller or from one agent, which answer the same.

use crate::{
    args::Global,
    cmd::{feed, hosts},
    connect::{Connection, READ_TIMEOUT, Target},
    exit::Exit,
    output::{count, note},
    time::milliseconds,
    view::entry::EntryRow,
};
use ipnet::IpNet;
use kctl_blocklist::{EntryKey, FeedHead, now_unix_ms, parse_prefix};
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{
        ListBlocklistRequest,
        blocklist_service_client::BlocklistServiceClient,
        list_blocklist_response::{Item, item::HostHits},
    },
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use std::collections::HashMap;

/// What is asked for, and whether hosts are asked for their numbers.
pub(super) struct Query {
    pub(super) selection: Option<agent::Selection>,
    pub(super) prefix: Option<IpNet>,
    pub(super) source: String,
    pub(super) action: agent::Action,
    pub(super) ask_hosts: bool,
}

/// Entries, and hosts that were asked and did not answer.
pub(super) struct List {
    pub(super) rows: Vec<EntryRow>,
    /// Entries of feeds of which there is nothing else to tell.
    pub(super) feeds: Vec<(FeedHead, Vec<IpNet>)>,
    asked: bool,
    failed: usize,
}

/// So many entries of a feed are shown to people among the others.
const SHOWN: usize = 100;

impl List {
    /// With the feeds' entries as rows.
    pub(super) fn whole(mut self) -> Self {
        let now = now_unix_ms();
        for (head, prefixes) in std::mem::take(&mut self.feeds) {
            self.rows.extend(prefixes.into_iter().map(|prefix| {
                let entry = Some(head.entry(prefix).to_proto(now));
                EntryRow::of_item(Item { entry, ..Item::default() }, self.asked, now)
            }));
        }
        self
    }

    /// As people can read it: large feeds are only named.
    pub(super) fn in_short(mut self) -> Self {
        let large = |(_, prefixes): &(FeedHead, Vec<IpNet>)| prefixes.len() > SHOWN;
        for (head, prefixes) in self.feeds.iter().filter(|feed| large(feed)) {
            let (name, entries) = (&head.name, count(prefixes.len(), "entry"));
            note(&format!(
                "feed {name}: {entries} not shown; see \"kctl blocklist export --name {name}\""
            ));
        }
        self.feeds.retain(|feed| !large(feed));
        self.whole()
    }

    /// The entries are the controller's own, so silent hosts never make the whole read fail.
    pub(super) fn exit(&self, strict: bool) -> Exit {
        if self.failed > 0 && strict { Exit::Partial } else { Exit::Done }
    }
}

impl Query {
    pub(super) async fn run(self, global: &Global, target: &Target) -> anyhow::Result<List> {
        let connection = target.connect(global).await?;
        let asked = self.ask_hosts;
        let (items, feeds, failed) = match target {
            Target::Controller(_) => self.of_controller(&connection).await?,
            Target::Agent(_) => (self.of_agent(&connection).await?, Vec::new(), 0),
        };
        let now = now_unix_ms();
        let rows = items.into_iter().map(|item| EntryRow::of_item(item, asked, now)).collect();
        let feeds = feed::put_together(feeds, now)?;
        Ok(List { rows, feeds, asked, failed })
    }

    async fn of_controller(
        self,
        connection: &Connection,
    ) -> anyhow::Result<(Vec<Item>, Vec<agent::FeedEntries>, usize)> {
        let wait = connection.wait(READ_TIMEOUT);
        let request = ListBlocklistRequest {
            selection: self.selection,
            prefix: self.prefix.map_or_else(String::new, |prefix| prefix.to_string()),
            source: self.source,
            action: self.action.into(),
            ask_hosts: self.ask_hosts,
            timeout_ms: milliseconds(wait),
        };
        let mut client = BlocklistServiceClient::new(connection.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut stream = connection.call(wait, client.list_blocklist(request)).await?;
        let (mut items, mut feeds, mut failed) = (Vec::new(), Vec::new(), 0);
        while let Some(response) = connection.next(wait, &mut stream).await? {
            items.extend(response.items);
            feeds.extend(response.feeds);
            for error in response.errors {
                failed += 1;
                let why = error.error.unwrap_or_default().message;
                note(&format!("warning: numbers of host {:?} are missing: {why}", error.host));
            }
        }
        Ok((items, feeds, failed))
    }

    async fn of_agent(self, connection: &Connection) -> anyhow::Result<Vec<Item>> {
        let wait = connection.wait(READ_TIMEOUT);
        let host = hosts::local_status(connection).await?.name;
        let mut client = agent::blocklist_service_client::BlocklistServiceClient::new(
            connection.channel.clone(),
        )
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let call = client.list_blocklist(agent::ListBlocklistRequest { local_only: false });
        let mut stream = connection.call(wait, call).await?;
        let (mut entries, mut suspended, mut feeds) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(response) = connection.next(wait, &mut stream).await? {
            entries.extend(response.entries);
            feeds.extend(response.feeds);
            suspended.extend(response.suspended.into_iter().filter_map(|entry| entry.key));
        }
        let now = now_unix_ms();
        for (head, prefixes) in feed::put_together(feeds, now)? {
            entries.extend(prefixes.into_iter().map(|prefix| head.entry(prefix).to_proto(now)));
        }
        let mut hits = HashMap::new();
        if self.ask_hosts {
            let call = client.list_hits(agent::ListHitsRequest {});
            let mut stream = connection.call(wait, call).await?;
            while let Some(response) = connection.next(wait, &mut stream).await? {
                hits.extend(response.hits.into_iter().map(|hit| {
                    let ports = (hit.port, hit.port_last, hit.protocol);
                    let rule = (hit.prefix, ports, hit.interface, hit.action);
                    (rule, (hit.packets, hit.bytes))
                }));
            }
        }
        let item = |entry: agent::Entry| {
            let key = entry.key.clone().unwrap_or_default();
            let local = EntryKey::try_from(key.clone()).is_ok_and(|key| key.is_local());
            let is_suspended = suspended.contains(&key);
            let ports = (key.port, key.port_last, key.protocol);
            let rule = (key.prefix, ports, key.interface, key.action);
            Item {
                entry: Some(entry),
                host: if local { host.clone() } else { String::new() },
                hits: hits
                    .get(&rule)
                    .map(|&(packets, bytes)| HostHits { host: host.clone(), packets, bytes })
                    .into_iter()
                    .collect(),
                suspended_on: if is_suspended { vec![host.clone()] } else { Vec::new() },
            }
        };
        Ok(entries.into_iter().filter(|entry| self.wants(entry)).map(item).collect())
    }

    fn wants(&self, entry: &agent::Entry) -> bool {
        let Some(key) = &entry.key else { return false };
        let protects = key.action() == agent::Action::Protect;
        let overlaps = |prefix: &IpNet| {
            parse_prefix(&key.prefix)
                .is_ok_and(|other| prefix.contains(&other) || other.contains(prefix))
        };
        protects == (self.action == agent::Action::Protect)
            && key.source.starts_with(&self.source)
            && self.prefix.as_ref().is_none_or(overlaps)
    }
}
