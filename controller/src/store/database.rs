//! The store on disk: one SQLite file in write-ahead mode, every commit synced.
//!
//! It owns the tables and knows nothing of who reads them.

use super::{
    AuditRecord, Desired, Epoch, HostRecord, Model, Records, TokenRecord, Write,
    chain::{Head, Line, Page, Query},
    layout,
    rows::{
        audit_of, entry_of, epoch_of, feed_of, host_of, invalid, issued_of, rows, signed, token_of,
        unsigned, user_of,
    },
};
use kctl_blocklist::{Entry, EntryKey, Feed, now_unix_ms, pack};
use kctl_proto::agent::v1 as pb;
use prost::Message as _;
use rusqlite::{Connection, Transaction, named_params, params};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

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
    /// Where the audit log ends.
    pub(super) head: Head,
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
        let (model, head) = load(&mut connection).map_err(unreadable)?;
        Ok((Self { connection, head }, model))
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
        let mut head = self.head;
        for write in writes {
            match write {
                Write::Audit(record) => {
                    head = head.after(record);
                    insert_audit(&transaction, record, &head)?;
                }
                other => save(&transaction, other, revision)?,
            }
        }
        if head != self.head {
            save_head(&transaction, &head)?;
        }
        set_meta(&transaction, "revision", &revision.to_string())?;
        transaction.commit()?;
        self.head = head;
        Ok(())
    }

    /// Writes again what is there.
    pub(super) fn probe(&mut self, revision: u64) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        set_meta(&transaction, "revision", &revision.to_string())?;
        transaction.commit()
    }

    /// Lines of the audit log.
    pub(super) fn audit(&self, query: &Query) -> rusqlite::Result<Page> {
        let order = if query.newest { "DESC" } else { "ASC" };
        let sql = format!(
            "SELECT * FROM audit WHERE number > ?1 AND time_unix_ms >= ?2 AND time_unix_ms <= ?3
             AND (?4 = '' OR who = ?4 OR who = 'user:' || ?4) ORDER BY number {order} LIMIT ?5"
        );
        let values = params![
            signed(query.after),
            query.since_unix_ms.unwrap_or(i64::MIN),
            query.until_unix_ms.unwrap_or(i64::MAX),
            query.who,
            signed(query.limit),
        ];
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut lines: Vec<Line> =
            statement.query_map(values, audit_of)?.collect::<Result<_, _>>()?;
        if query.newest {
            lines.reverse();
        }
        Ok(Page { lines, head: self.head })
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
        transaction.execute_batch(layout::FIRST)?;
        layout::upgrade(&transaction, "1")?;
        let store_id = format!("{:032x}", rand::random::<u128>());
        set_meta(&transaction, "store_id", &store_id)?;
        set_meta(&transaction, "revision", "0")?;
        transaction.execute(
            "INSERT INTO users(name, role, created_unix_ms) VALUES('admin', 'admin', ?1)",
            params![now_unix_ms()],
        )?;
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
    let layout = layout.map_err(text)?;
    if !layout::is_known(&layout) {
        let known = layout::LAYOUT;
        return Err(format!("its layout is {layout}, this controller knows {known}"));
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

fn load(connection: &mut Connection) -> rusqlite::Result<(Model, Head)> {
    let transaction = connection.transaction()?;
    let meta: BTreeMap<String, String> =
        rows(&transaction, "SELECT key, value FROM meta", |row| Ok((row.get(0)?, row.get(1)?)))?;
    let field =
        |key: &str| meta.get(key).cloned().ok_or_else(|| invalid(format!("meta has no {key}")));
    layout::upgrade(&transaction, &field("layout")?)?;
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
        users: rows(&transaction, "SELECT * FROM users", user_of)?,
        issued: rows(&transaction, "SELECT * FROM issued", issued_of)?,
        revoked: rows(&transaction, "SELECT certificate FROM revoked", |row| row.get(0))?,
    };
    let head = transaction.query_row("SELECT count, hash FROM audit_head", [], |row| {
        Ok(Head { count: unsigned(row.get(0)?), hash: row.get(1)? })
    })?;
    transaction.commit()?;
    let desired = Desired::new(store_id, epochs, revision, entries, feeds);
    Ok((Model { desired, records }, head))
}

/// Writes the line with which the log ends at `head`.
pub(super) fn insert_audit(
    transaction: &Transaction<'_>,
    record: &AuditRecord,
    head: &Head,
) -> rusqlite::Result<()> {
    let AuditRecord { time_unix_ms, who, from, what, hosts, outcome } = record;
    transaction
        .prepare_cached("INSERT INTO audit VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute(params![
            signed(head.count),
            time_unix_ms,
            who,
            from,
            what,
            hosts,
            outcome,
            head.hash
        ])
        .map(drop)
}

/// Writes where the log ends.
pub(super) fn save_head(transaction: &Transaction<'_>, head: &Head) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO audit_head VALUES(1, ?1, ?2)")?
        .execute(params![signed(head.count), head.hash])
        .map(drop)
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
        Write::User(user) => {
            let scope = user.scope.as_ref().map(ToString::to_string).unwrap_or_default();
            execute(
                "INSERT OR REPLACE INTO users(name, role, scope, limited, created_by, created_unix_ms)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
                &[
                    &user.name,
                    &user.role.name(),
                    &scope,
                    &user.limited,
                    &user.created_by,
                    &user.created_unix_ms,
                ],
            )
        }
        Write::ForgetUser(name) => execute("DELETE FROM users WHERE name = ?1", &[name]),
        Write::Issue(certificate, issued) => execute(
            "INSERT OR REPLACE INTO issued VALUES(?1, ?2, ?3, ?4)",
            &[certificate, &issued.identity, &issued.issuer, &issued.not_after_unix_ms],
        ),
        Write::ForgetIssued(certificate) => {
            execute("DELETE FROM issued WHERE certificate = ?1", &[certificate])
        }
        // Its hash depends on the line before: `commit` writes it.
        Write::Audit(_) => Ok(()),
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

/// Sets what there is one of.
pub(super) fn set_meta(
    transaction: &Transaction<'_>,
    key: &str,
    value: &str,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO meta VALUES(?1, ?2)")?
        .execute(params![key, value])
        .map(drop)
}

/// Names in a key are sorted, so equal keys have equal bytes.
fn key_bytes(key: &EntryKey) -> Vec<u8> {
    pb::EntryKey::from(key).encode_to_vec()
}
