//! The feeds in a set: thousands of entries with one head and one end.

use super::{Held, add};
use agent_kernel::filter::{Rule, RuleKey, Until};
use ipnet::IpNet;
use kctl_blocklist::{Action, Cursor, Difference, EntryKey, Feed};
use std::collections::HashMap;

/// A feed with its end on this boot's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldFeed {
    pub(crate) feed: Feed,
    pub(crate) until: Until,
}

/// One step of one feed.
#[derive(Debug, Clone)]
pub(crate) struct FeedStep {
    pub(crate) name: String,
    /// `None` when it goes.
    pub(crate) after: Option<HeldFeed>,
    /// From the feed as it is held.
    pub(crate) difference: Difference,
}

/// Whether an entry of a feed is out of force, where any is.
type Suspended<'a> = Option<&'a dyn Fn(&EntryKey) -> bool>;

impl HeldFeed {
    /// The entry of one of its prefixes.
    pub(super) fn entry(&self, prefix: IpNet) -> Held {
        Held { entry: self.feed.head().entry(prefix), until: self.until }
    }

    /// Adds the rules of all its entries.
    pub(super) fn add_all(
        &self,
        suspended: Option<&impl Fn(&EntryKey) -> bool>,
        rules: &mut HashMap<RuleKey, Rule>,
    ) {
        for &prefix in self.feed.prefixes().as_slice() {
            self.add(prefix, suspended.map(|it| it as _), rules);
        }
    }

    fn add(&self, prefix: IpNet, suspended: Suspended<'_>, rules: &mut HashMap<RuleKey, Rule>) {
        let head = self.feed.head();
        if suspended.is_none_or(|suspended| !suspended(&head.key(prefix))) {
            let guards = head.action == Action::Protect;
            add(rules, RuleKey { guards, ..RuleKey::any(prefix) }, head.action, self.until);
        }
    }

    /// Whether the same prefixes make the same rules.
    fn same_rules(&self, other: &Self) -> bool {
        self.until == other.until && self.feed.head().same_keys(other.feed.head())
    }
}

impl FeedStep {
    /// One that leads from nothing to a feed.
    pub(crate) fn new(held: HeldFeed) -> Self {
        let added = held.feed.prefixes().clone();
        let difference = Difference { added, ..Difference::default() };
        Self { name: held.feed.head().name.clone(), after: Some(held), difference }
    }

    /// Appends the prefixes whose rules it may change.
    pub(super) fn touch(&self, before: Option<&HeldFeed>, touched: &mut Vec<IpNet>) {
        let Difference { added, removed } = &self.difference;
        match (before, &self.after) {
            (Some(before), Some(after)) if !before.same_rules(after) => {
                touched.extend_from_slice(before.feed.prefixes().as_slice());
            }
            _ => touched.extend_from_slice(removed.as_slice()),
        }
        touched.extend_from_slice(added.as_slice());
    }
}

/// Looks prefixes up in all feeds, in order.
pub(super) struct Feeds<'a>(Vec<(&'a HeldFeed, Cursor<'a>)>);

impl<'a> Feeds<'a> {
    pub(super) fn new(feeds: impl Iterator<Item = &'a HeldFeed>) -> Self {
        let at_start = |held: &'a HeldFeed| (held, Cursor::new(held.feed.prefixes().as_slice()));
        Self(feeds.map(at_start).collect())
    }

    /// Adds the rules of the entries of a prefix that is not before the last one.
    pub(super) fn add(
        &mut self,
        prefix: IpNet,
        suspended: Option<&impl Fn(&EntryKey) -> bool>,
        rules: &mut HashMap<RuleKey, Rule>,
    ) {
        for (held, cursor) in &mut self.0 {
            if cursor.contains(prefix) {
                held.add(prefix, suspended.map(|it| it as _), rules);
            }
        }
    }
}
