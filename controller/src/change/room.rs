//! How many rules a host would have, and whether it has room for them.

use crate::{registry::HostView, status::Error, store::Desired};
use ipnet::IpNet;
use kctl_blocklist::{Action, Feed, Protocol, Service};
use std::collections::{HashMap, HashSet};

/// How many prefixes several feeds have together, by the feeds' names: most hosts have the same ones.
#[derive(Default)]
pub(super) struct Unions(HashMap<Vec<String>, usize>);

impl Unions {
    fn of(&mut self, feeds: &[&Feed]) -> usize {
        let names = feeds.iter().map(|feed| feed.head().name.clone()).collect();
        *self.0.entry(names).or_insert_with(|| {
            let mut all: Vec<IpNet> = Vec::new();
            feeds.iter().for_each(|feed| all.extend_from_slice(feed.prefixes().as_slice()));
            distinct(all)
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
        let feeds = desired.feeds().filter(|feed| is_rule(feed.head().action));
        let feeds = feeds.filter(|feed| feed.concerns(&host.name, &labels));
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
        let feeds =
            feeds.filter(|feed| is_rule(feed.head().action) && feed.concerns(&host.name, &labels));
        Self { desired, feeds: feeds.collect(), host }
    }

    /// RESOURCE_EXHAUSTED when they and `new` need more room than the host has.
    pub(super) fn check(
        &self,
        new: &[(IpNet, Option<Service>)],
        unions: &mut Unions,
    ) -> Result<(), Error> {
        let status = self.host.status.as_ref().and_then(|status| status.filter.as_ref());
        let Some(max) = status.map(|filter| filter.max_entries).filter(|&max| max > 0) else {
            return Ok(());
        };
        // Exact numbers take a look at every entry, so only where rough upper bounds do not fit.
        let manual = 2 * (self.desired.entries().len() + new.len());
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

    fn count(&self, new: &[(IpNet, Option<Service>)]) -> u64 {
        let labels = self.host.labels();
        let there = self
            .desired
            .entries()
            .filter(|entry| is_rule(entry.key.action))
            .filter(|entry| entry.concerns(&self.host.name, &labels))
            .map(|entry| (entry.key.prefix, entry.key.service));
        let mut of_ports: HashSet<(IpNet, u16, Protocol)> = HashSet::new();
        let mut of_all: Vec<IpNet> = Vec::new();
        for (prefix, service) in there.chain(new.iter().copied()) {
            match service {
                None => of_all.push(prefix),
                // An entry without protocol is one rule for each.
                Some(service) => of_ports.extend(
                    service.protocols().iter().map(|&protocol| (prefix, service.port, protocol)),
                ),
            }
        }
        for feed in &self.feeds {
            of_all.extend_from_slice(feed.prefixes().as_slice());
        }
        (distinct(of_all) + of_ports.len()) as u64
    }
}

/// A stable sort is quick with runs that are sorted already.
fn distinct(mut prefixes: Vec<IpNet>) -> usize {
    prefixes.sort();
    prefixes.dedup();
    prefixes.len()
}

fn is_rule(action: Action) -> bool {
    action != Action::Protect
}
