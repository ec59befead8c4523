//! Desired state in memory: the entries, the revision, and the changes that led to it.
//!
//! It knows neither the database nor connections.

use super::Write;
use ipnet::IpNet;
use kctl_blocklist::{Action, Difference, Entry, EntryKey, Feed, FeedHead, Prefixes, Selection};
use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// How many changes of entries are remembered; a host that is further behind gets the whole set.
const LOG_LENGTH: usize = 100_000;
/// So many prefixes of a remembered feed weigh as much as one change of an entry.
const PREFIXES_PER_CHANGE: usize = 32;

/// One run of a controller on a store: which revisions hosts can have heard from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// Its random name.
    pub(crate) epoch: u64,
    /// The revision that it began with.
    pub(crate) first: u64,
    /// The last revision that it made; `None` for the one that is running.
    pub(crate) last: Option<u64>,
}

/// An entry that is found by its key.
#[derive(Debug, Clone)]
pub(crate) struct ByKey(pub(crate) Arc<Entry>);

impl Borrow<EntryKey> for ByKey {
    fn borrow(&self) -> &EntryKey {
        &self.0.key
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// What became of something at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The revision that has it.
    pub(crate) revision: u64,
    /// What it was and is.
    pub(crate) what: Changed,
}

/// Something that changed: `None` before when it is new, `None` after when it is gone.
#[derive(Debug, Clone)]
pub(crate) enum Changed {
    /// One entry.
    Entry { before: Option<Arc<Entry>>, after: Option<Arc<Entry>> },
    /// A feed.
    Feed(Arc<FeedChange>),
}

/// What becomes of a feed.
#[derive(Debug, Clone)]
pub(crate) struct FeedChange {
    pub(crate) name: String,
    pub(crate) before: Option<Feed>,
    pub(crate) after: Option<Feed>,
    pub(crate) difference: Difference,
}

impl FeedChange {
    /// An import: without prefixes the feed goes.
    pub(crate) fn import(before: Option<&Feed>, head: FeedHead, prefixes: Prefixes) -> Self {
        let name = head.name.clone();
        if prefixes.is_empty() {
            return Self::between(name, before.cloned(), None);
        }
        let Some(old) = before else {
            return Self::between(name, None, Some(Feed::new(head, prefixes)));
        };
        let (after, difference) = old.next(head, prefixes);
        Self { name, before: Some(old.clone()), after: Some(after), difference }
    }

    /// From one state of it to another.
    pub(crate) fn between(name: String, before: Option<Feed>, after: Option<Feed>) -> Self {
        let none = Prefixes::default();
        let of =
            |feed: &Option<Feed>| feed.as_ref().map_or(none.clone(), |it| it.prefixes().clone());
        let difference = of(&before).difference(&of(&after));
        Self { name, before, after, difference }
    }

    fn weight(&self) -> usize {
        let before = self.before.as_ref().map_or(0, |feed| feed.prefixes().len());
        let Difference { added, removed } = &self.difference;
        1 + (before + added.len() + removed.len()) / PREFIXES_PER_CHANGE
    }
}

impl Change {
    fn weight(&self) -> usize {
        match &self.what {
            Changed::Entry { .. } => 1,
            Changed::Feed(change) => change.weight(),
        }
    }
}

/// Everything that should be in force, at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Desired {
    /// Random name of the store.
    pub(crate) store_id: String,
    /// Every run of a controller on this store; the last is this one.
    pub(crate) epochs: Vec<Epoch>,
    /// Grows by one with every change of the entries.
    pub(crate) revision: u64,
    entries: BTreeSet<ByKey>,
    /// Entries that end, soonest first.
    ends: BTreeSet<(i64, ByKey)>,
    /// By name, with the revision that has it as it is.
    feeds: BTreeMap<String, (Feed, u64)>,
    log: VecDeque<Change>,
    log_weight: usize,
    /// The oldest revision from which the log leads to now.
    log_floor: u64,
}

impl Desired {
    /// As read from the store, with an empty log.
    pub(crate) fn new(
        store_id: String,
        epochs: Vec<Epoch>,
        revision: u64,
        entries: impl IntoIterator<Item = Entry>,
        feeds: impl IntoIterator<Item = (Feed, u64)>,
    ) -> Self {
        let entries: BTreeSet<ByKey> =
            entries.into_iter().map(|entry| ByKey(Arc::new(entry))).collect();
        let ends = entries
            .iter()
            .filter_map(|entry| Some((entry.0.expires_unix_ms?, entry.clone())))
            .collect();
        Self {
            store_id,
            epochs,
            revision,
            entries,
            ends,
            feeds: feeds.into_iter().map(|feed| (feed.0.head().name.clone(), feed)).collect(),
            log: VecDeque::new(),
            log_weight: 0,
            log_floor: revision,
        }
    }

    /// The name of this run.
    pub(crate) fn epoch(&self) -> u64 {
        self.epochs.last().map_or(0, |epoch| epoch.epoch)
    }

    /// Those that were made one by one, in the order of their keys, so prefixes stand together.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = &Arc<Entry>> {
        self.entries.iter().map(|entry| &entry.0)
    }

    /// Every feed, by name.
    pub(crate) fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.feeds.values().map(|(feed, _)| feed)
    }

    /// The same, each with the revision that has it as it is.
    pub(crate) fn feeds_with_revisions(&self) -> impl Iterator<Item = &(Feed, u64)> {
        self.feeds.values()
    }

    /// The feed of this name.
    pub(crate) fn feed(&self, name: &str) -> Option<&Feed> {
        self.feeds.get(name).map(|(feed, _)| feed)
    }

    /// Entries made one by one of exactly this prefix.
    pub(crate) fn of_prefix(&self, prefix: IpNet) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries
            .range(first_key(prefix)..)
            .map(|entry| &entry.0)
            .take_while(move |entry| entry.key.prefix == prefix)
    }

    /// Entries that share addresses with a prefix: those around it, then those in it, then feeds'.
    pub(crate) fn overlapping(&self, prefix: IpNet) -> impl Iterator<Item = Arc<Entry>> {
        let around = std::iter::successors(prefix.supernet(), IpNet::supernet);
        let inside = self
            .entries
            .range(first_key(prefix)..)
            .map(|entry| &entry.0)
            .take_while(move |entry| prefix.contains(&entry.key.prefix));
        let own = around.flat_map(|prefix| self.of_prefix(prefix)).chain(inside).cloned();
        let of_feeds = self.feeds().flat_map(move |feed| {
            feed.prefixes().overlapping(prefix).map(|prefix| Arc::new(feed.head().entry(prefix)))
        });
        own.chain(of_feeds)
    }

    /// The entry of this key, made by itself.
    pub(crate) fn entry(&self, key: &EntryKey) -> Option<&Arc<Entry>> {
        self.entries.get(key).map(|entry| &entry.0)
    }

    /// What removes the entries and feeds that are over at this time.
    pub(crate) fn ended(&self, now_unix_ms: i64) -> impl Iterator<Item = Write> {
        let entries = self.ends.iter().take_while(move |(ends, _)| *ends <= now_unix_ms);
        let entries = entries.map(|(_, entry)| Write::Remove(entry.0.key.clone()));
        let is_over =
            move |feed: &&Feed| feed.head().expires_unix_ms.is_some_and(|ends| ends <= now_unix_ms);
        let feeds = self.feeds().filter(is_over).map(|feed| {
            let name = feed.head().name.clone();
            Write::Feed(Arc::new(FeedChange::between(name, Some(feed.clone()), None)))
        });
        entries.chain(feeds)
    }

    /// The changes after a revision, oldest first; `None` when the log does not reach that far back.
    pub(crate) fn changes_since(&self, revision: u64) -> Option<impl Iterator<Item = &Change>> {
        let first = self.log.partition_point(|change| change.revision <= revision);
        (self.log_floor..=self.revision).contains(&revision).then(|| self.log.range(first..))
    }

    /// Makes the changes of one decision; together they are one revision.
    pub(crate) fn apply(&mut self, writes: &[Write]) {
        if !Write::change_entries(writes) {
            return;
        }
        let identity = writes.iter().find_map(|write| match write {
            Write::Identity { store_id, epochs, revision } => Some((store_id, epochs, *revision)),
            _ => None,
        });
        self.revision = identity.map_or(self.revision + 1, |(_, _, revision)| revision);
        for write in writes {
            match write {
                Write::Upsert(entry) => self.upsert(entry),
                Write::Remove(key) => self.remove(key),
                Write::Feed(change) => self.replace(change),
                _ => {}
            }
        }
        if let Some((store_id, epochs, _)) = identity {
            self.store_id.clone_from(store_id);
            self.epochs.clone_from(epochs);
            // Nothing in the log leads to a state of that store.
            self.log.clear();
            self.log_weight = 0;
            self.log_floor = self.revision;
        }
    }

    fn upsert(&mut self, entry: &Arc<Entry>) {
        let before = self.take(&entry.key);
        self.entries.insert(ByKey(Arc::clone(entry)));
        if let Some(ends) = entry.expires_unix_ms {
            self.ends.insert((ends, ByKey(Arc::clone(entry))));
        }
        self.record(before, Some(Arc::clone(entry)));
    }

    fn remove(&mut self, key: &EntryKey) {
        let before = self.take(key);
        self.record(before, None);
    }

    fn take(&mut self, key: &EntryKey) -> Option<Arc<Entry>> {
        let before = self.entries.take(key)?.0;
        if let Some(ends) = before.expires_unix_ms {
            self.ends.remove(&(ends, ByKey(Arc::clone(&before))));
        }
        Some(before)
    }

    fn replace(&mut self, change: &Arc<FeedChange>) {
        match &change.after {
            Some(feed) => {
                self.feeds.insert(change.name.clone(), (feed.clone(), self.revision));
            }
            None => drop(self.feeds.remove(&change.name)),
        }
        self.log(Changed::Feed(Arc::clone(change)));
    }

    fn record(&mut self, before: Option<Arc<Entry>>, after: Option<Arc<Entry>>) {
        self.log(Changed::Entry { before, after });
    }

    fn log(&mut self, what: Changed) {
        let change = Change { revision: self.revision, what };
        self.log_weight += change.weight();
        self.log.push_back(change);
        // The last change is always there, or no host could follow a large feed by difference.
        while self.log_weight > LOG_LENGTH
            && self.log.len() > 1
            && let Some(forgotten) = self.log.pop_front()
        {
            self.log_weight -= forgotten.weight();
            // A revision is only reached from an earlier one by all of its changes.
            self.log_floor = forgotten.revision;
        }
    }
}

/// The least key of a prefix. Keys are ordered by address, then length, so what lies inside a prefix
/// follows it.
fn first_key(prefix: IpNet) -> EntryKey {
    EntryKey {
        prefix,
        service: None,
        interface: None,
        action: Action::Drop,
        source: String::new(),
        selection: Selection::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_blocklist::parse_prefix;

    fn entry(prefix: &str, expires_unix_ms: Option<i64>) -> Arc<Entry> {
        Arc::new(Entry {
            key: EntryKey {
                prefix: parse_prefix(prefix).expect("valid"),
                service: None,
                interface: None,
                action: Action::Drop,
                source: "user:a".to_owned(),
                selection: Selection::All,
            },
            reason: String::new(),
            created_unix_ms: 0,
            expires_unix_ms,
            exceptions: Vec::new(),
        })
    }

    fn empty() -> Desired {
        Desired::new("s".to_owned(), Vec::new(), 7, [], [])
    }

    #[test]
    fn a_decision_is_one_revision_and_the_log_leads_to_it() {
        let mut desired = empty();
        let (a, b) = (entry("10.0.0.1", None), entry("10.0.0.2", None));
        desired.apply(&[Write::Upsert(Arc::clone(&a)), Write::Upsert(b)]);
        desired.apply(&[Write::Remove(a.key.clone())]);
        assert_eq!((desired.revision, desired.entries().len()), (9, 1));
        assert_eq!(desired.changes_since(7).expect("in the log").count(), 3);
        assert_eq!(desired.changes_since(8).expect("in the log").count(), 1);
        assert_eq!(desired.changes_since(9).expect("in the log").count(), 0);
        assert!(desired.changes_since(6).is_none());
        assert!(desired.changes_since(10).is_none());
    }

    #[test]
    fn the_log_is_bounded_and_says_how_far_it_reaches() {
        let mut desired = empty();
        let a = entry("10.0.0.1", None);
        for _ in 0..=LOG_LENGTH {
            desired.apply(&[Write::Upsert(Arc::clone(&a))]);
        }
        assert!(desired.changes_since(7).is_none());
        assert!(desired.changes_since(8).is_some());
    }

    #[test]
    fn a_new_end_replaces_the_old_one() {
        let mut desired = empty();
        desired.apply(&[Write::Upsert(entry("10.0.0.1", Some(100)))]);
        desired.apply(&[Write::Upsert(entry("10.0.0.1", Some(200)))]);
        assert_eq!(desired.ended(150).count(), 0);
        assert_eq!(desired.ended(200).count(), 1);
        desired.apply(&[Write::Upsert(entry("10.0.0.1", None))]);
        assert_eq!(desired.ended(i64::MAX).count(), 0);
    }

    fn feed(prefixes: usize, expires_unix_ms: Option<i64>) -> (FeedHead, Prefixes) {
        let head = FeedHead {
            name: "drop".to_owned(),
            action: Action::Drop,
            selection: Selection::All,
            reason: String::new(),
            imported_unix_ms: 0,
            expires_unix_ms,
        };
        let address = |n: usize| std::net::Ipv4Addr::from(u32::try_from(n).expect("small"));
        (head, (0..prefixes).map(|n| IpNet::from(std::net::IpAddr::from(address(n)))).collect())
    }

    fn import(desired: &mut Desired, (head, prefixes): (FeedHead, Prefixes)) {
        let change = FeedChange::import(desired.feed("drop"), head, prefixes);
        desired.apply(&[Write::Feed(Arc::new(change))]);
    }

    #[test]
    fn an_import_is_one_change_and_large_ones_are_not_remembered_for_long() {
        let mut desired = empty();
        import(&mut desired, feed(3, None));
        assert_eq!((desired.revision, desired.feeds().count()), (8, 1));
        assert_eq!(desired.changes_since(7).expect("in the log").count(), 1);
        assert_eq!(desired.overlapping(parse_prefix("0.0.0.0/31").expect("valid")).count(), 2);
        for round in 0..3 {
            import(&mut desired, feed(LOG_LENGTH * PREFIXES_PER_CHANGE / 2 + round, None));
        }
        assert!(desired.changes_since(7).is_none());
        assert!(desired.changes_since(desired.revision - 1).is_some());
        import(&mut desired, feed(0, None));
        assert_eq!(desired.feeds().count(), 0);
    }

    #[test]
    fn a_feed_that_is_over_goes_whole() {
        let mut desired = empty();
        import(&mut desired, feed(3, Some(100)));
        assert_eq!(desired.ended(99).count(), 0);
        let writes: Vec<_> = desired.ended(100).collect();
        desired.apply(&writes);
        assert_eq!((writes.len(), desired.feeds().count()), (1, 0));
    }

    #[test]
    fn overlaps_are_found_around_and_inside() {
        let mut desired = empty();
        let all = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.5", "10.0.1.0/24", "::/0"];
        let writes: Vec<_> = all.iter().map(|prefix| Write::Upsert(entry(prefix, None))).collect();
        desired.apply(&writes);
        let found = |prefix| {
            let prefix = parse_prefix(prefix).expect("valid");
            desired
                .overlapping(prefix)
                .map(|entry| entry.key.prefix.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("10.0.0.0/24"), ["10.0.0.0/8", "0.0.0.0/0", "10.0.0.0/24", "10.0.0.5/32"]);
        assert_eq!(found("10.0.0.6"), ["10.0.0.0/24", "10.0.0.0/8", "0.0.0.0/0"]);
        assert_eq!(found("0.0.0.0/0").len(), 5);
        assert_eq!(found("2001:db8::1"), ["::/0"]);
    }
}
