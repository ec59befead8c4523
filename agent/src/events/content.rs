//! What the ring holds: events as their source had them. Raw records of the kernel are read when
//! somebody wants them, and not before.

use super::kernel::Batch;
use kctl_proto::agent::v1::{Event, event::Payload};
use prost::Message as _;

/// Events of one look at one source.
#[derive(Debug)]
pub(crate) enum Content {
    /// As readers get them, but for their numbers.
    Told(Vec<Event>),
    /// As the tracing programs wrote them.
    Raw(Batch),
}

impl Content {
    /// How many events.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Told(events) => events.len() as u64,
            Self::Raw(batch) => batch.len() as u64,
        }
    }

    /// How many events they stand for.
    pub(crate) fn produced(&self) -> u64 {
        match self {
            Self::Told(events) => events.iter().map(weight).sum(),
            Self::Raw(batch) => batch.len() as u64,
        }
    }

    /// About how much memory they take.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Told(events) => {
                events.iter().map(|event| size_of::<Event>() + event.encoded_len()).sum()
            }
            Self::Raw(batch) => batch.bytes(),
        }
    }

    /// The events, numbered from `first` on.
    pub(crate) fn events(&self, first: u64) -> Vec<Event> {
        let mut events = match self {
            Self::Told(events) => events.clone(),
            Self::Raw(batch) => batch.events(),
        };
        for (event, seq) in events.iter_mut().zip(first..) {
            event.seq = seq;
        }
        events
    }
}

/// How many events one stands for: itself, or those that it says are lost.
pub(crate) fn weight(event: &Event) -> u64 {
    match &event.payload {
        Some(Payload::Lost(lost)) => lost.count,
        _ => 1,
    }
}
