//! What the host holds, on disk, so that it is back after a reboot before any controller answers.
//! One redb file; every save is one durable transaction.

use crate::set::{Change, FeedStep, Held, HeldFeed, Set, Suspension};
use agent_kernel::filter::Until;
use kctl_blocklist::{Entry, EntryKey, Feed, FeedHead, now_unix_ms, pack, unpack};
use kctl_proto::agent::v1 as pb;
use prost::Message as _;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::path::{Path, PathBuf};

const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
/// By name. A feed is one value: a million rows would be a hundred times slower to write.
const FEEDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("feeds");
const SUSPENDED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("suspended");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const STATE: &str = "state";

/// An entry, and its end on both clocks: the boot clock holds while `boot_id` is this boot's, the wall
/// clock after a reboot.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredEntry {
    #[prost(message, optional, tag = "1")]
    entry: Option<pb::Entry>,
    #[prost(message, optional, tag = "2")]
    end: Option<StoredEnd>,
}

/// A feed, whole.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredFeed {
    #[prost(message, optional, tag = "1")]
    head: Option<pb::FeedHead>,
    #[prost(message, optional, tag = "2")]
    prefixes: Option<pb::Prefixes>,
    #[prost(message, optional, tag = "3")]
    end: Option<StoredEnd>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredSuspension {
    #[prost(string, tag = "1")]
    by: String,
    #[prost(message, optional, tag = "2")]
    end: Option<StoredEnd>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredEnd {
    #[prost(int64, tag = "1")]
    unix_ms: i64,
    #[prost(uint64, tag = "2")]
    boot_ns: u64,
    #[prost(string, tag = "3")]
    boot_id: String,
}

/// Which boot this is, and its clock.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub(crate) id: String,
    pub(crate) now_ns: fn() -> u64,
}

impl Boot {
    /// The boot clock at a point of the wall clock.
    pub(crate) fn until(&self, unix_ms: Option<i64>) -> Until {
        let Some(unix_ms) = unix_ms else { return Until::FOREVER };
        let left_ms = u64::try_from(unix_ms.saturating_sub(now_unix_ms())).unwrap_or(0);
        Until::at((self.now_ns)().saturating_add(left_ms.saturating_mul(1_000_000)))
    }

    /// Milliseconds left; `None` means forever.
    pub(crate) fn left_ms(&self, until: Until) -> Option<u64> {
        (until != Until::FOREVER)
            .then(|| until.boot_ns().saturating_sub((self.now_ns)()) / 1_000_000)
    }
}

/// The file of one agent.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    boot: Boot,
}

/// What was on disk.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) set: Set,
    pub(crate) state: pb::StoreState,
    /// Nothing was there: the host knows nothing of what its pinned maps may hold.
    pub(crate) is_new: bool,
    /// Where an unreadable file was moved to.
    pub(crate) set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens or makes `state.redb` in `folder`. A file that can't be read is moved aside: the pinned
    /// maps go on filtering, and the controller brings the set back.
    pub(crate) fn open(folder: &Path, boot: Boot) -> Result<(Self, Stored), redb::Error> {
        let path = folder.join("state.redb");
        match Self::open_file(&path, boot.clone()) {
            Ok(opened) => Ok(opened),
            Err(redb::Error::DatabaseAlreadyOpen) => Err(redb::Error::DatabaseAlreadyOpen),
            Err(error) => {
                let aside = folder.join(format!("state.redb.unreadable-{}", now_unix_ms()));
                tracing::error!(%error, path = %path.display(), aside = %aside.display(),
                    "the stored blocklist can't be read; moved aside");
                std::fs::rename(&path, &aside)?;
                let (store, stored) = Self::open_file(&path, boot)?;
                Ok((store, Stored { set_aside: Some(aside), ..stored }))
            }
        }
    }

    fn open_file(path: &Path, boot: Boot) -> Result<(Self, Stored), redb::Error> {
        let is_new = !path.exists();
        let store = Self { database: Database::create(path)?, boot };
        let transaction = store.database.begin_write()?;
        transaction.open_table(ENTRIES)?;
        transaction.open_table(FEEDS)?;
        transaction.open_table(SUSPENDED)?;
        transaction.open_table(META)?;
        transaction.commit()?;
        let mut stored = store.load()?;
        stored.is_new = is_new;
        Ok((store, stored))
    }

    fn load(&self) -> Result<Stored, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut changes = Vec::new();
        for row in transaction.open_table(ENTRIES)?.iter()? {
            let (_, value) = row?;
            changes.push(Change::Put(self.entry(value.value())?));
        }
        for row in transaction.open_table(FEEDS)?.iter()? {
            let (_, value) = row?;
            changes.push(Change::Feed(FeedStep::new(self.feed(value.value())?)));
        }
        for row in transaction.open_table(SUSPENDED)?.iter()? {
            let (key, value) = row?;
            changes.push(self.suspension(key.value(), value.value())?);
        }
        let mut stored = Stored::default();
        stored.set.commit(changes);
        if let Some(value) = transaction.open_table(META)?.get(STATE)? {
            stored.state = pb::StoreState::decode(value.value()).map_err(corrupted)?;
        }
        Ok(stored)
    }

    /// Makes the changes durable, together with the state that they lead to.
    pub(crate) fn save(
        &self,
        changes: &[Change],
        state: &pb::StoreState,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut feeds = transaction.open_table(FEEDS)?;
            let mut suspended = transaction.open_table(SUSPENDED)?;
            let bytes = |key: &EntryKey| pb::EntryKey::from(key).encode_to_vec();
            for change in changes {
                match change {
                    Change::Put(held) => {
                        let value = self.stored_entry(held).encode_to_vec();
                        entries.insert(bytes(&held.entry.key).as_slice(), value.as_slice())?;
                    }
                    Change::Remove(key) => {
                        let key = bytes(key);
                        entries.remove(key.as_slice())?;
                        suspended.remove(key.as_slice())?;
                    }
                    Change::Suspend(key, suspension) => {
                        let end = self.end(suspension.until, suspension.expires_unix_ms);
                        let value = StoredSuspension { by: suspension.by.clone(), end: Some(end) };
                        let value = value.encode_to_vec();
                        suspended.insert(bytes(key).as_slice(), value.as_slice())?;
                    }
                    Change::Resume(key) => {
                        suspended.remove(bytes(key).as_slice())?;
                    }
                    Change::Feed(FeedStep { name, after: Some(held), .. }) => {
                        let value = self.stored_feed(held).encode_to_vec();
                        feeds.insert(name.as_str(), value.as_slice())?;
                    }
                    Change::Feed(FeedStep { name, after: None, .. }) => {
                        feeds.remove(name.as_str())?;
                    }
                }
            }
            let state = state.encode_to_vec();
            transaction.open_table(META)?.insert(STATE, state.as_slice())?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn stored_entry(&self, held: &Held) -> StoredEntry {
        let end = held.entry.expires_unix_ms.map(|unix_ms| self.end(held.until, unix_ms));
        let entry = Entry { expires_unix_ms: None, ..held.entry.clone() };
        StoredEntry { entry: Some(entry.to_proto(0)), end }
    }

    fn stored_feed(&self, held: &HeldFeed) -> StoredFeed {
        let head = held.feed.head();
        let end = head.expires_unix_ms.map(|unix_ms| self.end(held.until, unix_ms));
        let head = FeedHead { expires_unix_ms: None, ..head.clone() };
        let prefixes = Some(pack(held.feed.prefixes().as_slice()));
        StoredFeed { head: Some(head.to_proto(0)), prefixes, end }
    }

    fn end(&self, until: Until, unix_ms: i64) -> StoredEnd {
        StoredEnd { unix_ms, boot_ns: until.boot_ns(), boot_id: self.boot.id.clone() }
    }

    fn until(&self, end: Option<&StoredEnd>) -> Until {
        match end {
            Some(end) if end.boot_id == self.boot.id => Until::at(end.boot_ns),
            end => self.boot.until(end.map(|end| end.unix_ms)),
        }
    }

    fn entry(&self, value: &[u8]) -> Result<Held, redb::Error> {
        let stored = StoredEntry::decode(value).map_err(corrupted)?;
        let entry = stored.entry.ok_or_else(|| corrupted("entry is missing"))?;
        let mut entry = Entry::from_proto(entry, 0).map_err(corrupted)?;
        entry.expires_unix_ms = stored.end.as_ref().map(|end| end.unix_ms);
        Ok(Held { entry, until: self.until(stored.end.as_ref()) })
    }

    fn feed(&self, value: &[u8]) -> Result<HeldFeed, redb::Error> {
        let stored = StoredFeed::decode(value).map_err(corrupted)?;
        let head = stored.head.ok_or_else(|| corrupted("head is missing"))?;
        let mut head = FeedHead::from_proto(head, 0).map_err(corrupted)?;
        head.expires_unix_ms = stored.end.as_ref().map(|end| end.unix_ms);
        let mut prefixes = Vec::new();
        unpack(&stored.prefixes.unwrap_or_default(), &mut prefixes).map_err(corrupted)?;
        let feed = Feed::new(head, prefixes.into_iter().collect());
        Ok(HeldFeed { feed, until: self.until(stored.end.as_ref()) })
    }

    fn suspension(&self, key: &[u8], value: &[u8]) -> Result<Change, redb::Error> {
        let key = pb::EntryKey::decode(key).map_err(corrupted)?;
        let key = EntryKey::try_from(key).map_err(corrupted)?;
        let StoredSuspension { by, end } = StoredSuspension::decode(value).map_err(corrupted)?;
        let expires_unix_ms = end.as_ref().map_or(0, |end| end.unix_ms);
        let until = self.until(end.as_ref());
        Ok(Change::Suspend(key, Suspension { by, until, expires_unix_ms }))
    }
}

fn corrupted(why: impl ToString) -> redb::Error {
    redb::Error::Corrupted(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_blocklist::{Action, Selection, parse_prefix};

    fn boot(id: &str, now_ns: fn() -> u64) -> Boot {
        Boot { id: id.to_owned(), now_ns }
    }

    fn held(prefix: &str, until: Until, expires_unix_ms: Option<i64>) -> Held {
        let key = EntryKey {
            prefix: parse_prefix(prefix).expect("valid"),
            service: None,
            interface: None,
            action: Action::Drop,
            source: "user:admin".to_owned(),
            selection: Selection::All,
        };
        let reason = "scanner".to_owned();
        let exceptions = Vec::new();
        Held {
            entry: Entry { key, reason, created_unix_ms: 7, expires_unix_ms, exceptions },
            until,
        }
    }

    #[test]
    fn entries_and_state_come_back_with_their_ends() {
        let folder = tempfile::tempdir().expect("temp dir");
        let open = |boot| Store::open(folder.path(), boot).expect("opens");
        let (forever, short) = (
            held("10.0.0.1", Until::FOREVER, None),
            held("::1", Until::at(5_000), Some(now_unix_ms() + 60_000)),
        );
        let state =
            pb::StoreState { store_id: "s".to_owned(), epoch: 3, revision: 4, digest: vec![] };
        {
            let (store, stored) = open(boot("one", || 1_000));
            assert!(stored.is_new);
            let changes = [Change::Put(forever.clone()), Change::Put(short.clone())];
            store.save(&changes, &state).expect("saves");
        }
        {
            // The same boot: the boot clock counts.
            let (_store, stored) = open(boot("one", || 2_000));
            assert!(!stored.is_new);
            assert_eq!(stored.state, state);
            assert_eq!(stored.set.find(&forever.entry.key), Some(&forever));
            assert_eq!(stored.set.find(&short.entry.key), Some(&short));
        }
        {
            // Another boot: the wall clock counts.
            let (store, stored) = open(boot("two", || 0));
            let until = stored.set.find(&short.entry.key).expect("is there").until.boot_ns();
            assert!((55_000_000_000..=60_000_000_000).contains(&until), "{until}");
            store.save(&[Change::Remove(short.entry.key.clone())], &state).expect("saves");
        }
        let (_store, stored) = open(boot("two", || 0));
        assert_eq!(stored.set.entries().count(), 1);
    }

    #[test]
    fn feeds_come_back_with_their_end() {
        let folder = tempfile::tempdir().expect("temp dir");
        let open = || Store::open(folder.path(), boot("one", || 1_000)).expect("opens");
        let head = FeedHead {
            name: "drop".to_owned(),
            action: Action::Drop,
            selection: Selection::All,
            reason: "listed".to_owned(),
            imported_unix_ms: 7,
            expires_unix_ms: Some(now_unix_ms() + 60_000),
        };
        let prefixes = ["10.0.0.1", "10.0.0.0/24", "2001:db8::/32"];
        let prefixes = prefixes.iter().map(|text| parse_prefix(text).expect("valid")).collect();
        let held = HeldFeed { feed: Feed::new(head, prefixes), until: Until::at(5_000) };
        let key = held.feed.head().key(parse_prefix("10.0.0.1").expect("valid"));
        let suspension =
            Suspension { by: "local:0".to_owned(), until: Until::at(9), expires_unix_ms: 9 };
        let state = pb::StoreState::default();
        {
            let (store, _) = open();
            let changes =
                [Change::Feed(FeedStep::new(held.clone())), Change::Suspend(key, suspension)];
            store.save(&changes, &state).expect("saves");
        }
        {
            let (store, stored) = open();
            assert_eq!(stored.set.feed("drop"), Some(&held));
            assert_eq!(stored.set.digest(), held.feed.digest());
            assert_eq!(stored.set.suspended().len(), 1);
            let (name, difference) = ("drop".to_owned(), kctl_blocklist::Difference::default());
            let gone = FeedStep { name, after: None, difference };
            store.save(&[Change::Feed(gone)], &state).expect("saves");
        }
        assert_eq!(open().1.set.feeds().count(), 0);
    }

    #[test]
    fn an_unreadable_file_is_moved_aside_and_named() {
        let folder = tempfile::tempdir().expect("temp dir");
        std::fs::write(folder.path().join("state.redb"), "not a database").expect("writes");
        let (_store, stored) = Store::open(folder.path(), boot("one", || 0)).expect("opens");
        let aside = stored.set_aside.expect("moved aside");
        assert_eq!(std::fs::read(aside).expect("reads"), b"not a database");
        assert_eq!(stored.set.entries().count(), 0);
    }
}
