//! Processes that begin and end.

use crate::support::{World, boot_ns, one};
use agent_kernel::trace::Event;
use std::os::unix::ffi::OsStrExt as _;

#[tokio::test]
async fn an_exec_is_told_as_proc_has_it() {
    let mut world = World::new(&[]);
    let before = boot_ns();
    let (pid, _) = world.cgroup.run("/bin/sleep", &["1000", "-odd \u{e4}\n", ""]);
    let events = world.events().await;
    let exec = one(&events, |event| match event {
        Event::Exec(exec) if exec.path == b"/bin/sleep" => Some(exec),
        _ => None,
    });
    assert_eq!(events.len(), 1, "{events:?}");
    let own = nix::unistd::getpid().as_raw() as u32;
    assert_eq!((exec.process.pid, exec.process.ppid), (pid, Some(own)));
    assert_eq!(exec.process.uid, Some(nix::unistd::getuid().as_raw()));
    assert_eq!(exec.process.comm, b"sleep");
    assert_eq!(exec.process.cgroup, Some(world.cgroup.id()));
    let own_comm = std::fs::read("/proc/self/comm").expect("comm");
    assert_eq!(exec.parent_comm, own_comm.strip_suffix(b"\n").expect("a line"));
    assert!(!exec.argv_truncated);
    let words = [&b"/bin/sleep"[..], b"1000", "-odd \u{e4}\n".as_bytes(), b""];
    assert_eq!(exec.argv, words);
    assert!((before..=boot_ns()).contains(&events[0].boot_ns));
    let cgroup = world.tracer.cgroups().find(world.cgroup.id()).expect("its name");
    assert_eq!(cgroup.path, world.cgroup.path.as_os_str().as_bytes());
}
