//! Which events a reader wants.

use crate::{Kind, Kinds};
use kctl_proto::agent::v1::{Event, EventFilter, Origin};

/// A filter that can't be read: where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFilter(String);

/// A filter, ready for events.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty means all.
    kinds: Kinds,
}

impl Filter {
    /// Reads a filter; absent means every event.
    pub fn new(filter: Option<EventFilter>) -> Result<Self, InvalidFilter> {
        let kinds = filter.unwrap_or_default().types.into_iter().map(|number| {
            Kind::from_proto(number)
                .ok_or_else(|| InvalidFilter(format!("type {number}: unknown to this version")))
        });
        Ok(Self { kinds: kinds.collect::<Result<_, _>>()? })
    }

    /// The kinds that can match; those about the stream itself always can.
    pub fn kinds(&self) -> Kinds {
        let wanted = |kind: &Kind| {
            self.kinds.is_empty() || kind.is_about_the_stream() || self.kinds.contains(*kind)
        };
        Kind::all().filter(wanted).collect()
    }

    /// Whether an event is wanted. Lost events always are.
    pub fn matches(&self, _origin: &Origin, event: &Event) -> bool {
        Kind::of(event).is_some_and(|kind| self.kinds().contains(kind))
    }
}
