//! What the counting programs keep: for each processor its own counters, for each process its sums, and
//! what user space tells the programs of the kernel they run on.

use crate::trace::layout;

/// Numbers of system calls below this have a counter of their own.
pub const CALLS: usize = 512;
/// Buckets of a histogram of times; the last one also has all that is longer, from 140 seconds on.
pub const BUCKETS: usize = 38;
/// Processes that are kept where user space says nothing else.
pub const PROCESSES: u32 = 8_192;

/// What is counted for processes and in all: indexes into [`Counts`].
pub mod count {
    /// System calls.
    pub const SYSCALLS: usize = 0;
    /// Page faults in user mode.
    pub const USER_FAULTS: usize = 1;
    /// Page faults in kernel mode.
    pub const KERNEL_FAULTS: usize = 2;
    /// Times that a thread left its processor.
    pub const SWITCHES: usize = 3;
    /// How many there are.
    pub const ALL: usize = 4;
}

/// Kinds of requests to block devices: indexes of histograms.
pub mod request {
    /// Reads.
    pub const READ: usize = 0;
    /// Writes.
    pub const WRITE: usize = 1;
    /// Flushes, discards and the like.
    pub const OTHER: usize = 2;
    /// How many there are.
    pub const ALL: usize = 3;
}

/// Since the maps were made. They grow, and begin again at zero after 2^64.
pub type Counts = [u64; count::ALL];

/// How many times took how long: the bucket of a time is the position of its highest bit, nanoseconds.
pub type Histogram = [u64; BUCKETS];

/// No process has this number.
pub const ASK_ANEW: u32 = u32::MAX;

/// One processor's counters. Only this processor writes them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// The process that made the last counts; [`ASK_ANEW`] after a reading.
    pub tgid: u32,
    /// Whether it is one that is counted.
    pub in_scope: u32,
    /// A program is passing counts on to the table of processes.
    pub is_passing_on: u32,
    /// The process whose counts were not passed on yet; 0 for none.
    pub owner: u32,
    /// Of all processes in scope.
    pub counts: Counts,
    /// As `counts` were when the last of them was passed on.
    pub passed_on: Counts,
    /// Processes that came into the table.
    pub came: u64,
    /// Processes that were taken out of it because they ended.
    pub went: u64,
    /// System calls by number, of the table of 64-bit programs.
    pub calls: [u64; CALLS],
    /// Of the table of 32-bit programs.
    pub compat_calls: [u64; CALLS],
    /// Of neither: numbers beyond the tables, as -1 of a call that a tracer cancelled.
    pub other_calls: u64,
    /// How long threads that could run waited for a processor.
    pub run_queue: Histogram,
    /// How long requests to block devices took, by [`request`].
    pub block: [Histogram; request::ALL],
}

/// A process in the table; its key is its number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// CLOCK_BOOTTIME of its start, nanoseconds.
    pub start_boot_ns: u64,
    /// Since it came into the table.
    pub counts: Counts,
}

/// What user space tells the programs of what is wanted.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Id of the cgroup whose processes are counted; 0 for all.
    pub scope: u64,
    /// How deep it is below the root.
    pub scope_level: u32,
    /// Whether there is a table of processes.
    pub by_process: u32,
    /// Whether system calls are counted by number.
    pub by_call: u32,
    /// Whether switches are counted.
    pub switches: u32,
    /// Whether waits for a processor are.
    pub run_queue: u32,
    /// Whether the tracepoint of a task's end tells that it is the last of its process.
    pub tells_last: u32,
}

impl Settings {
    /// Of who wants nothing.
    pub const EMPTY: Self = Self {
        scope: 0,
        scope_level: 0,
        by_process: 0,
        by_call: 0,
        switches: 0,
        run_queue: 0,
        tells_last: 0,
    };
}

layout! {
    task_tgid: "task_struct" "tgid",
    task_flags: "task_struct" "flags",
    task_thread_info: "task_struct" "thread_info",
    task_group_leader: "task_struct" "group_leader",
    task_start_boottime: "task_struct" "start_boottime",
    task_signal: "task_struct" "signal",
    task_sched_info: "task_struct" "sched_info",
    task_se: "task_struct" "se",
    thread_info_status: "thread_info" "status",
    signal_live: "signal_struct" "live",
    sched_info_last_queued: "sched_info" "last_queued",
    entity_cfs_rq: "sched_entity" "cfs_rq",
    cfs_rq_rq: "cfs_rq" "rq",
    rq_clock: "rq" "clock",
    request_cmd_flags: "request" "cmd_flags",
    request_data_len: "request" "__data_len",
    request_start_time_ns: "request" "start_time_ns",
    request_end_io: "request" "end_io",
    request_end_io_data: "request" "end_io_data",
}
