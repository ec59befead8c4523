//! Desired state in memory: the entries, the revision, and the changes that led to it.
//!
//! It knows neither the database nor connections.

use super::Write;
use ipnet::IpNet;
use kctl_blocklist::{Action, Entry, EntryKey, Selection};
use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

/// How many changes are remembered; a host that is further behind gets the whole set.
const LOG_LENGTH: usize = 100_000;

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

/// What became of one entry at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The revision that has it.
    pub(crate) revision: u64,
    /// The entry before; `None` when it is new.
    pub(crate) before: Option<Arc<Entry>>,
    /// The entry after; `None` when it is gone.
    pub(crate) after: Option<Arc<Entry>>,
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
    log: VecDeque<Change>,
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
            log: VecDeque::new(),
            log_floor: revision,
        }
    }

    /// The name of this run.
    pub(crate) fn epoch(&self) -> u64 {
        self.epochs.last().map_or(0, |epoch| epoch.epoch)
    }

    /// All entries in the order of their keys, so prefixes stand together.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = &Arc<Entry>> {
        self.entries.iter().map(|entry| &entry.0)
    }

    /// Entries of exactly this prefix.
    pub(crate) fn of_prefix(&self, prefix: IpNet) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries
            .range(first_key(prefix)..)
            .map(|entry| &entry.0)
            .take_while(move |entry| entry.key.prefix == prefix)
    }

    /// Entries that share addresses with a prefix: those around it, then those in it.
    pub(crate) fn overlapping(&self, prefix: IpNet) -> impl Iterator<Item = &Arc<Entry>> {
        let around = std::iter::successors(prefix.supernet(), IpNet::supernet);
        let inside = self
            .entries
            .range(first_key(prefix)..)
            .map(|entry| &entry.0)
            .take_while(move |entry| prefix.contains(&entry.key.prefix));
        around.flat_map(|prefix| self.of_prefix(prefix)).chain(inside)
    }

    /// The entry of this key.
    pub(crate) fn entry(&self, key: &EntryKey) -> Option<&Arc<Entry>> {
        self.entries.get(key).map(|entry| &entry.0)
    }

    /// Entries that are over at this time.
    pub(crate) fn ended(&self, now_unix_ms: i64) -> impl Iterator<Item = &Arc<Entry>> {
        self.ends
            .iter()
            .take_while(move |(ends, _)| *ends <= now_unix_ms)
            .map(|(_, entry)| &entry.0)
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
                _ => {}
            }
        }
        if let Some((store_id, epochs, _)) = identity {
            self.store_id.clone_from(store_id);
            self.epochs.clone_from(epochs);
            // Nothing in the log leads to a state of that store.
            self.log.clear();
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

    fn record(&mut self, before: Option<Arc<Entry>>, after: Option<Arc<Entry>>) {
        self.log.push_back(Change { revision: self.revision, before, after });
        if self.log.len() > LOG_LENGTH
            && let Some(forgotten) = self.log.pop_front()
        {
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
        Desired::new("s".to_owned(), Vec::new(), 7, [])
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
