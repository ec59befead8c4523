//! Processes of a host.

use super::{read::Record, size, some};
use crate::time::rfc3339;
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ProcessView {
    pid: u32,
    ppid: u32,
    uid: u32,
    user: Option<String>,
    state: String,
    threads: u32,
    cpu_percent: f64,
    rss_bytes: u64,
    vsz_bytes: u64,
    start_time: Option<String>,
    kernel_thread: bool,
    cgroup: Option<String>,
    container_id: Option<String>,
    comm: String,
    command: String,
    args: Vec<String>,
    args_truncated: bool,
}

impl From<pb::Process> for ProcessView {
    fn from(process: pb::Process) -> Self {
        let command = command(&process.comm, &process.args);
        Self {
            pid: process.pid,
            ppid: process.ppid,
            uid: process.uid,
            user: some(process.user),
            state: process.state,
            threads: process.threads,
            cpu_percent: (process.cpu_percent * 100.0).round() / 100.0,
            rss_bytes: process.rss_bytes,
            vsz_bytes: process.vsz_bytes,
            start_time: rfc3339(process.start_unix_ms),
            kernel_thread: process.kernel_thread,
            cgroup: some(process.cgroup),
            container_id: some(process.container_id),
            comm: process.comm,
            command,
            args: process.args,
            args_truncated: process.args_truncated,
        }
    }
}

impl Record for ProcessView {
    const NOUN: &'static str = "processes";
    const COLUMNS: &'static [&'static str] =
        &["PID", "USER", "STATE", "CPU%", "RSS", "STARTED", "COMMAND"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["PPID", "THREADS", "VSZ", "CONTAINER", "CGROUP"];

    fn cells(&self) -> Vec<String> {
        // The first 12 digits name a container well enough, as in docker(1).
        let container = self.container_id.as_deref().map(|id| id.get(..12).unwrap_or(id));
        vec![
            self.pid.to_string(),
            self.user.clone().unwrap_or_else(|| self.uid.to_string()),
            self.state.clone(),
            format!("{:.1}", self.cpu_percent),
            size(self.rss_bytes),
            self.start_time.clone().unwrap_or_default(),
            shortened(&self.command),
            self.ppid.to_string(),
            self.threads.to_string(),
            size(self.vsz_bytes),
            container.unwrap_or_default().to_owned(),
            self.cgroup.clone().unwrap_or_default(),
        ]
    }
}

/// The command line in one; the name as ps(1) shows those without one.
pub(crate) fn command(comm: &str, args: &[String]) -> String {
    match args {
        [] => format!("[{comm}]"),
        args => args.join(" "),
    }
}

/// The beginning of a command line: one is longer than the widest terminal, and a table as wide as it.
pub(crate) fn shortened(command: &str) -> String {
    const LONGEST: usize = 100;
    match command.char_indices().nth(LONGEST) {
        None => command.to_owned(),
        Some((end, _)) => format!("{}…", &command[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let process = pb::Process {
            pid: 7,
            ppid: 1,
            state: "S".to_owned(),
            threads: 2,
            cpu_percent: 12.345_678,
            rss_bytes: 4_096,
            vsz_bytes: 8_192,
            start_unix_ms: 1_767_323_045_670,
            cgroup: "/a.slice".to_owned(),
            comm: "web".to_owned(),
            args: vec!["/usr/bin/web".to_owned(), "a b".to_owned()],
            ..pb::Process::default()
        };
        let json = serde_json::to_value(ProcessView::from(process)).expect("json");
        let expected = serde_json::json!({
            "pid": 7, "ppid": 1, "uid": 0, "user": null, "state": "S", "threads": 2,
            "cpu_percent": 12.35, "rss_bytes": 4096, "vsz_bytes": 8192,
            "start_time": "2026-01-02T03:04:05.670Z", "kernel_thread": false,
            "cgroup": "/a.slice", "container_id": null, "comm": "web",
            "command": "/usr/bin/web a b", "args": ["/usr/bin/web", "a b"],
            "args_truncated": false,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn people_see_a_name_where_there_is_no_command_line_and_the_beginning_of_a_long_one() {
        let zombie = pb::Process { comm: "true".to_owned(), uid: 33, ..pb::Process::default() };
        let cells = ProcessView::from(zombie).cells();
        assert_eq!((cells[1].as_str(), cells[6].as_str()), ("33", "[true]"));
        assert_eq!(cells.len(), ProcessView::COLUMNS.len() + ProcessView::WIDE_COLUMNS.len());
        let args = vec!["é".repeat(101)];
        let long = pb::Process { args, ..pb::Process::default() };
        assert_eq!(ProcessView::from(long).cells()[6], "é".repeat(100) + "…");
    }
}
