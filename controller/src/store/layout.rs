//! The tables of the store, and how those of an older controller become today's.

use super::chain::{Head, Line};
use super::database::{insert_audit, save_head, set_meta};
use super::rows::audit_of;
use rusqlite::{Transaction, params};

/// Grows with each change of the tables that an older controller could not read.
pub(super) const LAYOUT: &str = "3";
/// Those that are brought up to date: without feeds; without a chain of the audit log, and users that
/// have no scope.
const OLDER: [&str; 2] = ["1", "2"];

/// The first layout; what came later is added to it by [`upgrade`], in a new store too.
pub(super) const FIRST: &str = "
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

/// A feed is one row: as a row an entry, an import would touch nearly every page of the file.
pub(super) const FEEDS: &str = "
CREATE TABLE feeds(name TEXT PRIMARY KEY, head BLOB NOT NULL, prefixes BLOB NOT NULL,
    expires_unix_ms INTEGER, revision INTEGER NOT NULL);
";

const USERS: &str = "
ALTER TABLE users ADD COLUMN scope TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN limited INTEGER NOT NULL DEFAULT 0;
CREATE TABLE issued(certificate BLOB PRIMARY KEY, identity TEXT NOT NULL, issuer BLOB NOT NULL,
    not_after_unix_ms INTEGER NOT NULL) WITHOUT ROWID;
";

/// The lines of before are kept to be copied; the head stands apart, so that a cut tail shows.
const AUDIT: &str = "
ALTER TABLE audit RENAME TO audit_before;
DROP INDEX audit_time;
CREATE TABLE audit(number INTEGER PRIMARY KEY, time_unix_ms INTEGER NOT NULL, who TEXT NOT NULL,
    origin TEXT NOT NULL, what TEXT NOT NULL, hosts TEXT NOT NULL, outcome TEXT NOT NULL,
    hash BLOB NOT NULL);
CREATE INDEX audit_time ON audit(time_unix_ms);
CREATE TABLE audit_head(one INTEGER PRIMARY KEY CHECK(one = 1), count INTEGER NOT NULL,
    hash BLOB NOT NULL);
";

/// Whether this controller can read the tables of a layout.
pub(super) fn is_known(layout: &str) -> bool {
    layout == LAYOUT || OLDER.contains(&layout)
}

/// Brings the tables of an older layout up to date.
pub(super) fn upgrade(transaction: &Transaction<'_>, layout: &str) -> rusqlite::Result<()> {
    if layout == LAYOUT {
        return Ok(());
    }
    if layout == OLDER[0] {
        transaction.execute_batch(FEEDS)?;
    }
    transaction.execute_batch(USERS)?;
    transaction.execute_batch(AUDIT)?;
    let mut head = Head::default();
    {
        let mut before = transaction.prepare(
            "SELECT id AS number, time_unix_ms, who, origin, what, hosts, outcome, x'' AS hash
             FROM audit_before ORDER BY id",
        )?;
        let mut rows = before.query([])?;
        while let Some(row) = rows.next()? {
            let Line { record, .. } = audit_of(row)?;
            head = head.after(&record);
            insert_audit(transaction, &record, &head)?;
        }
    }
    save_head(transaction, &head)?;
    transaction.execute("DROP TABLE audit_before", params![])?;
    set_meta(transaction, "layout", LAYOUT)
}
