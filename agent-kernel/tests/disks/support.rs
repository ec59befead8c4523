//! Loop devices and mount namespaces of a test's own, which go away with it.

#[path = "looped.rs"]
mod looped;

pub(crate) use looped::Loop;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::marker::PhantomData;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A mount namespace of this thread, and a procfs in which this thread is the host's first process.
pub(crate) struct World {
    folder: tempfile::TempDir,
    _not_send: PhantomData<*const ()>,
}

impl World {
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root: namespaces");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("own mounts");
        let folder = tempfile::tempdir().expect("a folder");
        // Not thread-self: other threads ask how full file systems are.
        let thread = format!("/proc/{}/task/{}", std::process::id(), nix::unistd::gettid());
        std::fs::create_dir(folder.path().join("proc")).expect("a folder");
        symlink(thread, folder.path().join("proc/1")).expect("a link");
        Self { folder, _not_send: PhantomData }
    }

    pub(crate) fn proc(&self) -> PathBuf {
        self.folder.path().join("proc")
    }

    /// A new folder to mount on.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }
}

/// Runs a program that must succeed; what it said.
pub(crate) fn run(line: &[&str]) -> String {
    let output = Command::new(line[0]).args(&line[1..]).output().expect(line[0]);
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) fn json(line: &[&str]) -> Value {
    serde_json::from_str(&run(line)).expect("json")
}

/// Waits for a condition.
pub(crate) fn within(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
