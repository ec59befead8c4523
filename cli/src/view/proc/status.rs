//! One process in full.

use crate::{
    time::rfc3339,
    view::{process::command, read::Record, size, some},
};
use kctl_proto::agent::v1::{self as pb, process_status as status};
use serde::Serialize;

/// What `proc PID` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StatusView {
    pub(crate) pid: u32,
    tgid: u32,
    ppid: u32,
    tracer_pid: Option<u32>,
    pub(crate) comm: String,
    state: String,
    state_name: &'static str,
    kernel_thread: bool,
    uids: Option<IdsView>,
    gids: Option<IdsView>,
    groups: Vec<IdView>,
    threads: u32,
    memory: Option<MemoryView>,
    fd_slots: Option<u64>,
    capabilities: Option<CapabilitiesView>,
    seccomp: Option<String>,
    no_new_privs: Option<bool>,
    cpus_allowed: Option<String>,
    voluntary_switches: Option<u64>,
    involuntary_switches: Option<u64>,
    pub(crate) start_time: Option<String>,
    #[serde(skip)]
    pub(crate) start_unix_ms: i64,
    exe: Option<String>,
    cwd: Option<String>,
    root: Option<String>,
    cgroup: Option<String>,
    container_id: Option<String>,
    pub(crate) command: String,
    args: Vec<String>,
    args_truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct IdView {
    id: u32,
    name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct IdsView {
    real: IdView,
    effective: IdView,
    saved: IdView,
    fs: IdView,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct MemoryView {
    size_bytes: Option<u64>,
    peak_bytes: Option<u64>,
    rss_bytes: Option<u64>,
    rss_peak_bytes: Option<u64>,
    rss_anon_bytes: Option<u64>,
    rss_file_bytes: Option<u64>,
    rss_shmem_bytes: Option<u64>,
    swap_bytes: Option<u64>,
    data_bytes: Option<u64>,
    stack_bytes: Option<u64>,
    exe_bytes: Option<u64>,
    lib_bytes: Option<u64>,
    page_tables_bytes: Option<u64>,
    locked_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CapabilitiesView {
    inheritable: Vec<String>,
    permitted: Vec<String>,
    effective: Vec<String>,
    bounding: Vec<String>,
    ambient: Vec<String>,
}

impl From<pb::ProcessStatus> for StatusView {
    fn from(status: pb::ProcessStatus) -> Self {
        Self {
            pid: status.pid,
            tgid: status.tgid,
            ppid: status.ppid,
            tracer_pid: Some(status.tracer_pid).filter(|pid| *pid != 0),
            command: command(&status.comm, &status.args),
            comm: status.comm,
            state_name: state_name(&status.state),
            state: status.state,
            kernel_thread: status.kernel_thread,
            uids: status.uids.map(IdsView::from),
            gids: status.gids.map(IdsView::from),
            groups: status.groups.into_iter().map(IdView::from).collect(),
            threads: status.threads,
            memory: status.memory.map(MemoryView::from),
            fd_slots: status.fd_slots,
            capabilities: status.capabilities.map(|sets| CapabilitiesView {
                inheritable: sets.inheritable,
                permitted: sets.permitted,
                effective: sets.effective,
                bounding: sets.bounding,
                ambient: sets.ambient,
            }),
            seccomp: some(status.seccomp),
            no_new_privs: status.no_new_privs,
            cpus_allowed: some(status.cpus_allowed),
            voluntary_switches: status.voluntary_switches,
            involuntary_switches: status.involuntary_switches,
            start_time: rfc3339(status.start_unix_ms),
            start_unix_ms: status.start_unix_ms,
            exe: some(status.exe),
            cwd: some(status.cwd),
            root: some(status.root),
            cgroup: some(status.cgroup),
            container_id: some(status.container_id),
            args: status.args,
            args_truncated: status.args_truncated,
        }
    }
}

impl From<status::Id> for IdView {
    fn from(id: status::Id) -> Self {
        Self { id: id.id, name: some(id.name) }
    }
}

impl From<status::Ids> for IdsView {
    fn from(ids: status::Ids) -> Self {
        let id = |id: Option<status::Id>| IdView::from(id.unwrap_or_default());
        Self {
            real: id(ids.real),
            effective: id(ids.effective),
            saved: id(ids.saved),
            fs: id(ids.fs),
        }
    }
}

impl From<status::Memory> for MemoryView {
    fn from(memory: status::Memory) -> Self {
        Self {
            size_bytes: memory.size_bytes,
            peak_bytes: memory.peak_bytes,
            rss_bytes: memory.rss_bytes,
            rss_peak_bytes: memory.rss_peak_bytes,
            rss_anon_bytes: memory.rss_anon_bytes,
            rss_file_bytes: memory.rss_file_bytes,
            rss_shmem_bytes: memory.rss_shmem_bytes,
            swap_bytes: memory.swap_bytes,
            data_bytes: memory.data_bytes,
            stack_bytes: memory.stack_bytes,
            exe_bytes: memory.exe_bytes,
            lib_bytes: memory.lib_bytes,
            page_tables_bytes: memory.page_tables_bytes,
            locked_bytes: memory.locked_bytes,
        }
    }
}

impl StatusView {
    /// The effective user: its name, or its number where it has none.
    pub(crate) fn user(&self) -> String {
        let user = self.uids.as_ref().map(|ids| &ids.effective);
        user.map(|user| user.name.clone().unwrap_or_else(|| user.id.to_string()))
            .unwrap_or_default()
    }
}

/// As in proc_pid_stat(5).
fn state_name(letter: &str) -> &'static str {
    match letter {
        "R" => "running",
        "S" => "sleeping",
        "D" => "disk sleep",
        "T" => "stopped",
        "t" => "traced",
        "Z" => "zombie",
        "X" | "x" => "dead",
        "I" => "idle",
        "P" => "parked",
        _ => "unknown",
    }
}

impl Record for StatusView {
    const NOUN: &'static str = "status";
    const COLUMNS: &'static [&'static str] =
        &["PID", "PPID", "USER", "STATE", "THREADS", "RSS", "STARTED", "EXE", "COMMAND"];
    const WIDE_COLUMNS: &'static [&'static str] = &[
        "TRACER",
        "VSZ",
        "SWAP",
        "CPUS",
        "SECCOMP",
        "NO_NEW_PRIVS",
        "CAPABILITIES",
        "CWD",
        "ROOT",
        "CONTAINER",
        "CGROUP",
    ];

    fn is_whole(&self) -> bool {
        true
    }

    fn cells(&self) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let bytes = |of: fn(&MemoryView) -> Option<u64>| {
            self.memory.as_ref().and_then(of).map(size).unwrap_or_default()
        };
        let capabilities = self.capabilities.as_ref().map(|sets| match sets.effective.len() {
            // All of them would be wider than a screen.
            9.. => format!("{} effective", sets.effective.len()),
            _ => sets.effective.join(","),
        });
        vec![
            self.pid.to_string(),
            self.ppid.to_string(),
            self.user(),
            self.state_name.to_owned(),
            self.threads.to_string(),
            bytes(|it| it.rss_bytes),
            text(&self.start_time),
            text(&self.exe),
            crate::view::process::shortened(&self.command),
            self.tracer_pid.map(|pid| pid.to_string()).unwrap_or_default(),
            bytes(|it| it.size_bytes),
            bytes(|it| it.swap_bytes),
            text(&self.cpus_allowed),
            text(&self.seccomp),
            self.no_new_privs.map(|it| it.to_string()).unwrap_or_default(),
            capabilities.unwrap_or_default(),
            text(&self.cwd),
            text(&self.root),
            text(&self.container_id),
            text(&self.cgroup),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_zombie_has_not_is_null() {
        let id = |id| Some(status::Id { id, name: String::new() });
        let zombie = pb::ProcessStatus {
            pid: 7,
            tgid: 7,
            comm: "web".to_owned(),
            state: "Z".to_owned(),
            uids: Some(status::Ids { real: id(1), effective: id(33), saved: id(2), fs: id(3) }),
            ..pb::ProcessStatus::default()
        };
        let view = StatusView::from(zombie);
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!((&json["state"], &json["state_name"]), (&"Z".into(), &"zombie".into()));
        assert_eq!(json["uids"]["effective"], serde_json::json!({"id": 33, "name": null}));
        for key in ["tracer_pid", "memory", "exe", "cwd", "root", "seccomp", "capabilities"] {
            assert!(json[key].is_null() && json.get(key).is_some(), "{key}: {json}");
        }
        assert!(json.get("start_unix_ms").is_none());
        let cells = view.cells();
        assert_eq!(cells.len(), StatusView::COLUMNS.len() + StatusView::WIDE_COLUMNS.len());
        assert_eq!((cells[2].as_str(), cells[8].as_str()), ("33", "[web]"));
    }
}
