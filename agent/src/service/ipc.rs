//! `IpcService`: objects of inter-process communication of the agent's own IPC namespace and mounts.

use super::blocking::blocking;
use super::chunks::{Chunks, chunks};
use crate::status::kernel;
use crate::text::text;
use agent_kernel::file::Roots;
use agent_kernel::proc::{Ipc, IpcRoots, Kind, ipc};
use kctl_proto::agent::v1::{self as pb, ipc::Kind as Message, ipc_service_server::IpcService};
use std::path::{Path, PathBuf};
use tonic::{Request, Response, Status};

/// Where the C library keeps POSIX shared memory (shm_overview(7)).
const SHM: &str = "/dev/shm";
/// Where mq_overview(7) mounts the queues.
const MQUEUE: &str = "/dev/mqueue";

/// Answers for the agent's own IPC namespace.
#[derive(Debug)]
pub(super) struct Objects {
    proc_root: PathBuf,
}

impl Objects {
    pub(super) fn new(roots: &Roots) -> Self {
        Self { proc_root: roots.proc.clone() }
    }
}

#[tonic::async_trait]
impl IpcService for Objects {
    type ListIpcStream = Chunks<pb::ListIpcResponse>;

    async fn list_ipc(
        &self,
        _: Request<pb::ListIpcRequest>,
    ) -> Result<Response<Self::ListIpcStream>, Status> {
        let proc_root = self.proc_root.clone();
        let found = blocking(move || {
            let (shm, mqueue) = (Path::new(SHM), Path::new(MQUEUE));
            ipc(IpcRoots { proc: &proc_root, shm, mqueue })
        });
        let found = found.await?.into_iter().map(|object| Ok(ipc_to_proto(object)));
        Ok(Response::new(chunks(found, |ipc| pb::ListIpcResponse { ipc }, kernel)))
    }
}

/// Milliseconds since 1970; 0 for never.
fn ms(unix: Option<i64>) -> i64 {
    unix.unwrap_or(0).saturating_mul(1_000)
}

fn ipc_to_proto(object: Ipc) -> pb::Ipc {
    let owner = object.owner;
    pb::Ipc {
        uid: owner.uid,
        user: owner.user.as_deref().unwrap_or_default().to_owned(),
        gid: owner.gid,
        creator_uid: owner.creator_uid,
        creator_gid: owner.creator_gid,
        permissions: owner.permissions,
        changed_unix_ms: ms(object.changed_unix),
        kind: Some(kind_to_proto(object.kind)),
    }
}

fn kind_to_proto(kind: Kind) -> Message {
    match kind {
        Kind::Shm(it, shm) => Message::Shm(pb::ipc::Shm {
            id: it.id,
            key: it.key,
            size_bytes: shm.size_bytes,
            attached: shm.attached,
            creator_pid: shm.creator_pid,
            last_pid: shm.last_pid,
            removed: shm.removed,
            locked: shm.locked,
            rss_bytes: shm.rss_bytes,
            swap_bytes: shm.swap_bytes,
            attached_unix_ms: ms(shm.attached_unix),
            detached_unix_ms: ms(shm.detached_unix),
        }),
        Kind::Sem(it, sem) => Message::Sem(pb::ipc::Sem {
            id: it.id,
            key: it.key,
            semaphores: sem.semaphores,
            used_unix_ms: ms(sem.used_unix),
        }),
        Kind::Msg(it, msg) => Message::Msg(pb::ipc::Msg {
            id: it.id,
            key: it.key,
            messages: msg.messages,
            bytes: msg.bytes,
            send_pid: msg.send_pid,
            receive_pid: msg.receive_pid,
            sent_unix_ms: ms(msg.sent_unix),
            received_unix_ms: ms(msg.received_unix),
        }),
        Kind::PosixShm { name, size_bytes, rss_bytes } => {
            Message::PosixShm(pb::ipc::PosixShm { name: text(&name), size_bytes, rss_bytes })
        }
        Kind::PosixMq { name, bytes } => {
            Message::PosixMq(pb::ipc::PosixMq { name: text(&name), bytes })
        }
    }
}
