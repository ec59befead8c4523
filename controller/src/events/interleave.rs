//! Puts batches of many sources in one order: by time, and of one source always by `seq`. Who may go
//! when is its caller's to say.

use super::batch::{Batch, Parts, Source};
use kctl_events::Place;
use kctl_proto::agent::v1::Event;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};
use tokio::sync::OwnedSemaphorePermit;

/// What goes together, about, bytes of memory; one event may go beyond.
const MOST_BYTES: usize = 512 << 10;

/// Events of many sources in one order.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// Where they are from: `Event.origin` is an index into this.
    pub(crate) segments: Vec<Segment>,
    /// In order.
    pub(crate) events: Vec<Event>,
    /// About what it takes in memory.
    pub(crate) bytes: usize,
}

/// What a source has in a [`Merged`].
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// The source.
    pub(crate) source: Source,
    /// Its place before.
    pub(crate) before: Place,
    /// Its place after.
    pub(crate) after: Place,
}

#[derive(Debug)]
struct Queue {
    batches: VecDeque<Waiting>,
    /// The latest time that went since the queue was empty: a clock that steps back does not change the
    /// order of one source.
    floor: i64,
}

#[derive(Debug)]
struct Waiting {
    parts: Parts,
    load: Load,
}

/// What comes with a batch.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Its events are to be marked: their host's clock is off.
    pub(crate) clock_off: bool,
    /// Its times say nothing about order: it goes at once.
    pub(crate) at_once: bool,
    /// About what it takes in memory, bytes.
    pub(crate) bytes: usize,
    /// The place in a queue that it takes up while it waits.
    #[expect(dead_code, reason = "held until the batch is gone")]
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// Batches that wait for their turn.
#[derive(Debug)]
pub(crate) struct Interleave {
    /// Only sources with something in them.
    queues: BTreeMap<u64, Queue>,
    reached: Reached,
    bytes: usize,
}

/// The latest time that went, with its source, and the latest of all other sources.
#[derive(Debug)]
struct Reached {
    latest: (i64, u64),
    of_others: i64,
}

impl Reached {
    /// Whether an event of another source with a later time went before.
    fn is_late(&self, source: u64, time: i64) -> bool {
        time < if self.latest.1 == source { self.of_others } else { self.latest.0 }
    }

    fn went(&mut self, source: u64, time: i64) {
        if source == self.latest.1 {
            self.latest.0 = self.latest.0.max(time);
        } else if time > self.latest.0 {
            self.of_others = self.latest.0;
            self.latest = (time, source);
        } else {
            self.of_others = self.of_others.max(time);
        }
    }
}

impl Queue {
    /// The time at which its next event is to go.
    fn key(&self) -> Option<i64> {
        let next = self.batches.front()?;
        Some(match next.parts.time_unix_ns() {
            Some(time) if !next.load.at_once => time.max(self.floor),
            // Nothing to order.
            _ => i64::MIN,
        })
    }
}

impl Interleave {
    pub(crate) fn new() -> Self {
        let reached = Reached { latest: (i64::MIN, u64::MAX), of_others: i64::MIN };
        Self { queues: BTreeMap::new(), reached, bytes: 0 }
    }

    /// Queues a batch of a source.
    pub(crate) fn push(&mut self, source: u64, batch: Batch, mut load: Load) {
        let count = batch.events.len().max(1);
        load.bytes /= count;
        self.bytes += load.bytes * count;
        let waiting = Waiting { parts: batch.into_parts(), load };
        let empty = || Queue { batches: VecDeque::new(), floor: i64::MIN };
        self.queues.entry(source).or_insert_with(empty).batches.push_back(waiting);
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// About what waits, bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes what may go, in order, at most `most` events: `may` is asked with source and time of the
    /// next event. `None` when nothing may.
    pub(crate) fn release(
        &mut self,
        most: usize,
        may: impl Fn(u64, i64) -> bool,
    ) -> Option<Merged> {
        let keyed = |(source, queue): (&u64, &Queue)| Some(Reverse((queue.key()?, *source)));
        let mut order: BinaryHeap<_> = self.queues.iter().filter_map(keyed).collect();
        let mut merged = Merged::default();
        let mut open: BTreeMap<u64, usize> = BTreeMap::new();
        while let Some(Reverse((key, source))) = order.pop() {
            if key != i64::MIN && !may(source, key) || merged.is_full(most) {
                break;
            }
            let Some(queue) = self.queues.get_mut(&source) else { continue };
            let next = order.peek().map_or((i64::MAX, u64::MAX), |Reverse(next)| *next);
            // As long as it is the first, it goes on without being sorted in again.
            let mut key = Some(key);
            while let Some(time) = key
                && (time, source) <= next
                && !merged.is_full(most)
                && (time == i64::MIN || may(source, time))
            {
                let open = open.entry(source).or_insert(usize::MAX);
                queue.take(source, &mut merged, open, &mut self.reached);
                key = queue.key();
            }
            order.extend(key.map(|key| Reverse((key, source))));
        }
        self.queues.retain(|_, queue| !queue.batches.is_empty());
        self.bytes = self.bytes.saturating_sub(merged.bytes);
        (!merged.segments.is_empty()).then_some(merged)
    }
}

impl Queue {
    /// Moves the next event into `merged`, and the segment's end with it.
    fn take(&mut self, source: u64, merged: &mut Merged, open: &mut usize, reached: &mut Reached) {
        let Some(Waiting { parts, load }) = self.batches.front_mut() else { return };
        let goes_on = merged.segments.get(*open).is_some_and(|segment| {
            segment.source == parts.source && segment.after.produced == parts.place.produced
        });
        if !goes_on {
            *open = merged.segments.len();
            let (source, before) = (parts.source.clone(), parts.place);
            merged.segments.push(Segment { source, before, after: before });
        }
        merged.bytes += load.bytes;
        match parts.take() {
            None => parts.finish(),
            Some(mut event) => {
                event.origin = u32::try_from(*open).unwrap_or(u32::MAX);
                event.clock_off = load.clock_off;
                if !load.at_once {
                    self.floor = self.floor.max(event.time_unix_ns);
                    event.late = reached.is_late(source, self.floor);
                    reached.went(source, self.floor);
                }
                merged.events.push(event);
            }
        }
        merged.segments[*open].after = parts.place;
        if parts.is_empty() {
            self.batches.pop_front();
        }
    }
}

impl Merged {
    fn is_full(&self, most: usize) -> bool {
        self.events.len() >= most || self.bytes >= MOST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(host: &str, from: u64, times: &[i64]) -> Batch {
        let event = |(i, time): (usize, &i64)| Event {
            time_unix_ns: *time,
            seq: from + i as u64,
            ..Event::default()
        };
        let to = from - 1 + times.len() as u64;
        Batch {
            source: Source { host: host.into(), boot_id: "1".into() },
            before: Place { seq: from - 1, produced: from - 1 },
            after: Place { seq: to, produced: to },
            events: times.iter().enumerate().map(event).collect(),
        }
    }

    /// "a1" for the first of host a, "a1!" when it is late.
    fn told(merged: Option<Merged>) -> String {
        let Some(merged) = merged else { return "nothing".to_owned() };
        let one = |event: &Event| {
            let segment = &merged.segments[event.origin as usize];
            assert!(segment.before.seq < event.seq && event.seq <= segment.after.seq);
            let mark = if event.late { "!" } else { "" };
            format!("{}{}{mark}", segment.source.host, event.seq)
        };
        merged.events.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn by_time_and_by_number() {
        let mut interleave = Interleave::new();
        interleave.push(1, batch("a", 1, &[10, 30]), Load::default());
        interleave.push(2, batch("b", 1, &[20, 5, 40]), Load::default());
        interleave.push(1, batch("a", 3, &[35]), Load::default());
        assert_eq!(told(interleave.release(100, |_, time| time <= 30)), "a1 b1 b2 a2");
        assert_eq!(told(interleave.release(100, |_, time| time <= 30)), "nothing");
        assert_eq!(told(interleave.release(1, |_, _| true)), "a3");
        // Behind its own last event, which is its own order; then behind one of b.
        interleave.push(1, batch("a", 4, &[33]), Load::default());
        assert_eq!(told(interleave.release(100, |_, _| true)), "a4 b3");
        interleave.push(1, batch("a", 5, &[34]), Load::default());
        assert_eq!(told(interleave.release(100, |_, _| true)), "a5!");
        assert!(interleave.is_empty());
    }

    #[test]
    fn a_place_goes_on_without_events_and_a_gap_begins_a_segment() {
        let mut interleave = Interleave::new();
        let empty = |from, to| Batch {
            before: Place { seq: from, produced: from },
            after: Place { seq: to, produced: to },
            ..batch("a", 1, &[])
        };
        interleave.push(1, empty(0, 5), Load::default());
        interleave.push(1, empty(5, 7), Load::default());
        interleave.push(1, empty(9, 10), Load::default());
        let merged = interleave.release(10, |_, _| false).expect("places");
        let places = |s: &Segment| (s.before.seq, s.after.seq);
        assert_eq!(merged.segments.iter().map(places).collect::<Vec<_>>(), [(0, 7), (9, 10)]);
        assert!(merged.events.is_empty());
    }

    #[test]
    fn a_clock_that_is_off_orders_nothing() {
        let mut interleave = Interleave::new();
        interleave.push(
            1,
            batch("a", 1, &[1_000]),
            Load { clock_off: true, at_once: true, ..Load::default() },
        );
        interleave.push(2, batch("b", 1, &[10]), Load::default());
        let merged = interleave.release(10, |_, _| true).expect("both");
        assert!(merged.events[0].clock_off && !merged.events[1].clock_off);
        assert_eq!(told(Some(merged)), "a1 b1");
    }
}
