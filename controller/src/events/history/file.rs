//! The file of the history: one SQLite database in write-ahead mode, whose size is kept by deleting the
//! oldest rows and using their pages again.

use super::{
    super::batch::{At, Source},
    Limits, Record, mask,
};
use kctl_blocklist::now_unix_ms;
use kctl_events::Place;
use rusqlite::{Connection, Transaction, params};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Grows with each change of the tables.
const LAYOUT: &str = "1";
const PAGE_BYTES: u64 = 8_192;
/// The write-ahead log goes into the file when it is as large as this.
const LOG_BYTES: u64 = 2 << 20;
/// What a row takes beside its events, with its share of the indexes.
const ROW_BYTES: u64 = 512;
/// Rows that are deleted before the size is looked at again.
const DELETED_AT_ONCE: u32 = 16;

const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches(id INTEGER PRIMARY KEY, host TEXT NOT NULL, boot_id TEXT NOT NULL,
    before_seq INTEGER NOT NULL, before_produced INTEGER NOT NULL, after_seq INTEGER NOT NULL,
    after_produced INTEGER NOT NULL, at_ns INTEGER NOT NULL, first_ns INTEGER NOT NULL,
    last_ns INTEGER NOT NULL, kinds INTEGER NOT NULL, clock_off INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE INDEX batches_at ON batches(at_ns, id, last_ns);
CREATE INDEX batches_last ON batches(last_ns, id);
CREATE INDEX batches_host ON batches(host, boot_id, after_seq);
CREATE TABLE places(host TEXT PRIMARY KEY, boot_id TEXT NOT NULL, seq INTEGER NOT NULL,
    produced INTEGER NOT NULL, at_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
    written_ms INTEGER NOT NULL) WITHOUT ROWID;
";

/// How far the history goes for a source.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    pub(super) at: At,
    /// Times of its last row in the order; later rows are not before them.
    pub(super) at_unix_ns: i64,
    pub(super) last_unix_ns: i64,
}

/// The open file.
pub(super) struct File {
    pub(super) connection: Connection,
    limits: Limits,
}

impl File {
    /// Opens the file, or makes one where there is none or where it can't be read: that one is set
    /// aside.
    pub(super) fn open(
        path: &Path,
        limits: Limits,
    ) -> io::Result<(Self, BTreeMap<Arc<str>, Reached>)> {
        match Self::try_open(path, limits) {
            Ok(opened) => return Ok(opened),
            Err(error) => {
                let aside = set_aside(path)?;
                tracing::error!(%error, path = %path.display(), aside = %aside.display(),
                    "history: can't be read; it is set aside and a new one begins: the events before are \
                     not shown any more");
            }
        }
        Self::try_open(path, limits).map_err(io::Error::other)
    }

    fn try_open(
        path: &Path,
        limits: Limits,
    ) -> rusqlite::Result<(Self, BTreeMap<Arc<str>, Reached>)> {
        let is_new = !path.exists();
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        if is_new {
            connection.pragma_update(None, "page_size", PAGE_BYTES.cast_signed())?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(
            None,
            "wal_autocheckpoint",
            (LOG_BYTES / PAGE_BYTES).cast_signed(),
        )?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES.cast_signed())?;
        connection.pragma_update(None, "cache_size", -4_096)?;
        if is_new {
            connection.execute_batch(&format!(
                "BEGIN; {SCHEMA} INSERT INTO meta VALUES('layout', '{LAYOUT}'), ('clean', '1'); COMMIT"
            ))?;
        }
        let layout = meta(&connection, "layout")?;
        if layout != LAYOUT {
            let why = format!("its layout is {layout}, this controller knows {LAYOUT}");
            return Err(rusqlite::Error::InvalidParameterName(why));
        }
        if meta(&connection, "clean")? != "1" {
            tracing::warn!(
                "history: the controller did not stop properly; up to a second of events was \
                not written, and hosts are asked for it"
            );
        }
        connection.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", [])?;
        let reached = reached(&connection)?;
        let mut file = Self { connection, limits };
        file.shrink()?;
        Ok((file, reached))
    }

    /// Writes rows, and makes room for them first.
    pub(super) fn write(
        &mut self,
        records: &[(Record, Reached)],
        reached: &BTreeMap<Arc<str>, Reached>,
    ) -> rusqlite::Result<()> {
        let incoming: u64 =
            records.iter().map(|(record, _)| ROW_BYTES + record.encoded.len() as u64 * 9 / 8).sum();
        let budget = self.budget();
        let transaction = self.connection.transaction()?;
        make_room(&transaction, budget.saturating_sub(incoming))?;
        let now = now_unix_ms();
        for (record, times) in records {
            insert(&transaction, record, times)?;
        }
        let touched: BTreeMap<_, _> =
            records.iter().map(|(record, _)| (&record.source.host, ())).collect();
        for host in touched.into_keys() {
            if let Some(reached) = reached.get(host) {
                set_reached(&transaction, host, reached, now)?;
            }
        }
        transaction.commit()
    }

    /// Deletes what is too old.
    pub(super) fn expire(&mut self) -> rusqlite::Result<()> {
        let age_ns = i64::try_from(self.limits.age.as_nanos()).unwrap_or(i64::MAX);
        let oldest_ms = now_unix_ms().saturating_sub(age_ns / 1_000_000);
        let oldest_ns = oldest_ms.saturating_mul(1_000_000);
        self.connection
            .prepare_cached("DELETE FROM batches WHERE last_ns < ?1")?
            .execute([oldest_ns])?;
        self.connection
            .prepare_cached("DELETE FROM places WHERE written_ms < ?1")?
            .execute([oldest_ms])
            .map(drop)
    }

    /// Nothing is missing.
    pub(super) fn close(self) -> rusqlite::Result<()> {
        self.connection.execute("UPDATE meta SET value = '1' WHERE key = 'clean'", []).map(drop)
    }

    /// Bytes of the database itself. The rest is for the log, which holds what was written since it was
    /// last emptied: its limit and the largest transaction.
    fn budget(&self) -> u64 {
        self.limits.bytes - (self.limits.bytes / 4).clamp(8 << 20, 24 << 20)
    }

    /// Gives pages back to the disk when the limit is lower than it was.
    fn shrink(&mut self) -> rusqlite::Result<()> {
        let budget = self.budget();
        loop {
            let (pages, free) = pages(&self.connection)?;
            if pages * PAGE_BYTES <= budget {
                return Ok(());
            }
            if free == 0 {
                let transaction = self.connection.transaction()?;
                make_room(&transaction, budget)?;
                transaction.commit()?;
                if pages_used(&self.connection)? == pages {
                    return Ok(());
                }
            }
            self.connection.execute_batch("PRAGMA incremental_vacuum(128)")?;
        }
    }
}

/// Deletes the oldest rows until the others fit.
fn make_room(transaction: &Transaction<'_>, budget: u64) -> rusqlite::Result<()> {
    while pages_used(transaction)? * PAGE_BYTES > budget {
        let deleted = transaction
            .prepare_cached(
                "DELETE FROM batches WHERE id IN (SELECT id FROM batches ORDER BY id LIMIT ?1)",
            )?
            .execute([DELETED_AT_ONCE])?;
        if deleted == 0 {
            return Ok(());
        }
    }
    Ok(())
}

fn pages(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let number =
        |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    Ok((number("page_count")?.cast_unsigned(), number("freelist_count")?.cast_unsigned()))
}

fn pages_used(connection: &Connection) -> rusqlite::Result<u64> {
    pages(connection).map(|(all, free)| all - free)
}

fn insert(transaction: &Transaction<'_>, record: &Record, times: &Reached) -> rusqlite::Result<()> {
    let Record { source: Source { host, boot_id }, before, after, .. } = record;
    let first = record.times.map_or(times.at_unix_ns, |(first, _)| first);
    transaction
        .prepare_cached(
            "INSERT INTO batches(host, boot_id, before_seq, before_produced, after_seq, after_produced,
                 at_ns, first_ns, last_ns, kinds, clock_off, payload)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            &**host,
            &**boot_id,
            before.seq.cast_signed(),
            before.produced.cast_signed(),
            after.seq.cast_signed(),
            after.produced.cast_signed(),
            times.at_unix_ns,
            first,
            times.last_unix_ns,
            mask(record.kinds),
            record.clock_off,
            record.encoded,
        ])
        .map(drop)
}

fn set_reached(
    transaction: &Transaction<'_>,
    host: &str,
    reached: &Reached,
    now_unix_ms: i64,
) -> rusqlite::Result<()> {
    let Reached { at: At { boot_id, place }, at_unix_ns, last_unix_ns } = reached;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO places VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            host,
            &**boot_id,
            place.seq.cast_signed(),
            place.produced.cast_signed(),
            at_unix_ns,
            last_unix_ns,
            now_unix_ms,
        ])
        .map(drop)
}

fn reached(connection: &Connection) -> rusqlite::Result<BTreeMap<Arc<str>, Reached>> {
    let read = |row: &rusqlite::Row<'_>| {
        let host: String = row.get(0)?;
        let boot_id: String = row.get(1)?;
        let (seq, produced): (i64, i64) = (row.get(2)?, row.get(3)?);
        let place = Place { seq: seq.cast_unsigned(), produced: produced.cast_unsigned() };
        let at = At { boot_id: boot_id.into(), place };
        Ok((host.into(), Reached { at, at_unix_ns: row.get(4)?, last_unix_ns: row.get(5)? }))
    };
    connection.prepare("SELECT * FROM places")?.query_map([], read)?.collect()
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<String> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
}

/// Moves a file that can't be read out of the way, in the place of one that was before.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    for suffix in ["-wal", "-shm"] {
        let (from, to) = (with(suffix), with(&format!(".unreadable{suffix}")));
        match fs::rename(&from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let aside = with(".unreadable");
    fs::rename(path, &aside)?;
    Ok(aside)
}
