//! Block devices: disks, partitions, and what is made of them (the kernel's
//! ABI/stable/sysfs-block).

mod counters;
mod device;

pub use counters::{Counters, DiskRates, Operations, Sample, sample};
pub use device::Disk;

use super::file::names;
use crate::error::{Error, ErrorKind, named};
use device::{numbers, read, shown};
use std::path::{Path, PathBuf};

/// The kernel counts in sectors of this size, whatever the device's own.
const SECTOR_BYTES: u64 = 512;
/// RAM disks, in the kernel's admin-guide/devices.txt.
const RAM_MAJOR: u32 = 1;

/// Which devices a listing is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskQuery {
    /// This device and its partitions; empty for any.
    pub name: String,
    /// Also RAM disks, devices without room, as loop devices without a file, and those that the kernel
    /// hides behind another one, as the paths of an NVMe device.
    pub all: bool,
}

/// Block devices, read while they are taken.
#[derive(Debug)]
pub struct Disks {
    class: PathBuf,
    query: DiskQuery,
    names: std::vec::IntoIter<(u32, u32, String)>,
}

/// Begins to list the block devices below a sysfs mount, by major and minor number. A device that
/// goes away meanwhile is left out.
pub fn disks(root: &Path, query: DiskQuery) -> Result<Disks, Error> {
    let class = class(root)?;
    let mut found: Vec<_> = names(&class)
        .into_iter()
        .filter_map(|name| numbers(&class.join(&name)).map(|(major, minor)| (major, minor, name)))
        .collect();
    let wanted = |name: &str| query.name.is_empty() || name == query.name;
    if !found.iter().any(|(.., name)| wanted(&shown(name))) && !query.name.is_empty() {
        let why = "no such block device; see \"kctl disks --all\"";
        return Err(Error::new(ErrorKind::NotFound, named("disk", &query.name), why));
    }
    found.sort_unstable();
    Ok(Disks { class, query, names: found.into_iter() })
}

impl Iterator for Disks {
    type Item = Disk;

    fn next(&mut self) -> Option<Disk> {
        self.names.find_map(|(.., name)| {
            let disk = read(&self.class, &name)?;
            let query = &self.query;
            let is_usual = disk.size_bytes > 0 && disk.major != RAM_MAJOR && !disk.hidden;
            let is_named = [Some(&disk.name), disk.parent.as_ref()].contains(&Some(&query.name));
            let chosen = if query.name.is_empty() { query.all || is_usual } else { is_named };
            chosen.then_some(disk)
        })
    }
}

/// The folder with every block device in it.
fn class(root: &Path) -> Result<PathBuf, Error> {
    let class = root.join("class/block");
    match std::fs::metadata(&class) {
        Ok(_) => Ok(class),
        Err(error) => Err(Error::io(named("folder", class.display()), error)
            .with_remedy("mount the host's sysfs there, or set --sys-root of kctl-agent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A sysfs with devices as the kernel lays them out.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a folder");
            std::fs::create_dir_all(root.path().join("class/block")).expect("a folder");
            Self(root)
        }

        /// `path` is below devices/.
        fn device(&self, path: &str, files: &[(&str, &[u8])]) {
            let folder = self.0.path().join("devices").join(path);
            let common: [(&str, &[u8]); 1] =
                [("stat", b"10 1 20 30 40 2 50 60 7 80 90 11 3 12 13 14 15\n")];
            for (name, bytes) in common.iter().chain(files) {
                let file = folder.join(name);
                std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
                std::fs::write(file, bytes).expect("written");
            }
            let name = path.rsplit('/').next().expect("a name");
            let link = self.0.path().join("class/block").join(name);
            symlink(Path::new("../../devices").join(path), link).expect("a link");
        }

        fn list(&self, name: &str, all: bool) -> Vec<Disk> {
            let query = DiskQuery { name: name.to_owned(), all };
            disks(self.0.path(), query).expect("devices").collect()
        }

        fn names(&self, name: &str, all: bool) -> Vec<String> {
            self.list(name, all).into_iter().map(|disk| disk.name).collect()
        }
    }

    fn fixture() -> Fixture {
        let fixture = Fixture::new();
        fixture.device(
            "pci0/block/sda",
            &[
                ("dev", b"8:0\n"),
                ("size", b"4096\n"),
                ("ro", b"0\n"),
                ("removable", b"1\n"),
                ("queue/rotational", b"1\n"),
                ("queue/logical_block_size", b"512\n"),
                ("queue/physical_block_size", b"4096\n"),
                ("queue/scheduler", b"none [mq-deadline] bfq\n"),
                ("device/model", b"FAST\xff DISK      \n"),
                ("device/vendor", b"ACME    \n"),
                ("device/vpd_pg80", b"\x00\x80\x00\x06 S1234"),
                ("device/type", b"0\n"),
            ],
        );
        fixture.device(
            "pci0/block/sda/sda10",
            &[("dev", b"8:10\n"), ("size", b"8\n"), ("ro", b"1\n"), ("partition", b"10\n")],
        );
        fixture.device(
            "pci0/block/sda/sda2",
            &[
                ("dev", b"8:2\n"),
                ("size", b"8\n"),
                ("partition", b"2\n"),
                ("holders/dm-0/dev", b"253:0\n"),
            ],
        );
        fixture.device(
            "virtual/block/dm-0",
            &[
                ("dev", b"253:0\n"),
                ("size", b"8\n"),
                ("dm/name", b"vg-root\n"),
                ("slaves/sda2/dev", b"8:2\n"),
            ],
        );
        fixture.device("virtual/block/loop0", &[("dev", b"7:0\n"), ("size", b"0\n")]);
        fixture.device(
            "virtual/block/loop1",
            &[("dev", b"7:1\n"), ("size", b"2\n"), ("loop/backing_file", b"/a b.img\n")],
        );
        fixture.device(
            "pci0/block/nvme0c0n1",
            &[("dev", b"259:0\n"), ("size", b"8\n"), ("hidden", b"1\n")],
        );
        fixture.device("virtual/block/ram0", &[("dev", b"1:0\n"), ("size", b"8\n")]);
        fixture.device("pci0/block/cciss!c0d0", &[("dev", b"104:0\n"), ("size", b"8\n")]);
        fixture
    }

    #[test]
    fn devices_come_by_number_and_empty_ones_when_asked_for() {
        let fixture = fixture();
        let usual = ["loop1", "sda", "sda2", "sda10", "cciss/c0d0", "dm-0"];
        assert_eq!(fixture.names("", false), usual);
        let all =
            ["ram0", "loop0", "loop1", "sda", "sda2", "sda10", "cciss/c0d0", "dm-0", "nvme0c0n1"];
        assert_eq!(fixture.names("", true), all);
        assert_eq!(fixture.names("sda", false), ["sda", "sda2", "sda10"]);
        assert_eq!(fixture.names("loop0", false), ["loop0"]);
        let query = DiskQuery { name: "sdz".to_owned(), all: true };
        let error = disks(fixture.0.path(), query).expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().starts_with("disk \"sdz\": "), "{error}");
    }

    #[test]
    fn a_disk_is_read_with_its_queue_and_a_partition_with_that_of_its_disk() {
        let fixture = fixture();
        let disks = fixture.list("sda", false);
        let expected = Disk {
            name: "sda".to_owned(),
            major: 8,
            minor: 0,
            kind: "disk",
            size_bytes: 4_096 * 512,
            logical_block_bytes: Some(512),
            physical_block_bytes: Some(4_096),
            model: Some(b"FAST\xff DISK".to_vec()),
            vendor: Some(b"ACME".to_vec()),
            serial: Some(b"S1234".to_vec()),
            rotational: Some(true),
            removable: true,
            scheduler: Some("mq-deadline".to_owned()),
            schedulers: ["none", "mq-deadline", "bfq"].map(str::to_owned).into(),
            counters: disks[0].counters,
            ..Disk::default()
        };
        assert_eq!(disks[0], expected);
        let part = &disks[2];
        assert_eq!((part.kind, part.parent.as_deref()), ("part", Some("sda")));
        assert_eq!((part.read_only, part.rotational, part.removable), (true, Some(true), true));
        assert_eq!(part.scheduler.as_deref(), Some("mq-deadline"));
        assert_eq!(disks[1].holders, ["dm-0"]);
        let mapped = &fixture.list("dm-0", false)[0];
        assert_eq!((mapped.kind, mapped.dm_name.as_deref()), ("dm", Some(&b"vg-root"[..])));
        assert_eq!(mapped.slaves, ["sda2"]);
        let looped = &fixture.list("loop1", false)[0];
        assert_eq!((looped.kind, looped.backing_file.as_deref()), ("loop", Some(&b"/a b.img"[..])));
    }

    #[test]
    fn a_device_that_goes_away_meanwhile_is_left_out() {
        let fixture = fixture();
        let mut listing = disks(fixture.0.path(), DiskQuery::default()).expect("devices");
        assert_eq!(listing.next().expect("the first").name, "loop1");
        std::fs::remove_dir_all(fixture.0.path().join("devices/pci0")).expect("unplugged");
        assert_eq!(listing.map(|disk| disk.name).collect::<Vec<_>>(), ["dm-0"]);
        let empty = tempfile::tempdir().expect("a folder");
        let error = disks(empty.path(), DiskQuery::default()).expect_err("no sysfs");
        assert!(error.remedy().is_some_and(|text| text.contains("--sys-root")), "{error}");
    }
}
