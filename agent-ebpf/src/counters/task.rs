//! The task that runs: what is read of it at every count is read as the verifier lets typed pointers be
//! read, without a call.

use crate::kernel::{Address, layout, setting};
use crate::or_zero::{follow, read};
use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf};
use core::ptr::read_volatile;

/// `PF_EXITING`, linux/sched.h
const EXITING: u32 = 4;
/// `TS_COMPAT`, asm/thread_info.h: the call came by the 32-bit table.
const COMPAT: u32 = 2;

/// The thread that runs.
#[derive(Clone, Copy)]
pub struct Task(Address);

impl Task {
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: takes nothing.
        Self(unsafe { bpf_get_current_task_btf() } as Address)
    }

    /// Number of its process; 0 is the one of a processor that rests.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        self.word(layout!(task_tgid))
    }

    #[inline(always)]
    pub fn is_exiting(self) -> bool {
        self.word(layout!(task_flags)) & EXITING != 0
    }

    /// Whether its system call's number is one of the 32-bit table. User space makes sure that the kernel
    /// has the members.
    #[inline(always)]
    pub fn is_compat(self) -> bool {
        let status = layout!(task_thread_info).wrapping_add(layout!(thread_info_status));
        self.word(status) & COMPAT != 0
    }

    /// CLOCK_BOOTTIME of the start of its process.
    #[inline(always)]
    pub fn start_boot_ns(self) -> u64 {
        read(follow(self.0, layout!(task_group_leader)), layout!(task_start_boottime))
    }

    /// Threads of its process that have not ended.
    #[inline(always)]
    pub fn live(self) -> u32 {
        read(follow(self.0, layout!(task_signal)), layout!(signal_live))
    }

    #[inline(always)]
    fn word(self, offset: u32) -> u32 {
        // SAFETY: the verifier checks that a member is there.
        unsafe { read_volatile(self.0.wrapping_add(offset as usize).cast()) }
    }
}

/// Whether the task that runs is one that is counted.
#[inline(always)]
pub fn in_scope() -> bool {
    let (scope, level) = (setting!(scope), setting!(scope_level) as i32);
    // SAFETY: takes a number.
    scope == 0 || unsafe { bpf_get_current_ancestor_cgroup_id(level) } == scope
}
