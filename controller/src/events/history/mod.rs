//! What hosts told lately, in a file of bounded size. It is a convenience, not desired state: when the
//! file can't be read it is set aside, and when the disk is too slow events are left out and readers are
//! told so.
//!
//! One thread owns the file. It knows batches and their places; what is in an event it does not know.

mod file;
mod rows;
mod writer;

pub(crate) use rows::{Backward, Forward, Page, Wanted};

use super::batch::{Batch, Places, Source};
use crate::status::Error;
use kctl_events::{Kind, Kinds, Place};
use kctl_proto::agent::v1::WatchEventsResponse;
use prost::Message as _;
use std::{collections::BTreeMap, io, path::Path, sync::Arc, thread, time::Duration};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};

/// The smallest history, bytes: room for the write-ahead log and for something in it.
pub(crate) const SMALLEST_BYTES: u64 = 16 << 20;
/// Encoded events that wait to be written; more are left out.
const QUEUE_BYTES: usize = 32 << 20;
/// Orders that wait.
const QUEUE: usize = 8_192;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of all files together.
    pub(crate) bytes: u64,
    /// Of the events.
    pub(crate) age: Duration,
}

/// Consecutive events of one source as they are kept.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(super) source: Source,
    pub(super) before: Place,
    pub(super) after: Place,
    /// Of the earliest and the latest event; `None` without events.
    pub(super) times: Option<(i64, i64)>,
    pub(super) kinds: Kinds,
    pub(super) clock_off: bool,
    /// A `WatchEventsResponse` with nothing but events: one after the other they are one again.
    pub(super) encoded: Vec<u8>,
}

/// How far the history goes.
pub(crate) struct Flushed {
    /// For each source.
    pub(crate) places: Places,
    /// The id of the latest row.
    pub(crate) row: i64,
}

/// What a reader of the history can't be spared.
enum Order {
    Keep(Record, OwnedSemaphorePermit),
    /// Writes everything that was kept before, and tells the places of all sources.
    Flush(oneshot::Sender<Result<Flushed, String>>),
    Forward(Forward, oneshot::Sender<Result<Page, String>>),
    Backward(Backward, oneshot::Sender<Result<Page, String>>),
    /// Where each host's events begin that are after its place: the id of the row before.
    Starts(Places, oneshot::Sender<Result<BTreeMap<Arc<str>, i64>, String>>),
}

/// The face of the history. Its clones speak to the same thread, which ends when the last is gone and
/// everything is written.
#[derive(Clone)]
pub(crate) struct History {
    orders: mpsc::Sender<Order>,
    room: Arc<Semaphore>,
}

impl Record {
    /// A batch and its encoded events. `None` when it has nothing to keep.
    pub(super) fn of(batch: &Batch, encoded: Vec<u8>) -> Option<Self> {
        if batch.before == batch.after && batch.events.is_empty() {
            return None;
        }
        let times = || batch.events.iter().map(|event| event.time_unix_ns);
        Some(Self {
            source: batch.source.clone(),
            before: batch.before,
            after: batch.after,
            times: times().min().zip(times().max()),
            kinds: batch.events.iter().filter_map(Kind::of).collect(),
            clock_off: false,
            encoded,
        })
    }

    /// A line of the controller.
    pub(super) fn of_line(batch: &Batch) -> Option<Self> {
        let message = WatchEventsResponse { events: batch.events.clone(), ..Default::default() };
        Self::of(batch, message.encode_to_vec())
    }
}

impl History {
    /// Opens the history or makes one, and tells how far it goes for each source.
    pub(crate) fn open(
        path: &Path,
        limits: Limits,
        runtime: Handle,
    ) -> io::Result<(Self, Places, thread::JoinHandle<()>)> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let writer = writer::Writer::open(path, limits)?;
        let places = writer.places();
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writer.run(queue, &runtime))?;
        Ok((Self { orders, room: Arc::new(Semaphore::new(QUEUE_BYTES)) }, places, thread))
    }

    /// Keeps a record if the thread keeps up; readers see a gap where it does not. Never waits.
    pub(super) fn keep(&self, record: Record) {
        let bytes = u32::try_from(record.encoded.len().clamp(64, QUEUE_BYTES)).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            let _ = self.orders.try_send(Order::Keep(record, room));
        }
    }

    /// Writes what was kept before, and tells how far it goes for each source.
    pub(crate) async fn flush(&self) -> Result<Flushed, Error> {
        self.order(Order::Flush).await?.map_err(unreadable)
    }

    /// Rows by time.
    pub(crate) async fn forward(&self, query: Forward) -> Result<Page, Error> {
        self.order(|reply| Order::Forward(query, reply)).await?.map_err(unreadable)
    }

    /// Rows by time, the latest first.
    pub(crate) async fn backward(&self, query: Backward) -> Result<Page, Error> {
        self.order(|reply| Order::Backward(query, reply)).await?.map_err(unreadable)
    }

    /// The rows before what came after these places.
    pub(crate) async fn starts(&self, places: Places) -> Result<BTreeMap<Arc<str>, i64>, Error> {
        self.order(|reply| Order::Starts(places, reply)).await?.map_err(unreadable)
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        self.orders.send(order(sender)).await.map_err(|_| Error::Stopping)?;
        receiver.await.map_err(|_| Error::Stopping)
    }
}

fn unreadable(error: String) -> Error {
    Error::History(format!("{error}; it begins anew when its file can't be read"))
}

/// A set of kinds as a number.
pub(super) fn mask(kinds: Kinds) -> i64 {
    kinds.iter().fold(0, |mask, kind| mask | 1 << kind as u32)
}
