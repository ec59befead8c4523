//! `blocklist import`: a feed is replaced as a whole.

use super::{block::unfiltered, check_reason, first, selection, want_hosts};
use crate::{
    reachable::Reachable,
    registry::HostView,
    status::Error,
    store::{Desired, FeedChange, Model, Write},
};
use ipnet::IpNet;
use kctl_blocklist::{
    Action, FEED_NAME, FeedHead, MAX_FEED_ENTRIES, Prefixes, unpack, valid_feed_name,
};
use kctl_proto::{agent::v1 as pb, controller::v1 as api};
use std::sync::Arc;

/// A request whose prefixes come one message after another.
#[derive(Debug)]
pub(crate) struct Incoming {
    header: api::import_feed_request::Header,
    prefixes: Vec<IpNet>,
}

/// A checked request.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) head: FeedHead,
    pub(crate) prefixes: Prefixes,
    force: bool,
    allow_empty: bool,
}

/// What was recorded, for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Imported {
    pub(crate) entries: u64,
    pub(crate) added: u64,
    pub(crate) removed: u64,
}

impl From<Imported> for api::FeedDifference {
    fn from(imported: Imported) -> Self {
        let Imported { entries, added, removed } = imported;
        Self { entries, added, removed }
    }
}

impl Incoming {
    /// Begins with a header.
    pub(crate) fn new(header: api::import_feed_request::Header) -> Result<Self, Error> {
        if !valid_feed_name(&header.name) {
            return Err(Error::Invalid(FEED_NAME.to_owned()));
        }
        if header.entries > MAX_FEED_ENTRIES {
            return Err(Error::Invalid(format!(
                "entries: a feed has at most {MAX_FEED_ENTRIES} of them"
            )));
        }
        Ok(Self { header, prefixes: Vec::new() })
    }

    /// Takes what comes, but no more than the header said.
    pub(crate) fn add(&mut self, chunk: &pb::Prefixes) -> Result<(), Error> {
        unpack(chunk, &mut self.prefixes).map_err(|error| Error::Invalid(error.to_string()))?;
        if self.prefixes.len() as u64 > self.header.entries {
            return Err(self.wrong_number());
        }
        Ok(())
    }

    fn wrong_number(&self) -> Error {
        let (said, came) = (self.header.entries, self.prefixes.len());
        Error::Invalid(format!("entries: {said} are announced, {came} came; nothing was changed"))
    }

    /// Checks the whole. It sorts the prefixes, so it takes its time.
    pub(crate) fn finish(self, now_unix_ms: i64) -> Result<Import, Error> {
        if self.prefixes.len() as u64 != self.header.entries {
            return Err(self.wrong_number());
        }
        let Self { header, prefixes } = self;
        let prefixes: Prefixes = prefixes.into_iter().collect();
        let action = Action::from_proto(header.action);
        let action = action.map_err(|error| Error::Invalid(error.to_string()))?;
        let action = action.unwrap_or(Action::Drop);
        let expires_unix_ms = match header.ttl_ms {
            Some(0) => return Err(Error::Invalid("ttl: must be at least 1 ms".to_owned())),
            Some(_) if action == Action::Protect => {
                return Err(Error::Invalid("ttl: never-block entries do not expire".to_owned()));
            }
            ttl => {
                ttl.map(|ttl| now_unix_ms.saturating_add(i64::try_from(ttl).unwrap_or(i64::MAX)))
            }
        };
        if prefixes.is_empty() && !header.allow_empty {
            return Err(Error::Precondition(format!(
                "feed {:?}: the import has no entries, which removes the feed; use --allow-empty if \
                 that is meant",
                header.name
            )));
        }
        check_reason(&header.reason)?;
        Ok(Import {
            head: FeedHead {
                name: header.name,
                action,
                selection: selection(header.selection)?,
                reason: header.reason,
                imported_unix_ms: now_unix_ms,
                expires_unix_ms,
            },
            prefixes,
            force: header.force,
            allow_empty: header.allow_empty,
        })
    }
}

impl Import {
    /// Whether hosts are there.
    pub(crate) fn check(&self, hosts: &[HostView]) -> Result<(), Error> {
        want_hosts(&self.head.selection, hosts, self.allow_empty)
    }

    /// The prefixes that are refused, the first of them with the reason, unless it is forced.
    pub(crate) fn refused(&self, reachable: &Reachable) -> api::Refused {
        let overlapping = match self.head.action {
            Action::Drop if !self.force => reachable.overlapping(&self.prefixes),
            _ => return api::Refused::default(),
        };
        let line = |&prefix: &IpNet| {
            let refusal = reachable.refusal(&self.head.key(prefix))?;
            Some(api::refused::Line { prefix: prefix.to_string(), why: refusal.to_string() })
        };
        api::Refused {
            lines: overlapping.iter().filter_map(line).take(super::NAMED).collect(),
            total: overlapping.len() as u64,
        }
    }

    /// What the operator should know: what no host filters, and what the guard keeps open.
    pub(crate) fn warnings(&self, hosts: &[HostView], reachable: &Reachable) -> Vec<String> {
        let mut warnings: Vec<_> = hosts.iter().filter_map(unfiltered).collect();
        if self.force && self.head.action == Action::Drop {
            let overlapping = reachable.overlapping(&self.prefixes).into_iter();
            let open = overlapping.filter_map(|it| reachable.ineffective(&self.head.key(it)));
            warnings.extend(first(open.collect()));
        }
        warnings
    }

    /// What leads from the feed as it is to this one; `None` when it is this one already.
    pub(crate) fn change(self, desired: &Desired) -> (Option<FeedChange>, Imported) {
        let before = desired.feed(&self.head.name);
        let entries = self.prefixes.len() as u64;
        let nothing = match before {
            None => self.prefixes.is_empty(),
            Some(before) => {
                let since = before.head().imported_unix_ms;
                let head = FeedHead { imported_unix_ms: since, ..self.head.clone() };
                *before.head() == head && *before.prefixes() == self.prefixes
            }
        };
        if nothing {
            return (None, Imported { entries, added: 0, removed: 0 });
        }
        let change = FeedChange::import(before, self.head, self.prefixes);
        let added = change.difference.added.len() as u64;
        let removed = change.difference.removed.len() as u64;
        (Some(change), Imported { entries, added, removed })
    }

    /// The write.
    pub(crate) fn decide(self, model: &Model) -> (Vec<Write>, Imported) {
        let (change, imported) = self.change(&model.desired);
        (change.map(|change| Write::Feed(Arc::new(change))).into_iter().collect(), imported)
    }
}
