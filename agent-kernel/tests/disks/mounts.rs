//! Mounts and how full they are.

use crate::support::{World, json, run};
use agent_kernel::proc::{Mount, Mounts, Usage, Usages, mounts};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

const NONE: Option<&str> = None;

fn tmpfs(path: &Path, flags: MsFlags, options: &str) {
    mount(Some("own"), path, Some("tmpfs"), flags, Some(options)).expect("mounted");
}

fn at<'a>(seen: &'a Mounts, path: &Path) -> Vec<&'a Mount> {
    let bytes = path.as_os_str().as_bytes();
    seen.mounts.iter().filter(|mount| mount.path == bytes).collect()
}

/// Every mount that findmnt shows, by its number.
fn findmnt() -> BTreeMap<u64, Value> {
    let columns = "ID,TARGET,FSTYPE,FSROOT,OPTIONS,MAJ:MIN";
    let told = json(&["findmnt", "--json", "--list", "-o", columns]);
    let rows = told["filesystems"].as_array().expect("rows");
    rows.iter().map(|row| (row["id"].as_u64().expect("a number"), row.clone())).collect()
}

fn words(options: &str) -> BTreeSet<&str> {
    options.split(',').collect()
}

#[test]
fn mounts_are_those_of_findmnt() {
    let world = World::new();
    for name in ["a b", "tab\tand \\ and #", "line\nend", "é"] {
        tmpfs(&world.folder(name), MsFlags::MS_NOEXEC, "size=64k");
    }
    let inner = world.folder("a b/inner");
    mount(Some(&inner), &world.folder("bind"), NONE, MsFlags::MS_BIND, NONE).expect("mounted");
    tmpfs(&world.folder("ro"), MsFlags::MS_RDONLY, "mode=700");
    let seen = mounts(&world.proc()).expect("mounts");
    assert!(seen.of_init);
    let theirs = findmnt();
    assert_eq!(theirs.len(), seen.mounts.len());
    for mount in &seen.mounts {
        let row = &theirs[&u64::from(mount.id)];
        let text = |bytes| String::from_utf8(Vec::clone(bytes)).expect("text");
        assert_eq!(row["target"], text(&mount.path));
        assert_eq!(row["fstype"], text(&mount.fs_type));
        assert_eq!(row["fsroot"], text(&mount.root));
        let numbers = format!("{}:{}", mount.major, mount.minor);
        // findmnt asks for the numbers anew where a mount covers another.
        assert!(row["maj:min"].as_str().is_some_and(|told| told.trim() == numbers), "{row}");
        let options = text(&mount.options);
        // Long ones are cut.
        if options.len() < 1_024 {
            assert_eq!(words(row["options"].as_str().expect("text")), words(&options));
        }
    }
    let bind = at(&seen, &world.folder("bind"));
    assert_eq!((bind.len(), bind[0].root.as_slice()), (1, &b"/inner"[..]));
    // What findmnt's JSON can't hold.
    let odd = world.folder("odd").join(OsStr::from_bytes(b"\xff"));
    std::fs::create_dir(&odd).expect("a folder");
    tmpfs(&odd, MsFlags::empty(), "size=64k");
    assert_eq!(at(&mounts(&world.proc()).expect("mounts"), &odd).len(), 1);
}

#[test]
fn usage_is_that_of_df() {
    let world = World::new();
    let (under, over) = (world.folder("x"), world.folder("y y"));
    tmpfs(&under, MsFlags::empty(), "size=1m,nr_inodes=100");
    std::fs::write(under.join("file"), [1; 10_000]).expect("written");
    tmpfs(&over, MsFlags::empty(), "size=64k");
    tmpfs(&over, MsFlags::empty(), "size=128k,nr_inodes=50");
    let seen = mounts(&world.proc()).expect("mounts");
    let usages = Usages::default();
    let full = usages.ask(&seen, at(&seen, &under));
    let page = 4_096;
    let expected = Usage {
        total_bytes: 1 << 20,
        used_bytes: 3 * page,
        available_bytes: (1 << 20) - 3 * page,
        inodes_total: 100,
        // The folder itself, and the file.
        inodes_used: 2,
    };
    assert_eq!(full, [Ok(expected)]);
    let columns = "--output=size,used,avail,itotal,iused";
    let df = run(&["df", "-B1", columns, under.to_str().expect("text")]);
    let told: Vec<u64> = df.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let ours = [
        expected.total_bytes,
        expected.used_bytes,
        expected.available_bytes,
        expected.inodes_total,
        expected.inodes_used,
    ];
    assert_eq!(told, ours);
    // Two at one place: df shows the upper one twice.
    let both = usages.ask(&seen, at(&seen, &over));
    assert_eq!(both[0], Err("another mount covers it".to_owned()));
    assert_eq!(both[1].as_ref().map(|usage| usage.total_bytes), Ok(128 << 10));
    // Gone meanwhile.
    umount2(&under, MntFlags::MNT_DETACH).expect("unmounted");
    assert!(usages.ask(&seen, at(&seen, &under))[0].is_err());
}

/// A file system whose server never answers, as an NFS server that is gone: fuse(4) without a daemon.
#[test]
fn a_file_system_that_hangs_costs_its_own_answer_alone() {
    let world = World::new();
    let (hung, well) = (world.folder("hung"), world.folder("well"));
    let server = std::fs::File::options().read(true).write(true).open("/dev/fuse").expect("fuse");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    let options = Some(options.as_str());
    mount(Some("gone"), &hung, Some("fuse"), MsFlags::empty(), options).expect("mounted");
    tmpfs(&well, MsFlags::empty(), "size=64k");
    let seen = mounts(&world.proc()).expect("mounts");
    let usages = Usages::default();
    let ask = || {
        let begun = Instant::now();
        let chosen: Vec<_> = at(&seen, &hung).into_iter().chain(at(&seen, &well)).collect();
        let answers = usages.ask(&seen, chosen);
        assert_eq!(answers[1].as_ref().map(|usage| usage.total_bytes), Ok(64 << 10));
        (answers[0].clone().expect_err("nobody answers"), begun.elapsed())
    };
    let (why, took) = ask();
    assert_eq!(why, "it does not answer within 500 ms");
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(4), "{took:?}");
    // It is remembered, and not asked again while a thread still waits.
    let (why, _) = ask();
    assert!(why.contains("an earlier question still waits"), "{why}");
    // The end of the connection frees the thread.
    drop(server);
    crate::support::within("it is asked again", || {
        let (why, _) = ask();
        why.contains("not connected")
    });
}
