//! How many rules a host would have, and whether it has room for them.

use crate::{registry::HostView, status::Error, store::Desired};
use ipnet::IpNet;
use kctl_blocklist::{Action, EntryKey, Feed};
use std::collections::HashMap;

/// How many prefixes several feeds have together, by the feeds' names: most hosts have the same ones.
#[derive(Default)]
pub(super) struct Unions(HashMap<Vec<String>, usize>);

impl Unions {
    fn of(&mut self, feeds: &[&Feed]) -> usize {
        let names = feeds.iter().map(|feed| feed.head().name.clone()).collect();
        *self.0.entry(names).or_insert_with(|| {
            let (mut listed, mut guarded) = (Vec::new(), Vec::new());
            for feed in feeds {
                let guards = feed.head().action == Action::Protect;
                let all = if guards { &mut guarded } else { &mut listed };
                all.extend_from_slice(feed.prefixes().as_slice());
            }
            distinct(listed) + distinct(guarded)
        })
    }
}

/// What a host's rules are made of: entries of the store, feeds, and what a change adds.
pub(super) struct Rules<'a> {
    desired: &'a Desired,
    feeds: Vec<&'a Feed>,
    host: &'a HostView,
}

impl<'a> Rules<'a> {
    /// Those that a host has, or should have.
    pub(super) fn of(desired: &'a Desired, host: &'a HostView) -> Self {
        let labels = host.labels();
        let feeds = desired.feeds().filter(|feed| feed.concerns(&host.name, &labels));
        Self { desired, feeds: feeds.collect(), host }
    }

    /// As they are when one feed is another.
    pub(super) fn with_feed(
        desired: &'a Desired,
        host: &'a HostView,
        name: &str,
        after: Option<&'a Feed>,
    ) -> Self {
        let labels = host.labels();
        let feeds = desired.feeds().filter(|feed| feed.head().name != name).chain(after);
        let feeds = feeds.filter(|feed| feed.concerns(&host.name, &labels));
        Self { desired, feeds: feeds.collect(), host }
    }

    /// RESOURCE_EXHAUSTED when they and `new` need more room than the host has.
    pub(super) fn check(&self, new: &[EntryKey], unions: &mut Unions) -> Result<(), Error> {
        let status = self.host.status.as_ref().and_then(|status| status.filter.as_ref());
        let Some(max) = status.map(|filter| filter.max_entries).filter(|&max| max > 0) else {
            return Ok(());
        };
        // Exact numbers take a look at every entry, so only where rough upper bounds do not fit.
        let keys = self.desired.entries().map(|entry| &entry.key).chain(new);
        let manual: usize = keys.map(rules_of).sum();
        let listed = self.feeds.iter().map(|feed| feed.prefixes().len()).sum::<usize>();
        if (manual + listed) as u64 <= max || (manual + unions.of(&self.feeds)) as u64 <= max {
            return Ok(());
        }
        let wanted = self.count(new);
        if wanted <= max {
            return Ok(());
        }
        Err(Error::Exhausted(format!(
            "host {:?}: would have {wanted} rules and has room for {max}; raise --max-entries of its \
             agent, or unblock something first",
            self.host.name
        )))
    }

    /// Whether the host has no room for what it should have already.
    pub(super) fn is_over(&self, unions: &mut Unions) -> bool {
        self.check(&[], unions).is_err()
    }

    fn count(&self, new: &[EntryKey]) -> u64 {
        let labels = self.host.labels();
        let there = self.desired.entries();
        let there = there.filter(|entry| entry.concerns(&self.host.name, &labels));
        let there = there.map(|entry| &entry.key);
        let mut named: HashMap<_, usize> = HashMap::new();
        // Those of every packet of every interface; what is never blocked is beside what is.
        let (mut listed, mut guarded): (Vec<IpNet>, Vec<IpNet>) = (Vec::new(), Vec::new());
        for key in there.chain(new) {
            let guards = key.action == Action::Protect;
            match (key.service, &key.interface) {
                (None, None) if guards => guarded.push(key.prefix),
                (None, None) => listed.push(key.prefix),
                (service, interface) => {
                    named.insert((key.prefix, service, interface, guards), rules_of(key));
                }
            }
        }
        for feed in &self.feeds {
            let guards = feed.head().action == Action::Protect;
            let all = if guards { &mut guarded } else { &mut listed };
            all.extend_from_slice(feed.prefixes().as_slice());
        }
        (distinct(listed) + distinct(guarded) + named.into_values().sum::<usize>()) as u64
    }
}

/// Entries in a host's tables that an entry is, at most; those of packets without ports not counted.
fn rules_of(key: &EntryKey) -> usize {
    key.service.map_or(1, |service| service.protocols().len() * service.blocks() as usize)
}

/// A stable sort is quick with runs that are sorted already.
fn distinct(mut prefixes: Vec<IpNet>) -> usize {
    prefixes.sort();
    prefixes.dedup();
    prefixes.len()
}
