//! A process traces another one.

use crate::kernel::{Address, layout};
use crate::or_zero::{follow, read};
use crate::ring;
use crate::syscall::Call;
use crate::task::{Task, current_process, header};
use agent_records::trace::{Process, Ptrace, kind};

/// ptrace(2), all three
const TRACEME: u64 = 0;
const ATTACH: u64 = 16;
const SEIZE: u64 = 0x4206;
/// So many of the tracer's newest tracees are looked at.
const LOOKS: u32 = 16;
/// `struct upid` of the kernel: a number, padding, and a namespace.
const UPID_BYTES: u32 = 16;
const NOBODY: Process = Process { cgroup: 0, pid: 0, ppid: 0, uid: 0, zero: 0, comm: [0; 16] };

/// Tells what a ptrace(2) did.
#[inline(always)]
pub fn tell(of: &Call) {
    let request = of.first();
    if of.result != 0 || !matches!(request, TRACEME | ATTACH | SEIZE) {
        return;
    }
    let current = Task::current();
    let (process, target) = if request == TRACEME {
        (Task(follow(current.0, layout!(task_parent))).process(), current_process())
    } else {
        let target = tracee(current, of.second() as u32);
        (current_process(), if target.0.is_null() { NOBODY } else { target.process() })
    };
    ring::submit(&Ptrace {
        header: header(kind::PTRACE),
        process,
        target,
        request: request as u32,
        zero: 0,
    });
}

/// The tracee that the tracer knows by this number; null when it is no longer among the newest.
#[inline(always)]
fn tracee(tracer: Task, number: u32) -> Task {
    let level = number_level(tracer);
    let mut entry = follow(tracer.0, layout!(task_ptraced));
    for _ in 0..LOOKS {
        let task = entry.wrapping_sub(layout!(task_ptrace_entry) as usize);
        let pid = follow(task, layout!(task_thread_pid));
        if number_at(pid, level) == number {
            return Task(task);
        }
        entry = follow(entry, 0);
    }
    Task(core::ptr::null())
}

/// How deep the namespace is that a task knows numbers of.
#[inline(always)]
fn number_level(task: Task) -> u32 {
    read(follow(task.0, layout!(task_thread_pid)), layout!(pid_level))
}

#[inline(always)]
fn number_at(pid: Address, level: u32) -> u32 {
    let numbers = pid.wrapping_add(layout!(pid_numbers) as usize);
    read(numbers.wrapping_add((UPID_BYTES * (level & 31)) as usize), 0)
}
