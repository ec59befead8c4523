//! Processes of a test, and oracles.

use agent_kernel::proc::{Process, Query, processes};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) const PROC: &str = "/proc";

/// Processes of the test, killed at its end.
#[derive(Default)]
pub(crate) struct Children(Vec<Child>);

impl Children {
    pub(crate) fn start(&mut self, command: &mut Command) -> u32 {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts");
        let pid = child.id();
        self.0.push(child);
        pid
    }

    pub(crate) fn pids(&self) -> BTreeSet<u32> {
        self.0.iter().map(Child::id).collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn listed(query: Query) -> BTreeMap<u32, Process> {
    let all = processes(Path::new(PROC), query).expect("a listing");
    all.map(|process| process.map(|process| (process.pid, process)).expect("a process")).collect()
}

/// One line of ps for each process: its columns, split at blanks.
pub(crate) fn ps(pids: &BTreeSet<u32>, columns: &str) -> BTreeMap<u32, Vec<String>> {
    let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let text = run(&format!("ps -ww -o pid=,{columns} -p {pids}"));
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let pid = words.next().expect("a pid").parse().expect("a number");
            (pid, words.collect())
        })
        .collect()
}

/// Waits for a condition.
pub(crate) fn within(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Runs a command of words without blanks that must succeed; what it said.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set")
}
