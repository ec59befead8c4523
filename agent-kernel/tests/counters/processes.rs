//! The table of processes: who ends leaves it, who finds no room is told of, and the sums stay right.

use super::support::{Actor, Cgroup, World, calls, config, open};
use agent_kernel::counters::{Counters, CountersConfig, Source};
use agent_kernel::trace::Scope;
use std::collections::BTreeSet;

const SYSCALLS: [Source; 3] = [Source::Syscalls, Source::BySyscall, Source::ByProcess];

#[test]
fn fifty_thousand_processes_come_and_go_and_none_is_left() {
    let mut world = World::new(&SYSCALLS);
    let mut actor = Actor::new(&world.cgroup);
    let counted = world.of(|| {
        actor.does(
            "for (1 .. 50_000) { my $pid = fork; if ($pid == 0) { syscall(110) for 1 .. 3; \
             syscall(231, 0) } waitpid $pid, 0 }",
        );
    });
    assert_eq!(calls(&counted, "getppid"), 150_000);
    assert_eq!(calls(&counted, "exit_group"), 50_000);
    let after = world.read().counted.processes.expect("counted");
    let kept: Vec<_> = after.processes.keys().collect();
    assert_eq!(kept, [&actor.pid()], "who ended leaves");
    assert_eq!(after.evicted, 0);
}

#[test]
fn more_processes_than_room_are_told_and_the_sums_are_right() {
    let cgroup = Cgroup::new();
    let scope = Scope::Cgroup(cgroup.path.clone());
    let mut counters = open(&CountersConfig { max_processes: 256, ..config(SYSCALLS, scope) });
    let mut actor = Actor::new(&cgroup);
    let before = counters.read().expect("a reading");
    actor.does("for (1 .. 2_000) { next if fork; syscall(110) for 1 .. 10; sleep 1000; exit }");
    // Until each has made its calls.
    let mut after = counters.read().expect("a reading");
    while calls(&after.since(&before).1, "getppid") < 20_000 {
        after = counters.read().expect("a reading");
    }
    assert_eq!(calls(&after.since(&before).1, "getppid"), 20_000);
    let table = after.counted.processes.expect("counted");
    assert!(table.processes.len() <= 256, "{}", table.processes.len());
    assert!(table.evicted >= 2_000 - 256, "{}", table.evicted);
}

#[test]
fn the_kernel_counts_on_while_nobody_reads_and_others_go_on_from_there() {
    let cgroup = Cgroup::new();
    let bpffs = Bpffs::new();
    let config = CountersConfig {
        bpffs: Some(bpffs.0.clone()),
        ..config(SYSCALLS, Scope::Cgroup(cgroup.path.clone()))
    };
    let mut actor = Actor::new(&cgroup);
    let read = |counters: &mut Counters| counters.read().expect("a reading");
    let mut first = open(&config);
    let before = read(&mut first);
    actor.does("syscall(110) for 1 .. 1_000");
    let mut ended = Actor::new(&cgroup);
    ended.does("1");
    let table = read(&mut first).counted.processes.expect("counted");
    assert!(table.processes.contains_key(&ended.pid()));
    let links = bpffs.links();
    assert_eq!(links.len(), 2, "{links:?}");
    drop(first);
    actor.does("syscall(110) for 1 .. 20_000");
    let pid = ended.pid();
    drop(ended);
    let mut second = open(&config);
    assert_eq!(bpffs.links(), links, "what counts is left as it is");
    actor.does("syscall(110) for 1 .. 300_000");
    let after = read(&mut second);
    let counted = after.since(&before).1;
    assert_eq!(calls(&counted, "getppid"), 321_000);
    let processes = counted.processes.expect("counted").processes;
    assert!((321_000..321_020).contains(&processes[&actor.pid()].syscalls), "{processes:?}");
    let table = after.counted.processes.expect("counted");
    assert!(!table.processes.contains_key(&pid), "who ended meanwhile has left");
    drop(second);
    // Another size of the table is another table, and others programs; the sums stay.
    let mut third = open(&CountersConfig { max_processes: 512, ..config.clone() });
    let third_links = bpffs.links();
    assert!(third_links.len() == 2 && third_links.iter().all(|it| !links.contains(it)));
    actor.does("syscall(110) for 1 .. 1_000");
    let last = read(&mut third);
    assert_eq!(calls(&last.since(&before).1, "getppid"), 322_000);
    let processes = last.counted.processes.expect("counted").processes;
    assert!((1_000..1_010).contains(&processes[&actor.pid()].syscalls));
    drop(third);
    // Less is wanted: what nobody wants ends, and with all of it taken away everything does.
    let sources = [Source::Syscalls].into_iter().collect();
    drop(open(&CountersConfig { sources, ..config.clone() }));
    assert_eq!(bpffs.links().len(), 1);
    let removed = agent_kernel::filter::detach(&bpffs.0).expect("detached");
    assert!(removed.contains(&"counting program sys_enter".to_owned()), "{removed:?}");
    assert!(!bpffs.0.exists());
}

/// A folder on a bpffs, gone with the test.
struct Bpffs(std::path::PathBuf);

impl Bpffs {
    fn new() -> Self {
        Self(format!("/sys/fs/bpf/kctl-counters-{}", std::process::id()).into())
    }

    /// What is pinned and at work, as bpftool(8) has it: numbers of links, and of their programs.
    fn links(&self) -> BTreeSet<(u64, u64)> {
        let mut links = BTreeSet::new();
        for layout in std::fs::read_dir(&self.0).expect("a folder").flatten() {
            for pin in std::fs::read_dir(layout.path()).expect("a folder").flatten() {
                let mut show = std::process::Command::new("bpftool");
                let shown = show.args(["-j", "link", "show", "pinned"]).arg(pin.path()).output();
                let shown = shown.expect("bpftool");
                // A map is no link.
                let Ok(link) = serde_json::from_slice::<serde_json::Value>(&shown.stdout) else {
                    continue;
                };
                if link["type"] == "raw_tracepoint" {
                    let number = |key: &str| link[key].as_u64().expect("a number");
                    links.insert((number("id"), number("prog_id")));
                }
            }
        }
        links
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        agent_kernel::filter::detach(&self.0).ok();
        std::fs::remove_dir_all(&self.0).ok();
    }
}
