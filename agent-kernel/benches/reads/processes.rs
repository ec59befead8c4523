//! 1,000 processes.

use crate::run;
use crate::tasks::Tasks;
use agent_kernel::proc::{Query, processes};
use criterion::Criterion;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const COUNT: usize = 1_000;

/// A shell with its children; dropping it ends all of them.
struct Sleepers(Child);

impl Sleepers {
    fn start() -> Self {
        let script = format!("for i in $(seq {COUNT}); do sleep 600 & done; wait");
        let mut command = Command::new("sh");
        let sleepers = Self(command.args(["-c", &script]).process_group(0).spawn().expect("sh"));
        // Each is a copy of the shell until it runs its program.
        let asleep = || Query { name: "sleep".to_owned(), ..Query::default() };
        while processes(Path::new("/proc"), asleep()).expect("a list").count() < COUNT {
            std::thread::yield_now();
        }
        sleepers
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(-self.0.id().cast_signed());
        // Those that ended by themselves are no trouble.
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").expect("procfs").filter_map(Result::ok);
    let is_process = |entry: &std::fs::DirEntry| {
        entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    entries.filter(is_process).map(|entry| entry.path()).collect()
}

/// Opens and reads these files of every process.
fn bare(names: &[&str]) -> usize {
    let read = |folder: &PathBuf| {
        // A process may end meanwhile.
        let size = |name: &&str| std::fs::read(folder.join(name)).map_or(0, |bytes| bytes.len());
        names.iter().map(size).sum::<usize>()
    };
    folders().iter().map(read).sum()
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let _sleepers = Sleepers::start();
    println!("processes: {}", folders().len());
    let mut group = criterion.benchmark_group("processes");
    // As its table asks for them, and as its other forms do.
    for (name, without_cgroup) in [("kctl", true), ("kctl with cgroups", false)] {
        let query = Query { without_cgroup, ..Query::default() };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let listed = processes(Path::new("/proc"), query.clone()).expect("a list");
                let listed: Vec<_> = listed.collect::<Result<_, _>>().expect("processes");
                assert!(listed.len() > COUNT);
                black_box(listed)
            });
        });
    }
    group.bench_function("ps aux", |bencher| bencher.iter(|| run("ps", &["aux"])));
    for (name, files) in
        [("bare stat", &["stat"][..]), ("bare stat status cmdline", &["stat", "status", "cmdline"])]
    {
        group.bench_function(name, |bencher| bencher.iter(|| black_box(bare(files))));
    }
    let (mut tasks, mut buffer) = (Tasks::load(), Vec::new());
    tasks.count(&mut buffer);
    let known: BTreeSet<u32> = Tasks::pids(&buffer).collect();
    let listed = processes(Path::new("/proc"), Query::default()).expect("a list");
    let missing = listed.filter(|it| !known.contains(&it.as_ref().expect("one").pid)).count();
    assert!(missing < 10, "the iterator lacks {missing} processes");
    group.bench_function("BPF task iterator", |bencher| {
        bencher.iter(|| assert!(tasks.count(&mut buffer) > COUNT));
    });
    group.finish();
}
