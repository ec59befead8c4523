//! Objects of inter-process communication of a host.

use super::{read::Record, size, some};
use crate::time::rfc3339;
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One object: what all kinds have, then what its kind has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct IpcView {
    #[serde(flatten)]
    kind: KindView,
    uid: u32,
    user: Option<String>,
    gid: u32,
    creator_uid: Option<u32>,
    creator_gid: Option<u32>,
    permissions: String,
    change_time: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum KindView {
    Shm {
        id: i32,
        key: String,
        size_bytes: u64,
        attached: u64,
        creator_pid: u32,
        last_pid: Option<u32>,
        removed: bool,
        locked: bool,
        rss_bytes: u64,
        swap_bytes: u64,
        attach_time: Option<String>,
        detach_time: Option<String>,
    },
    Sem {
        id: i32,
        key: String,
        semaphores: u64,
        use_time: Option<String>,
    },
    Msg {
        id: i32,
        key: String,
        messages: u64,
        bytes: u64,
        send_pid: Option<u32>,
        receive_pid: Option<u32>,
        send_time: Option<String>,
        receive_time: Option<String>,
    },
    PosixShm {
        name: String,
        size_bytes: u64,
        rss_bytes: u64,
    },
    PosixMq {
        name: String,
        bytes: u64,
    },
    Unknown {},
}

impl From<pb::Ipc> for IpcView {
    fn from(object: pb::Ipc) -> Self {
        Self {
            kind: object.kind.map_or(KindView::Unknown {}, KindView::from),
            uid: object.uid,
            user: some(object.user),
            gid: object.gid,
            creator_uid: object.creator_uid,
            creator_gid: object.creator_gid,
            permissions: format!("{:04o}", object.permissions),
            change_time: rfc3339(object.changed_unix_ms),
        }
    }
}

impl From<pb::ipc::Kind> for KindView {
    fn from(kind: pb::ipc::Kind) -> Self {
        // As ipcs(1) shows it.
        let key = |key: u32| format!("0x{key:08x}");
        let pid = |pid: u32| (pid != 0).then_some(pid);
        match kind {
            pb::ipc::Kind::Shm(shm) => Self::Shm {
                id: shm.id,
                key: key(shm.key),
                size_bytes: shm.size_bytes,
                attached: shm.attached,
                creator_pid: shm.creator_pid,
                last_pid: pid(shm.last_pid),
                removed: shm.removed,
                locked: shm.locked,
                rss_bytes: shm.rss_bytes,
                swap_bytes: shm.swap_bytes,
                attach_time: rfc3339(shm.attached_unix_ms),
                detach_time: rfc3339(shm.detached_unix_ms),
            },
            pb::ipc::Kind::Sem(sem) => Self::Sem {
                id: sem.id,
                key: key(sem.key),
                semaphores: sem.semaphores,
                use_time: rfc3339(sem.used_unix_ms),
            },
            pb::ipc::Kind::Msg(msg) => Self::Msg {
                id: msg.id,
                key: key(msg.key),
                messages: msg.messages,
                bytes: msg.bytes,
                send_pid: pid(msg.send_pid),
                receive_pid: pid(msg.receive_pid),
                send_time: rfc3339(msg.sent_unix_ms),
                receive_time: rfc3339(msg.received_unix_ms),
            },
            pb::ipc::Kind::PosixShm(shm) => Self::PosixShm {
                name: shm.name,
                size_bytes: shm.size_bytes,
                rss_bytes: shm.rss_bytes,
            },
            pb::ipc::Kind::PosixMq(mq) => Self::PosixMq { name: mq.name, bytes: mq.bytes },
        }
    }
}

impl Record for IpcView {
    const NOUN: &'static str = "ipc";
    const COLUMNS: &'static [&'static str] =
        &["KIND", "ID", "KEY", "USER", "MODE", "SIZE", "CONTENT"];
    const WIDE_COLUMNS: &'static [&'static str] = &["CHANGED"];

    fn cells(&self) -> Vec<String> {
        let (kind, id, key, bytes, content) = match &self.kind {
            KindView::Shm { id, key, size_bytes, attached, removed, .. } => {
                let removed = if *removed { ", removed" } else { "" };
                let content = format!("attached {attached}{removed}");
                ("shm", id.to_string(), key.clone(), Some(*size_bytes), content)
            }
            KindView::Sem { id, key, semaphores, .. } => {
                ("sem", id.to_string(), key.clone(), None, format!("{semaphores} semaphores"))
            }
            KindView::Msg { id, key, messages, bytes, .. } => {
                ("msg", id.to_string(), key.clone(), Some(*bytes), format!("{messages} messages"))
            }
            KindView::PosixShm { name, size_bytes, .. } => {
                ("posix_shm", name.clone(), String::new(), Some(*size_bytes), String::new())
            }
            KindView::PosixMq { name, bytes } => {
                ("posix_mq", name.clone(), String::new(), Some(*bytes), String::new())
            }
            KindView::Unknown {} => ("unknown", String::new(), String::new(), None, String::new()),
        };
        vec![
            kind.to_owned(),
            id,
            key,
            self.user.clone().unwrap_or_else(|| self.uid.to_string()),
            self.permissions.clone(),
            bytes.map(size).unwrap_or_default(),
            content,
            self.change_time.clone().unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(kind: pb::ipc::Kind) -> IpcView {
        let (creator_uid, creator_gid) = (Some(0), Some(7));
        IpcView::from(pb::Ipc {
            uid: 1_000,
            user: String::new(),
            gid: 33,
            creator_uid,
            creator_gid,
            permissions: 0o640,
            changed_unix_ms: 1_767_323_045_000,
            kind: Some(kind),
        })
    }

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let shm = pb::ipc::Shm {
            id: 5,
            key: 0xdead_beef,
            size_bytes: 8_192,
            attached: 2,
            creator_pid: 700,
            ..pb::ipc::Shm::default()
        };
        let view = view(pb::ipc::Kind::Shm(shm));
        let expected = json!({
            "kind": "shm", "id": 5, "key": "0xdeadbeef", "size_bytes": 8192, "attached": 2,
            "creator_pid": 700, "last_pid": null, "removed": false, "locked": false,
            "rss_bytes": 0, "swap_bytes": 0, "attach_time": null, "detach_time": null,
            "uid": 1000, "user": null, "gid": 33, "creator_uid": 0, "creator_gid": 7,
            "permissions": "0640", "change_time": "2026-01-02T03:04:05.000Z",
        });
        assert_eq!(serde_json::to_value(&view).expect("json"), expected);
        let cells = view.cells();
        let told = ["shm", "5", "0xdeadbeef", "1000", "0640", "8.0K", "attached 2"];
        assert_eq!(cells[..7], told);
        assert_eq!(cells.len(), IpcView::COLUMNS.len() + IpcView::WIDE_COLUMNS.len());
    }

    #[test]
    fn every_kind_has_its_word_in_json_and_in_the_table() {
        use pb::ipc::Kind;
        for (kind, word) in [
            (Kind::Sem(pb::ipc::Sem::default()), "sem"),
            (Kind::Msg(pb::ipc::Msg::default()), "msg"),
            (Kind::PosixShm(pb::ipc::PosixShm::default()), "posix_shm"),
            (Kind::PosixMq(pb::ipc::PosixMq::default()), "posix_mq"),
        ] {
            let view = view(kind);
            assert_eq!(serde_json::to_value(&view).expect("json")["kind"], word);
            assert_eq!(view.cells()[0], word);
        }
    }
}
