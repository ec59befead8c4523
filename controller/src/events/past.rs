//! What the history holds, in order and a piece at a time. It knows rows and times, and no reader.

use super::{
    batch::{At, Batch, Places, Source, memory_bytes},
    history::{Backward, Flushed, Forward, History, Wanted},
    interleave::{Interleave, Load, Merged},
};
use crate::status::Error;
use kctl_events::Place;
use kctl_proto::agent::v1::Event;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

/// Events of one piece.
const MOST_EVENTS: usize = 1_024;
/// What may wait for its turn, bytes of memory; more goes in what order it may be.
const MOST_BYTES: usize = 32 << 20;

/// So many rows that were written meanwhile are left to the ring.
const LITTLE_ROWS: i64 = 16;

/// Rows of the history on their way to a reader, by time.
pub(crate) struct Past {
    history: History,
    query: Forward,
    interleave: Interleave,
    numbers: BTreeMap<Arc<str>, u64>,
    /// What is not read yet is not before this; `i64::MAX` when everything is read.
    horizon: i64,
    ended: bool,
}

impl Past {
    /// Everything that is wanted up to a row; with `starts`, of each host only rows with higher ids.
    pub(crate) fn new(
        history: History,
        wanted: Wanted,
        row: i64,
        starts: Option<BTreeMap<Arc<str>, i64>>,
    ) -> Self {
        let query = Forward { behind: (i64::MIN, i64::MIN), wanted, ids: (0, row), starts };
        let (interleave, numbers) = (Interleave::new(), BTreeMap::new());
        Self { history, query, interleave, numbers, horizon: i64::MIN, ended: false }
    }

    /// What was written since. `None` when that is little.
    pub(crate) async fn catch_up(&mut self) -> Result<Option<Places>, Error> {
        let Flushed { places, row } = self.history.flush().await?;
        let from = self.query.ids.1;
        if row - from <= LITTLE_ROWS {
            return Ok(None);
        }
        (self.query.behind, self.query.ids) = ((i64::MIN, i64::MIN), (from, row));
        (self.horizon, self.ended) = (i64::MIN, false);
        Ok(Some(places))
    }

    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Merged>, Error> {
        loop {
            let (horizon, full) = (self.horizon, self.interleave.bytes() > MOST_BYTES);
            let merged = self.interleave.release(MOST_EVENTS, |_, time| full || time < horizon);
            if merged.is_some() || self.ended {
                return Ok(merged);
            }
            let page = self.history.forward(self.query.clone()).await?;
            self.ended = page.next.is_none();
            self.horizon = page.next.map_or(i64::MAX, |(at, _)| at);
            self.query.behind = page.next.unwrap_or(self.query.behind);
            for row in page.rows {
                let number = self.numbers.len() as u64;
                let number = *self.numbers.entry(Arc::clone(&row.source.host)).or_insert(number);
                let (clock_off, encoded) = (row.clock_off, row.encoded_bytes());
                let batch = row.into_batch();
                let bytes = memory_bytes(batch.events.len(), encoded);
                self.interleave.push(number, batch, Load { clock_off, bytes, ..Load::default() });
            }
        }
    }
}

/// The newest matching events of all sources together, oldest first, and how far they go.
pub(crate) struct Newest {
    pub(crate) events: Vec<(Source, Event)>,
    pub(crate) places: Places,
}

/// An event and its place: by time, then as its row and its place in the row have it.
struct Found {
    key: (i64, i64, usize),
    source: Source,
    event: Event,
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Found {}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// Walks backwards until no older event can be among the newest `most`. `seen` is an
/// event as the reader sees it.
pub(crate) async fn newest(
    history: &History,
    wanted: Wanted,
    most: usize,
    seen: impl Fn(&Source, &Event) -> Option<Event>,
) -> Result<Newest, Error> {
    let mut found: BinaryHeap<Reverse<Found>> = BinaryHeap::new();
    let mut places: Places = BTreeMap::new();
    let mut query = Backward { before: (i64::MAX, i64::MAX), wanted };
    'pages: loop {
        let page = history.backward(query.clone()).await?;
        for row in page.rows {
            let oldest = found.peek().map(|Reverse(oldest)| oldest.key.0);
            if found.len() >= most && oldest.is_none_or(|oldest| row.last_unix_ns < oldest) {
                break 'pages;
            }
            let (id, clock_off) = (row.id, row.clock_off);
            let batch = row.into_batch();
            let at = At { boot_id: Arc::clone(&batch.source.boot_id), place: batch.after };
            // The first row of a source is its latest.
            places.entry(Arc::clone(&batch.source.host)).or_insert(at);
            for (index, event) in batch.events.into_iter().enumerate() {
                let key = (event.time_unix_ns, id, index);
                let is_old = found.len() >= most
                    && found.peek().is_some_and(|Reverse(oldest)| key < oldest.key);
                let Some(event) = (!is_old).then(|| seen(&batch.source, &event)).flatten() else {
                    continue;
                };
                let event = Event { clock_off, ..event };
                found.push(Reverse(Found { key, source: batch.source.clone(), event }));
                if found.len() > most {
                    found.pop();
                }
            }
        }
        match page.next {
            Some(next) => query.before = next,
            None => break,
        }
    }
    Ok(Newest { events: in_order(found), places })
}

/// By time, and of one source by row and place in it.
fn in_order(found: BinaryHeap<Reverse<Found>>) -> Vec<(Source, Event)> {
    let mut by_source: BTreeMap<Arc<str>, Vec<Found>> = BTreeMap::new();
    for Reverse(found) in found {
        by_source.entry(Arc::clone(&found.source.host)).or_default().push(found);
    }
    let mut interleave = Interleave::new();
    for (number, mut events) in by_source.into_values().enumerate() {
        events.sort_by_key(|found| (found.key.1, found.key.2));
        for Found { source, event, .. } in events {
            let at = |seq| Place { seq, produced: seq };
            let (before, after) = (at(event.seq.saturating_sub(1)), at(event.seq));
            let clock_off = event.clock_off;
            let batch = Batch { source, before, after, events: vec![event] };
            interleave.push(number as u64, batch, Load { clock_off, ..Load::default() });
        }
    }
    let Some(merged) = interleave.release(usize::MAX, |_, _| true) else { return Vec::new() };
    let Merged { segments, events, .. } = merged;
    let source = |event: &Event| segments[event.origin as usize].source.clone();
    events.into_iter().map(|event| (source(&event), event)).collect()
}
