//! Counters of the cgroup of one test, and programs there that do what they are told.

#[path = "../cgroup/mod.rs"]
mod cgroup;

pub(crate) use cgroup::Cgroup;

use agent_kernel::counters::{Abi, Call, Counted, Counters, CountersConfig, Reading, Source};
use agent_kernel::trace::Scope;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// Runs the lines that it is told, and says when it is done.
const ACTOR: &str = r#"$| = 1; while (<STDIN>) { eval $_; die $@ if $@; print "done\n" }"#;

pub(crate) fn config(sources: impl IntoIterator<Item = Source>, scope: Scope) -> CountersConfig {
    CountersConfig {
        sources: sources.into_iter().collect(),
        scope,
        max_processes: 8_192,
        proc_root: "/proc".into(),
        sys_root: "/sys".into(),
        bpffs: None,
    }
}

pub(crate) fn open(config: &CountersConfig) -> Counters {
    let (counters, missing) = Counters::open(config).expect("root: the programs");
    assert_eq!(missing, []);
    counters
}

/// A test's counters and cgroup.
pub(crate) struct World {
    pub(crate) counters: Counters,
    pub(crate) cgroup: Cgroup,
}

impl World {
    pub(crate) fn new(sources: &[Source]) -> Self {
        let cgroup = Cgroup::new();
        let scope = Scope::Cgroup(cgroup.path.clone());
        Self { counters: open(&config(sources.iter().copied(), scope)), cgroup }
    }

    pub(crate) fn read(&mut self) -> Reading {
        self.counters.read().expect("a reading")
    }

    /// What is counted while something is done.
    pub(crate) fn of(&mut self, act: impl FnOnce()) -> Counted {
        let before = self.read();
        act();
        self.read().since(&before).1
    }
}

/// A perl in the cgroup.
pub(crate) struct Actor {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Actor {
    pub(crate) fn new(cgroup: &Cgroup) -> Self {
        let mut command = cgroup.command("perl");
        command.args(["-e", ACTOR]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("perl");
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut actor = Self { child, stdin, stdout };
        actor.does("1");
        actor
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do something, and waits until it is done.
    pub(crate) fn does(&mut self, what: &str) {
        self.begins(what);
        self.ends();
    }

    pub(crate) fn begins(&mut self, what: &str) {
        writeln!(self.stdin, "{what}").expect("it reads");
    }

    pub(crate) fn ends(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        assert_eq!(line, "done\n");
    }

    /// Waits until it sleeps, waiting for a line.
    pub(crate) fn rests(&self) {
        while self.status("State:") != "S (sleeping)" {
            std::thread::yield_now();
        }
    }

    /// Of its /proc/PID/status.
    pub(crate) fn status(&self, key: &str) -> String {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("alive");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the key");
        line.trim().to_owned()
    }

    /// Of its /proc/PID/FILE, a number by its place.
    pub(crate) fn number(&self, file: &str, at: usize) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).expect("alive");
        text.split_whitespace().nth(at).expect("a number").parse().expect("a number")
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Calls of this name in the table of 64-bit programs.
pub(crate) fn calls(counted: &Counted, name: &str) -> u64 {
    calls_of(counted, Abi::X86_64, name)
}

pub(crate) fn calls_of(counted: &Counted, abi: Abi, name: &str) -> u64 {
    let call = Call::named(name).find(|call| call.abi == abi).expect("a call");
    counted.calls.as_ref().expect("counted").calls.get(&call).copied().unwrap_or(0)
}
