//! What one process has: one file a noun, the short ones here.

mod fd;
mod map;
mod status;

pub(crate) use fd::FdView;
pub(crate) use map::MapView;
pub(crate) use status::StatusView;

use super::{cell, read::Record, size, some};
use crate::time::rfc3339;
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One variable of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VariableView {
    pid: u32,
    name: String,
    value: Option<String>,
    truncated: bool,
}

impl From<pb::Variable> for VariableView {
    fn from(variable: pb::Variable) -> Self {
        let pb::Variable { pid, name, value, truncated } = variable;
        Self { pid, name, value, truncated }
    }
}

impl Record for VariableView {
    const NOUN: &'static str = "env";
    const COLUMNS: &'static [&'static str] = &["NAME", "VALUE"];
    const WIDE_COLUMNS: &'static [&'static str] = &["TRUNCATED"];

    fn cells(&self) -> Vec<String> {
        let truncated = if self.truncated { "yes" } else { "" };
        vec![self.name.clone(), self.value.clone().unwrap_or_default(), truncated.to_owned()]
    }
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LimitView {
    pid: u32,
    name: String,
    soft: Option<u64>,
    hard: Option<u64>,
    unit: Option<String>,
}

impl From<pb::Limit> for LimitView {
    fn from(limit: pb::Limit) -> Self {
        let pb::Limit { pid, name, soft, hard, unit } = limit;
        Self { pid, name, soft, hard, unit: some(unit) }
    }
}

impl Record for LimitView {
    const NOUN: &'static str = "limits";
    const COLUMNS: &'static [&'static str] = &["LIMIT", "SOFT", "HARD", "UNIT"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let limit = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |it| it.to_string());
        vec![self.name.clone(), limit(self.soft), limit(self.hard), cell(self.unit.as_ref())]
    }
}

/// What a process has read and written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct IoView {
    pid: u32,
    rchar_bytes: u64,
    wchar_bytes: u64,
    syscr: u64,
    syscw: u64,
    read_bytes: u64,
    write_bytes: u64,
    cancelled_write_bytes: u64,
}

impl From<pb::ProcessIo> for IoView {
    fn from(io: pb::ProcessIo) -> Self {
        Self {
            pid: io.pid,
            rchar_bytes: io.rchar_bytes,
            wchar_bytes: io.wchar_bytes,
            syscr: io.syscr,
            syscw: io.syscw,
            read_bytes: io.read_bytes,
            write_bytes: io.write_bytes,
            cancelled_write_bytes: io.cancelled_write_bytes,
        }
    }
}

impl Record for IoView {
    const NOUN: &'static str = "io";
    const COLUMNS: &'static [&'static str] =
        &["RCHAR", "WCHAR", "SYSCR", "SYSCW", "READ", "WRITTEN", "CANCELLED"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn is_whole(&self) -> bool {
        true
    }

    fn cells(&self) -> Vec<String> {
        vec![
            size(self.rchar_bytes),
            size(self.wchar_bytes),
            self.syscr.to_string(),
            self.syscw.to_string(),
            size(self.read_bytes),
            size(self.write_bytes),
            size(self.cancelled_write_bytes),
        ]
    }
}

/// A process's cgroup in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CgroupView {
    pid: u32,
    hierarchy: u32,
    controllers: Vec<String>,
    path: String,
}

impl From<pb::Cgroup> for CgroupView {
    fn from(cgroup: pb::Cgroup) -> Self {
        let pb::Cgroup { pid, hierarchy, controllers, path } = cgroup;
        Self { pid, hierarchy, controllers, path }
    }
}

impl Record for CgroupView {
    const NOUN: &'static str = "cgroups";
    const COLUMNS: &'static [&'static str] = &["HIERARCHY", "CONTROLLERS", "PATH"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![self.hierarchy.to_string(), self.controllers.join(","), self.path.clone()]
    }
}

/// One namespace of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NamespaceView {
    pid: u32,
    kind: String,
    inode: u64,
}

impl From<pb::Namespace> for NamespaceView {
    fn from(namespace: pb::Namespace) -> Self {
        let pb::Namespace { pid, kind, inode } = namespace;
        Self { pid, kind, inode }
    }
}

impl Record for NamespaceView {
    const NOUN: &'static str = "namespaces";
    const COLUMNS: &'static [&'static str] = &["NAMESPACE", "INODE"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![self.kind.clone(), self.inode.to_string()]
    }
}

/// A process that got a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SignalledView {
    pid: u32,
    signal: String,
    comm: String,
    start_time: Option<String>,
}

impl From<pb::Signalled> for SignalledView {
    fn from(signalled: pb::Signalled) -> Self {
        let pb::Signalled { pid, signal, comm, start_unix_ms } = signalled;
        Self { pid, signal, comm, start_time: rfc3339(start_unix_ms) }
    }
}

impl Record for SignalledView {
    const NOUN: &'static str = "signalled";
    const COLUMNS: &'static [&'static str] = &["PID", "SIGNAL", "NAME", "STARTED"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn is_whole(&self) -> bool {
        true
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.pid.to_string(),
            self.signal.clone(),
            self.comm.clone(),
            self.start_time.clone().unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_absent_is_null_and_people_read_unlimited() {
        let limit =
            pb::Limit { pid: 7, name: "cpu_time".to_owned(), soft: Some(9), ..Default::default() };
        let view = LimitView::from(limit);
        let expected = json!({"pid": 7, "name": "cpu_time", "soft": 9, "hard": null, "unit": null});
        assert_eq!(serde_json::to_value(&view).expect("json"), expected);
        assert_eq!(view.cells(), ["cpu_time", "9", "unlimited", ""]);
        let variable = pb::Variable { pid: 7, name: "odd".to_owned(), ..Default::default() };
        let json = serde_json::to_value(VariableView::from(variable)).expect("json");
        assert_eq!(json, json!({"pid": 7, "name": "odd", "value": null, "truncated": false}));
    }

    #[test]
    fn a_signal_tells_whom_it_hit() {
        let signalled = pb::Signalled {
            pid: 7,
            signal: "TERM".to_owned(),
            comm: "web".to_owned(),
            start_unix_ms: 1_767_323_045_670,
        };
        let json = serde_json::to_value(SignalledView::from(signalled)).expect("json");
        let start = "2026-01-02T03:04:05.670Z";
        let expected = json!({"pid": 7, "signal": "TERM", "comm": "web", "start_time": start});
        assert_eq!(json, expected);
    }
}
