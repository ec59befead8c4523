//! What the rows of the tables mean.

use super::{
    AuditRecord, Epoch, Fingerprint, HostRecord, IssuedRecord, TokenRecord, UserRecord, chain::Line,
};
use kctl_blocklist::{Entry, Feed, FeedHead, now_unix_ms, unpack};
use kctl_proto::agent::v1 as pb;
use kctl_rpc::Role;
use prost::Message as _;
use rusqlite::{Row, Transaction};
use std::{collections::BTreeSet, sync::Arc};

pub(super) fn rows<T, C: FromIterator<T>>(
    transaction: &Transaction<'_>,
    query: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<C> {
    transaction.prepare(query)?.query_map([], read)?.collect()
}

pub(super) fn epoch_of(row: &Row<'_>) -> rusqlite::Result<Epoch> {
    Ok(Epoch {
        epoch: unsigned(row.get(0)?),
        first: unsigned(row.get(1)?),
        last: row.get::<_, Option<i64>>(2)?.map(unsigned),
    })
}

pub(super) fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let entry = pb::Entry::decode(row.get::<_, Vec<u8>>(0)?.as_slice()).map_err(invalid)?;
    let mut entry = Entry::from_proto(entry, 0).map_err(invalid)?;
    entry.expires_unix_ms = row.get(1)?;
    Ok(entry)
}

pub(super) fn feed_of(row: &Row<'_>) -> rusqlite::Result<(Feed, u64)> {
    let head = pb::FeedHead::decode(row.get::<_, Vec<u8>>(0)?.as_slice()).map_err(invalid)?;
    let mut head = FeedHead::from_proto(head, 0).map_err(invalid)?;
    head.expires_unix_ms = row.get(2)?;
    let packed = pb::Prefixes::decode(row.get::<_, Vec<u8>>(1)?.as_slice()).map_err(invalid)?;
    let mut prefixes = Vec::new();
    unpack(&packed, &mut prefixes).map_err(invalid)?;
    Ok((Feed::new(head, prefixes.into_iter().collect()), unsigned(row.get(3)?)))
}

pub(super) fn host_of(row: &Row<'_>) -> rusqlite::Result<(String, HostRecord)> {
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

pub(super) fn token_of(row: &Row<'_>) -> rusqlite::Result<(String, TokenRecord)> {
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

pub(super) fn user_of(row: &Row<'_>) -> rusqlite::Result<(String, UserRecord)> {
    let name: String = row.get("name")?;
    let role: String = row.get("role")?;
    let scope: String = row.get("scope")?;
    let user = UserRecord {
        name: name.clone(),
        // The least for one of another version.
        role: Role::named(&role).unwrap_or(Role::Viewer),
        scope: (!scope.is_empty()).then(|| scope.parse()).transpose().map_err(invalid)?,
        limited: row.get("limited")?,
        created_by: row.get("created_by")?,
        created_unix_ms: row.get("created_unix_ms")?,
    };
    Ok((name, user))
}

pub(super) fn issued_of(row: &Row<'_>) -> rusqlite::Result<(Fingerprint, IssuedRecord)> {
    let issued = IssuedRecord {
        identity: row.get("identity")?,
        issuer: row.get("issuer")?,
        not_after_unix_ms: row.get("not_after_unix_ms")?,
    };
    Ok((row.get("certificate")?, issued))
}

/// A row of the audit log.
pub(super) fn audit_of(row: &Row<'_>) -> rusqlite::Result<Line> {
    let record = AuditRecord {
        time_unix_ms: row.get("time_unix_ms")?,
        who: row.get("who")?,
        from: row.get("origin")?,
        what: row.get("what")?,
        hosts: row.get("hosts")?,
        outcome: row.get("outcome")?,
    };
    Ok(Line { number: unsigned(row.get("number")?), record, hash: row.get("hash")? })
}

pub(super) fn signed(value: u64) -> i64 {
    value.cast_signed()
}

pub(super) fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}

pub(super) fn invalid(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, error.into())
}
