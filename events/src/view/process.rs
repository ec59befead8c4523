//! Processes and what they do to themselves, to each other and to files.

use super::{names, some};
use kctl_proto::agent::v1::{
    CredEvent, EventProcess, ExecEvent, ExitEvent, OomEvent, OpenEvent, PtraceEvent, SignalEvent,
    cred_event::Credentials,
};
use schemars::JsonSchema;
use serde::Serialize;
use std::borrow::Cow;

/// A process; all of it is null where none is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Process")]
pub struct ProcessView<'a> {
    /// Its id in the host's namespace.
    pub pid: Option<u32>,
    /// Its parent.
    pub ppid: Option<u32>,
    /// Real user.
    pub uid: Option<u32>,
    /// Its name, at most 15 bytes.
    pub comm: Option<&'a str>,
    /// Path of its cgroup below the root of cgroup v2.
    pub cgroup: Option<&'a str>,
    /// Id of its container, as read from the cgroup.
    pub container_id: Option<&'a str>,
}

/// A process runs another program.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Exec")]
pub struct ExecView<'a> {
    /// After the change.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// The program as it was asked for.
    pub path: Option<&'a str>,
    /// Its arguments; empty for who may not see them.
    pub argv: &'a [String],
    /// Arguments were cut off.
    pub argv_truncated: bool,
    /// Name of the parent.
    pub parent_comm: Option<&'a str>,
}

/// A process ended.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Exit")]
pub struct ExitView<'a> {
    /// Who ended.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// Of exit(2); null when a signal ended it.
    pub code: Option<u32>,
    /// The signal that ended it: "KILL".
    pub signal: Option<Cow<'static, str>>,
    /// It left a core dump.
    pub core_dumped: bool,
    /// From its start to its end, nanoseconds.
    pub lifetime_ns: Option<u64>,
}

/// A file was opened, or could not be.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Open")]
pub struct OpenView<'a> {
    /// Who opened it.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// As the process named it.
    pub path: Option<&'a str>,
    /// The path was cut off.
    pub path_truncated: bool,
    /// As in open(2): "O_RDONLY|O_CLOEXEC".
    pub flags: String,
    /// Why it was not opened: "ENOENT".
    pub error: Option<Cow<'static, str>>,
}

/// A process changed its user, group or capabilities.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Cred")]
pub struct CredView<'a> {
    /// Who changed.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// What it had.
    pub old: Option<CredentialsView>,
    /// What it has.
    pub new: Option<CredentialsView>,
}

/// Users, groups and capabilities of a process.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Credentials")]
pub struct CredentialsView {
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// Effective capabilities: "cap_kill".
    pub capabilities: Vec<String>,
}

/// A process traces another.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Ptrace")]
pub struct PtraceView<'a> {
    /// Who traces.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// "attach", "seize" or "traceme".
    pub request: &'a str,
    /// Who is traced.
    pub target: Option<ProcessView<'a>>,
}

/// A process sent a signal.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Signal")]
pub struct SignalView<'a> {
    /// Who sent it; null for the kernel.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// "TERM"
    pub signal: Cow<'static, str>,
    /// si_code of sigaction(2).
    pub code: i32,
    /// Who it was sent to.
    pub target: Option<ProcessView<'a>>,
    /// Why it was not delivered; null when it was.
    pub undelivered: Option<&'a str>,
}

/// The kernel killed a process for want of memory.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Oom")]
pub struct OomView<'a> {
    /// Who was killed.
    #[serde(flatten)]
    pub victim: ProcessView<'a>,
    /// Its address space.
    pub virtual_bytes: Option<u64>,
    /// Its anonymous memory.
    pub anon_bytes: Option<u64>,
    /// Its mapped files.
    pub file_bytes: Option<u64>,
    /// Its shared memory.
    pub shmem_bytes: Option<u64>,
}

impl<'a> From<&'a EventProcess> for ProcessView<'a> {
    fn from(process: &'a EventProcess) -> Self {
        Self {
            pid: process.pid,
            ppid: process.ppid,
            uid: process.uid,
            comm: some(&process.comm),
            cgroup: some(&process.cgroup),
            container_id: some(&process.container_id),
        }
    }
}

impl ProcessView<'_> {
    /// Whether there is one.
    pub fn is_known(&self) -> bool {
        self.pid.is_some()
    }
}

pub(super) fn process(process: &Option<EventProcess>) -> ProcessView<'_> {
    process.as_ref().map(ProcessView::from).unwrap_or_default()
}

impl<'a> From<&'a ExecEvent> for ExecView<'a> {
    fn from(event: &'a ExecEvent) -> Self {
        Self {
            process: process(&event.process),
            path: some(&event.path),
            argv: &event.argv,
            argv_truncated: event.argv_truncated,
            parent_comm: some(&event.parent_comm),
        }
    }
}

impl<'a> From<&'a ExitEvent> for ExitView<'a> {
    fn from(event: &'a ExitEvent) -> Self {
        Self {
            process: process(&event.process),
            code: event.code,
            signal: event.signal.map(names::signal),
            core_dumped: event.core_dumped,
            lifetime_ns: event.lifetime_ns,
        }
    }
}

impl<'a> From<&'a OpenEvent> for OpenView<'a> {
    fn from(event: &'a OpenEvent) -> Self {
        Self {
            process: process(&event.process),
            path: some(&event.path),
            path_truncated: event.path_truncated,
            flags: names::open_flags(event.flags),
            error: event.error.map(names::error),
        }
    }
}

impl<'a> From<&'a CredEvent> for CredView<'a> {
    fn from(event: &'a CredEvent) -> Self {
        let credentials = |it: &Credentials| CredentialsView {
            uid: it.uid,
            gid: it.gid,
            euid: it.euid,
            egid: it.egid,
            capabilities: it.capabilities.clone(),
        };
        Self {
            process: process(&event.process),
            old: event.old.as_ref().map(credentials),
            new: event.new.as_ref().map(credentials),
        }
    }
}

impl<'a> From<&'a PtraceEvent> for PtraceView<'a> {
    fn from(event: &'a PtraceEvent) -> Self {
        Self {
            process: process(&event.process),
            request: &event.request,
            target: event.target.as_ref().map(ProcessView::from),
        }
    }
}

impl<'a> From<&'a SignalEvent> for SignalView<'a> {
    fn from(event: &'a SignalEvent) -> Self {
        Self {
            process: process(&event.process),
            signal: names::signal(event.signal),
            code: event.code,
            target: event.target.as_ref().map(ProcessView::from),
            undelivered: some(&event.undelivered),
        }
    }
}

impl<'a> From<&'a OomEvent> for OomView<'a> {
    fn from(event: &'a OomEvent) -> Self {
        Self {
            victim: process(&event.victim),
            virtual_bytes: event.virtual_bytes,
            anon_bytes: event.anon_bytes,
            file_bytes: event.file_bytes,
            shmem_bytes: event.shmem_bytes,
        }
    }
}
