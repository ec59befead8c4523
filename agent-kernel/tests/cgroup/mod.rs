//! A cgroup for one test, and programs to run there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A cgroup of version 2, gone with the test.
pub(crate) struct Cgroup {
    /// Below the root of the hierarchy.
    pub(crate) path: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Cgroup {
    pub(crate) fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::named(Path::new(&format!("/kctl-trace-{}-{number}", std::process::id())))
    }

    pub(crate) fn named(path: &Path) -> Self {
        let folder = hierarchy().join(path.strip_prefix("/").expect("from the root"));
        std::fs::create_dir(&folder).expect("root: a cgroup");
        Self { path: path.to_owned(), folder }
    }

    /// A program that begins in it.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        let enter = r#"echo $$ > "$0" && exec "$@""#;
        command.args(["-c", enter]).arg(self.folder.join("cgroup.procs")).arg(program);
        command
    }

    /// Runs a program in it to its end: its pid and how it ended.
    pub(crate) fn run(&self, program: impl AsRef<OsStr>, args: &[&str]) -> (u32, ExitStatus) {
        let mut child = self.spawn(program, args);
        (child.id(), child.wait().expect("it ends"))
    }

    pub(crate) fn spawn(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Child {
        self.command(program).args(args).stdin(Stdio::null()).spawn().expect("sh")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Whoever is left dies with it.
        std::fs::write(self.folder.join("cgroup.kill"), "1").ok();
        let deadline = Instant::now() + DEADLINE;
        while std::fs::remove_dir(&self.folder).is_err_and(|error| error.raw_os_error() == Some(16))
            && Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }
}

/// Where the hierarchy of version 2 is mounted.
pub(crate) fn hierarchy() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.find(|fields| fields[2] == "cgroup2").expect("a cgroup2 mount");
    PathBuf::from(found[1])
}
