//! Block devices and mounts of a host.

use super::{cell, hundredths, read::Record, size, some};
use kctl_proto::agent::v1::{self as pb, disk};
use serde::Serialize;

/// One block device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DiskView {
    name: String,
    major: u32,
    minor: u32,
    r#type: String,
    parent: Option<String>,
    size_bytes: u64,
    logical_block_bytes: Option<u32>,
    physical_block_bytes: Option<u32>,
    model: Option<String>,
    vendor: Option<String>,
    serial: Option<String>,
    rotational: Option<bool>,
    removable: bool,
    read_only: bool,
    scheduler: Option<String>,
    schedulers: Vec<String>,
    holders: Vec<String>,
    slaves: Vec<String>,
    backing_file: Option<String>,
    dm_name: Option<String>,
    mounts: Vec<MountView>,
    mounts_truncated: bool,
    io: IoView,
    rates: Option<RatesView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct IoView {
    reads: OperationsView,
    writes: OperationsView,
    discards: Option<OperationsView>,
    flushes: Option<u64>,
    flush_time_ms: Option<u64>,
    in_flight: u64,
    io_time_ms: u64,
    weighted_time_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct OperationsView {
    count: u64,
    merged: u64,
    bytes: u64,
    time_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct RatesView {
    reads_per_second: f64,
    writes_per_second: f64,
    read_bytes_per_second: f64,
    write_bytes_per_second: f64,
    read_wait_ms: Option<f64>,
    write_wait_ms: Option<f64>,
    queue_length: f64,
    utilisation_percent: f64,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MountView {
    path: String,
    root: String,
    fs_type: String,
    source: String,
    options: String,
    major: u32,
    minor: u32,
    namespace: String,
    total_bytes: Option<u64>,
    used_bytes: Option<u64>,
    available_bytes: Option<u64>,
    inodes_total: Option<u64>,
    inodes_used: Option<u64>,
    error: Option<String>,
}

impl From<pb::Disk> for DiskView {
    fn from(disk: pb::Disk) -> Self {
        Self {
            name: disk.name,
            major: disk.major,
            minor: disk.minor,
            r#type: disk.r#type,
            parent: some(disk.parent),
            size_bytes: disk.size_bytes,
            logical_block_bytes: disk.logical_block_bytes,
            physical_block_bytes: disk.physical_block_bytes,
            model: some(disk.model),
            vendor: some(disk.vendor),
            serial: some(disk.serial),
            rotational: disk.rotational,
            removable: disk.removable,
            read_only: disk.read_only,
            scheduler: some(disk.scheduler),
            schedulers: disk.schedulers,
            holders: disk.holders,
            slaves: disk.slaves,
            backing_file: some(disk.backing_file),
            dm_name: some(disk.dm_name),
            mounts: disk.mounts.into_iter().map(MountView::from).collect(),
            mounts_truncated: disk.mounts_truncated,
            io: disk.io.unwrap_or_default().into(),
            rates: disk.rates.map(RatesView::from),
        }
    }
}

impl From<disk::Io> for IoView {
    fn from(io: disk::Io) -> Self {
        let view = |operations: disk::Operations| OperationsView {
            count: operations.count,
            merged: operations.merged,
            bytes: operations.bytes,
            time_ms: operations.time_ms,
        };
        Self {
            reads: view(io.reads.unwrap_or_default()),
            writes: view(io.writes.unwrap_or_default()),
            discards: io.discards.map(view),
            flushes: io.flushes,
            flush_time_ms: io.flush_time_ms,
            in_flight: io.in_flight,
            io_time_ms: io.io_time_ms,
            weighted_time_ms: io.weighted_time_ms,
        }
    }
}

impl From<disk::Rates> for RatesView {
    fn from(rates: disk::Rates) -> Self {
        Self {
            reads_per_second: hundredths(rates.reads_per_second),
            writes_per_second: hundredths(rates.writes_per_second),
            read_bytes_per_second: hundredths(rates.read_bytes_per_second),
            write_bytes_per_second: hundredths(rates.write_bytes_per_second),
            read_wait_ms: rates.read_wait_ms.map(hundredths),
            write_wait_ms: rates.write_wait_ms.map(hundredths),
            queue_length: hundredths(rates.queue_length),
            utilisation_percent: hundredths(rates.utilisation_percent),
        }
    }
}

impl From<pb::Mount> for MountView {
    fn from(mount: pb::Mount) -> Self {
        let usage = mount.usage.as_ref();
        Self {
            total_bytes: usage.map(|usage| usage.total_bytes),
            used_bytes: usage.map(|usage| usage.used_bytes),
            available_bytes: usage.map(|usage| usage.available_bytes),
            inodes_total: usage.map(|usage| usage.inodes_total),
            inodes_used: usage.map(|usage| usage.inodes_used),
            path: mount.path,
            root: mount.root,
            fs_type: mount.fs_type,
            source: mount.source,
            options: mount.options,
            major: mount.major,
            minor: mount.minor,
            namespace: mount.namespace,
            error: some(mount.error),
        }
    }
}

impl Record for DiskView {
    const NOUN: &'static str = "disks";
    const COLUMNS: &'static [&'static str] =
        &["NAME", "TYPE", "SIZE", "READ", "WRITTEN", "READ/S", "WRITE/S", "UTIL%", "MOUNTS"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["MAJ:MIN", "PARENT", "RO", "SCHEDULER", "RWAIT", "WWAIT", "QUEUE", "MODEL", "SERIAL"];

    fn cells(&self) -> Vec<String> {
        let rate = |value: fn(&RatesView) -> f64| {
            self.rates.as_ref().map(value).map_or_else(String::new, |value| format!("{value:.1}"))
        };
        let wait = |value: fn(&RatesView) -> Option<f64>| {
            let value = self.rates.as_ref().and_then(value);
            value.map_or_else(String::new, |ms| format!("{ms:.1}ms"))
        };
        let mounts: Vec<_> = self.mounts.iter().map(|mount| mount.path.as_str()).collect();
        vec![
            self.name.clone(),
            self.r#type.clone(),
            size(self.size_bytes),
            size(self.io.reads.bytes),
            size(self.io.writes.bytes),
            rate(|rates| rates.reads_per_second),
            rate(|rates| rates.writes_per_second),
            rate(|rates| rates.utilisation_percent),
            few(&mounts),
            format!("{}:{}", self.major, self.minor),
            self.parent.clone().unwrap_or_default(),
            if self.read_only { "ro" } else { "rw" }.to_owned(),
            self.scheduler.clone().unwrap_or_default(),
            wait(|rates| rates.read_wait_ms),
            wait(|rates| rates.write_wait_ms),
            rate(|rates| rates.queue_length),
            self.model.clone().unwrap_or_default(),
            self.serial.clone().unwrap_or_default(),
        ]
    }
}

/// The first three, and how many more.
fn few(paths: &[&str]) -> String {
    let shown = paths[..paths.len().min(3)].join(" ");
    match paths.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} +{more}"),
    }
}

impl Record for MountView {
    const NOUN: &'static str = "mounts";
    const COLUMNS: &'static [&'static str] =
        &["PATH", "TYPE", "SOURCE", "SIZE", "USED", "AVAILABLE", "USE%", "INODES%"];
    const WIDE_COLUMNS: &'static [&'static str] = &["WHY NOT", "ROOT", "OPTIONS"];

    fn cells(&self) -> Vec<String> {
        let bytes = |bytes: Option<u64>| cell(bytes.map(size));
        vec![
            self.path.clone(),
            self.fs_type.clone(),
            self.source.clone(),
            bytes(self.total_bytes),
            bytes(self.used_bytes),
            bytes(self.available_bytes),
            // As in df(1): what only root may use is not counted.
            percent(
                self.used_bytes,
                self.used_bytes.zip(self.available_bytes).map(|(used, free)| used + free),
            ),
            percent(self.inodes_used, self.inodes_total),
            self.error.clone().unwrap_or_default(),
            self.root.clone(),
            self.options.clone(),
        ]
    }
}

/// Rounded up, as in df(1): what is full to the brim shows 100.
fn percent(part: Option<u64>, whole: Option<u64>) -> String {
    match (part, whole) {
        (Some(part), Some(whole)) if whole > 0 => {
            (u128::from(part) * 100).div_ceil(u128::from(whole)).to_string()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let operations = |count| disk::Operations { count, merged: 1, bytes: 512, time_ms: 3 };
        let usage = pb::mount::Usage {
            total_bytes: 100,
            used_bytes: 61,
            available_bytes: 30,
            inodes_total: 0,
            inodes_used: 0,
        };
        let mount = pb::Mount {
            path: "/".to_owned(),
            root: "/".to_owned(),
            fs_type: "ext4".to_owned(),
            source: "/dev/vda1".to_owned(),
            options: "rw".to_owned(),
            major: 254,
            minor: 1,
            namespace: "init".to_owned(),
            usage: Some(usage),
            error: String::new(),
        };
        let disk = pb::Disk {
            name: "vda1".to_owned(),
            major: 254,
            minor: 1,
            r#type: "part".to_owned(),
            parent: "vda".to_owned(),
            size_bytes: 1 << 30,
            logical_block_bytes: Some(512),
            mounts: vec![mount],
            io: Some(disk::Io {
                reads: Some(operations(7)),
                writes: Some(operations(8)),
                io_time_ms: 9,
                ..disk::Io::default()
            }),
            rates: Some(disk::Rates {
                reads_per_second: 1.234_5,
                read_wait_ms: Some(0.5),
                ..disk::Rates::default()
            }),
            ..pb::Disk::default()
        };
        let view = DiskView::from(disk);
        let expected = json!({
            "name": "vda1", "major": 254, "minor": 1, "type": "part", "parent": "vda",
            "size_bytes": 1 << 30, "logical_block_bytes": 512, "physical_block_bytes": null,
            "model": null, "vendor": null, "serial": null, "rotational": null,
            "removable": false, "read_only": false, "scheduler": null, "schedulers": [],
            "holders": [], "slaves": [], "backing_file": null, "dm_name": null,
            "mounts": [{"path": "/", "root": "/", "fs_type": "ext4", "source": "/dev/vda1",
                "options": "rw", "major": 254, "minor": 1, "namespace": "init",
                "total_bytes": 100, "used_bytes": 61, "available_bytes": 30,
                "inodes_total": 0, "inodes_used": 0, "error": null}],
            "mounts_truncated": false,
            "io": {"reads": {"count": 7, "merged": 1, "bytes": 512, "time_ms": 3},
                "writes": {"count": 8, "merged": 1, "bytes": 512, "time_ms": 3},
                "discards": null, "flushes": null, "flush_time_ms": null,
                "in_flight": 0, "io_time_ms": 9, "weighted_time_ms": 0},
            "rates": {"reads_per_second": 1.23, "writes_per_second": 0.0,
                "read_bytes_per_second": 0.0, "write_bytes_per_second": 0.0,
                "read_wait_ms": 0.5, "write_wait_ms": null, "queue_length": 0.0,
                "utilisation_percent": 0.0},
        });
        assert_eq!(serde_json::to_value(&view).expect("json"), expected);
        let cells = view.cells();
        assert_eq!(cells.len(), DiskView::COLUMNS.len() + DiskView::WIDE_COLUMNS.len());
        assert_eq!(cells[..6], ["vda1", "part", "1.0G", "512B", "512B", "1.2"]);
        let mounts = view.mounts[0].cells();
        assert_eq!(mounts.len(), MountView::COLUMNS.len() + MountView::WIDE_COLUMNS.len());
        // 61 of 91, rounded up; no fixed number of inodes.
        assert_eq!(mounts[3..8], ["100B", "61B", "30B", "68", ""]);
    }

    #[test]
    fn a_mount_that_does_not_answer_says_why() {
        let hung = pb::Mount { error: "it does not answer".to_owned(), ..pb::Mount::default() };
        let view = MountView::from(hung);
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!(json["error"], "it does not answer");
        assert_eq!(json["used_bytes"], Value::Null);
        assert_eq!(view.cells()[3..7], ["", "", "", ""]);
    }

    #[test]
    fn many_mounts_are_counted() {
        assert_eq!(few(&["/a", "/b", "/c"]), "/a /b /c");
        assert_eq!(few(&["/a", "/b", "/c", "/d", "/e"]), "/a /b /c +2");
        assert_eq!(few(&[]), "");
    }
}
