//! Events of one host that came together, with the places around them. Places are what makes the ledger
//! add up: whatever lies between two of them was delivered, filtered or lost.

use kctl_events::Place;
use kctl_proto::agent::v1::{Cursor, Event, LostEvent, Origin, event::Payload};
use std::{collections::BTreeMap, sync::Arc, vec};

/// The stage at which an agent tells what its ring no longer holds. Such an event has no number of its
/// own, but that of the last event that it stands for.
const AGENT_RING: &str = "agent_ring";
/// About what a message carries beside the events.
const FRAME_BYTES: usize = 128;

/// Who made events, in which run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// As its certificate says; "-" for the controller.
    pub(crate) host: Arc<str>,
    /// In which `seq` counts.
    pub(crate) boot_id: Arc<str>,
}

/// A place in the events of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At {
    /// In which the place counts.
    pub(crate) boot_id: Arc<str>,
    /// After the last event before it.
    pub(crate) place: Place,
}

/// Where many sources are, by host.
pub(crate) type Places = BTreeMap<Arc<str>, At>;

/// Consecutive events of one source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    /// Who made them.
    pub(crate) source: Source,
    /// The place before the first event.
    pub(crate) before: Place,
    /// The place after the last event, and after what a filter left out behind it.
    pub(crate) after: Place,
    /// By `seq`; `origin` means nothing here.
    pub(crate) events: Vec<Event>,
}

/// A batch that is taken apart event by event.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Who made them.
    pub(crate) source: Source,
    /// Before the next event.
    pub(crate) place: Place,
    after: Place,
    events: vec::IntoIter<Event>,
}

impl Source {
    /// As on the wire.
    pub(crate) fn origin(&self) -> Origin {
        Origin { host: (*self.host).to_owned(), boot_id: (*self.boot_id).to_owned() }
    }
}

impl At {
    /// Of a place on the wire.
    pub(crate) fn of(cursor: &Cursor) -> Self {
        let place = Place { seq: cursor.seq, produced: cursor.produced };
        Self { boot_id: cursor.boot_id.as_str().into(), place }
    }

    /// As on the wire.
    pub(crate) fn cursor(&self) -> Cursor {
        let Place { seq, produced } = self.place;
        Cursor { boot_id: (*self.boot_id).to_owned(), seq, produced }
    }
}

impl Batch {
    /// Where a batch begins that ends at `after`, when it is not known what was before: after the
    /// events that are neither in it nor left out by its filter.
    pub(crate) fn before(events: &[Event], filtered: u64, after: Place) -> Place {
        let produced = events.iter().map(weight).fold(filtered, u64::saturating_add);
        Place {
            seq: after.seq.saturating_sub(filtered.saturating_add(events.len() as u64)),
            produced: after.produced.saturating_sub(produced),
        }
    }

    /// One event at a time.
    pub(crate) fn into_parts(self) -> Parts {
        let Self { source, before, after, events } = self;
        Parts { source, place: before, after, events: events.into_iter() }
    }
}

impl Parts {
    /// The time of the next event.
    pub(crate) fn time_unix_ns(&self) -> Option<i64> {
        self.events.as_slice().first().map(|event| event.time_unix_ns)
    }

    /// The next event; the place goes on past it.
    pub(crate) fn take(&mut self) -> Option<Event> {
        let event = self.events.next()?;
        let left = self.events.as_slice();
        self.place = if left.is_empty() {
            self.after
        } else if is_range(&event) {
            // How much it covers is only known from what comes after it.
            let beyond = left.iter().map(extra).sum::<i64>();
            let behind = self.after.seq.saturating_sub(event.seq);
            let produced =
                self.after.produced.saturating_sub(behind).saturating_add_signed(-beyond);
            Place {
                seq: event.seq,
                produced: produced.clamp(self.place.produced, self.after.produced),
            }
        } else {
            let step = event.seq.saturating_sub(self.place.seq);
            let produced =
                self.place.produced.saturating_add(step).saturating_add_signed(extra(&event));
            Place { seq: event.seq, produced: produced.min(self.after.produced) }
        };
        Some(event)
    }

    /// What a batch without events comes to.
    pub(crate) fn finish(&mut self) {
        self.place = self.after;
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.as_slice().is_empty()
    }
}

/// How many events one stands for.
pub(crate) fn weight(event: &Event) -> u64 {
    match &event.payload {
        Some(Payload::Lost(lost)) => lost.count,
        _ => 1,
    }
}

/// How many more than its one number an event stands for.
fn extra(event: &Event) -> i64 {
    weight(event).cast_signed().saturating_sub(1)
}

fn is_range(event: &Event) -> bool {
    matches!(&event.payload, Some(Payload::Lost(LostEvent { stage, .. })) if stage == AGENT_RING)
}

/// About what so many events take in memory, given their encoded size.
pub(crate) fn memory_bytes(events: usize, encoded: usize) -> usize {
    FRAME_BYTES + events * size_of::<Event>() + encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> Event {
        Event { seq, ..Event::default() }
    }

    fn lost(seq: u64, stage: &str, count: u64) -> Event {
        let lost = LostEvent { stage: stage.to_owned(), count, ..LostEvent::default() };
        Event { seq, payload: Some(Payload::Lost(lost)), ..Event::default() }
    }

    fn places(
        before: Option<Place>,
        after: Place,
        filtered: u64,
        events: Vec<Event>,
    ) -> Vec<(u64, u64)> {
        let source = Source { host: "a".into(), boot_id: "b".into() };
        let before = before.unwrap_or_else(|| Batch::before(&events, filtered, after));
        let mut parts = Batch { source, before, after, events }.into_parts();
        let mut places = vec![(parts.place.seq, parts.place.produced)];
        while parts.take().is_some() {
            places.push((parts.place.seq, parts.place.produced));
        }
        places
    }

    #[test]
    fn places_go_past_what_was_filtered_and_lost() {
        // Number 3 was filtered, 4 says that 100 are lost, 6 was filtered behind the last.
        let after = Place { seq: 6, produced: 105 };
        let events = vec![event(2), lost(4, "kernel_ring", 100), event(5)];
        let expected = [(1, 1), (2, 2), (4, 103), (6, 105)];
        assert_eq!(places(Some(Place { seq: 1, produced: 1 }), after, 2, events.clone()), expected);
        assert_eq!(places(None, after, 2, events), expected);
    }

    #[test]
    fn a_range_that_the_ring_lost_has_no_number_of_its_own() {
        // 1 to 50 are lost, and among them was one that stood for 10.
        let after = Place { seq: 53, produced: 62 };
        let events = vec![lost(50, AGENT_RING, 59), event(51), event(53)];
        let before = Some(Place::default());
        assert_eq!(places(before, after, 1, events), [(0, 0), (50, 59), (51, 60), (53, 62)]);
    }
}
