//! Who must stay reachable when hosts block something: the hosts, the controller, the caller, and
//! whatever the never-block list names.

use crate::{registry::HostView, store::Desired};
use ipnet::IpNet;
use kctl_blocklist::{
    Action, EntryKey, Feed, Prefixes, Protected, Refusal, loopback_of, parse_prefix, refusal,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Addresses and ports that `block` refuses to cut off, and whose they are.
#[derive(Debug)]
pub(crate) struct Reachable {
    protected: Vec<Protected>,
    /// Feeds on the never-block list.
    listed: Vec<Feed>,
    ports: Vec<(u16, String)>,
}

impl Reachable {
    /// For a block on these hosts.
    pub(crate) fn new(
        hosts: &[HostView],
        controller: &BTreeSet<IpAddr>,
        caller: Option<IpAddr>,
        desired: &Desired,
    ) -> Self {
        let mut protected: BTreeMap<IpNet, Option<String>> = BTreeMap::new();
        let mut ports: BTreeMap<u16, String> = BTreeMap::new();
        let mut keep = |prefix: IpNet, whose: String| {
            protected.entry(prefix).or_insert(Some(whose));
        };
        for address in controller {
            keep(IpNet::from(*address), "the controller's address".to_owned());
        }
        if let Some(address) = caller {
            keep(IpNet::from(address), "your own address".to_owned());
        }
        for host in hosts {
            let Some(status) = &host.status else { continue };
            let name = &host.name;
            for address in status.addresses.iter().filter_map(|text| parse_prefix(text).ok()) {
                keep(address, format!("{name}'s own address"));
            }
            for prefix in status.protected.iter().filter_map(|text| parse_prefix(text).ok()) {
                keep(prefix, format!("which {name} never blocks"));
            }
            for port in status.management_ports.iter().filter_map(|&port| u16::try_from(port).ok())
            {
                let what = if port == 22 { "ssh port" } else { "management port" };
                ports.entry(port).or_insert_with(|| format!("{name}'s {what}"));
            }
        }
        let protects = |entry: &&std::sync::Arc<kctl_blocklist::Entry>| {
            entry.key.action == Action::Protect
                && hosts.iter().any(|host| entry.concerns(&host.name, &host.labels()))
        };
        for entry in desired.entries().filter(protects) {
            match entry.key.service {
                None => drop(protected.insert(entry.key.prefix, None)),
                // One of some sources keeps open what a block of that port alone closes to others.
                Some(_) if entry.key.prefix.prefix_len() > 0 => {}
                Some(service) => {
                    for port in service.port..=service.last {
                        ports.entry(port).or_insert_with(|| "a never-block port".to_owned());
                    }
                }
            }
        }
        let feeds = desired.feeds().filter(|feed| feed.head().action == Action::Protect);
        let feeds =
            feeds.filter(|feed| hosts.iter().any(|host| feed.concerns(&host.name, &host.labels())));
        let listed = feeds.cloned().collect();
        let protected =
            protected.into_iter().map(|(prefix, whose)| Protected { prefix, whose }).collect();
        Self { protected, listed, ports: ports.into_iter().collect() }
    }

    /// Why an entry is refused unless it is forced.
    pub(crate) fn refusal(&self, key: &EntryKey) -> Option<Refusal> {
        refusal(key, &self.protected, &self.listed, &self.ports)
    }

    /// Those of many prefixes that share addresses with what must stay reachable. Its cost is that of
    /// what is protected, and not that of the prefixes.
    pub(crate) fn overlapping(&self, prefixes: &Prefixes) -> BTreeSet<IpNet> {
        let loopback = [loopback_of(true), loopback_of(false)];
        let listed = self.listed.iter().flat_map(|feed| feed.prefixes().as_slice()).copied();
        let protected = self.protected.iter().map(|protected| protected.prefix);
        let protected = protected.chain(loopback).chain(listed);
        protected.flat_map(|prefix| prefixes.overlapping(prefix)).collect()
    }

    /// What keeps a forced entry from taking effect.
    pub(crate) fn ineffective(&self, key: &EntryKey) -> Option<String> {
        let overlaps = |protected: &&Protected| {
            protected.prefix.contains(&key.prefix) || key.prefix.contains(&protected.prefix)
        };
        let listed = self.protected.iter().filter(|protected| protected.whose.is_none());
        let by_hand = listed.into_iter().find(overlaps).map(|protected| protected.prefix);
        let mut feeds = self.listed.iter();
        let found = by_hand
            .or_else(|| feeds.find_map(|feed| feed.prefixes().overlapping(key.prefix).next()))?;
        Some(format!(
            "{}: the never-block list has {}, which goes on passing; take it off with `kctl protect \
             remove`",
            key.prefix, found
        ))
    }
}
