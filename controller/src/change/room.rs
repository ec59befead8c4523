//! How many rules a host would have, and whether it has room for them.

use crate::{registry::HostView, status::Error, store::Desired};
use ipnet::IpNet;
use kctl_blocklist::{Action, Feed, Prefixes, Protocol, Service};
use std::collections::HashSet;

/// What a host's rules are made of: entries of the store, feeds, and what a change adds.
pub(super) struct Rules<'a> {
    desired: &'a Desired,
    feeds: Vec<&'a Prefixes>,
    host: &'a HostView,
}

impl<'a> Rules<'a> {
    /// Those that a host has, or should have.
    pub(super) fn of(desired: &'a Desired, host: &'a HostView) -> Self {
        let labels = host.labels();
        let feeds = desired.feeds().filter(|feed| is_rule(feed.head().action));
        let feeds = feeds.filter(|feed| feed.concerns(&host.name, &labels));
        Self { desired, feeds: feeds.map(Feed::prefixes).collect(), host }
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
        let feeds = feeds
            .filter(|feed| is_rule(feed.head().action) && feed.concerns(&host.name, &labels))
            .map(Feed::prefixes);
        Self { desired, feeds: feeds.collect(), host }
    }

    /// RESOURCE_EXHAUSTED when they and `new` need more room than the host has, and fewer did not.
    pub(super) fn check(&self, new: &[(IpNet, Option<Service>)]) -> Result<(), Error> {
        let status = self.host.status.as_ref().and_then(|status| status.filter.as_ref());
        let Some(max) = status.map(|filter| filter.max_entries).filter(|&max| max > 0) else {
            return Ok(());
        };
        // Exact numbers take a look at every entry, so only where a rough upper bound does not fit.
        let rough = 2 * (self.desired.entries().len() + new.len())
            + self.feeds.iter().map(|feed| feed.len()).sum::<usize>();
        if rough as u64 <= max {
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
    pub(super) fn is_over(&self) -> bool {
        self.check(&[]).is_err()
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
            of_all.extend_from_slice(feed.as_slice());
        }
        of_all.sort_unstable();
        of_all.dedup();
        (of_all.len() + of_ports.len()) as u64
    }
}

fn is_rule(action: Action) -> bool {
    action != Action::Protect
}
