//! Namespaces and a bpffs of the benchmark's own.

use crate::lists::List;
use crate::peers::program_of;
use agent_kernel::filter::{Filter, FilterConfig, Mode};
use aya::programs::Xdp;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use std::cell::Cell;
use std::process::Command;
use std::time::{Duration, Instant};

/// Where everything happens.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    filters: Cell<u32>,
}

/// A filter that holds a list.
pub(crate) struct Filled {
    pub(crate) filter: Filter,
    program: Xdp,
}

impl World {
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root: namespaces");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("own mounts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), none).expect("a bpffs");
        // What others pin there is theirs.
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).expect("a bpffs");
        let mut cpus = CpuSet::new();
        cpus.set(0).expect("a CPU");
        sched_setaffinity(Pid::from_raw(0), &cpus).expect("one CPU");
        Self { folder, filters: Cell::new(0) }
    }

    /// A filter with a list, and how long it took to put it in.
    pub(crate) fn filled(&self, list: &List) -> (Filled, Duration) {
        self.filters.set(self.filters.get() + 1);
        let name = format!("kctl{}", self.filters.get());
        let max_entries = u32::try_from(list.prefixes.len()).expect("a list").max(1);
        let config = FilterConfig { bpffs: self.folder.path().join(&name), max_entries };
        let mut filter = Filter::open(&config).expect("a filter");
        let changes = list.changes();
        let start = Instant::now();
        filter.update(&changes).expect("room");
        let took = start.elapsed();
        let program = program_of(&mut filter, &self.folder.path().join(format!("program-{name}")));
        (Filled { filter, program }, took)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

impl Filled {
    pub(crate) fn program(&self) -> &Xdp {
        &self.program
    }

    /// Filters an interface in its driver.
    pub(crate) fn attach(&mut self, interface: &str) {
        self.filter.attach(interface, Mode::Native).expect("attached");
    }

    /// Takes everything out, and says how long that took.
    pub(crate) fn empty(&mut self, list: &List) -> Duration {
        let changes: Vec<_> = list.changes().into_iter().map(|(key, _)| (key, None)).collect();
        let start = Instant::now();
        self.filter.update(&changes).expect("removed");
        start.elapsed()
    }

    /// How many packets were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.filter.counters().expect("read").dropped.packets
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.filter.memory_bytes().expect("read")
    }
}

/// Runs a program to its end and throws away what it says.
pub(crate) fn run(line: &str) {
    if let Err(why) = try_run(line) {
        panic!("{line}: {why}");
    }
}

/// The same for one that may be missing, or refused by this kernel: says why.
pub(crate) fn try_run(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let output =
        Command::new(program).args(words).output().map_err(|it| format!("{program}: {it}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().next().unwrap_or("failed").to_owned())
}
