//! Thousands of processes at once, against ps(1).

use crate::support::{PROC, listed, now, within};
use agent_kernel::proc::{Process, Query, pid};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{ForkResult, Pid, Uid, fork, pause, setpgid, setresuid};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;
use std::process::Command;

const SLEEPERS: u32 = 5_000;
const ZOMBIES: u32 = 10;
/// Every other one becomes this user and executes nothing: the kernel then gives its files to root.
const NOBODY: u32 = 65_534;

/// A parent with thousands of children, all in one process group, killed at the end.
struct Crowd(Pid);

impl Crowd {
    #[expect(unsafe_code, reason = "fork(2)")]
    fn start() -> Self {
        // Made before: a child of a process with threads may not allocate.
        let names: Vec<_> =
            (0..SLEEPERS).map(|at| CString::new(format!("s) {at}")).expect("no NUL")).collect();
        let nobody = Uid::from_raw(NOBODY);
        // SAFETY: the child and its children make system calls only, and never return.
        let parent = match unsafe { fork() }.expect("a process") {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let _ = set_pdeathsig(Signal::SIGKILL);
                let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
                for _ in 0..ZOMBIES {
                    // SAFETY: as above.
                    if let Ok(ForkResult::Child) = unsafe { fork() } {
                        leave();
                    }
                }
                for (at, name) in names.iter().enumerate() {
                    // SAFETY: as above.
                    if let Ok(ForkResult::Child) = unsafe { fork() } {
                        let _ = set_pdeathsig(Signal::SIGKILL);
                        let _ = set_name(name);
                        if at % 2 == 1 {
                            let _ = setresuid(nobody, nobody, nobody);
                        }
                        loop {
                            pause();
                        }
                    }
                }
                loop {
                    pause();
                }
            }
        };
        // Done by both sides, so that it is done when either goes on.
        let _ = setpgid(parent, parent);
        Self(parent)
    }

    fn parent(&self) -> u32 {
        u32::try_from(self.0.as_raw()).expect("a pid")
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = killpg(self.0, Signal::SIGKILL);
        // Those of another user die of their parent's death as well.
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

#[expect(unsafe_code, reason = "_exit(2)")]
fn leave() -> ! {
    // SAFETY: it ends the process at once and runs nothing of the test's.
    unsafe { nix::libc::_exit(0) }
}

fn children(parent: u32) -> BTreeMap<u32, Process> {
    let all = listed(Query::default());
    all.into_iter().filter(|(_, process)| process.ppid == parent).collect()
}

#[test]
fn five_thousand_sleepers_are_those_that_ps_shows() {
    let crowd = Crowd::start();
    let parent = crowd.parent();
    let mut ours = BTreeMap::new();
    within("all are there", || {
        ours = children(parent);
        let settled = |it: &&Process| it.state == 'S' && it.comm.starts_with(b"s) ");
        let count = ours.values().filter(settled).count();
        let nobodys = ours.values().filter(|it| it.uid == NOBODY).count();
        (count, nobodys) == (SLEEPERS as usize, SLEEPERS as usize / 2)
    });
    let columns = "pid=,ppid=,euid=,state=,nlwp=,rss=,vsz=,etimes=,comm:20=,args=";
    let now_ms = || i64::try_from(now().as_millis()).expect("this age");
    let begin_ms = now_ms();
    let output = Command::new("ps").args(["-ww", "-eo", columns]).output().expect("ps");
    let end_ms = now_ms();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut seen = 0;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if words.get(1) != Some(&parent.to_string().as_str()) {
            continue;
        }
        seen += 1;
        let process = &ours[&words[0].parse().expect("a pid")];
        let known = [
            process.uid.to_string(),
            process.state.to_string(),
            process.threads.to_string(),
            (process.rss_bytes / 1_024).to_string(),
            (process.vsz_bytes / 1_024).to_string(),
        ];
        assert_eq!(words[2..7], known, "{process:?}");
        let told: i64 = words[7].parse().expect("seconds");
        let age = |at_ms: i64| (at_ms - process.start_unix_ms) / 1_000;
        assert!((age(begin_ms) - 2..=age(end_ms) + 2).contains(&told), "{told} {process:?}");
        if process.state == 'Z' {
            assert!(process.args.is_empty() && line.ends_with("<defunct>"), "{line}");
            continue;
        }
        let comm = String::from_utf8_lossy(&process.comm).into_owned();
        assert_eq!(words[8..10].join(" "), comm, "{line}");
        let args: Vec<_> =
            process.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        assert_eq!(words[10..], args, "{line}");
    }
    assert_eq!((seen, ours.len()), (5_010, 5_010));
    assert_eq!(ours.values().filter(|it| it.state == 'Z').count(), ZOMBIES as usize);

    // Its files belong to root, and its user is told all the same; in full as well.
    let changed = ours.values().find(|it| it.uid == NOBODY).expect("one of nobody");
    let stat = std::fs::metadata(format!("/proc/{}/stat", changed.pid)).expect("metadata");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&stat), 0);
    let status = pid::status(Path::new(PROC), changed.pid).expect("a status");
    let uids = status.uids.expect("ids");
    assert_eq!((uids.real.id, uids.effective.id, uids.saved.id), (NOBODY, NOBODY, NOBODY));
    assert!(status.capabilities.expect("capabilities").effective.is_empty());
}
