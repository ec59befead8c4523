//! Reading the history, page by page: nobody holds the file for long, and a page is all that a reader
//! has of it in memory.

use super::super::batch::{Batch, Places, Source};
use kctl_events::Place;
use kctl_proto::agent::v1::WatchEventsResponse;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Params, params};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Encoded events of one page; the last row may go beyond.
const PAGE_BYTES: usize = 512 << 10;
/// Rows of one page.
const PAGE_ROWS: usize = 512;
/// How far behind its place in the order a host's clock may have stepped back and still be found by an
/// end of time.
const STEP_BACK_NS: i64 = 3_600_000_000_000;

/// Which rows, by time.
#[derive(Debug, Clone)]
pub(crate) struct Forward {
    /// Behind this row: its time in the order, its id.
    pub(crate) behind: (i64, i64),
    pub(crate) wanted: Wanted,
    /// Only rows with higher ids than the first and not higher ones than the second: what is written
    /// meanwhile may belong before what was read.
    pub(crate) ids: (i64, i64),
    /// Only rows of these sources with a higher id.
    pub(crate) starts: Option<BTreeMap<Arc<str>, i64>>,
}

/// Which rows, by time, the latest first.
#[derive(Debug, Clone)]
pub(crate) struct Backward {
    /// Before this row: its latest time, its id.
    pub(crate) before: (i64, i64),
    pub(crate) wanted: Wanted,
}

/// What a reader wants of the rows; of others it gets the places.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// A set of kinds as a number.
    pub(crate) kinds: i64,
    pub(crate) since_unix_ns: i64,
    pub(crate) until_unix_ns: i64,
    /// Only these sources.
    pub(crate) hosts: Option<BTreeSet<Arc<str>>>,
}

/// A row of the history.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: i64,
    /// Its place in the order of all rows: the time of its earliest event, never before that of an
    /// earlier row of its source.
    pub(crate) at_unix_ns: i64,
    /// The time of its latest event, likewise.
    pub(crate) last_unix_ns: i64,
    pub(crate) source: Source,
    pub(crate) before: Place,
    pub(crate) after: Place,
    pub(crate) clock_off: bool,
    /// `None` when nothing in it is wanted.
    encoded: Option<Vec<u8>>,
}

/// Some rows.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    /// The row behind which the next page begins, also past rows of others; `None` when there is none.
    pub(crate) next: Option<(i64, i64)>,
}

impl Row {
    /// Bytes of its encoded events.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.encoded.as_ref().map_or(0, Vec::len)
    }

    /// The row as a batch; without events when nothing in it is wanted, or when it can't be read.
    pub(crate) fn into_batch(self) -> Batch {
        let encoded = self.encoded.unwrap_or_default();
        let message = WatchEventsResponse::decode(encoded.as_slice()).unwrap_or_else(|error| {
            tracing::warn!(row = self.id, %error, "history: a row can't be read");
            WatchEventsResponse::default()
        });
        let Self { source, before, after, .. } = self;
        Batch { source, before, after, events: message.events }
    }
}

const COLUMNS: &str = "id, at_ns, last_ns, host, boot_id, before_seq, before_produced, after_seq,
    after_produced, clock_off, CASE WHEN (kinds & ?3) != 0 AND first_ns <= ?4 THEN payload END";

/// The next rows by time.
pub(super) fn forward(connection: &Connection, query: &Forward) -> rusqlite::Result<Page> {
    let Forward { behind, wanted, ids, starts } = query;
    let behind = match *behind {
        (i64::MIN, id) if ids.0 > 0 => (earliest(connection, ids.0)?, id),
        behind => behind,
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM batches WHERE (at_ns, id) > (?1, ?2) AND last_ns >= ?5 AND at_ns <= ?6
             AND id > ?7 AND id <= ?8
         ORDER BY at_ns, id"
    );
    let until = wanted.until_unix_ns;
    let values = params![
        behind.0,
        behind.1,
        wanted.kinds,
        until,
        wanted.since_unix_ns,
        until.saturating_add(STEP_BACK_NS),
        ids.0,
        ids.1,
    ];
    let is_new = |row: &Row| match starts {
        Some(starts) => starts.get(&row.source.host).is_none_or(|start| row.id > *start),
        None => true,
    };
    let place = |row: &Row| (row.at_unix_ns, row.id);
    page(connection, &sql, values, |row| wanted.has(row) && is_new(row), place)
}

/// The time in the order of the earliest row with a higher id.
fn earliest(connection: &Connection, id: i64) -> rusqlite::Result<i64> {
    let mut statement =
        connection.prepare_cached("SELECT min(at_ns) FROM batches WHERE id > ?1")?;
    let earliest: Option<i64> = statement.query_row([id], |row| row.get(0))?;
    Ok(earliest.unwrap_or(i64::MAX))
}

/// The id of the latest row; 0 when there is none.
pub(super) fn latest(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached("SELECT max(id) FROM batches")?;
    Ok(statement.query_row([], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0))
}

/// The next rows by time, backwards.
pub(super) fn backward(connection: &Connection, query: &Backward) -> rusqlite::Result<Page> {
    let Backward { before, wanted } = query;
    let sql = format!(
        "SELECT {COLUMNS} FROM batches WHERE (last_ns, id) < (?1, ?2) AND last_ns >= ?5
         ORDER BY last_ns DESC, id DESC"
    );
    let values =
        params![before.0, before.1, wanted.kinds, wanted.until_unix_ns, wanted.since_unix_ns];
    page(connection, &sql, values, |row| wanted.has(row), |row| (row.last_unix_ns, row.id))
}

impl Wanted {
    fn has(&self, row: &Row) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.contains(&row.source.host))
    }
}

fn page(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    has: impl Fn(&Row) -> bool,
    place: impl Fn(&Row) -> (i64, i64),
) -> rusqlite::Result<Page> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(values)?;
    let (mut page, mut bytes, mut seen) = (Page::default(), 0, 0);
    while let Some(row) = found.next()? {
        let row = read(row)?;
        seen += 1;
        page.next = Some(place(&row));
        if has(&row) {
            bytes += row.encoded_bytes();
            page.rows.push(row);
        }
        if bytes >= PAGE_BYTES || seen >= PAGE_ROWS {
            return Ok(page);
        }
    }
    page.next = None;
    Ok(page)
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let text = |at: usize| -> rusqlite::Result<Arc<str>> {
        row.get_ref(at)?.as_str().map(Arc::from).map_err(Into::into)
    };
    let place = |at: usize| -> rusqlite::Result<Place> {
        let number = |at: usize| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(Place { seq: number(at)?, produced: number(at + 1)? })
    };
    Ok(Row {
        id: row.get(0)?,
        at_unix_ns: row.get(1)?,
        last_unix_ns: row.get(2)?,
        source: Source { host: text(3)?, boot_id: text(4)? },
        before: place(5)?,
        after: place(7)?,
        clock_off: row.get(9)?,
        encoded: row.get(10)?,
    })
}

/// Of each host the last row that is not after its place.
pub(super) fn starts(
    connection: &Connection,
    places: &Places,
) -> rusqlite::Result<BTreeMap<Arc<str>, i64>> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM batches WHERE host = ?1 AND boot_id = ?2 AND after_seq <= ?3
         ORDER BY id DESC LIMIT 1",
    )?;
    let mut starts = BTreeMap::new();
    for (host, at) in places {
        let values = params![&**host, &*at.boot_id, at.place.seq.cast_signed()];
        let row = statement.query_row(values, |row| row.get(0)).optional()?;
        starts.extend(row.map(|id: i64| (Arc::clone(host), id)));
    }
    Ok(starts)
}
