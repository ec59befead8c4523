//! What a process is, and which ones are asked for.

use super::sample::CpuSample;
use std::sync::Arc;

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The lowest process id.
    #[default]
    Pid,
    /// The largest share of a CPU.
    Cpu,
    /// The largest resident set.
    Rss,
    /// The youngest process.
    Start,
}

/// Which processes, in which order.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// In the name or in the program's file name, which is not cut to 15 bytes; empty means any.
    pub name: String,
    /// The user's name or id; empty means any.
    pub user: String,
    /// In the cgroup's path; empty means any.
    pub cgroup: String,
    /// Leave cgroup and container out, where the cgroup is not looked for: the dearest part of a process.
    pub without_cgroup: bool,
    /// What comes first.
    pub order: Order,
    /// How many at most.
    pub limit: Option<usize>,
    /// CPU time since then; `None` for that since each process's start.
    pub since: Option<CpuSample>,
}

/// One process at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Its id, in the pid namespace of the procfs mount.
    pub pid: u32,
    /// Its parent's id; 0 for none.
    pub ppid: u32,
    /// The effective user id.
    pub uid: u32,
    /// That user's name, where it has one.
    pub user: Option<Arc<str>>,
    /// One letter, as in proc_pid_stat(5): R, S, D, T, t, Z, X, I.
    pub state: char,
    /// How many.
    pub threads: u32,
    /// CPU time over time since the start, or since the query's sample, in percent of one CPU.
    pub cpu_percent: f64,
    /// Resident set.
    pub rss_bytes: u64,
    /// Virtual memory.
    pub vsz_bytes: u64,
    /// Milliseconds since 1970; the kernel tells when it booted to the second.
    pub start_unix_ms: i64,
    /// Whether it is the kernel's own.
    pub kernel_thread: bool,
    /// The path of its cgroup; `None` where the kernel has no cgroups, and where it was left out.
    pub cgroup: Option<Vec<u8>>,
    /// The id of its container, as the cgroup's path tells it.
    pub container_id: Option<String>,
    /// The name it goes by, at most 15 bytes for all but kernel threads.
    pub comm: Vec<u8>,
    /// The command line; none for kernel threads and zombies.
    pub args: Vec<Vec<u8>>,
    /// Whether the command line is longer than that.
    pub args_truncated: bool,
}
