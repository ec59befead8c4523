//! Tasks, the processes that they are of, and whether these are in scope.

use crate::kernel::{Address, layout, setting};
use crate::or_zero::{follow, read};
use agent_records::trace::{COMM_BYTES, Header, Process};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_task,
    bpf_ktime_get_boot_ns,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};

/// A thread.
#[derive(Clone, Copy)]
pub struct Task(pub Address);

impl Task {
    /// The one that runs.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: takes nothing.
        Self(unsafe { bpf_get_current_task() } as Address)
    }

    /// First thread of its process.
    #[inline(always)]
    pub fn leader(self) -> Self {
        Self(follow(self.0, layout!(task_group_leader)))
    }

    #[inline(always)]
    pub fn tgid(self) -> u32 {
        read(self.0, layout!(task_tgid))
    }

    #[inline(always)]
    pub fn parent(self) -> Self {
        Self(follow(self.0, layout!(task_real_parent)))
    }

    #[inline(always)]
    pub fn comm(self) -> [u8; COMM_BYTES] {
        read(self.0, layout!(task_comm))
    }

    #[inline(always)]
    pub fn cred(self) -> Address {
        follow(self.0, layout!(task_cred))
    }

    /// Its process.
    #[inline(always)]
    pub fn process(self) -> Process {
        let leader = self.leader();
        Process {
            cgroup: id(self.cgroup()),
            pid: self.tgid(),
            ppid: leader.parent().tgid(),
            uid: read(self.cred(), layout!(cred_uid)),
            zero: 0,
            comm: leader.comm(),
        }
    }

    /// Whether it is in the cgroup that tells are narrowed to, or below.
    #[inline(always)]
    pub fn in_scope(self) -> bool {
        let scope = setting!(scope);
        if scope == 0 {
            return true;
        }
        let (cgroup, level) = (self.cgroup(), setting!(scope_level));
        let ancestors = cgroup.wrapping_add(layout!(cgroup_ancestors) as usize);
        read::<u32>(cgroup, layout!(cgroup_level)) >= level
            && id(follow(ancestors, 8 * level)) == scope
    }

    /// Of the hierarchy of version 2.
    #[inline(always)]
    fn cgroup(self) -> Address {
        follow(follow(self.0, layout!(task_cgroups)), layout!(css_set_dfl_cgrp))
    }
}

/// Id of a cgroup.
#[inline(always)]
pub fn id(cgroup: Address) -> u64 {
    read(follow(cgroup, layout!(cgroup_kn)), layout!(kernfs_id))
}

/// The process of the task that runs, at the least cost.
#[inline(always)]
pub fn current_process() -> Process {
    let both = bpf_get_current_pid_tgid();
    let task = Task::current();
    let is_leader = both as u32 == (both >> 32) as u32;
    Process {
        // SAFETY: takes nothing.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        pid: (both >> 32) as u32,
        // Threads have the parent of their process.
        ppid: task.parent().tgid(),
        uid: bpf_get_current_uid_gid() as u32,
        zero: 0,
        comm: if is_leader {
            bpf_get_current_comm().unwrap_or_default()
        } else {
            task.leader().comm()
        },
    }
}

/// Whether the task that runs is in scope.
#[inline(always)]
pub fn current_in_scope() -> bool {
    let (scope, level) = (setting!(scope), setting!(scope_level) as i32);
    // SAFETY: takes a number.
    scope == 0 || unsafe { bpf_get_current_ancestor_cgroup_id(level) } == scope
}

/// The beginning of a record.
#[inline(always)]
pub fn header(kind: u32) -> Header {
    // SAFETY: takes nothing.
    Header { boot_ns: unsafe { bpf_ktime_get_boot_ns() }, kind, zero: 0 }
}
