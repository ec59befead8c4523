//! The process that is running. Only to be asked where it is the one that an event is about.

use crate::follow::follow;
use crate::kernel::{Address, layout, read};
use agent_records::trace::Process;
use aya_ebpf::helpers::generated::bpf_get_current_task;

/// Of `task_struct.flags`: a kernel's worker, which works for whoever asked.
const PF_WQ_WORKER: u32 = 0x20;

/// Puts the running process there. Nothing when it can't be told, or only works for another.
///
/// The helpers for this are not there for `sock_ops` on all kernels.
#[inline(always)]
pub fn put(owner: &mut Process) {
    // SAFETY: takes nothing.
    let task = unsafe { bpf_get_current_task() } as Address;
    let flags = read::<u32>(task, layout!(task_flags));
    if flags.is_none_or(|flags| flags & PF_WQ_WORKER != 0) || fill(owner, task).is_none() {
        owner.pid = 0;
    }
}

#[inline(always)]
fn fill(owner: &mut Process, task: Address) -> Option<()> {
    let leader = follow(task, layout!(task_group_leader))?;
    let parent = follow(leader, layout!(task_real_parent))?;
    owner.cgroup = cgroup(task).unwrap_or(0);
    owner.comm = read(leader, layout!(task_comm))?;
    owner.ppid = read(parent, layout!(task_tgid))?;
    owner.uid = read(follow(task, layout!(task_cred))?, layout!(cred_uid))?;
    owner.pid = read(task, layout!(task_tgid))?;
    Some(())
}

#[inline(always)]
fn cgroup(task: Address) -> Option<u64> {
    let cgroup = follow(follow(task, layout!(task_cgroups))?, layout!(css_set_dfl_cgrp))?;
    read(follow(cgroup, layout!(cgroup_kn))?, layout!(kernfs_id))
}
