//! A process changed its credentials: what they are at the end of a system call that can change them,
//! beside what they were at its beginning.

use crate::kernel::layout;
use crate::or_zero::read;
use crate::ring;
use crate::task::{Task, current_process, header};
use agent_records::trace::{Cred, Credentials, kind};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use core::arch::asm;

/// `BPF_NOEXIST`
const ONLY_NEW: u64 = 1;

/// What they were, by process and thread. Calls that never end leave theirs, so the least recent go.
#[map(name = "cred_before")]
static BEFORE: LruHashMap<u64, Credentials> = LruHashMap::with_max_entries(4_096, 0);
/// The last change that was told of a process, by its pid: when all its threads change one after the
/// other, as the C library makes them, that is one change. They do so at once, so it is one word.
#[map(name = "cred_told")]
static TOLD: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4_096, 0);

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
    if is_told(pid, change(&old, &new)) {
        return;
    }
    let (header, process) = (header(kind::CRED), current_process());
    ring::submit(&Cred { header, process, old, new });
}

/// Whether this is the process's last change that was told; from now on it is.
#[inline(always)]
fn is_told(pid: u32, change: u64) -> bool {
    match TOLD.get_ptr_mut(&pid) {
        // SAFETY: a checked pointer into a map's value.
        Some(last) => unsafe { swap(last, change) == change },
        // Where two come at once, the second finds what the first put there.
        None if TOLD.insert(&pid, &change, ONLY_NEW).is_ok() => false,
        None => match TOLD.get_ptr_mut(&pid) {
            // SAFETY: as above.
            Some(last) => unsafe { swap(last, change) == change },
            None => false,
        },
    }
}

/// A change as a number: of this process, since pids are used again, and from what to what.
#[inline(always)]
fn change(old: &Credentials, new: &Credentials) -> u64 {
    let start = read::<u64>(Task::current().leader().0, layout!(task_start_boottime));
    let words = |of: &Credentials| {
        let real = u64::from(of.uid) << 32 | u64::from(of.gid);
        [of.capabilities, real, u64::from(of.euid) << 32 | u64::from(of.egid)]
    };
    let [[a, b, c], [d, e, f]] = [words(old), words(new)];
    [a, b, c, d, e, f].into_iter().fold(start, |sum, word| {
        let sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^ sum >> 32
    })
}

/// `core` has no atomics for this target.
///
/// # Safety
///
/// `target` points to an aligned value that is valid for reads and writes.
#[inline(always)]
unsafe fn swap(target: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: the caller's promise.
    unsafe { asm!("{0} = xchg_64({1} + 0, {0})", inout(reg) value, in(reg) target) };
    value
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
