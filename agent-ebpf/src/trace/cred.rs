//! A process changed its credentials: what they are at the end of a system call that can change them,
//! beside what they were at its beginning.

use crate::kernel::{layout, read};
use crate::ring;
use crate::task::{Task, current_process, header};
use agent_records::trace::{Cred, Credentials, kind};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;

/// What they were, by process and thread. Calls that never end leave theirs, so the least recent go.
#[map(name = "cred_before")]
static BEFORE: LruHashMap<u64, Credentials> = LruHashMap::with_max_entries(4_096, 0);
/// The last change that was told of a process, by its pid: when all its threads change one after the
/// other, as the C library makes them, that is one change.
#[map(name = "cred_told")]
static TOLD: LruHashMap<u32, Change> = LruHashMap::with_max_entries(4_096, 0);

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Change {
    /// Pids are used again.
    start_boot_ns: u64,
    old: Credentials,
    new: Credentials,
}

/// Notes the credentials at the beginning of a call.
#[inline(always)]
pub fn note() {
    let _ = BEFORE.insert(&bpf_get_current_pid_tgid(), &credentials(), 0);
}

/// Tells a change at the end of a call.
#[inline(always)]
pub fn tell() {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread writes it.
    let Some(&old) = (unsafe { BEFORE.get(&thread) }) else { return };
    let _ = BEFORE.remove(&thread);
    let (new, pid) = (credentials(), (thread >> 32) as u32);
    if old == new {
        return;
    }
    let start_boot_ns = read(Task::current().leader().0, layout!(task_start_boottime));
    let change = Change { start_boot_ns, old, new };
    // SAFETY: a torn read tells a change twice at worst.
    if unsafe { TOLD.get(&pid) }.is_some_and(|told| *told == change) {
        return;
    }
    let _ = TOLD.insert(&pid, &change, 0);
    let (header, process) = (header(kind::CRED), current_process());
    ring::submit(&Cred { header, process, old, new });
}

#[inline(always)]
fn credentials() -> Credentials {
    let cred = Task::current().cred();
    Credentials {
        capabilities: read(cred, layout!(cred_cap_effective)),
        uid: read(cred, layout!(cred_uid)),
        gid: read(cred, layout!(cred_gid)),
        euid: read(cred, layout!(cred_euid)),
        egid: read(cred, layout!(cred_egid)),
    }
}
