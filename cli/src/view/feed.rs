//! Feeds, without their prefixes.

use super::{SelectionView, action_name, cell};
use crate::{
    output::Table,
    time::{relative, rfc3339},
};
use kctl_proto::controller::v1 as pb;
use serde::Serialize;

/// One row of `blocklist feeds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FeedRow {
    name: String,
    action: &'static str,
    entries: u64,
    hosts: Option<SelectionView>,
    /// When it changed last.
    imported: Option<String>,
    #[serde(skip)]
    imported_unix_ms: i64,
    expires: Option<String>,
    #[serde(skip)]
    expires_unix_ms: i64,
    reason: String,
    revision: u64,
}

impl FeedRow {
    /// A feed whose time left was measured at `now_unix_ms`.
    pub(crate) fn new(feed: pb::list_feeds_response::Feed, now_unix_ms: i64) -> Self {
        let head = feed.head.unwrap_or_default();
        let left = |ttl: u64| now_unix_ms.saturating_add(i64::try_from(ttl).unwrap_or(i64::MAX));
        let expires_unix_ms = head.ttl_ms.map_or(0, left);
        Self {
            action: action_name(head.action),
            name: head.name,
            entries: feed.entries,
            hosts: head.selection.and_then(SelectionView::of),
            imported: rfc3339(head.imported_unix_ms),
            imported_unix_ms: head.imported_unix_ms,
            expires: rfc3339(expires_unix_ms),
            expires_unix_ms,
            reason: head.reason,
            revision: feed.revision,
        }
    }
}

/// Rows for people.
pub(crate) fn table(rows: &[FeedRow], now_unix_ms: i64) -> Table {
    let headings = ["FEED", "ACTION", "ENTRIES", "HOSTS", "IMPORTED", "EXPIRES", "REASON"];
    let mut table = Table::new(&headings);
    for row in rows {
        table.row([
            row.name.clone(),
            row.action.to_owned(),
            row.entries.to_string(),
            cell(row.hosts.as_ref()),
            relative(row.imported_unix_ms, now_unix_ms),
            relative(row.expires_unix_ms, now_unix_ms),
            row.reason.clone(),
        ]);
    }
    table
}
