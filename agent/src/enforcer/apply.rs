//! What the controller tells: the next revision of its set.

use super::{Enforcement, Refused, RefusedKind};
use crate::set::{Change, FeedStep, Held, HeldFeed};
use agent_kernel::filter::Until;
use ipnet::IpNet;
use kctl_blocklist::{Difference, EntryKey, Feed, FeedHead};
use kctl_proto::agent::v1::{self as pb, apply_blocklist_request::Header};
use std::collections::{BTreeMap, HashSet};

/// Ends that differ by less are one end: the same entry told twice, with the time it was under way.
const SAME_END_NS: u64 = 1_000_000_000;

/// One revision, whole or as a difference.
#[derive(Debug)]
pub(crate) struct Apply {
    pub(crate) header: Header,
    pub(crate) upserts: Vec<Held>,
    pub(crate) removals: Vec<EntryKey>,
    /// By name.
    pub(crate) feeds: BTreeMap<String, FeedEdit>,
}

/// What is told of one feed.
#[derive(Debug, Default)]
pub(crate) struct FeedEdit {
    /// Absent when it stays as it is.
    pub(crate) head: Option<(FeedHead, Until)>,
    pub(crate) added: Vec<IpNet>,
    pub(crate) removed: Vec<IpNet>,
    pub(crate) gone: bool,
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
        changes.extend(self.feed_steps(apply.feeds, whole)?.into_iter().map(Change::Feed));
        let news = apply.upserts.into_iter().filter(|new| !self.holds(new));
        changes.extend(news.map(Change::Put));
        let put = changes.iter().filter(|change| matches!(change, Change::Put(_)));
        let named = put.filter_map(|change| change.key()?.interface.as_ref());
        let on = self.on_interfaces(named);
        self.make(changes, Some(state))?;
        self.refusal.clear();
        Ok(pb::ApplyBlocklistResponse {
            state: Some(self.state()),
            not_enforced: self.not_enforced(),
            interface_not_filtered: on.not_filtered,
            absent_interfaces: on.absent,
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

    /// What becomes of feeds; those that a whole set does not name go.
    fn feed_steps(
        &self,
        edits: BTreeMap<String, FeedEdit>,
        whole: bool,
    ) -> Result<Vec<FeedStep>, Refused> {
        let unnamed = self.set.feeds().map(|held| &held.feed.head().name);
        let unnamed = unnamed.filter(|name| whole && !edits.contains_key(*name));
        let mut steps: Vec<_> =
            unnamed.filter_map(|name| Some(gone(name, self.set.feed(name)?))).collect();
        for (name, edit) in edits {
            let held = self.set.feed(&name);
            if edit.gone {
                steps.extend(held.map(|held| gone(&name, held)));
            } else {
                steps.extend(feed_step(name, edit, held, whole)?);
            }
        }
        Ok(steps)
    }

    /// Whether an entry is held just like this, but for the time that the telling took.
    fn holds(&self, new: &Held) -> bool {
        self.set.find(&new.entry.key).is_some_and(|old| {
            old.entry.reason == new.entry.reason
                && old.entry.created_unix_ms == new.entry.created_unix_ms
                && old.entry.exceptions == new.entry.exceptions
                && close(old.until, new.until)
        })
    }
}

/// Whether two ends are one, but for the time that the telling took.
fn close(a: Until, b: Until) -> bool {
    let ends = |until| until != Until::FOREVER;
    a == b || (ends(a) && ends(b) && a.boot_ns().abs_diff(b.boot_ns()) < SAME_END_NS)
}

fn gone(name: &str, held: &HeldFeed) -> FeedStep {
    let removed = held.feed.prefixes().clone();
    let difference = Difference { removed, ..Difference::default() };
    FeedStep { name: name.to_owned(), after: None, difference }
}

/// What an edit makes of a feed; `None` when that is what it is already.
fn feed_step(
    name: String,
    edit: FeedEdit,
    held: Option<&HeldFeed>,
    whole: bool,
) -> Result<Option<FeedStep>, Refused> {
    let (mut head, mut until) = match (edit.head, held) {
        (Some(head), _) => head,
        (None, Some(held)) => (held.feed.head().clone(), held.until),
        (None, None) => {
            let message =
                format!("feed {name:?}: is not held, and the change does not tell it whole");
            return Err(Refused::new(RefusedKind::Precondition, message));
        }
    };
    let listed = Difference {
        added: edit.added.into_iter().collect(),
        removed: edit.removed.into_iter().collect(),
    };
    let Some(held) = held else {
        let feed = Feed::new(head, listed.added);
        let difference = Difference { added: feed.prefixes().clone(), ..Difference::default() };
        return Ok(Some(FeedStep { name, after: Some(HeldFeed { feed, until }), difference }));
    };
    if close(held.until, until) {
        until = held.until;
        head.expires_unix_ms = held.feed.head().expires_unix_ms;
    }
    let prefixes = if whole { listed.added } else { held.feed.prefixes().apply(&listed) };
    let (feed, difference) = held.feed.next(head, prefixes);
    let after = HeldFeed { feed, until };
    let differs = after != *held;
    Ok(differs.then_some(FeedStep { name, after: Some(after), difference }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_blocklist::{Action, Selection, parse_prefix};

    fn prefixes(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| parse_prefix(text).expect("valid")).collect()
    }

    fn edit(added: &[&str], removed: &[&str], until: Option<u64>) -> FeedEdit {
        let head = FeedHead {
            name: "a".to_owned(),
            action: Action::Drop,
            selection: Selection::All,
            reason: String::new(),
            imported_unix_ms: 0,
            expires_unix_ms: None,
        };
        FeedEdit {
            head: until.map(|until| (head, Until::at(until))),
            added: prefixes(added),
            removed: prefixes(removed),
            gone: false,
        }
    }

    fn step(edit: FeedEdit, held: Option<&HeldFeed>, whole: bool) -> Option<FeedStep> {
        feed_step("a".to_owned(), edit, held, whole).expect("is held or whole")
    }

    #[test]
    fn a_feed_comes_whole_or_as_a_difference_and_only_what_differs_is_a_step() {
        let first = step(edit(&["10.0.0.1", "10.0.0.2"], &[], Some(5)), None, true);
        let held = first.expect("new").after.expect("there");
        assert!(step(edit(&["10.0.0.2", "10.0.0.1"], &[], Some(5)), Some(&held), true).is_none());
        // The same end, told later.
        assert!(step(edit(&[], &[], Some(1_000)), Some(&held), false).is_none());
        let later = step(edit(&[], &[], Some(5_000_000_000)), Some(&held), false).expect("later");
        assert!(later.difference.added.is_empty());
        for (edit, whole) in [
            (edit(&["10.0.0.3"], &["10.0.0.1"], None), false),
            (edit(&["10.0.0.2", "10.0.0.3"], &[], Some(5)), true),
        ] {
            let next = step(edit, Some(&held), whole).expect("differs");
            assert_eq!(next.difference.added.as_slice(), prefixes(&["10.0.0.3"]));
            assert_eq!(next.difference.removed.as_slice(), prefixes(&["10.0.0.1"]));
            let after = next.after.expect("there").feed;
            assert_eq!(after, Feed::new(after.head().clone(), after.prefixes().clone()));
        }
    }

    #[test]
    fn a_difference_to_a_feed_that_is_not_held_is_refused() {
        let refused = feed_step("a".to_owned(), edit(&["10.0.0.1"], &[], None), None, false);
        assert_eq!(refused.expect_err("refused").kind, RefusedKind::Precondition);
    }
}
