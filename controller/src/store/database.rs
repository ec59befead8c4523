//! The store on disk: one SQLite file in write-ahead mode, every commit synced.
//!
//! It owns the tables and knows nothing of who reads them.

use super::{
    AuditRecord, Desired, Epoch, Fingerprint, HostRecord, Model, Records, TokenRecord, Write,
};
use kctl_blocklist::{Entry, EntryKey, Feed, FeedHead, now_unix_ms, pack, unpack};
use kctl_proto::agent::v1 as pb;
use prost::Message as _;
use rusqlite::{Connection, Row, Transaction, named_params, params};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Grows with each change of the tables that an older controller could not read.
const LAYOUT: &str = "2";
/// That of a store without feeds, which gets their table.
const WITHOUT_FEEDS: &str = "1";

/// A feed is one row: as a row an entry, an import would touch nearly every page of the file.
const FEEDS: &str = "
CREATE TABLE feeds(name TEXT PRIMARY KEY, head BLOB NOT NULL, prefixes BLOB NOT NULL,
    expires_unix_ms INTEGER, revision INTEGER NOT NULL);
";

const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE epochs(epoch INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER);
CREATE TABLE entries(key BLOB PRIMARY KEY, entry BLOB NOT NULL, expires_unix_ms INTEGER,
    revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE hosts(name TEXT PRIMARY KEY, joined_unix_ms INTEGER NOT NULL,
    since_unix_ms INTEGER NOT NULL, connected INTEGER NOT NULL, certificates BLOB NOT NULL,
    status BLOB) WITHOUT ROWID;
CREATE TABLE tokens(id TEXT PRIMARY KEY, secret_sha256 BLOB NOT NULL,
    expires_unix_ms INTEGER NOT NULL, uses INTEGER, host TEXT NOT NULL, revoked INTEGER NOT NULL,
    created_by TEXT NOT NULL, created_unix_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE users(name TEXT PRIMARY KEY, role TEXT NOT NULL, created_unix_ms INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE revoked(certificate BLOB PRIMARY KEY, identity TEXT NOT NULL,
    time_unix_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE audit(id INTEGER PRIMARY KEY, time_unix_ms INTEGER NOT NULL, who TEXT NOT NULL,
    origin TEXT NOT NULL, what TEXT NOT NULL, hosts TEXT NOT NULL, outcome TEXT NOT NULL);
CREATE INDEX audit_time ON audit(time_unix_ms);
";

/// Why the store can't be opened. None of these makes a new one: an unread store may still be the
/// only place that knows what the fleet must block.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Files around the database.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// The database itself.
    #[error(
        "{0}: can't be read as a store: {1}; put a backup in its place, or move it away to begin \
         with an empty store (hosts keep what they enforce until `kctl blocklist recover`)"
    )]
    Unreadable(PathBuf, String),
    /// The thread that owns the database.
    #[error("store thread: {0}")]
    Thread(io::Error),
}

/// An open store.
pub(super) struct Database {
    connection: Connection,
}

impl Database {
    /// Opens or makes the file, and begins a new epoch.
    pub(super) fn open(path: &Path) -> Result<(Self, Model), OpenError> {
        let exists = path.try_exists().map_err(|error| OpenError::File(path.into(), error))?;
        if !exists {
            create(path)?;
        }
        let unreadable =
            |error: rusqlite::Error| OpenError::Unreadable(path.into(), error.to_string());
        let mut connection = Connection::open(path).map_err(unreadable)?;
        check(&connection).map_err(|why| OpenError::Unreadable(path.into(), why))?;
        configure(&connection).map_err(unreadable)?;
        let model = load(&mut connection).map_err(unreadable)?;
        Ok((Self { connection }, model))
    }

    /// Makes writes durable, all or none.
    pub(super) fn commit<'a>(
        &mut self,
        writes: impl Iterator<Item = &'a Write>,
        revision: u64,
    ) -> rusqlite::Result<()> {
        let mut writes = writes.peekable();
        if writes.peek().is_none() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        for write in writes {
            save(&transaction, write, revision)?;
        }
        set_meta(&transaction, "revision", &revision.to_string())?;
        transaction.commit()
    }
}

/// Makes the file under another name first: a store that is only half made is never opened.
fn create(path: &Path) -> Result<(), OpenError> {
    let file = |path: &Path, error| OpenError::File(path.into(), error);
    // The write-ahead log of a database that was taken away would be replayed into the new one.
    for suffix in ["-wal", "-shm", ".new"] {
        let mut stale = path.as_os_str().to_owned();
        stale.push(suffix);
        match fs::remove_file(&stale) {
            Ok(()) => tracing::warn!(path = ?stale, "store: removed a file without its database"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file(Path::new(&stale), error)),
        }
    }
    let new = path.with_extension("db.new");
    let make = || -> rusqlite::Result<()> {
        let mut connection = Connection::open(&new)?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.execute_batch(FEEDS)?;
        let store_id = format!("{:032x}", rand::random::<u128>());
        set_meta(&transaction, "layout", LAYOUT)?;
        set_meta(&transaction, "store_id", &store_id)?;
        set_meta(&transaction, "revision", "0")?;
        transaction
            .execute("INSERT INTO users VALUES('admin', 'admin', ?1)", params![now_unix_ms()])?;
        transaction.commit()?;
        tracing::info!(%store_id, path = %path.display(), "store: made a new one");
        Ok(())
    };
    make().map_err(|error| file(&new, io::Error::other(error)))?;
    fs::rename(&new, path).map_err(|error| file(path, error))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| file(folder, error))
}

fn check(connection: &Connection) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    let layout = connection.query_row("SELECT value FROM meta WHERE key = 'layout'", [], |row| {
        row.get::<_, String>(0)
    });
    match layout.map_err(text)?.as_str() {
        LAYOUT | WITHOUT_FEEDS => {}
        other => return Err(format!("its layout is {other}, this controller knows {LAYOUT}")),
    }
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(text)?;
    if verdict == "ok" { Ok(()) } else { Err(verdict) }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")
}

fn load(connection: &mut Connection) -> rusqlite::Result<Model> {
    let transaction = connection.transaction()?;
    let meta: BTreeMap<String, String> =
        rows(&transaction, "SELECT key, value FROM meta", |row| Ok((row.get(0)?, row.get(1)?)))?;
    let field =
        |key: &str| meta.get(key).cloned().ok_or_else(|| invalid(format!("meta has no {key}")));
    if field("layout")? == WITHOUT_FEEDS {
        transaction.execute_batch(FEEDS)?;
        set_meta(&transaction, "layout", LAYOUT)?;
    }
    let store_id = field("store_id")?;
    let revision: u64 = field("revision")?.parse().map_err(invalid)?;
    transaction
        .execute("UPDATE epochs SET last = ?1 WHERE last IS NULL", params![signed(revision)])?;
    let epoch = rand::random();
    save_epoch(&transaction, &Epoch { epoch, first: revision + 1, last: None })?;
    let epochs: Vec<Epoch> =
        rows(&transaction, "SELECT epoch, first, last FROM epochs ORDER BY rowid", epoch_of)?;
    let (running, mut epochs): (Vec<_>, Vec<_>) =
        epochs.into_iter().partition(|known| known.last.is_none());
    epochs.extend(running);
    let entries: Vec<Entry> =
        rows(&transaction, "SELECT entry, expires_unix_ms FROM entries", entry_of)?;
    let feeds: Vec<(Feed, u64)> =
        rows(&transaction, "SELECT head, prefixes, expires_unix_ms, revision FROM feeds", feed_of)?;
    let records = Records {
        hosts: rows(&transaction, "SELECT * FROM hosts", host_of)?,
        tokens: rows(&transaction, "SELECT * FROM tokens", token_of)?,
        users: rows(&transaction, "SELECT name, role FROM users", |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?,
        revoked: rows(&transaction, "SELECT certificate FROM revoked", |row| row.get(0))?,
    };
    transaction.commit()?;
    Ok(Model { desired: Desired::new(store_id, epochs, revision, entries, feeds), records })
}

fn rows<T, C: FromIterator<T>>(
    transaction: &Transaction<'_>,
    query: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<C> {
    transaction.prepare(query)?.query_map([], read)?.collect()
}

fn epoch_of(row: &Row<'_>) -> rusqlite::Result<Epoch> {
    Ok(Epoch {
        epoch: unsigned(row.get(0)?),
        first: unsigned(row.get(1)?),
        last: row.get::<_, Option<i64>>(2)?.map(unsigned),
    })
}

fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let entry = pb::Entry::decode(row.get::<_, Vec<u8>>(0)?.as_slice()).map_err(invalid)?;
    let mut entry = Entry::from_proto(entry, 0).map_err(invalid)?;
    entry.expires_unix_ms = row.get(1)?;
    Ok(entry)
}

fn feed_of(row: &Row<'_>) -> rusqlite::Result<(Feed, u64)> {
    let head = pb::FeedHead::decode(row.get::<_, Vec<u8>>(0)?.as_slice()).map_err(invalid)?;
    let mut head = FeedHead::from_proto(head, 0).map_err(invalid)?;
    head.expires_unix_ms = row.get(2)?;
    let packed = pb::Prefixes::decode(row.get::<_, Vec<u8>>(1)?.as_slice()).map_err(invalid)?;
    let mut prefixes = Vec::new();
    unpack(&packed, &mut prefixes).map_err(invalid)?;
    Ok((Feed::new(head, prefixes.into_iter().collect()), unsigned(row.get(3)?)))
}

fn host_of(row: &Row<'_>) -> rusqlite::Result<(String, HostRecord)> {
    let certificates: Vec<u8> = row.get("certificates")?;
    let certificates: BTreeSet<Fingerprint> = certificates.as_chunks().0.iter().copied().collect();
    let status = row
        .get::<_, Option<Vec<u8>>>("status")?
        .map(|bytes| pb::HostStatus::decode(bytes.as_slice()).map(Arc::new))
        .transpose()
        .map_err(invalid)?;
    let name: String = row.get("name")?;
    let connected: bool = row.get("connected")?;
    // A host that was connected when the controller stopped is not any more, as far as we know.
    let since_unix_ms = if connected { now_unix_ms() } else { row.get("since_unix_ms")? };
    let joined_unix_ms = row.get("joined_unix_ms")?;
    let host = HostRecord {
        name: name.clone(),
        joined_unix_ms,
        since_unix_ms,
        session: None,
        certificates,
        status,
    };
    Ok((name, host))
}

fn token_of(row: &Row<'_>) -> rusqlite::Result<(String, TokenRecord)> {
    let id: String = row.get("id")?;
    let token = TokenRecord {
        id: id.clone(),
        secret_sha256: row.get("secret_sha256")?,
        expires_unix_ms: row.get("expires_unix_ms")?,
        uses: row.get("uses")?,
        host: row.get("host")?,
        revoked: row.get("revoked")?,
        created_by: row.get("created_by")?,
        created_unix_ms: row.get("created_unix_ms")?,
    };
    Ok((id, token))
}

fn save(transaction: &Transaction<'_>, write: &Write, revision: u64) -> rusqlite::Result<()> {
    let execute = |query: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(query)?.execute(values).map(drop)
    };
    match write {
        Write::Upsert(entry) => execute(
            "INSERT OR REPLACE INTO entries VALUES(?1, ?2, ?3, ?4)",
            &[
                &key_bytes(&entry.key),
                &entry.to_proto(0).encode_to_vec(),
                &entry.expires_unix_ms,
                &signed(revision),
            ],
        ),
        Write::Remove(key) => execute("DELETE FROM entries WHERE key = ?1", &[&key_bytes(key)]),
        Write::Feed(change) => match &change.after {
            Some(feed) => execute(
                "INSERT OR REPLACE INTO feeds VALUES(?1, ?2, ?3, ?4, ?5)",
                &[
                    &change.name,
                    &feed.head().to_proto(0).encode_to_vec(),
                    &pack(feed.prefixes().as_slice()).encode_to_vec(),
                    &feed.head().expires_unix_ms,
                    &signed(revision),
                ],
            ),
            None => execute("DELETE FROM feeds WHERE name = ?1", &[&change.name]),
        },
        Write::Identity { store_id, epochs, .. } => {
            set_meta(transaction, "store_id", store_id)?;
            execute("DELETE FROM epochs", &[])?;
            epochs.iter().try_for_each(|epoch| save_epoch(transaction, epoch))
        }
        Write::Host(host) => save_host(transaction, host),
        Write::ForgetHost(name) => execute("DELETE FROM hosts WHERE name = ?1", &[name]),
        Write::Token(token) => save_token(transaction, token),
        Write::ForgetToken(id) => execute("DELETE FROM tokens WHERE id = ?1", &[id]),
        Write::Revoke(certificate, identity) => execute(
            "INSERT OR REPLACE INTO revoked VALUES(?1, ?2, ?3)",
            &[certificate, identity, &now_unix_ms()],
        ),
        Write::Audit(AuditRecord { time_unix_ms, who, from, what, hosts, outcome }) => execute(
            "INSERT INTO audit(time_unix_ms, who, origin, what, hosts, outcome)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            &[time_unix_ms, who, from, what, hosts, outcome],
        ),
    }
}

fn save_epoch(transaction: &Transaction<'_>, epoch: &Epoch) -> rusqlite::Result<()> {
    transaction
        .execute(
            "INSERT INTO epochs VALUES(?1, ?2, ?3)",
            params![signed(epoch.epoch), signed(epoch.first), epoch.last.map(signed)],
        )
        .map(drop)
}

fn save_host(transaction: &Transaction<'_>, host: &HostRecord) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO hosts
             VALUES(:name, :joined, :since, :connected, :certificates, :status)",
        )?
        .execute(named_params! {
            ":name": host.name,
            ":joined": host.joined_unix_ms,
            ":since": host.since_unix_ms,
            ":connected": host.session.is_some(),
            ":certificates": host.certificates.iter().flatten().copied().collect::<Vec<u8>>(),
            ":status": host.status.as_ref().map(|status| status.encode_to_vec()),
        })
        .map(drop)
}

fn save_token(transaction: &Transaction<'_>, token: &TokenRecord) -> rusqlite::Result<()> {
    transaction
        .execute(
            "INSERT OR REPLACE INTO tokens
             VALUES(:id, :secret, :expires, :uses, :host, :revoked, :by, :created)",
            named_params! {
                ":id": token.id,
                ":secret": token.secret_sha256,
                ":expires": token.expires_unix_ms,
                ":uses": token.uses,
                ":host": token.host,
                ":revoked": token.revoked,
                ":by": token.created_by,
                ":created": token.created_unix_ms,
            },
        )
        .map(drop)
}

fn set_meta(transaction: &Transaction<'_>, key: &str, value: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO meta VALUES(?1, ?2)")?
        .execute(params![key, value])
        .map(drop)
}

/// Names in a key are sorted, so equal keys have equal bytes.
fn key_bytes(key: &EntryKey) -> Vec<u8> {
    pb::EntryKey::from(key).encode_to_vec()
}

fn signed(value: u64) -> i64 {
    value.cast_signed()
}

fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, error.into())
}
