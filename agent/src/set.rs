//! The entries and feeds that one host holds, and the rules that follow from them. Plain data: it knows
//! neither the kernel's maps nor the disk nor the wire.

mod feed;
mod rules;
#[cfg(test)]
mod tests;

pub(crate) use feed::{FeedStep, HeldFeed};
pub(crate) use rules::{diff, guard, rule_keys};

use agent_kernel::filter::{Rule, RuleKey, Until};
use feed::Feeds;
use ipnet::IpNet;
use kctl_blocklist::{Action, Digest, Entry, EntryKey, FEED_SOURCE, Feed, Selection, Service};
use rules::{add, rules};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// One entry with its end on this boot's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) entry: Entry,
    pub(crate) until: Until,
}

impl Held {
    /// Whether this host made it itself.
    pub(crate) fn is_local(&self) -> bool {
        self.entry.key.is_local()
    }
}

/// A controller's entry that somebody on this host has put out of force for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspension {
    /// `local:UID`
    pub(crate) by: String,
    pub(crate) until: Until,
    /// The same end on the wall clock, for after a reboot.
    pub(crate) expires_unix_ms: i64,
}

/// One step from one set to the next.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Adds an entry, or replaces the one with its key.
    Put(Held),
    Remove(EntryKey),
    Suspend(EntryKey, Suspension),
    Resume(EntryKey),
    /// Replaces a feed, or takes it away.
    Feed(FeedStep),
}

impl Change {
    /// The one entry that it is about.
    pub(crate) fn key(&self) -> Option<&EntryKey> {
        match self {
            Self::Put(held) => Some(&held.entry.key),
            Self::Remove(key) | Self::Suspend(key, _) | Self::Resume(key) => Some(key),
            Self::Feed(_) => None,
        }
    }
}

/// Everything that this host holds.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// Ordered, so that the entries of one prefix stand together.
    entries: BTreeMap<EntryKey, Held>,
    /// By name.
    feeds: BTreeMap<String, HeldFeed>,
    suspended: BTreeMap<EntryKey, Suspension>,
    /// Over the controller's entries.
    digest: Digest,
    /// How many entries are local.
    local: usize,
    /// How many of these detection made.
    auto: usize,
}

impl Set {
    /// Those that were made one by one.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Held> {
        self.entries.values()
    }

    pub(crate) fn find(&self, key: &EntryKey) -> Option<&Held> {
        self.entries.get(key)
    }

    pub(crate) fn feeds(&self) -> impl Iterator<Item = &HeldFeed> {
        self.feeds.values()
    }

    pub(crate) fn feed(&self, name: &str) -> Option<&HeldFeed> {
        self.feeds.get(name)
    }

    /// Changes that lead from nothing to this set, without suspensions.
    pub(crate) fn everything(&self) -> Vec<Change> {
        let entries = self.entries.values().cloned().map(Change::Put);
        let feeds = self.feeds.values().cloned().map(FeedStep::new).map(Change::Feed);
        entries.chain(feeds).collect()
    }

    /// How many entries this host made itself.
    pub(crate) fn local(&self) -> usize {
        self.local
    }

    /// How many entries this host's detection made.
    pub(crate) fn auto(&self) -> usize {
        self.auto
    }

    pub(crate) fn suspended(&self) -> &BTreeMap<EntryKey, Suspension> {
        &self.suspended
    }

    /// Over the controller's entries, suspended ones included: it tells which set the host holds.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// What the kernel's rules must change when these changes are made.
    pub(crate) fn stage(&self, changes: &[Change]) -> Vec<(RuleKey, Option<Rule>)> {
        let mut by_prefix: BTreeMap<IpNet, Vec<&Change>> = BTreeMap::new();
        let mut touched: Vec<IpNet> = Vec::new();
        let mut feeds: BTreeMap<&str, &HeldFeed> =
            self.feeds.iter().map(|(name, held)| (name.as_str(), held)).collect();
        for change in changes {
            match (change, change.key()) {
                (_, Some(key)) => by_prefix.entry(key.prefix).or_default().push(change),
                (Change::Feed(step), _) => {
                    step.touch(self.feeds.get(&step.name), &mut touched);
                    match &step.after {
                        Some(after) => drop(feeds.insert(&step.name, after)),
                        None => drop(feeds.remove(step.name.as_str())),
                    }
                }
                _ => {}
            }
        }
        touched.extend(by_prefix.keys());
        touched.sort_unstable();
        touched.dedup();
        let (mut before, mut after) =
            (Feeds::new(self.feeds.values()), Feeds::new(feeds.values().copied()));
        let mut staged = Vec::new();
        for prefix in touched {
            let changes = by_prefix.get(&prefix).map_or(&[][..], Vec::as_slice);
            self.stage_prefix(prefix, changes, &mut before, &mut after, &mut staged);
        }
        staged
    }

    fn stage_prefix(
        &self,
        prefix: IpNet,
        changes: &[&Change],
        feeds_before: &mut Feeds<'_>,
        feeds_after: &mut Feeds<'_>,
        staged: &mut Vec<(RuleKey, Option<Rule>)>,
    ) {
        let mut held: BTreeMap<&EntryKey, &Held> = self.of_prefix(prefix).collect();
        let suspended = |key: &EntryKey| self.suspended.contains_key(key);
        let any_suspended = !self.suspended.is_empty();
        let mut before = rules(held.values().copied(), suspended);
        feeds_before.add(prefix, any_suspended.then_some(&suspended), &mut before);
        let mut turned: HashMap<&EntryKey, bool> = HashMap::new();
        for change in changes {
            match change {
                Change::Put(new) => drop(held.insert(&new.entry.key, new)),
                Change::Remove(key) => drop(held.remove(key)),
                Change::Suspend(key, _) => drop(turned.insert(key, true)),
                Change::Resume(key) => drop(turned.insert(key, false)),
                Change::Feed(_) => {}
            }
        }
        let any_suspended = any_suspended || !turned.is_empty();
        let suspended = |key: &EntryKey| turned.get(key).copied().unwrap_or_else(|| suspended(key));
        let mut after = rules(held.values().copied(), suspended);
        feeds_after.add(prefix, any_suspended.then_some(&suspended), &mut after);
        diff(&before, &after, staged);
    }

    /// Makes the changes. What belongs to a removed entry goes with it.
    pub(crate) fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(held) => {
                    let key = held.entry.key.clone();
                    let (old, local) = (self.entries.insert(key.clone(), held), key.is_local());
                    match (old, local) {
                        (Some(_), _) => {}
                        (None, true) => {
                            self.local += 1;
                            self.auto += usize::from(key.is_auto());
                        }
                        (None, false) => self.digest.add(&key),
                    }
                }
                Change::Remove(key) => {
                    self.suspended.remove(&key);
                    match (self.entries.remove(&key), key.is_local()) {
                        (None, _) => {}
                        (Some(_), true) => {
                            self.local -= 1;
                            self.auto -= usize::from(key.is_auto());
                        }
                        (Some(_), false) => self.digest.remove(&key),
                    }
                }
                Change::Suspend(key, suspension) => {
                    self.suspended.insert(key, suspension);
                }
                Change::Resume(key) => {
                    self.suspended.remove(&key);
                }
                Change::Feed(step) => self.commit_feed(step),
            }
        }
    }

    fn commit_feed(&mut self, FeedStep { name, after, .. }: FeedStep) {
        let source = format!("{FEED_SOURCE}{name}");
        self.suspended.retain(|key, _| {
            let held = || after.as_ref().is_some_and(|held| held.feed.entry(key).is_some());
            key.source != source || held()
        });
        if let Some(after) = &after {
            self.digest.add_all(after.feed.digest());
        }
        let before = match after {
            Some(after) => self.feeds.insert(name, after),
            None => self.feeds.remove(&name),
        };
        if let Some(before) = before {
            self.digest.remove_all(before.feed.digest());
        }
    }

    /// Every rule that follows from the whole set, the never-block list's among them.
    pub(crate) fn rules(&self) -> HashMap<RuleKey, Rule> {
        let suspended = |key: &EntryKey| self.suspended.contains_key(key);
        let mut rules = rules(self.entries.values(), suspended);
        for held in self.feeds.values() {
            held.add_all((!self.suspended.is_empty()).then_some(&suspended), &mut rules);
        }
        rules
    }

    /// Prefixes that `protect` entries made one by one put on the never-block list.
    pub(crate) fn protected(&self) -> impl Iterator<Item = IpNet> {
        let keys = self.entries.values().map(|held| &held.entry.key);
        let protected = keys.filter(|key| key.action == Action::Protect && key.service.is_none());
        protected.map(|key| key.prefix)
    }

    /// Feeds that are on the never-block list.
    pub(crate) fn protected_feeds(&self) -> impl Iterator<Item = &Feed> {
        let feeds = self.feeds.values().map(|held| &held.feed);
        feeds.filter(|feed| feed.head().action == Action::Protect)
    }

    /// Whether the never-block list has exactly this prefix.
    pub(crate) fn protects(&self, prefix: IpNet) -> bool {
        let mut entries = self.of_prefix(prefix);
        entries.any(|(key, _)| key.action == Action::Protect && key.service.is_none())
            || self.protected_feeds().any(|feed| feed.prefixes().contains(prefix))
    }

    /// Whether an entry of the never-block list that names ports has this one.
    pub(crate) fn protects_service(&self, source: IpAddr, to: Service) -> bool {
        self.entries.keys().any(|key| {
            let has = |it: Service| {
                it.contains(to.port)
                    && to.protocols().iter().all(|one| it.protocols().contains(one))
            };
            key.action == Action::Protect
                && key.prefix.contains(&source)
                && key.service.is_some_and(has)
                && !self.suspended.contains_key(key)
        })
    }

    /// The rules of the never-block list.
    pub(crate) fn guards(&self) -> HashMap<RuleKey, Rule> {
        let entries = self.entries.values();
        let entries = entries.filter(|held| held.entry.key.action == Action::Protect);
        let suspended = |key: &EntryKey| self.suspended.contains_key(key);
        let mut guards = rules(entries, suspended);
        for held in self.feeds.values() {
            if held.feed.head().action == Action::Protect {
                held.add_all((!self.suspended.is_empty()).then_some(&suspended), &mut guards);
            }
        }
        guards
    }

    /// Local entries and suspensions that are over at `boot_ns`. The controller's entries leave by a
    /// revision of the controller.
    pub(crate) fn over(&self, boot_ns: u64) -> Vec<Change> {
        let local = self.entries.values().filter(|held| {
            held.is_local() && held.until != Until::FOREVER && held.until.boot_ns() <= boot_ns
        });
        let removals = local.map(|held| Change::Remove(held.entry.key.clone()));
        let resumed = self.suspended.iter().filter(|(_, it)| it.until.boot_ns() <= boot_ns);
        removals.chain(resumed.map(|(key, _)| Change::Resume(key.clone()))).collect()
    }

    /// All entries of exactly this prefix, those of feeds among them.
    pub(crate) fn all_of_prefix(&self, prefix: IpNet) -> Vec<Held> {
        let feeds = self.feeds.values().filter(|held| held.feed.prefixes().contains(prefix));
        let of_feeds = feeds.map(|held| held.entry(prefix));
        self.of_prefix(prefix).map(|(_, held)| held.clone()).chain(of_feeds).collect()
    }

    /// Entries made one by one of exactly this prefix.
    fn of_prefix(&self, prefix: IpNet) -> impl Iterator<Item = (&EntryKey, &Held)> {
        let first = EntryKey {
            prefix,
            service: None,
            interface: None,
            action: Action::Drop,
            source: String::new(),
            selection: Selection::All,
        };
        self.entries.range(first..).take_while(move |(key, _)| key.prefix == prefix)
    }
}
