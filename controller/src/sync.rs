//! What a host must be sent so that it holds what it should: nothing, a difference, or the whole set.
//!
//! Pure: it looks at desired state and at what the host told. It knows no connections.

mod feeds;

use crate::store::{Changed, Desired, FeedChange};
use feeds::FeedStep;
use futures_util::{Stream, stream};
use kctl_blocklist::{Digest, Entry, EntryKey, Feed, now_unix_ms};
use kctl_proto::agent::v1 as pb;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Entries in one message: a few hundred kilobytes at most.
const CHUNK: usize = 1_000;

/// One entry as it was and as it is.
type BeforeAfter<'a> = (Option<&'a Arc<Entry>>, Option<&'a Arc<Entry>>);

/// What one host should hold, followed from revision to revision.
#[derive(Debug)]
pub(crate) struct Expected {
    name: String,
    labels: BTreeMap<String, String>,
    epoch: u64,
    revision: u64,
    digest: Digest,
}

/// What to do about a host.
#[derive(Debug)]
pub(crate) enum Plan {
    /// It holds what it should.
    InSync,
    /// It holds something that this store does not know: change nothing there. Why, and what to do.
    Refused(String),
    /// Send it this.
    Apply(Apply),
}

/// What to send, and what the host holds afterwards.
#[derive(Debug)]
pub(crate) struct Apply {
    header: pb::apply_blocklist_request::Header,
    upserts: Vec<Arc<Entry>>,
    removals: Vec<EntryKey>,
    feeds: Vec<FeedStep>,
    /// Of the entries that the host holds afterwards.
    pub(crate) digest: Digest,
}

impl Expected {
    /// For a host of this name and these labels.
    pub(crate) fn new(desired: &Desired, name: &str, labels: BTreeMap<String, String>) -> Self {
        let mut expected = Self {
            name: name.to_owned(),
            labels,
            epoch: 0,
            revision: 0,
            digest: Digest::default(),
        };
        expected.recount(desired);
        expected
    }

    /// Whether the host's labels are still these.
    pub(crate) fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels == *labels
    }

    /// What to do about the host, which told `state`. With `whole`, a difference is not enough; with
    /// `adopt`, it takes our set whatever it holds.
    pub(crate) fn plan(
        &mut self,
        desired: &Desired,
        state: &pb::StoreState,
        whole: bool,
        adopt: bool,
    ) -> Plan {
        self.follow(desired);
        let known = match standing(desired, state, &self.name) {
            Ok(known) => known,
            Err(_) if adopt => false,
            Err(why) => return Plan::Refused(why),
        };
        let digest = Digest::from_bytes(&state.digest);
        if known && state.revision == desired.revision && digest == Some(self.digest) {
            return Plan::InSync;
        }
        if known
            && !whole
            && !adopt
            && digest.is_some()
            && digest == self.at(desired, state.revision)
        {
            return Plan::Apply(self.difference(desired, state));
        }
        Plan::Apply(self.whole(desired, adopt))
    }

    fn concerns(&self, entry: Option<&Arc<Entry>>) -> bool {
        entry.is_some_and(|entry| entry.concerns(&self.name, &self.labels))
    }

    fn takes<'a>(&self, feed: Option<&'a Feed>) -> Option<&'a Feed> {
        feed.filter(|feed| feed.concerns(&self.name, &self.labels))
    }

    fn recount(&mut self, desired: &Desired) {
        self.digest = desired
            .entries()
            .filter(|entry| self.concerns(Some(entry)))
            .map(|entry| &entry.key)
            .collect();
        let feeds = desired.feeds().filter_map(|feed| self.takes(Some(feed)));
        let digests: Vec<_> = feeds.map(Feed::digest).collect();
        digests.into_iter().for_each(|digest| self.digest.add_all(digest));
        (self.epoch, self.revision) = (desired.epoch(), desired.revision);
    }

    fn follow(&mut self, desired: &Desired) {
        let changes =
            desired.changes_since(self.revision).filter(|_| self.epoch == desired.epoch());
        let Some(changes) = changes else { return self.recount(desired) };
        let mut digest = self.digest;
        for change in changes {
            let (before, after) = self.digests(&change.what);
            digest.remove_all(before);
            digest.add_all(after);
        }
        (self.digest, self.revision) = (digest, desired.revision);
    }

    /// The digest that the host should have had at an earlier revision.
    fn at(&self, desired: &Desired, revision: u64) -> Option<Digest> {
        let mut digest = self.digest;
        for change in desired.changes_since(revision)? {
            let (before, after) = self.digests(&change.what);
            digest.add_all(before);
            digest.remove_all(after);
        }
        Some(digest)
    }

    /// What a change takes from the host's digest, and what it adds.
    fn digests(&self, changed: &Changed) -> (Digest, Digest) {
        match changed {
            Changed::Entry { before, after } => {
                let of = |entry: Option<&Arc<Entry>>| {
                    entry
                        .filter(|_| self.concerns(entry))
                        .map(|entry| &entry.key)
                        .into_iter()
                        .collect()
                };
                (of(before.as_ref()), of(after.as_ref()))
            }
            Changed::Feed(change) => {
                let of =
                    |feed: Option<&Feed>| self.takes(feed).map(Feed::digest).unwrap_or_default();
                (of(change.before.as_ref()), of(change.after.as_ref()))
            }
        }
    }

    fn difference(&self, desired: &Desired, base: &pb::StoreState) -> Apply {
        // Of several changes of one entry, the first tells what the host has, the last what it should.
        let mut net: HashMap<&EntryKey, BeforeAfter<'_>> = HashMap::new();
        let mut net_feeds: BTreeMap<&str, (&Arc<FeedChange>, &Arc<FeedChange>)> = BTreeMap::new();
        for change in desired.changes_since(base.revision).into_iter().flatten() {
            match &change.what {
                Changed::Entry { before, after } => {
                    let (before, after) = (before.as_ref(), after.as_ref());
                    if let Some(entry) = before.or(after) {
                        net.entry(&entry.key).or_insert((before, None)).1 = after;
                    }
                }
                Changed::Feed(change) => {
                    net_feeds.entry(&change.name).or_insert((change, change)).1 = change;
                }
            }
        }
        let (mut upserts, mut removals) = (Vec::new(), Vec::new());
        for (key, (before, after)) in net {
            match after {
                Some(entry) if self.concerns(after) => upserts.push(Arc::clone(entry)),
                _ if self.concerns(before) => removals.push(key.clone()),
                _ => {}
            }
        }
        let feeds = net_feeds.into_values().filter_map(|(first, last)| {
            let there = self.takes(first.before.as_ref());
            FeedStep::new(there.is_some(), self.takes(last.after.as_ref()), first, last)
        });
        Apply {
            header: header(desired, Some(base.clone()), false),
            upserts,
            removals,
            feeds: feeds.collect(),
            digest: self.digest,
        }
    }

    fn whole(&self, desired: &Desired, adopt: bool) -> Apply {
        let upserts =
            desired.entries().filter(|entry| self.concerns(Some(entry))).cloned().collect();
        Apply {
            header: header(desired, None, adopt),
            upserts,
            removals: Vec::new(),
            feeds: desired
                .feeds()
                .filter_map(|feed| self.takes(Some(feed)))
                .map(|feed| FeedStep::Whole(feed.clone()))
                .collect(),
            digest: self.digest,
        }
    }
}

impl Apply {
    /// The revision that the host has afterwards.
    pub(crate) fn revision(&self) -> u64 {
        self.header.revision
    }

    /// Whether it replaces all that the host holds.
    pub(crate) fn is_whole(&self) -> bool {
        self.header.base.is_none()
    }

    /// The messages. Times left are those at the moment of sending.
    pub(crate) fn messages(
        self,
    ) -> impl Stream<Item = pb::ApplyBlocklistRequest> + Send + Unpin + 'static {
        use pb::apply_blocklist_request::{Chunk, Part};
        let Self { header, upserts, removals, feeds, .. } = self;
        let upserts = chunks(upserts).map(|entries| {
            let now = now_unix_ms();
            let upserts = entries.iter().map(|entry| entry.to_proto(now)).collect();
            Part::Chunk(Chunk { upserts, removals: Vec::new() })
        });
        let removals = chunks(removals).map(|keys| {
            let removals = keys.iter().map(pb::EntryKey::from).collect();
            Part::Chunk(Chunk { upserts: Vec::new(), removals })
        });
        let feeds = feeds.into_iter().flat_map(FeedStep::messages).map(Part::Feed);
        // Boxed: what sends it holds it several times over, on a large fleet for each host at once.
        let parts: Box<dyn Iterator<Item = Part> + Send> = Box::new(
            std::iter::once(Part::Header(header)).chain(feeds).chain(upserts).chain(removals),
        );
        stream::iter(parts.map(|part| pb::ApplyBlocklistRequest { part: Some(part) }))
    }
}

fn chunks<T>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(CHUNK).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn header(
    desired: &Desired,
    base: Option<pb::StoreState>,
    adopt: bool,
) -> pb::apply_blocklist_request::Header {
    pb::apply_blocklist_request::Header {
        store_id: desired.store_id.clone(),
        epoch: desired.epoch(),
        revision: desired.revision,
        base,
        adopt,
    }
}

/// Whether a host's state is an earlier one of this store (`true`), or that of a host that never had
/// one (`false`); else why it must be left alone, and what to do.
pub(crate) fn standing(
    desired: &Desired,
    state: &pb::StoreState,
    host: &str,
) -> Result<bool, String> {
    if state.store_id.is_empty() {
        return Ok(false);
    }
    let told = |epoch: &&crate::store::Epoch| {
        epoch.epoch == state.epoch
            && epoch.first.saturating_sub(1) <= state.revision
            && state.revision <= epoch.last.unwrap_or(desired.revision)
    };
    if state.store_id == desired.store_id && desired.epochs.iter().any(|epoch| told(&epoch)) {
        return Ok(true);
    }
    let short = |id: &str| id.chars().take(8).collect::<String>();
    Err(format!(
        "holds store {} revision {}, which this controller's store ({} revision {}) does not know; \
         run \"kctl blocklist recover --from-host {host}\" to take its entries, or \"kctl hosts adopt \
         {host}\" to give it this controller's",
        short(&state.store_id),
        state.revision,
        short(&desired.store_id),
        desired.revision,
    ))
}

#[cfg(test)]
mod tests;
