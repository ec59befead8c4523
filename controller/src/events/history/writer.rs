//! The thread that owns the history: it takes orders one by one, and writes what is kept in groups.

use super::{
    Flushed, Limits, Order, Record,
    file::{File, Reached, set_aside},
    rows,
};
use crate::events::batch::{At, Places};
use rusqlite::ErrorCode;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

/// What was kept is written after this at the latest.
const LATEST: Duration = Duration::from_secs(1);
/// And when there is as much as this, encoded events.
const GROUP_BYTES: usize = 1 << 20;
/// A row takes no more in.
const ROW_BYTES: usize = 256 << 10;
/// What is too old is looked for so often.
const EXPIRE: Duration = Duration::from_secs(10);

/// The history's owner.
pub(super) struct Writer {
    path: PathBuf,
    limits: Limits,
    file: File,
    /// What was taken in of each source.
    reached: BTreeMap<Arc<str>, Reached>,
    /// Rows that are whole, and those that may still grow, by source.
    whole: Vec<(Record, Reached)>,
    growing: BTreeMap<Arc<str>, (Record, Reached)>,
    /// What waits to be written: encoded events, and since when.
    bytes: usize,
    since: Option<Instant>,
    room: Vec<OwnedSemaphorePermit>,
    expired_at: Instant,
}

impl Writer {
    pub(super) fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        let (file, reached) = File::open(path, limits)?;
        Ok(Self {
            path: path.to_owned(),
            limits,
            file,
            reached,
            whole: Vec::new(),
            growing: BTreeMap::new(),
            bytes: 0,
            since: None,
            room: Vec::new(),
            expired_at: Instant::now(),
        })
    }

    /// How far the history goes for each source.
    pub(super) fn places(&self) -> Places {
        let place = |(host, reached): (&Arc<str>, &Reached)| (Arc::clone(host), reached.at.clone());
        self.reached.iter().map(place).collect()
    }

    /// Until nobody can order anything any more.
    pub(super) fn run(mut self, mut orders: mpsc::Receiver<Order>, runtime: &Handle) {
        loop {
            let order = match self.since {
                None => orders.blocking_recv(),
                Some(since) => {
                    let left = LATEST.saturating_sub(since.elapsed());
                    let next = async { timeout(left, orders.recv()).await };
                    match runtime.block_on(next) {
                        Ok(order) => order,
                        Err(_) => {
                            self.write();
                            continue;
                        }
                    }
                }
            };
            let Some(order) = order else { break };
            self.take(order);
        }
        self.write();
        if let Err(error) = self.file.close() {
            tracing::warn!(%error, "history: not closed properly");
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Keep(record, room) => {
                self.keep(record);
                self.room.push(room);
                if self.bytes >= GROUP_BYTES
                    || self.since.is_some_and(|since| since.elapsed() >= LATEST)
                {
                    self.write();
                }
            }
            Order::Flush(reply) => {
                self.write();
                let row = rows::latest(&self.file.connection);
                let places = self.places();
                let _ = reply.send(self.checked(row.map(|row| Flushed { places, row })));
            }
            Order::Forward(query, reply) => {
                let page = rows::forward(&self.file.connection, &query);
                let _ = reply.send(self.checked(page));
            }
            Order::Backward(query, reply) => {
                let page = rows::backward(&self.file.connection, &query);
                let _ = reply.send(self.checked(page));
            }
            Order::Starts(places, reply) => {
                let starts = rows::starts(&self.file.connection, &places);
                let _ = reply.send(self.checked(starts));
            }
        }
    }

    /// Puts a record behind what waits of its source.
    fn keep(&mut self, record: Record) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += record.encoded.len();
        let host = Arc::clone(&record.source.host);
        let earlier = self.reached.get(&host);
        let floor = earlier
            .map_or((i64::MIN, i64::MIN), |earlier| (earlier.at_unix_ns, earlier.last_unix_ns));
        let (first, last) = record.times.unwrap_or(floor);
        let at = At { boot_id: Arc::clone(&record.source.boot_id), place: record.after };
        let times = Reached { at, at_unix_ns: first.max(floor.0), last_unix_ns: last.max(floor.1) };
        match self.growing.get_mut(&host) {
            Some((row, row_times)) if goes_on(row, &record) => {
                row.after = record.after;
                row.times = match (row.times, record.times) {
                    (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
                    (times, None) | (None, times) => times,
                };
                row.kinds = row.kinds.iter().chain(record.kinds.iter()).collect();
                row.encoded.extend_from_slice(&record.encoded);
                row_times.last_unix_ns = times.last_unix_ns;
                // Its place in the order is that of its beginning.
                let at_unix_ns = row_times.at_unix_ns;
                self.reached.insert(host, Reached { at_unix_ns, ..times });
            }
            _ => {
                self.reached.insert(Arc::clone(&host), times.clone());
                self.whole.extend(self.growing.insert(host, (record, times)));
            }
        }
    }

    fn write(&mut self) {
        self.since = None;
        self.bytes = 0;
        let mut rows = std::mem::take(&mut self.whole);
        rows.extend(std::mem::take(&mut self.growing).into_values());
        if !rows.is_empty()
            && let Err(error) = self.file.write(&rows, &self.reached)
        {
            tracing::error!(%error, rows = rows.len(), "history: not written; readers will see a gap");
            self.mend(&error);
        }
        self.room.clear();
        if self.expired_at.elapsed() >= EXPIRE {
            self.expired_at = Instant::now();
            if let Err(error) = self.file.expire() {
                tracing::warn!(%error, "history: old events stay");
                self.mend(&error);
            }
        }
    }

    fn checked<T>(&mut self, result: rusqlite::Result<T>) -> Result<T, String> {
        result.map_err(|error| {
            self.mend(&error);
            error.to_string()
        })
    }

    /// Begins a new file when the old one is broken.
    fn mend(&mut self, error: &rusqlite::Error) {
        let broken = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase];
        if !error.sqlite_error_code().is_some_and(|code| broken.contains(&code)) {
            return;
        }
        let opened = set_aside(&self.path).and_then(|aside| {
            tracing::error!(%error, aside = %aside.display(), "history: broken; it is set aside and a new \
                one begins: the events before are not shown any more");
            File::open(&self.path, self.limits)
        });
        match opened {
            Ok((file, _)) => self.file = file,
            Err(error) => tracing::error!(%error, "history: no new one; events are not kept"),
        }
    }
}

/// Whether a record is what comes directly after a row that has room.
fn goes_on(row: &Record, record: &Record) -> bool {
    row.source == record.source
        && row.after == record.before
        && row.clock_off == record.clock_off
        && row.encoded.len() + record.encoded.len() <= ROW_BYTES
}
