//! Block devices.

use crate::support::{Loop, World, json, run, within};
use agent_kernel::proc::mounts;
use agent_kernel::sys::{Disk, DiskQuery, disks, sample};
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

const SYS: &str = "/sys";
const MIB: u64 = 1 << 20;

fn list(name: &str, all: bool) -> BTreeMap<String, Disk> {
    let query = DiskQuery { name: name.to_owned(), all };
    let found = disks(Path::new(SYS), query).expect("a listing");
    found.map(|disk| (disk.name.clone(), disk)).collect()
}

#[test]
fn devices_are_those_of_lsblk() {
    let looped = Loop::new(4 * MIB);
    // Told to the kernel, which may know no format of partition tables.
    run(&["addpart", &looped.path, "1", "2048", "2048"]);
    let part = format!("{}p1", looped.name());
    let columns = "KNAME,MAJ:MIN,SIZE,TYPE,RO,RM,ROTA,PKNAME,SCHED,LOG-SEC,PHY-SEC,VENDOR";
    let told = || json(&["lsblk", "--json", "--bytes", "--list", "--all", "-o", columns]);
    // Other tests make loop devices too: until both have seen the same.
    let (mut ours, mut theirs) = (BTreeMap::new(), Vec::new());
    within("the same devices", || {
        theirs = told()["blockdevices"].as_array().expect("devices").clone();
        ours = list("", true);
        let names: BTreeSet<_> = theirs.iter().filter_map(|row| row["kname"].as_str()).collect();
        told()["blockdevices"].as_array() == Some(&theirs)
            && names == ours.keys().map(String::as_str).collect()
    });
    assert!(ours.contains_key(&part) && ours.contains_key(looped.name()), "{ours:?}");
    for row in &theirs {
        let disk = &ours[row["kname"].as_str().expect("a name")];
        // lsblk has more words for what is made of several devices, calls those their parents, and tells
        // the maker of whole disks alone.
        let is_made = ["dm", "md"].contains(&disk.kind);
        let kind = if is_made { row["type"].clone() } else { disk.kind.into() };
        let parent = if is_made { row["pkname"].clone() } else { disk.parent.clone().into() };
        let vendor = disk.vendor.as_deref().filter(|_| disk.parent.is_none());
        let vendor = vendor.map(String::from_utf8_lossy);
        let expected = serde_json::json!({
            "kname": disk.name,
            "maj:min": format!("{}:{}", disk.major, disk.minor),
            "size": disk.size_bytes,
            "type": kind,
            "ro": disk.read_only,
            "rm": disk.removable,
            "rota": disk.rotational,
            "pkname": parent,
            // lsblk shows none where there is no choice.
            "sched": disk.scheduler.as_ref().filter(|name| *name != "none" || !row["sched"].is_null()),
            "log-sec": disk.logical_block_bytes,
            "phy-sec": disk.physical_block_bytes,
            "vendor": vendor,
        });
        assert_eq!(row, &expected);
    }
    let disk = &ours[looped.name()];
    let backing = disk.backing_file.as_deref().map(String::from_utf8_lossy);
    assert_eq!(backing.as_deref(), looped.file.path().to_str());
    let named: Vec<_> = list(looped.name(), false).into_keys().collect();
    assert_eq!(named, [looped.name(), &part]);
    assert_eq!((ours[&part].kind, ours[&part].size_bytes), ("part", MIB));
    // A device without a file has no room, and is shown when asked for alone.
    let usual = list("", false);
    assert!(usual.values().all(|disk| disk.size_bytes > 0), "{usual:?}");
}

/// One device's numbers of /proc/diskstats, after its name.
fn diskstats(name: &str) -> Vec<u64> {
    let text = std::fs::read_to_string("/proc/diskstats").expect("text");
    let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some(name));
    let words = line.expect("a line").split_whitespace().skip(3);
    words.map(|word| word.parse().expect("a number")).collect()
}

#[test]
fn counters_and_rates_are_those_of_diskstats() {
    let looped = Loop::new(8 * MIB);
    let root = Path::new("/proc");
    let (major, minor) = {
        let disk = &list(looped.name(), false)[looped.name()];
        (disk.major, disk.minor)
    };
    let before_first = Instant::now();
    let first = sample(root).expect("a sample");
    let after_first = Instant::now();
    let stats_before = diskstats(looped.name());
    let direct = nix::fcntl::OFlag::O_DIRECT.bits();
    // Direct I/O wants aligned memory; a vector's tail has some.
    let mut memory = vec![7_u8; 2 << 20];
    let at = memory.as_ptr().align_offset(4_096);
    let memory = &mut memory[at..at + (1 << 20)];
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(direct)
        .open(&looped.path)
        .expect("a device");
    device.write_all(memory).expect("written");
    device.read_exact(memory).expect("read");
    drop(device);

    let before_second = Instant::now();
    let second = sample(root).expect("a sample");
    let after_second = Instant::now();
    let stats = diskstats(looped.name());
    let disk = list(looped.name(), false).remove(looped.name()).expect("it is there");
    let it = disk.counters;
    let (discards, flushes) = (it.discards.expect("since 4.18"), it.flushes.expect("since 5.5"));
    // The last two of the first eleven go on while something is in flight; nothing is.
    let ours = [
        [it.reads.count, it.reads.merged, it.reads.bytes / 512, it.reads.time_ms],
        [it.writes.count, it.writes.merged, it.writes.bytes / 512, it.writes.time_ms],
        [it.in_flight, it.io_time_ms, it.weighted_time_ms, discards.count],
        [discards.merged, discards.bytes / 512, discards.time_ms, flushes.0],
    ];
    let ours: Vec<_> = ours.concat().into_iter().chain([flushes.1]).collect();
    assert_eq!(ours, stats);
    assert!(stats[6] - stats_before[6] >= 2_048, "{stats:?}");

    let rates = second.rates(&first, major, minor).expect("it was there twice");
    let longest = (after_second - before_first).as_secs_f64();
    let shortest = (before_second - after_first).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a few numbers")]
    let between = |rate: f64, from: u64, to: u64| {
        let grown = (to - from) as f64;
        assert!(rate >= grown / longest && rate <= grown / shortest, "{rate} {grown} {rates:?}");
    };
    between(rates.reads_per_second, stats_before[0], stats[0]);
    between(rates.writes_per_second, stats_before[4], stats[4]);
    between(rates.read_bytes_per_second, stats_before[2] * 512, stats[2] * 512);
    between(rates.write_bytes_per_second, stats_before[6] * 512, stats[6] * 512);
    #[expect(clippy::cast_precision_loss, reason = "a few numbers")]
    let wait = (stats[7] - stats_before[7]) as f64 / (stats[4] - stats_before[4]) as f64;
    assert_eq!(rates.write_wait_ms, Some(wait));
    assert!((0.0..=100.0).contains(&rates.utilisation_percent), "{rates:?}");
    // Nothing happens any more.
    let idle = sample(root).expect("a sample").rates(&second, major, minor).expect("still there");
    assert_eq!((idle.writes_per_second, idle.write_wait_ms), (0.0, None));
    assert_eq!(second.rates(&first, 9_999, 0), None);
}

#[test]
fn a_file_system_is_shown_at_its_device() {
    let world = World::new();
    let looped = Loop::new(8 * MIB);
    run(&["mkfs.ext4", "-q", &looped.path]);
    let folder = world.folder("ext4");
    let none = None::<&str>;
    let read_only = MsFlags::MS_RDONLY;
    mount(Some(looped.path.as_str()), &folder, Some("ext4"), read_only, none).expect("mounted");
    let seen = mounts(&world.proc()).expect("mounts");
    let disk = &list(looped.name(), false)[looped.name()];
    let found: Vec<_> = seen.mounts.iter().filter(|mount| disk.backs(mount)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(String::from_utf8_lossy(&found[0].path), folder.to_str().expect("text"));
    assert_eq!((found[0].fs_type.as_slice(), &found[0].options[..2]), (&b"ext4"[..], &b"ro"[..]));
    let told = json(&["findmnt", "--json", folder.to_str().expect("text")]);
    assert_eq!(told["filesystems"][0]["source"], Value::from(looped.path.as_str()));
    nix::mount::umount(&folder).expect("unmounted");
}
