//! What the controller tells: the next revision of its set.

use super::{Enforcement, Refused, RefusedKind};
use crate::set::{Change, Held};
use agent_kernel::filter::Until;
use kctl_blocklist::EntryKey;
use kctl_proto::agent::v1::{self as pb, apply_blocklist_request::Header};
use std::collections::HashSet;

/// Ends that differ by less are one end: the same entry told twice, with the time it was under way.
const SAME_END_NS: u64 = 1_000_000_000;

/// One revision, whole or as a difference.
#[derive(Debug)]
pub(crate) struct Apply {
    pub(crate) header: Header,
    pub(crate) upserts: Vec<Held>,
    pub(crate) removals: Vec<EntryKey>,
}

impl Enforcement {
    /// Converges to what the controller told.
    pub(crate) fn apply(&mut self, apply: Apply) -> Result<pb::ApplyBlocklistResponse, Refused> {
        if let Err(refused) = self.check(&apply.header) {
            self.refusal.clone_from(&refused.message);
            return Err(refused);
        }
        let whole = apply.header.base.is_none();
        let state = pb::StoreState {
            store_id: apply.header.store_id,
            epoch: apply.header.epoch,
            revision: apply.header.revision,
            digest: Vec::new(),
        };
        let mut changes: Vec<_> = apply.removals.into_iter().map(Change::Remove).collect();
        if whole {
            let told: HashSet<_> = apply.upserts.iter().map(|held| &held.entry.key).collect();
            let held = self.set.entries().filter(|held| !held.is_local());
            let gone = held.filter(|held| !told.contains(&held.entry.key));
            changes.extend(gone.map(|held| Change::Remove(held.entry.key.clone())));
        }
        let news = apply.upserts.into_iter().filter(|new| !self.holds(new));
        changes.extend(news.map(Change::Put));
        self.make(changes, Some(state))?;
        self.refusal.clear();
        Ok(pb::ApplyBlocklistResponse {
            state: Some(self.state()),
            not_enforced: self.not_enforced(),
        })
    }

    /// Only the same store at a revision not lower than ours is obeyed, unless we are to adopt it.
    fn check(&self, header: &Header) -> Result<(), Refused> {
        let refuse = |message| Err(Refused::new(RefusedKind::Precondition, message));
        let held = &self.held;
        if header.store_id.is_empty() {
            return Err(Refused::new(RefusedKind::Invalid, "store_id: is missing"));
        }
        if header.adopt || held.store_id.is_empty() {
            return Ok(());
        }
        if held.store_id != header.store_id {
            return refuse(format!(
                "this host holds store {} at revision {} and does not take store {}; \
                 run \"kctl blocklist recover\" or \"kctl hosts adopt\"",
                held.store_id, held.revision, header.store_id
            ));
        }
        if header.revision < held.revision {
            return refuse(format!(
                "this host holds revision {} of store {} and does not go back to revision {}; \
                 run \"kctl blocklist recover\" or \"kctl hosts adopt\"",
                held.revision, held.store_id, header.revision
            ));
        }
        match &header.base {
            Some(base)
                if (&base.store_id, base.epoch, base.revision)
                    != (&held.store_id, held.epoch, held.revision) =>
            {
                refuse(format!(
                    "the difference is to revision {} but this host holds revision {}",
                    base.revision, held.revision
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether an entry is held just like this, but for the time that the telling took.
    fn holds(&self, new: &Held) -> bool {
        let close = |a: Until, b: Until| {
            a == b
                || (a != Until::FOREVER
                    && b != Until::FOREVER
                    && a.boot_ns().abs_diff(b.boot_ns()) < SAME_END_NS)
        };
        self.set.find(&new.entry.key).is_some_and(|old| {
            old.entry.reason == new.entry.reason
                && old.entry.created_unix_ms == new.entry.created_unix_ms
                && old.entry.exceptions == new.entry.exceptions
                && close(old.until, new.until)
        })
    }
}
