//! Memory mappings.

use crate::view::{read::Record, size, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MapView {
    pid: u32,
    /// Hexadecimal: JSON numbers are not exact up here.
    start: String,
    end: String,
    size_bytes: u64,
    permissions: String,
    shared: bool,
    offset: u64,
    device: String,
    inode: u64,
    path: Option<String>,
    usage: Option<UsageView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct UsageView {
    rss_bytes: u64,
    pss_bytes: u64,
    shared_clean_bytes: u64,
    shared_dirty_bytes: u64,
    private_clean_bytes: u64,
    private_dirty_bytes: u64,
    swap_bytes: u64,
}

impl From<pb::map::Usage> for UsageView {
    fn from(usage: pb::map::Usage) -> Self {
        Self {
            rss_bytes: usage.rss_bytes,
            pss_bytes: usage.pss_bytes,
            shared_clean_bytes: usage.shared_clean_bytes,
            shared_dirty_bytes: usage.shared_dirty_bytes,
            private_clean_bytes: usage.private_clean_bytes,
            private_dirty_bytes: usage.private_dirty_bytes,
            swap_bytes: usage.swap_bytes,
        }
    }
}

impl From<pb::Map> for MapView {
    fn from(map: pb::Map) -> Self {
        Self {
            pid: map.pid,
            start: format!("{:#x}", map.start),
            end: format!("{:#x}", map.end),
            size_bytes: map.end.saturating_sub(map.start),
            permissions: map.permissions,
            shared: map.shared,
            offset: map.offset,
            device: map.device,
            inode: map.inode,
            path: some(map.path),
            usage: map.usage.map(UsageView::from),
        }
    }
}

impl Record for MapView {
    const NOUN: &'static str = "maps";
    const COLUMNS: &'static [&'static str] = &["START", "SIZE", "PERM", "RSS", "PATH"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["END", "OFFSET", "DEVICE", "INODE", "PSS", "SHARED", "PRIVATE", "DIRTY", "SWAP"];

    fn cells(&self) -> Vec<String> {
        let used = |bytes: fn(&UsageView) -> u64| {
            self.usage.as_ref().map(|usage| size(bytes(usage))).unwrap_or_default()
        };
        vec![
            self.start.clone(),
            size(self.size_bytes),
            format!("{}{}", self.permissions, if self.shared { "s" } else { "p" }),
            used(|it| it.rss_bytes),
            self.path.clone().unwrap_or_default(),
            self.end.clone(),
            format!("{:#x}", self.offset),
            self.device.clone(),
            self.inode.to_string(),
            used(|it| it.pss_bytes),
            used(|it| it.shared_clean_bytes.saturating_add(it.shared_dirty_bytes)),
            used(|it| it.private_clean_bytes.saturating_add(it.private_dirty_bytes)),
            used(|it| it.shared_dirty_bytes.saturating_add(it.private_dirty_bytes)),
            used(|it| it.swap_bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_hexadecimal_text() {
        let mut map = pb::Map {
            pid: 7,
            start: 0xffff_ffff_ff60_0000,
            end: 0xffff_ffff_ff60_1000,
            permissions: "--x".to_owned(),
            device: "00:00".to_owned(),
            path: "[vsyscall]".to_owned(),
            ..pb::Map::default()
        };
        let json = serde_json::to_value(MapView::from(map.clone())).expect("json");
        let expected = json!({"pid": 7, "start": "0xffffffffff600000", "end": "0xffffffffff601000",
            "size_bytes": 4096, "permissions": "--x", "shared": false, "offset": 0,
            "device": "00:00", "inode": 0, "path": "[vsyscall]", "usage": null});
        assert_eq!(json, expected);
        map.usage = Some(pb::map::Usage { private_dirty_bytes: 2_048, ..Default::default() });
        let cells = MapView::from(map).cells();
        assert_eq!(cells.len(), MapView::COLUMNS.len() + MapView::WIDE_COLUMNS.len());
        assert_eq!((cells[2].as_str(), cells[12].as_str()), ("--xp", "2.0K"));
    }
}
