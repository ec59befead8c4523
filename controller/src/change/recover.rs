//! `blocklist recover`: a store that was lost goes on as the one that the hosts remember.

use crate::{
    status::Error,
    store::{Epoch, FeedChange, Model, Write},
    sync::standing,
};
use kctl_blocklist::{Entry, EntryKey, Feed};
use kctl_proto::agent::v1::StoreState;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What the asked hosts hold.
#[derive(Debug)]
pub(crate) struct Recover {
    /// The one store that they all hold.
    pub(crate) store_id: String,
    /// The states of every connected host of that store, by name; the asked ones among them.
    pub(crate) states: BTreeMap<String, StoreState>,
    /// Entries that a controller made, of whichever host told them.
    pub(crate) entries: BTreeMap<EntryKey, Entry>,
    /// Feeds that a controller imported, by name.
    pub(crate) feeds: BTreeMap<String, Feed>,
}

/// What was taken.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) entries: u64,
    pub(crate) warnings: Vec<String>,
}

impl Recover {
    /// The writes. FAILED_PRECONDITION: this store has something of its own, or knows all this.
    pub(crate) fn decide(self, model: &Model) -> Result<(Vec<Write>, Recovered), Error> {
        let desired = &model.desired;
        let same = self.store_id == desired.store_id;
        let ahead = self.states.iter().any(|(host, state)| standing(desired, state, host).is_err());
        if same && !ahead {
            return Err(Error::Precondition(
                "nothing to recover: this controller's store knows what these hosts hold"
                    .to_owned(),
            ));
        }
        let of_feeds = desired.feeds().map(|feed| feed.prefixes().len()).sum::<usize>();
        let own = desired.entries().len() + of_feeds;
        if !same && own > 0 {
            return Err(Error::Precondition(format!(
                "this controller's store has {own} entries of its own and the hosts hold another \
                 store; run \"kctl hosts adopt\" to give them this one, or start the controller with \
                 an empty store to take theirs"
            )));
        }
        let mut warnings = Vec::new();
        if own > 0 {
            warnings.push(format!(
                "{own} entries of the older store were kept; see `kctl blocklist` for those that had \
                 been unblocked since"
            ));
        }
        let highest = self.states.values().map(|state| state.revision).max().unwrap_or(0);
        let revision = highest.max(desired.revision) + 1;
        let epochs =
            self.epochs(if same { &desired.epochs } else { &[] }, desired.epoch(), revision);
        let of_feeds = self.feeds.values().map(|feed| feed.prefixes().len()).sum::<usize>();
        let entries = (self.entries.len() + of_feeds) as u64;
        let mut writes = vec![Write::Identity { store_id: self.store_id, epochs, revision }];
        writes.extend(self.entries.into_values().map(|entry| Write::Upsert(Arc::new(entry))));
        writes.extend(self.feeds.into_iter().map(|(name, feed)| {
            let before = desired.feed(&name).cloned();
            Write::Feed(Arc::new(FeedChange::between(name, before, Some(feed))))
        }));
        Ok((writes, Recovered { entries, warnings }))
    }

    /// Those that are known already, those that the hosts tell of, then this run's.
    fn epochs(&self, known: &[Epoch], running: u64, revision: u64) -> Vec<Epoch> {
        let mut told: BTreeMap<u64, u64> = BTreeMap::new();
        for state in self.states.values() {
            let last = told.entry(state.epoch).or_default();
            *last = state.revision.max(*last);
        }
        let known_names: BTreeSet<u64> = known.iter().map(|epoch| epoch.epoch).collect();
        let mut epochs: Vec<Epoch> = known
            .iter()
            .filter(|epoch| epoch.epoch != running)
            .map(|epoch| {
                let last = told.get(&epoch.epoch).copied().max(epoch.last);
                Epoch { last, ..*epoch }
            })
            .collect();
        epochs.extend(
            told.into_iter()
                .filter(|(epoch, _)| !known_names.contains(epoch))
                .map(|(epoch, last)| Epoch { epoch, first: 0, last: Some(last) }),
        );
        epochs.push(Epoch { epoch: running, first: revision, last: None });
        epochs
    }
}
