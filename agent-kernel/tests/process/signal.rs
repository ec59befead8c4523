//! Signals: who gets them, and who must not.

use crate::support::{Children, PROC, within};
use agent_kernel::ErrorKind;
use agent_kernel::proc::pid::{self, Expected, Signal, Signalled};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc;

fn sleeper() -> Child {
    let child = Command::new("sleep").arg("1000").spawn().expect("starts");
    within("it runs its program", || comm(child.id()) == "sleep");
    child
}

fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn send(
    pid: u32,
    signal: &str,
    start_unix_ms: Option<i64>,
    comm: Option<&str>,
) -> Result<Signalled, agent_kernel::Error> {
    let expected = Expected { start_unix_ms, comm };
    let signal = Signal::parse(signal).expect("a signal");
    pid::signal(Path::new(PROC), pid, signal, &expected, |name, wanted| name == wanted.as_bytes())
}

fn start_of(pid: u32) -> i64 {
    pid::status(Path::new(PROC), pid).expect("a status").start_unix_ms
}

#[test]
fn the_process_gets_the_signal() {
    for (signal, number) in [("TERM", 15), ("SIGUSR1", 10), ("9", 9), ("RTMIN+3", 37)] {
        let mut child = sleeper();
        let (pid, start) = (child.id(), start_of(child.id()));
        let sent = send(pid, signal, Some(start), Some("sleep"));
        let status = if sent.is_ok() { child.wait() } else { child.kill().and(child.wait()) };
        let expected = Signalled { comm: b"sleep".to_vec(), start_unix_ms: start };
        assert_eq!(sent.expect("sent"), expected);
        assert_eq!(status.expect("reaped").signal(), Some(number), "{signal}");
        assert_eq!(send(pid, signal, None, None).expect_err("gone").kind(), ErrorKind::NotFound);
    }
}

#[test]
fn who_is_another_gets_nothing() {
    let mut child = sleeper();
    let (pid, start) = (child.id(), start_of(child.id()));
    let wrong_time = send(pid, "KILL", Some(start + 10), Some("sleep"));
    let wrong_name = send(pid, "KILL", Some(start), Some("slee"));
    let only_checked = send(pid, "0", Some(start), Some("sleep"));
    let still_runs = child.try_wait().expect("a state").is_none();
    child.kill().and(child.wait()).expect("killed");
    for (refused, why) in
        [(wrong_time, "did not start then"), (wrong_name, "it is named \"sleep\"")]
    {
        let error = refused.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().ends_with("nothing was sent"), "{error}");
    }
    only_checked.expect("as expected");
    assert!(still_runs);
}

/// Guards that a start time saves the next owner of an id.
#[test]
fn a_process_that_took_over_an_id_is_saved() {
    let mut first = sleeper();
    let (pid, start) = (first.id(), start_of(first.id()));
    first.kill().and(first.wait()).expect("killed");
    let mut second = None;
    // Others start processes too: it may take some attempts until ours gets the id.
    within("the id is used again", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("root's right");
        let mut child = sleeper();
        if child.id() == pid && start_of(pid) != start {
            second = Some(child);
            return true;
        }
        child.kill().and(child.wait()).expect("killed");
        false
    });
    let mut second = second.expect("it is there");
    let refused = send(pid, "KILL", Some(start), None);
    let still_runs = second.try_wait().expect("a state").is_none();
    second.kill().and(second.wait()).expect("killed");
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Busy);
    assert!(still_runs);
}

#[test]
fn nobody_signals_these() {
    let mut children = Children::default();
    let zombie = children.start(&mut Command::new("true"));
    within("it is a zombie", || {
        fs::read_to_string(format!("/proc/{zombie}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    });
    for (pid, why) in [
        (1, "first"),
        (2, "kernel thread"),
        (std::process::id(), "agent itself"),
        (zombie, "zombie"),
    ] {
        let error = send(pid, "0", None, None).expect_err(why);
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    for pid in [0, 4_194_305, u32::MAX] {
        assert_eq!(send(pid, "0", None, None).expect_err("nobody").kind(), ErrorKind::NotFound);
    }
}

#[test]
fn a_thread_is_no_process() {
    let (tell, told) = mpsc::channel();
    let (release, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).expect("heard");
            // Ends when the other end is dropped.
            let _ = wait.recv();
        });
        let tid = u32::try_from(told.recv().expect("a thread")).expect("an id");
        let error = send(tid, "0", None, None).expect_err("no process");
        drop(release);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let process = format!("thread of process {}", std::process::id());
        assert!(error.to_string().contains(&process), "{error}");
    });
}

#[test]
fn another_procfs_than_the_agents_is_noticed() {
    // A procfs of files: its ids are those of some other host.
    let root = tempfile::tempdir().expect("a folder");
    let mut child = sleeper();
    let expected = Expected::<()>::default();
    let signal = Signal::parse("KILL").expect("a signal");
    let refused = pid::signal(root.path(), child.id(), signal, &expected, |_, ()| true);
    let still_runs = child.try_wait().expect("a state").is_none();
    child.kill().and(child.wait()).expect("killed");
    let error = refused.expect_err("refused");
    assert!(error.remedy().is_some_and(|it| it.contains("hostPID")), "{error}");
    assert!(still_runs);
}
