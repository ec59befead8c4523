//! A feed: many entries that one import made, with what they have in common said once.

use crate::{Action, Difference, Digest, Entry, EntryKey, InvalidEntry, Prefixes, Selection};
use kctl_proto::agent::v1 as pb;
use std::{collections::BTreeMap, sync::Arc};

/// The source of a feed's entries begins with this.
pub const FEED_SOURCE: &str = "feed:";

/// More entries than this are no feed, but a mistake: the largest filter has as much room.
pub const MAX_FEED_ENTRIES: u64 = 16_777_216;

/// What all entries of a feed have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedHead {
    /// Unique name.
    pub name: String,
    /// What its packets meet.
    pub action: Action,
    /// The hosts that it is for.
    pub selection: Selection,
    /// Free text of whoever imported it.
    pub reason: String,
    /// Wall clock of the import, milliseconds since 1970.
    pub imported_unix_ms: i64,
    /// Wall clock of its end, milliseconds since 1970; `None` means never.
    pub expires_unix_ms: Option<i64>,
}

/// A feed with its prefixes. Cloning it is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    head: Arc<FeedHead>,
    prefixes: Arc<Prefixes>,
    digest: Digest,
}

impl FeedHead {
    /// The entry of one of the feed's prefixes.
    pub fn entry(&self, prefix: ipnet::IpNet) -> Entry {
        Entry {
            key: self.key(prefix),
            reason: self.reason.clone(),
            created_unix_ms: self.imported_unix_ms,
            expires_unix_ms: self.expires_unix_ms,
            exceptions: Vec::new(),
        }
    }

    /// The key of that entry.
    pub fn key(&self, prefix: ipnet::IpNet) -> EntryKey {
        EntryKey {
            prefix,
            service: None,
            interface: None,
            action: self.action,
            source: format!("{FEED_SOURCE}{}", self.name),
            selection: self.selection.clone(),
        }
    }

    /// Whether both make the same keys of the same prefixes.
    pub fn same_keys(&self, other: &Self) -> bool {
        (&self.name, self.action, &self.selection) == (&other.name, other.action, &other.selection)
    }

    /// Reads a head whose time left was measured at `now_unix_ms`.
    pub fn from_proto(head: pb::FeedHead, now_unix_ms: i64) -> Result<Self, InvalidEntry> {
        let action =
            Action::from_proto(head.action)?.ok_or(InvalidEntry::Field("action: is missing"))?;
        let ends =
            |ttl_ms: u64| now_unix_ms.saturating_add(i64::try_from(ttl_ms).unwrap_or(i64::MAX));
        let selection =
            head.selection.ok_or(InvalidEntry::Field("selection: is missing"))?.try_into()?;
        if !valid_feed_name(&head.name) {
            return Err(InvalidEntry::Field(FEED_NAME));
        }
        Ok(Self {
            name: head.name,
            action,
            selection,
            reason: head.reason,
            imported_unix_ms: head.imported_unix_ms,
            expires_unix_ms: head.ttl_ms.map(ends),
        })
    }

    /// Writes the head with the time left at `now_unix_ms`; one that is over has 0 left.
    pub fn to_proto(&self, now_unix_ms: i64) -> pb::FeedHead {
        let left = |ends: i64| u64::try_from(ends.saturating_sub(now_unix_ms)).unwrap_or(0);
        pb::FeedHead {
            name: self.name.clone(),
            action: pb::Action::from(self.action).into(),
            selection: Some((&self.selection).into()),
            reason: self.reason.clone(),
            imported_unix_ms: self.imported_unix_ms,
            ttl_ms: self.expires_unix_ms.map(left),
        }
    }
}

impl Feed {
    /// Of all its parts.
    pub fn new(head: FeedHead, prefixes: Prefixes) -> Self {
        let digest = Digest::of_feed(&head, &prefixes);
        Self { head: head.into(), prefixes: prefixes.into(), digest }
    }

    /// The feed with another head and other prefixes, and what leads to it. The digest costs what the
    /// difference does.
    pub fn next(&self, head: FeedHead, prefixes: Prefixes) -> (Self, Difference) {
        let difference = self.prefixes.difference(&prefixes);
        if !self.head.same_keys(&head) {
            return (Self::new(head, prefixes), difference);
        }
        let mut digest = self.digest;
        digest.add_all(Digest::of_feed(&head, &difference.added));
        digest.remove_all(Digest::of_feed(&head, &difference.removed));
        // What did not change goes on sharing its memory with whoever else holds it.
        let same = difference.added.is_empty() && difference.removed.is_empty();
        let prefixes = if same { Arc::clone(&self.prefixes) } else { prefixes.into() };
        (Self { head: head.into(), prefixes, digest }, difference)
    }

    /// What its entries have in common.
    pub fn head(&self) -> &FeedHead {
        &self.head
    }

    /// One entry each.
    pub fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }

    /// Over its entries' keys.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its entries, made as they are asked for.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.prefixes.as_slice().iter().map(|&prefix| self.head.entry(prefix))
    }

    /// The entry of this key, if it is the feed's.
    pub fn entry(&self, key: &EntryKey) -> Option<Entry> {
        (self.prefixes.contains(key.prefix) && self.head.key(key.prefix) == *key)
            .then(|| self.head.entry(key.prefix))
    }

    /// Whether a host of this name and these labels must have it.
    pub fn concerns(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.head.selection.matches(name, labels)
    }
}

/// What a name of a feed must be.
pub const FEED_NAME: &str =
    "name of the feed: must be 1 to 64 of a-z, A-Z, 0-9, \"-\", \"_\" and \".\"";

/// Whether it is [`FEED_NAME`].
pub fn valid_feed_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_prefix;

    fn head(action: Action) -> FeedHead {
        FeedHead {
            name: "drop".to_owned(),
            action,
            selection: Selection::All,
            reason: "listed".to_owned(),
            imported_unix_ms: 7,
            expires_unix_ms: Some(61_000),
        }
    }

    fn prefixes(texts: &[&str]) -> Prefixes {
        texts.iter().map(|text| parse_prefix(text).expect("valid")).collect()
    }

    #[test]
    fn the_digest_is_that_of_the_entries_also_step_by_step() {
        let plain = |feed: &Feed| {
            let keys: Vec<_> = feed.entries().map(|entry| entry.key).collect();
            keys.iter().collect::<Digest>()
        };
        let one = Feed::new(head(Action::Drop), prefixes(&["10.0.0.1", "::1", "10.0.0.0/24"]));
        assert_eq!(one.digest(), plain(&one));
        let later = prefixes(&["10.0.0.1", "2001:db8::/32", "10.0.0.9"]);
        for action in [Action::Drop, Action::Monitor] {
            let (next, difference) = one.next(head(action), later.clone());
            assert_eq!(one.prefixes().apply(&difference), later);
            assert_eq!(next.prefixes(), &later);
            assert_eq!(next.digest(), plain(&next));
            assert_eq!(next, Feed::new(head(action), later.clone()));
        }
    }

    #[test]
    fn a_head_survives_the_wire_and_bad_names_do_not() {
        let wire = head(Action::Protect).to_proto(31_000);
        assert_eq!(wire.ttl_ms, Some(30_000));
        assert_eq!(FeedHead::from_proto(wire.clone(), 31_000), Ok(head(Action::Protect)));
        let long = "x".repeat(65);
        for name in ["", "a b", "a/b", "a\nb", "ä", &long] {
            let wire = pb::FeedHead { name: name.to_owned(), ..wire.clone() };
            assert!(FeedHead::from_proto(wire, 0).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_entry_is_found_by_its_whole_key() {
        let feed = Feed::new(head(Action::Drop), prefixes(&["10.0.0.1"]));
        let key = head(Action::Drop).key(parse_prefix("10.0.0.1").expect("valid"));
        assert_eq!(feed.entry(&key).map(|entry| entry.key), Some(key.clone()));
        assert_eq!(feed.entry(&EntryKey { source: "feed:other".to_owned(), ..key }), None);
    }
}
