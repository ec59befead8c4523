//! A bounded window on what came last, which any number of readers follow at their own pace.
//!
//! One writer adds entries of one or more events each; the oldest go when there is no room. A reader is
//! a place: one that is too slow loses its place and is told how much it lost, and holds up nobody. It
//! must not know what an event is.

use std::{collections::VecDeque, sync::Arc};
use tokio::sync::watch;

/// A place between two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Number of the event before the place; the first event is number 1.
    pub seq: u64,
    /// How many events were made up to the place, with those that are only told as lost. It is more than
    /// `seq` where an event of the ring stands for many lost ones.
    pub produced: u64,
}

/// Events that came together.
#[derive(Debug)]
pub struct Entry<T> {
    /// The place before its first event.
    pub before: Place,
    /// The place after its last event.
    pub after: Place,
    /// What its writer claims of the time up to which everything is in it or was before it.
    pub watermark: i64,
    /// The events.
    pub content: T,
    bytes: usize,
}

/// What a reader meets next.
#[derive(Debug)]
pub enum Read<T> {
    /// An entry. Its events up to and including number `after` are not new to the reader.
    Entry {
        /// The entry.
        entry: Arc<Entry<T>>,
        /// The reader's place before.
        after: Place,
    },
    /// So many events are no longer there; the last of them was number `seq`.
    Lost {
        /// Number of the last one.
        seq: u64,
        /// How many.
        count: u64,
    },
}

#[derive(Debug)]
struct Window<T> {
    entries: VecDeque<Arc<Entry<T>>>,
    bytes: usize,
    end: Place,
    watermark: i64,
}

/// The writer's end. Readers see its drop as the end.
#[derive(Debug)]
pub struct Ring<T> {
    window: watch::Sender<Window<T>>,
    max_bytes: usize,
}

/// One reader.
#[derive(Debug)]
pub struct Reader<T> {
    window: watch::Receiver<Window<T>>,
    place: Place,
}

impl<T> Ring<T> {
    /// An empty ring that goes on after `end`, with room for entries of so many bytes together. The
    /// newest entry stays whatever its size.
    pub fn new(max_bytes: usize, end: Place) -> Self {
        let window = Window { entries: VecDeque::new(), bytes: 0, end, watermark: 0 };
        Self { window: watch::Sender::new(window), max_bytes }
    }

    /// Adds `count` events that stand for `produced` ones and take about `bytes`, and claims that
    /// everything up to `watermark` is there.
    pub fn push(&self, count: u64, produced: u64, bytes: usize, watermark: i64, content: T) {
        self.window.send_modify(|window| {
            let before = window.end;
            let after = Place { seq: before.seq + count, produced: before.produced + produced };
            window.entries.push_back(Arc::new(Entry { before, after, watermark, content, bytes }));
            window.end = after;
            window.watermark = watermark;
            window.bytes += bytes;
            while window.bytes > self.max_bytes && window.entries.len() > 1 {
                if let Some(oldest) = window.entries.pop_front() {
                    window.bytes -= oldest.bytes;
                }
            }
        });
    }

    /// Claims that everything up to `watermark` is there, without an event.
    pub fn advance(&self, watermark: i64) {
        self.window.send_if_modified(|window| {
            let later = watermark > window.watermark;
            window.watermark = window.watermark.max(watermark);
            later
        });
    }

    /// The place after the newest event.
    pub fn end(&self) -> Place {
        self.window.borrow().end
    }

    /// The place before the oldest event that is still there.
    pub fn start(&self) -> Place {
        self.window.borrow().start()
    }

    /// Bytes of what is there.
    pub fn bytes(&self) -> usize {
        self.window.borrow().bytes
    }

    /// A reader at a place, of the future too.
    pub fn reader(&self, place: Place) -> Reader<T> {
        Reader { window: self.window.subscribe(), place }
    }
}

impl<T> Window<T> {
    fn start(&self) -> Place {
        self.entries.front().map_or(self.end, |oldest| oldest.before)
    }
}

impl<T> Reader<T> {
    /// Where it is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether there is anything next.
    pub fn is_behind(&self) -> bool {
        self.place.seq < self.window.borrow().end.seq
    }

    /// What is next, if there is anything yet.
    pub fn try_next(&mut self) -> Option<Read<T>> {
        let window = self.window.borrow_and_update();
        let start = window.start();
        if self.place.seq < start.seq {
            let count = start.produced.saturating_sub(self.place.produced);
            self.place = start;
            return Some(Read::Lost { seq: start.seq, count });
        }
        // Entries follow each other without a gap, so the place is in the first that ends after it.
        let at = window.entries.partition_point(|entry| entry.after.seq <= self.place.seq);
        let entry = Arc::clone(window.entries.get(at)?);
        let after = std::mem::replace(&mut self.place, entry.after);
        Some(Read::Entry { entry, after })
    }

    /// The writer's claim, once the reader has read everything; before that it would be a lie.
    pub fn watermark(&self) -> Option<i64> {
        let window = self.window.borrow();
        (self.place.seq >= window.end.seq).then_some(window.watermark)
    }

    /// Waits until something was written or claimed since the last look. `false` once the writer is
    /// gone. Cancel safe.
    pub async fn changed(&mut self) -> bool {
        self.window.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(bytes: usize) -> Ring<&'static str> {
        Ring::new(bytes, Place::default())
    }

    /// What a reader at its start gets: entries with the place that it was at, and losses.
    fn all(reader: &mut Reader<&'static str>) -> Vec<String> {
        std::iter::from_fn(|| reader.try_next())
            .map(|read| match read {
                Read::Entry { entry, after } => format!("{} after {}", entry.content, after.seq),
                Read::Lost { seq, count } => format!("lost {count} to {seq}"),
            })
            .collect()
    }

    #[test]
    fn readers_follow_at_their_own_pace() {
        let ring = ring(100);
        let (mut fast, mut slow) = (ring.reader(ring.end()), ring.reader(ring.end()));
        assert_eq!(fast.watermark(), Some(0));
        ring.push(2, 2, 10, 7, "a");
        assert_eq!((slow.watermark(), slow.is_behind()), (None, true));
        assert_eq!(all(&mut fast), ["a after 0"]);
        assert_eq!((fast.watermark(), fast.is_behind()), (Some(7), false));
        ring.push(1, 1, 10, 8, "b");
        assert_eq!(all(&mut fast), ["b after 2"]);
        assert_eq!(all(&mut slow), ["a after 0", "b after 2"]);
        assert_eq!(
            all(&mut ring.reader(Place { seq: 1, produced: 1 })),
            ["a after 1", "b after 2"]
        );
    }

    #[test]
    fn a_slow_reader_is_told_what_it_lost_with_what_was_lost_before() {
        let ring = ring(20);
        let mut reader = ring.reader(ring.end());
        ring.push(2, 2, 10, 0, "a");
        // One event that says that a hundred are lost.
        ring.push(1, 100, 10, 0, "b");
        ring.push(3, 3, 10, 0, "c");
        ring.push(1, 1, 10, 0, "d");
        assert_eq!(ring.bytes(), 20);
        assert_eq!(all(&mut reader), ["lost 102 to 3", "c after 3", "d after 6"]);
        assert_eq!(reader.place(), Place { seq: 7, produced: 106 });
    }

    #[test]
    fn an_entry_larger_than_the_ring_is_the_only_one() {
        let ring = ring(20);
        ring.push(1, 1, 10, 0, "a");
        ring.push(1, 1, 1_000, 0, "b");
        assert_eq!(ring.bytes(), 1_000);
        assert_eq!(all(&mut ring.reader(Place::default())), ["lost 1 to 1", "b after 1"]);
    }

    #[test]
    fn a_ring_goes_on_after_a_restart() {
        let ring = Ring::new(20, Place { seq: 5, produced: 9 });
        assert_eq!(all(&mut ring.reader(Place { seq: 3, produced: 4 })), ["lost 5 to 5"]);
        ring.push(1, 1, 1, 0, "a");
        assert_eq!(all(&mut ring.reader(ring.start())), ["a after 5"]);
    }

    #[tokio::test]
    async fn a_waiting_reader_hears_of_events_claims_and_the_end() {
        let ring = ring(20);
        let mut reader = ring.reader(ring.end());
        ring.push(1, 1, 1, 3, "a");
        assert!(reader.changed().await);
        assert_eq!(all(&mut reader), ["a after 0"]);
        ring.advance(9);
        assert!(reader.changed().await);
        assert_eq!((all(&mut reader), reader.watermark()), (vec![], Some(9)));
        drop(ring);
        assert!(!reader.changed().await);
    }
}
