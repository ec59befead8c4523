//! Requests to block devices, beside what the kernel counts of each disk.

#[path = "../disks/looped.rs"]
mod looped;

use super::support::{config, open};
use agent_kernel::counters::{BlockTimes, Histogram, Source};
use agent_kernel::trace::{Scope, mount_tracefs};
use looped::Loop;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const WRITES: u64 = 200;
const BLOCK: usize = 4_096;

/// Memory that begins where a page does, as O_DIRECT wants it.
#[repr(align(4096))]
struct Page([u8; BLOCK]);

/// Reads and writes that disks have finished, and the milliseconds they took.
#[derive(Debug, Clone, Copy)]
struct Finished {
    requests: u64,
    ms: u64,
}

impl Finished {
    /// Of all disks.
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/diskstats").expect("procfs");
        let mut all = Self { requests: 0, ms: 0 };
        for line in text.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Devices that are no partitions, and that have a queue of requests.
            let queues = std::fs::read_dir(format!("/sys/block/{}/mq", fields[2]));
            if queues.is_ok_and(|mut it| it.next().is_some()) {
                let number = |at: usize| fields[at].parse::<u64>().expect("a number");
                all.requests += number(3) + number(7);
                all.ms += number(6) + number(10);
            }
        }
        all
    }

    fn since(self, before: Self) -> Self {
        Self { requests: self.requests - before.requests, ms: self.ms - before.ms }
    }
}

/// Requests that ended while a thread of the first process had the processor. A kernel may protect that
/// process, and runs no programs over it then.
struct EndedOverInit {
    /// A tracer of its own.
    folder: PathBuf,
}

impl EndedOverInit {
    fn new() -> Self {
        mount_tracefs(Path::new("/sys")).expect("tracefs");
        let instances = Path::new("/sys/kernel/tracing/instances");
        let folder = tempfile::Builder::new().prefix("kctl-test-").tempdir_in(instances);
        // Only the folder itself can be removed.
        let tracer = Self { folder: folder.expect("a tracer").keep() };
        let threads = std::fs::read_dir("/proc/1/task").expect("procfs");
        let is_one = threads.map(|it| {
            let thread = it.expect("a thread").file_name();
            format!("common_pid == {}", thread.to_str().expect("a number"))
        });
        let event = tracer.folder.join("events/block/block_rq_complete");
        let filter = is_one.collect::<Vec<_>>().join(" || ");
        std::fs::write(event.join("filter"), filter).expect("a filter");
        std::fs::write(event.join("enable"), "1").expect("it traces");
        tracer
    }

    fn count(&self) -> u64 {
        let trace = std::fs::read_to_string(self.folder.join("trace")).expect("a trace");
        trace.lines().filter(|line| !line.starts_with('#')).count() as u64
    }
}

impl Drop for EndedOverInit {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// What is counted, and what all disks finish, while something is written block by block.
fn writes(options: &mut OpenOptions, path: &Path) {
    let over_init = EndedOverInit::new();
    let mut counters = open(&config([Source::Block], Scope::Host));
    let mut file = options.write(true).open(path).expect("it opens");
    let outer = Finished::now();
    let before = counters.read().expect("a reading");
    let inner = Finished::now();
    for _ in 0..WRITES {
        file.write_all(&Page([7; BLOCK]).0).expect("written");
    }
    let inner = Finished::now().since(inner);
    let block = counters.read().expect("a reading").since(&before).1.block.expect("counted");
    let outer = Finished::now().since(outer);
    assert!(inner.requests >= WRITES, "{inner:?}: is the folder of temporary files on a disk?");
    // The kernel tells of each before it counts it: of each processor one is in between.
    let between = std::thread::available_parallelism().expect("processors").get() as u64;
    let least = inner.requests.saturating_sub(between + over_init.count());
    let count = sum(&block.reads) + sum(&block.writes);
    let bounds = least..=outer.requests + between;
    assert!(bounds.contains(&count), "{count} of {inner:?} to {outer:?}, {bounds:?}");
    // The kernel cuts each to whole milliseconds, or not; ours are rounded down to half.
    let took_ms = shortest_ms(&block);
    assert!(took_ms <= outer.ms + outer.requests, "{took_ms} of {outer:?}");
}

fn sum(histogram: &Histogram) -> u64 {
    histogram.iter().sum()
}

/// What reads and writes took together, at least.
fn shortest_ms(block: &BlockTimes) -> u64 {
    let buckets = block.reads.iter().zip(&block.writes).enumerate();
    buckets.map(|(bucket, (reads, writes))| (reads + writes) << bucket).sum::<u64>() / 1_000_000
}

#[test]
fn requests_are_those_of_the_disks() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = OpenOptions::new();
    writes(options.create(true).custom_flags(nix::libc::O_DSYNC), &folder.path().join("file"));
}

/// The kernel ends such a write twice: when its data are there, and when the device's cache is flushed.
#[test]
fn a_write_that_the_kernel_makes_durable_itself_is_one() {
    let device = Loop::new(WRITES * BLOCK as u64);
    let queue = Path::new("/sys/block").join(device.name()).join("queue");
    for (name, is) in [("write_cache", "write back"), ("fua", "0")] {
        let told = std::fs::read_to_string(queue.join(name)).expect("sysfs");
        assert_eq!(told.trim(), is, "{name}");
    }
    let flags = nix::libc::O_DSYNC | nix::libc::O_DIRECT;
    writes(OpenOptions::new().custom_flags(flags), Path::new(&device.path));
}
