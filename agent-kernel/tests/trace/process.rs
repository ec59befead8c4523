//! Processes that begin and end.

use crate::support::{Cgroup, World, boot_ns, config, events, one, open};
use agent_kernel::trace::{Event, Exec, Exit, Scope, Source, Traced};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::ExitStatusExt as _;

fn exec_of(events: &[Traced], pid: u32) -> &Exec {
    one(events, |event| match event {
        Event::Exec(exec) if exec.process.pid == pid => Some(exec),
        _ => None,
    })
}

fn exit_of(events: &[Traced], pid: u32) -> &Exit {
    one(events, |event| match event {
        Event::Exit(exit) if exit.process.pid == pid => Some(exit),
        _ => None,
    })
}

#[tokio::test]
async fn an_exec_is_told_as_it_was_asked_for() {
    let mut world = World::new(&[]);
    let before = boot_ns();
    let (pid, _) = world.cgroup.run("/bin/../bin/sleep", &["0", "odd \u{e4}\n", ""]);
    let events = world.events().await;
    let exec = exec_of(&events, pid);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(exec.path, b"/bin/../bin/sleep");
    assert_eq!(exec.argv, [&b"/bin/../bin/sleep"[..], b"0", "odd \u{e4}\n".as_bytes(), b""]);
    assert!(!exec.argv_truncated);
    assert_eq!(exec.process.ppid, Some(std::process::id()));
    assert_eq!(exec.process.uid, Some(nix::unistd::getuid().as_raw()));
    assert_eq!(exec.process.comm, b"sleep");
    assert_eq!(exec.process.cgroup, Some(world.cgroup.id()));
    let own_comm = std::fs::read("/proc/self/comm").expect("comm");
    assert_eq!(exec.parent_comm, own_comm.strip_suffix(b"\n").expect("a line"));
    assert!((before..=boot_ns()).contains(&events[0].boot_ns));
}

#[tokio::test]
async fn names_and_arguments_hold_any_bytes() {
    let mut world = World::new(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let name = std::ffi::OsString::from_vec(b"od\xff \nd".to_vec());
    let program = folder.path().join(&name);
    std::fs::copy("/bin/true", &program).expect("a program");
    let argument = std::ffi::OsString::from_vec(vec![0xfe, b' ', 0x01]);
    let status = world.cgroup.command(&program).arg(&argument).status().expect("it runs");
    assert!(status.success());
    let events = world.events().await;
    let exec = one(&events, |event| match event {
        Event::Exec(exec) => Some(exec),
        _ => None,
    });
    assert_eq!(exec.path, program.as_os_str().as_bytes());
    assert_eq!(exec.process.comm, name.as_bytes());
    assert_eq!(exec.argv, [program.as_os_str().as_bytes(), argument.as_bytes()]);
}

#[tokio::test]
async fn a_script_is_told_by_its_own_path() {
    let mut world = World::new(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\nexit 0\n").expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("it may be run");
    let (pid, status) = world.cgroup.run(&script, &["x"]);
    assert!(status.success());
    let events = world.events().await;
    let exec = exec_of(&events, pid);
    assert_eq!(exec.path, script.as_os_str().as_bytes());
    assert_eq!(exec.process.comm, b"script");
    assert_eq!(exec.argv, [&b"/bin/sh"[..], script.as_os_str().as_bytes(), b"x"]);
}

#[tokio::test]
async fn long_arguments_are_cut_and_it_is_said() {
    let mut world = World::new(&[]);
    // With the name and the zeros: 5 + 4089 + 1 are the 4095 that fit, one more don't.
    for (length, is_cut) in [(4_089, false), (4_090, true), (100_000, true)] {
        let argument = "a".repeat(length);
        let (pid, _) = world.cgroup.run("true", &[&argument]);
        let events = world.events().await;
        let exec = exec_of(&events, pid);
        assert_eq!((exec.argv.len(), exec.argv_truncated), (2, is_cut), "{length}");
        assert_eq!(exec.argv[0], b"true");
        let kept = if is_cut { 4_090 } else { length };
        assert_eq!(exec.argv[1], &argument.as_bytes()[..kept], "{length}");
    }
}

#[tokio::test]
async fn the_end_of_a_process_is_told_as_wait_has_it() {
    let mut world = World::new(&[Source::Exit]);
    for script in [
        "exit 0",
        "exit 7",
        "exit 255",
        "kill -TERM $$",
        "kill -9 $$",
        "ulimit -c 0; kill -SEGV $$",
    ] {
        let (pid, status) = world.cgroup.run("sh", &["-c", script]);
        let events = world.events().await;
        let exit = exit_of(&events, pid);
        let expected = (status.code(), status.signal(), status.core_dumped());
        let code = exit.code.map(|code| i32::try_from(code).expect("a byte"));
        let signal = exit.signal.map(|signal| i32::try_from(signal).expect("small"));
        assert_eq!((code, signal, exit.core_dumped), expected, "{script}");
        let exec = exec_of(&events, pid);
        assert_eq!(exit.process, exec.process, "{script}");
    }
}

#[tokio::test]
async fn the_lifetime_is_that_of_the_process() {
    let mut world = World::new(&[Source::Exit]);
    let before = boot_ns();
    let (pid, _) = world.cgroup.run("sleep", &["0.2"]);
    let after = boot_ns();
    let events = world.events().await;
    let exit = exit_of(&events, pid);
    assert!((200_000_000..after - before).contains(&exit.lifetime_ns), "{exit:?}");
}

#[tokio::test]
async fn only_the_last_thread_ends_a_process() {
    let mut world = World::new(&[Source::Exit]);
    // The first thread ends, named otherwise than the others; later one of those ends it all.
    let script = r#"
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
def last():
    libc.prctl(15, b"other")
    stat = "/proc/self/task/%d/stat" % os.getpid()
    while " Z " not in open(stat).read():
        time.sleep(0.001)
    os._exit(9)
threading.Thread(target=last).start()
for _ in range(20):
    threading.Thread(target=lambda: libc.prctl(15, b"third")).start()
libc.pthread_exit(None)
"#;
    let (pid, status) = world.cgroup.run("python3", &["-c", script]);
    assert_eq!(status.code(), Some(9));
    let events = world.events().await;
    let exit = exit_of(&events, pid);
    assert_eq!((exit.code, &exit.process.comm[..]), (Some(9), &b"python3"[..]));
}

#[tokio::test]
async fn another_cgroup_is_out_of_scope_and_one_below_is_not() {
    let mut world = World::new(&[Source::Exit]);
    let (beside, below) = (Cgroup::new(), world.cgroup.below("below"));
    let deepest = below.below("deepest");
    assert!(beside.run("true", &[]).1.success());
    let (first, _) = below.run("true", &[]);
    let (second, _) = deepest.run("true", &[]);
    let told = world.events().await;
    let mut expected = vec![first, first, second, second];
    expected.sort_unstable();
    let mut pids: Vec<_> = told
        .iter()
        .map(|traced| match &traced.event {
            Event::Exec(exec) => exec.process.pid,
            Event::Exit(exit) => exit.process.pid,
            other => panic!("{other:?}"),
        })
        .collect();
    pids.sort_unstable();
    assert_eq!(pids, expected);
    assert_eq!(exec_of(&told, second).process.cgroup, Some(deepest.id()));

    // A tracer of the one beside sees the one, and none of the other.
    let mut other = open(&config(&[Source::Exec], Scope::Cgroup(beside.path.clone())));
    assert!(deepest.run("true", &[]).1.success());
    let (third, _) = beside.run("true", &[]);
    let told = events(&mut other, &beside).await;
    assert_eq!((told.len(), exec_of(&told, third).process.cgroup), (1, Some(beside.id())));
}

#[tokio::test]
async fn a_cgroup_that_is_gone_is_still_known_by_name() {
    let mut world = World::new(&[]);
    let id = "0123456789abcdef".repeat(4);
    let container = world.cgroup.below(format!("docker-{id}.scope"));
    let (path, number) = (container.path.clone(), container.id());
    let (pid, _) = container.run("true", &[]);
    drop(container);
    let told = world.events().await;
    assert_eq!(exec_of(&told, pid).process.cgroup, Some(number));
    let cgroup = world.tracer.cgroups().find(number).expect("its name");
    assert_eq!(cgroup.path, path.as_os_str().as_bytes());
    assert_eq!(cgroup.container.as_deref(), Some(id.as_str()));
}

#[tokio::test]
async fn cgroups_of_before_and_the_root_are_known_by_name() {
    let (gone, stays) = (Cgroup::new(), Cgroup::new());
    let world = World::new(&[]);
    let names = world.tracer.cgroups();
    let (number, path) = (gone.id(), gone.path.clone());
    drop(gone);
    assert_eq!(names.find(number).expect("its name").path, path.as_os_str().as_bytes());
    let stays_path = stays.path.as_os_str().as_bytes();
    assert_eq!(names.find(stays.id()).expect("its name").path, stays_path);
    assert_eq!(names.find(1).expect("its name").path, b"/");
    assert_eq!(names.find(u64::MAX), None);
}
