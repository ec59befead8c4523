//! Processes as messages.

use crate::text::{text, text_or_empty};
use agent_kernel::proc::Process;
use agent_kernel::proc::pid::{Id, Ids, Status, StatusMemory};
use kctl_proto::agent::v1 as pb;

/// A process of a listing; without its arguments unless they are to be shown.
pub(super) fn process(process: Process, arguments: bool) -> pb::Process {
    pb::Process {
        pid: process.pid,
        ppid: process.ppid,
        uid: process.uid,
        user: process.user.as_deref().unwrap_or_default().to_owned(),
        state: process.state.to_string(),
        threads: process.threads,
        cpu_percent: process.cpu_percent,
        rss_bytes: process.rss_bytes,
        vsz_bytes: process.vsz_bytes,
        start_unix_ms: process.start_unix_ms,
        kernel_thread: process.kernel_thread,
        cgroup: process.cgroup.as_deref().map(text).unwrap_or_default(),
        container_id: process.container_id.unwrap_or_default(),
        comm: text(&process.comm),
        args: process.args.iter().filter(|_| arguments).map(|arg| text(arg)).collect(),
        args_truncated: process.args_truncated,
    }
}

/// Everything that is told of one process; without its arguments unless they are to be shown.
pub(super) fn status(status: Status, arguments: bool) -> pb::ProcessStatus {
    pb::ProcessStatus {
        pid: status.pid,
        tgid: status.tgid,
        ppid: status.ppid,
        tracer_pid: status.tracer_pid,
        comm: text(&status.comm),
        state: status.state.to_string(),
        kernel_thread: status.kernel_thread,
        uids: status.uids.map(ids),
        gids: status.gids.map(ids),
        groups: status.groups.into_iter().map(id).collect(),
        threads: status.threads,
        memory: status.memory.map(memory),
        fd_slots: status.fd_slots,
        capabilities: status.capabilities.map(|sets| pb::process_status::Capabilities {
            inheritable: sets.inheritable,
            permitted: sets.permitted,
            effective: sets.effective,
            bounding: sets.bounding,
            ambient: sets.ambient,
        }),
        seccomp: status.seccomp.unwrap_or_default(),
        no_new_privs: status.no_new_privs,
        cpus_allowed: status.cpus_allowed.unwrap_or_default(),
        voluntary_switches: status.voluntary_switches,
        involuntary_switches: status.involuntary_switches,
        start_unix_ms: status.start_unix_ms,
        exe: text_or_empty(status.exe),
        cwd: text_or_empty(status.cwd),
        root: text_or_empty(status.root),
        cgroup: text_or_empty(status.cgroup),
        container_id: status.container_id.unwrap_or_default(),
        args: status.args.iter().filter(|_| arguments).map(|arg| text(arg)).collect(),
        args_truncated: status.args_truncated,
    }
}

fn id(id: Id) -> pb::process_status::Id {
    let name = id.name.as_deref().unwrap_or_default().to_owned();
    pb::process_status::Id { id: id.id, name }
}

fn ids(ids: Ids) -> pb::process_status::Ids {
    pb::process_status::Ids {
        real: Some(id(ids.real)),
        effective: Some(id(ids.effective)),
        saved: Some(id(ids.saved)),
        fs: Some(id(ids.fs)),
    }
}

fn memory(memory: StatusMemory) -> pb::process_status::Memory {
    pb::process_status::Memory {
        size_bytes: memory.size_bytes,
        rss_bytes: memory.rss_bytes,
        rss_anon_bytes: memory.rss_anon_bytes,
        rss_file_bytes: memory.rss_file_bytes,
        rss_shmem_bytes: memory.rss_shmem_bytes,
        peak_bytes: memory.peak_bytes,
        rss_peak_bytes: memory.rss_peak_bytes,
        swap_bytes: memory.swap_bytes,
        data_bytes: memory.data_bytes,
        stack_bytes: memory.stack_bytes,
        exe_bytes: memory.exe_bytes,
        lib_bytes: memory.lib_bytes,
        page_tables_bytes: memory.page_tables_bytes,
        locked_bytes: memory.locked_bytes,
    }
}
