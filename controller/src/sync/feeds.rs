//! How changes of feeds go out: packed, in messages of bounded size that are made as they are sent.

use crate::store::FeedChange;
use kctl_blocklist::{Feed, FeedHead, Prefixes, now_unix_ms, pack};
use kctl_proto::agent::v1::{self as pb, apply_blocklist_request::FeedChange as Message};
use std::sync::Arc;

/// Prefixes in one message: 850 kilobytes at most.
const CHUNK: usize = 50_000;

/// What one host is told of one feed.
#[derive(Debug)]
pub(super) enum FeedStep {
    /// All of it: the host has none, or is told everything.
    Whole(Feed),
    /// What differs from the feed that the host has.
    Change(Arc<FeedChange>),
    /// It goes.
    Gone(String),
}

/// Which of a step's prefixes.
#[derive(Clone, Copy)]
enum Which {
    Added,
    Removed,
}

impl FeedStep {
    /// For a host that has the feed as it was before `first` if it was `there`, and should have `after`
    /// of what `last` made of it.
    pub(super) fn new(
        there: bool,
        after: Option<&Feed>,
        first: &Arc<FeedChange>,
        last: &Arc<FeedChange>,
    ) -> Option<Self> {
        match (there, after) {
            (false, None) => None,
            (false, Some(feed)) => Some(Self::Whole(feed.clone())),
            (true, None) => Some(Self::Gone(first.name.clone())),
            // One change, as usual, has its difference with it.
            (true, Some(_)) if Arc::ptr_eq(first, last) => Some(Self::Change(Arc::clone(first))),
            (true, Some(feed)) => {
                let (name, before) = (first.name.clone(), first.before.clone());
                let net = FeedChange::between(name, before, Some(feed.clone()));
                Some(Self::Change(Arc::new(net)))
            }
        }
    }

    /// The messages; the first has the head. Times left are those at the moment of sending.
    pub(super) fn messages(self) -> impl Iterator<Item = Message> + Send {
        let step = Arc::new(self);
        let first = Message {
            name: step.name().to_owned(),
            gone: matches!(*step, Self::Gone(_)),
            ..Message::default()
        };
        let added = chunks(&step, Which::Added).map({
            let name = first.name.clone();
            move |added| Message { name: name.clone(), added: Some(added), ..Message::default() }
        });
        let removed = chunks(&step, Which::Removed).map({
            let name = first.name.clone();
            move |removed| Message {
                name: name.clone(),
                removed: Some(removed),
                ..Message::default()
            }
        });
        // The head alone is a change as well, and so is going.
        let bare = first.gone || (step.count(Which::Added) + step.count(Which::Removed)) == 0;
        let rest = bare.then_some(first).into_iter().chain(added).chain(removed);
        let mut head = step.head().cloned();
        rest.map(move |message| {
            let head = head.take().map(|head| head.to_proto(now_unix_ms()));
            Message { head, ..message }
        })
    }

    fn name(&self) -> &str {
        match self {
            Self::Whole(feed) => &feed.head().name,
            Self::Change(change) => &change.name,
            Self::Gone(name) => name,
        }
    }

    /// `None` when the host has it already.
    fn head(&self) -> Option<&FeedHead> {
        match self {
            Self::Whole(feed) => Some(feed.head()),
            Self::Change(change) => {
                let head = |feed: &'_ Option<Feed>| feed.as_ref().map(|feed| feed.head().clone());
                let changed = head(&change.before) != head(&change.after);
                change.after.as_ref().filter(|_| changed).map(Feed::head)
            }
            Self::Gone(_) => None,
        }
    }

    fn prefixes(&self, which: Which) -> Option<&Prefixes> {
        match (self, which) {
            (Self::Whole(feed), Which::Added) => Some(feed.prefixes()),
            (Self::Change(change), Which::Added) => Some(&change.difference.added),
            (Self::Change(change), Which::Removed) => Some(&change.difference.removed),
            (Self::Whole(_), Which::Removed) | (Self::Gone(_), _) => None,
        }
    }

    fn count(&self, which: Which) -> usize {
        self.prefixes(which).map_or(0, Prefixes::len)
    }
}

fn chunks(step: &Arc<FeedStep>, which: Which) -> impl Iterator<Item = pb::Prefixes> + Send + use<> {
    let step = Arc::clone(step);
    (0..step.count(which)).step_by(CHUNK).map(move |from| {
        let prefixes = step.prefixes(which).map_or(&[][..], Prefixes::as_slice);
        pack(prefixes[from..].iter().take(CHUNK))
    })
}
