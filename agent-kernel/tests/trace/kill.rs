//! Signals, and processes that are killed for want of memory.

use crate::support::{Cgroup, World, hierarchy, one, output};
use agent_kernel::trace::{Event, Oom, Signal, Source, Traced, Undelivered};
use std::path::PathBuf;
use std::process::Child;

fn signals(events: &[Traced], signal: u32) -> Vec<&Signal> {
    events
        .iter()
        .filter_map(|traced| match &traced.event {
            Event::Signal(it) if it.signal == signal => Some(it),
            _ => None,
        })
        .collect()
}

/// A process that ignores, or blocks, what it is asked to, and says so when it is ready.
fn target(cgroup: &Cgroup, before: &str) -> Child {
    let script = format!(
        "import signal, sys, time\n{before}\nsys.stdout.write('x'); sys.stdout.flush()\ntime.sleep(1000)"
    );
    let mut command = cgroup.command("python3");
    let mut child = command
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    let pipe = child.stdout.as_mut().expect("a pipe");
    std::io::Read::read_exact(pipe, &mut [0]).expect("it is ready");
    child
}

#[tokio::test]
async fn a_signal_is_told_with_who_sent_it_to_whom() {
    let mut world = World::new(&[Source::Signal]);
    let elsewhere = Cgroup::new();
    let mut child = target(&elsewhere, "signal.signal(40, lambda *_: None)");
    let number = child.id().to_string();
    // kill, tgkill, rt_sigqueueinfo with SI_QUEUE, and as one thread kill again.
    let script = r#"
        my ($p, $info) = ($ARGV[0] + 0, pack("lllx4lLx104", 40, 0, -1, $$, $<));
        syscall(62, $p, 40) == 0 or die; syscall(234, $p, $p, 40) == 0 or die;
        syscall(129, $p, 40, $info) == 0 or die "$!";
    "#;
    let (pid, _) = world.cgroup.says("perl", &["-e", script, &number]);
    let told = world.events().await;
    let signals = signals(&told, 40);
    assert_eq!(signals.iter().map(|it| it.code).collect::<Vec<_>>(), [0, -6, -1]);
    for signal in signals {
        let sender = signal.process.as_ref().expect("a process sent it");
        assert_eq!((sender.pid, &sender.comm[..]), (pid, &b"perl"[..]));
        assert_eq!((sender.cgroup, sender.uid), (Some(world.cgroup.id()), Some(0)));
        assert_eq!((signal.target.pid, &signal.target.comm[..]), (child.id(), &b"python3"[..]));
        assert_eq!(signal.target.cgroup, Some(elsewhere.id()));
        assert_eq!(signal.undelivered, None);
    }
    child.kill().expect("it lives");
    child.wait().expect("it ends");
}

/// How often the kernel left out the programs of signals, by what bpftool(8) says of them all.
fn left_out() -> u64 {
    let shown = output("bpftool", &["-j", "prog", "show", "name", "signal"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let programs = shown.as_array().map_or(std::slice::from_ref(&shown), Vec::as_slice);
    programs.iter().filter_map(|it| it["recursion_misses"].as_u64()).sum()
}

#[tokio::test]
async fn a_signal_of_the_kernel_has_no_sender() {
    let mut world = World::new(&[Source::Signal]);
    // A pipe that nobody reads, a timer, a bad address; and a parent that learns of its child.
    let cases = [
        ("$SIG{PIPE} = 'DEFAULT'; pipe(my $r, my $w); close $r; syswrite $w, 'x'", 13),
        ("alarm 1; sleep 1000", 14),
        ("unpack 'p', pack 'Q', 16", 11),
    ];
    for (script, number) in cases {
        let (pid, told) = loop {
            let before = left_out();
            let (pid, status) = world.cgroup.run("perl", &["-e", script]);
            assert!(!status.success(), "{script}");
            let told = world.events().await;
            // A timer's interrupt may come while the same program runs on that processor for somebody else's
            // signal, and the kernel leaves it out then.
            if !signals(&told, number).is_empty() || left_out() <= before {
                break (pid, told);
            }
        };
        let signals = signals(&told, number);
        assert_eq!(signals.len(), 1, "{script}: {told:?}");
        assert_eq!((signals[0].process.as_ref(), signals[0].target.pid), (None, pid), "{script}");
    }
    let (pid, _) = world.cgroup.says("sh", &["-c", "true & wait"]);
    let told = world.events().await;
    let child = signals(&told, 17).into_iter().find(|it| it.target.pid == pid).expect("SIGCHLD");
    // CLD_EXITED
    assert_eq!((child.process.as_ref(), child.code), (None, 1));
}

#[tokio::test]
async fn a_signal_that_is_not_delivered_says_why() {
    let mut world = World::new(&[Source::Signal]);
    let block = "signal.signal(12, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [10])";
    let mut child = target(&world.cgroup, block);
    for (number, expected) in
        [(10, None), (10, Some(Undelivered::AlreadyPending)), (12, Some(Undelivered::Ignored))]
    {
        let script = format!("kill {number}, {}", child.id());
        world.cgroup.says("perl", &["-e", &script]);
        let told = world.events().await;
        let signals = signals(&told, number);
        let undelivered: Vec<_> = signals.iter().map(|it| it.undelivered).collect();
        assert_eq!(undelivered, [expected], "{number}");
    }
    child.kill().expect("it lives");
    child.wait().expect("it ends");
}

#[tokio::test]
async fn neither_sender_nor_target_in_scope_is_not_told() {
    let mut world = World::new(&[Source::Signal]);
    let elsewhere = Cgroup::new();
    let mut child = target(&elsewhere, "");
    elsewhere.says("perl", &["-e", &format!("kill 'USR1', {}", child.id())]);
    child.wait().expect("it ends");
    // To one in scope from one that is not.
    let mut child = target(&world.cgroup, "");
    let (sender, _) = elsewhere.says("perl", &["-e", &format!("kill 'USR1', {}", child.id())]);
    let pid = child.id();
    child.wait().expect("it ends");
    let told = world.events().await;
    let found = one(&told, |event| match event {
        Event::Signal(it) if it.signal == 10 => Some(it),
        _ => None,
    });
    let sent_by = found.process.as_ref().map(|process| process.pid);
    assert_eq!((found.target.pid, sent_by), (pid, Some(sender)));
}

/// A limit on memory, in whichever hierarchy has that controller.
struct Limit {
    /// Where processes are put, besides the test's cgroup.
    folder: Option<PathBuf>,
}

impl Limit {
    fn of(cgroup: &Cgroup, bytes: &str) -> Self {
        let controllers = std::fs::read_to_string(hierarchy().join("cgroup.controllers"));
        if controllers.expect("controllers").split_whitespace().any(|it| it == "memory") {
            std::fs::write(hierarchy().join("cgroup.subtree_control"), "+memory").expect("memory");
            std::fs::write(cgroup.folder.join("memory.max"), bytes).expect("a limit");
            std::fs::write(cgroup.folder.join("memory.swap.max"), "0").ok();
            return Self { folder: None };
        }
        let name = cgroup.path.file_name().expect("a name");
        let folder = PathBuf::from("/sys/fs/cgroup/memory").join(name);
        std::fs::create_dir(&folder).expect("a cgroup of version 1");
        std::fs::write(folder.join("memory.limit_in_bytes"), bytes).expect("a limit");
        Self { folder: Some(folder) }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            std::fs::remove_dir(folder).ok();
        }
    }
}

#[tokio::test]
async fn a_process_killed_for_want_of_memory_is_told() {
    let mut world = World::new(&[Source::Oom, Source::Exit]);
    let limit = Limit::of(&world.cgroup, "33554432");
    let procs = limit.folder.as_ref().map(|folder| folder.join("cgroup.procs"));
    let enter = procs.map_or_else(|| "/dev/null".into(), |procs| procs.display().to_string());
    // By an argument, so that perl doesn't make it before it runs.
    let script =
        r#"open(my $f, ">", $ARGV[0]); print $f $$; close $f; my $x = "a" x ($ARGV[1] << 20)"#;
    let (pid, status) = world.cgroup.run("perl", &["-e", script, &enter, "128"]);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    let told = world.events().await;
    let oom: &Oom = one(&told, |event| match event {
        Event::Oom(oom) => Some(oom),
        _ => None,
    });
    assert_eq!((oom.victim.pid, &oom.victim.comm[..]), (pid, &b"perl"[..]));
    assert_eq!(oom.victim.ppid, Some(std::process::id()));
    assert_eq!(oom.victim.cgroup, Some(world.cgroup.id()));
    let memory = oom.memory.expect("this kernel tells");
    assert!(memory.virtual_pages * 4_096 > 128 << 20, "{memory:?}");
    let resident = memory.resident.expect("this kernel tells");
    let anon = resident.anon * 4_096;
    assert!((16 << 20..40 << 20).contains(&anon), "{memory:?}");
}
