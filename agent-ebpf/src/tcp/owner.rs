//! The process that is running. Only to be asked where it is the one that an event is about.

use crate::kernel::{follow, read};
use agent_records::tcp::{Owner, member};
use aya_ebpf::helpers::generated::bpf_get_current_task;

/// Of `task_struct.flags`: a kernel's worker, which works for whoever asked.
const PF_WQ_WORKER: u32 = 0x20;

/// Puts the running process there; false when it can't be told, or only works for another.
///
/// The helpers for this are not there for `sock_ops` on all kernels.
#[inline(always)]
pub fn current(owner: &mut Owner) -> bool {
    put(owner).is_some()
}

#[inline(always)]
fn put(owner: &mut Owner) -> Option<()> {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    if read::<u32>(task, member::TASK_FLAGS)? & PF_WQ_WORKER != 0 {
        return None;
    }
    let leader = follow(task, member::TASK_GROUP_LEADER)?;
    let parent = follow(leader, member::TASK_REAL_PARENT)?;
    let cgroup = follow(follow(task, member::TASK_CGROUPS)?, member::CSS_SET_DFL_CGRP)?;
    owner.cgroup_id = read(follow(cgroup, member::CGROUP_KN)?, member::KERNFS_NODE_ID)?;
    owner.comm = read(leader, member::TASK_COMM)?;
    owner.pid = read(task, member::TASK_TGID)?;
    owner.ppid = read(parent, member::TASK_TGID)?;
    owner.uid = read(follow(task, member::TASK_CRED)?, member::CRED_UID)?;
    Some(())
}
