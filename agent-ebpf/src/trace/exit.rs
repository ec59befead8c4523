//! A process ends: its last thread does.

use crate::kernel::{layout, setting};
use crate::or_zero::{follow, read};
use crate::ring;
use crate::task::{Task, current_in_scope, current_process, header};
use agent_records::trace::{Exit, kind};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;

/// `SIGNAL_GROUP_EXIT`, linux/sched/signal.h
const GROUP_EXIT: u32 = 4;
/// `BPF_NOEXIST`
const ONLY_NEW: u64 = 1;

/// Processes whose end was told, by pid and start, where the tracepoint doesn't tell which thread is the
/// last: two may end at once, and each then sees that none is alive.
#[map(name = "exits")]
static EXITS: LruHashMap<[u64; 2], u8> = LruHashMap::with_max_entries(1_024, 0);

/// `sched_process_exit(task, last)`; older kernels have no `last`. The task is the one that runs.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn exit(ctx: RawTracePointContext) -> i32 {
    let is_last =
        if setting!(tells_last) != 0 { ctx.arg::<u64>(1) as u8 != 0 } else { none_lives() };
    if is_last && current_in_scope() {
        tell();
    }
    0
}

#[inline(always)]
fn none_lives() -> bool {
    let task = Task::current();
    let start: u64 = read(task.leader().0, layout!(task_start_boottime));
    read::<u32>(follow(task.0, layout!(task_signal)), layout!(signal_live)) == 0
        && EXITS.insert(&[u64::from(task.tgid()), start], &0, ONLY_NEW).is_ok()
}

#[inline(always)]
fn tell() {
    let task = Task::current();
    let (leader, signal) = (task.leader(), follow(task.0, layout!(task_signal)));
    let is_whole = read::<u32>(signal, layout!(signal_flags)) & GROUP_EXIT != 0;
    ring::submit(&Exit {
        header: header(kind::EXIT),
        process: current_process(),
        start_boot_ns: read(leader.0, layout!(task_start_boottime)),
        status: if is_whole {
            read(signal, layout!(signal_group_exit_code))
        } else {
            read(leader.0, layout!(task_exit_code))
        },
        zero: 0,
    });
}
