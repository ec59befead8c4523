//! One message to a reader while it is put together.

use super::batch::{At, Places, Source, weight};
use kctl_proto::{
    agent::v1::{Event, Origin, event::Payload},
    controller::v1::{HostCursor, WatchEventsResponse},
};
use std::{collections::BTreeMap, sync::Arc};

/// A message with more goes, events and bytes of memory: far from what clients take in one.
const ENOUGH_EVENTS: usize = 1_024;
const ENOUGH_BYTES: usize = 1 << 20;

/// A message to a reader.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    sources: Vec<Source>,
    /// A source's place in `sources`, by host: the last one, where a host has several.
    indexes: BTreeMap<Arc<str>, usize>,
    events: Vec<Event>,
    cursors: Places,
    pub(super) filtered: u64,
    pub(super) live: bool,
    /// About what it was made of, bytes of memory.
    pub(super) bytes: usize,
}

impl Outgoing {
    /// Adds an event; `origin` is set here.
    pub(super) fn push(&mut self, source: &Source, mut event: Event) {
        let known = self.indexes.get(&source.host).filter(|index| self.sources[**index] == *source);
        let index = match known {
            Some(index) => *index,
            None => {
                let index = self.sources.len();
                self.sources.push(source.clone());
                self.indexes.insert(Arc::clone(&source.host), index);
                index
            }
        };
        event.origin = u32::try_from(index).unwrap_or(u32::MAX);
        self.events.push(event);
    }

    /// The place of a host after this message.
    pub(super) fn reach(&mut self, host: &Arc<str>, at: At) {
        self.cursors.insert(Arc::clone(host), at);
    }

    /// Takes back what a loss among the last `events` says too much.
    pub(super) fn lower_loss(&mut self, events: usize, source: &Source, excess: u64) {
        let start = self.events.len().saturating_sub(events);
        let sources = &self.sources;
        let of_source = |event: &&mut Event| sources[event.origin as usize] == *source;
        for event in self.events[start..].iter_mut().filter(of_source) {
            if weight(event) > excess
                && let Some(Payload::Lost(lost)) = &mut event.payload
            {
                lost.count -= excess;
                return;
            }
        }
    }

    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it has any.
    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether it should go before anything is added.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= ENOUGH_EVENTS || self.bytes >= ENOUGH_BYTES
    }

    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.cursors.is_empty() && self.filtered == 0 && !self.live
    }

    /// As on the wire.
    pub(super) fn into_response(self) -> WatchEventsResponse {
        let cursor = |(host, at): (Arc<str>, At)| HostCursor {
            host: (*host).to_owned(),
            cursor: Some(at.cursor()),
        };
        WatchEventsResponse {
            origins: self.sources.iter().map(Source::origin).collect::<Vec<Origin>>(),
            events: self.events,
            cursors: self.cursors.into_iter().map(cursor).collect(),
            filtered: self.filtered,
            live: self.live,
        }
    }
}
