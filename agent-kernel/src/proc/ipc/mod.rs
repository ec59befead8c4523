//! Inter-process communication: System V objects, as in proc_sysvipc(5), and POSIX shared memory and
//! message queues, as in shm_overview(7) and mq_overview(7). All of them are those of the reader's own
//! IPC namespace and mounts.

mod posix;
mod sysv;

use super::user::Users;
use crate::error::Error;
use std::path::Path;
use std::sync::Arc;

/// More objects of a kind are left out: shared memory alone may have 32,768 by the kernel's own limit,
/// and a folder any number of files.
const MOST: usize = 50_000;

/// Whose an object is, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// The owner.
    pub uid: u32,
    /// The owner's name, on the host.
    pub user: Option<Arc<str>>,
    /// The owning group.
    pub gid: u32,
    /// Who made it; System V alone.
    pub creator_uid: Option<u32>,
    /// The group of who made it; System V alone.
    pub creator_gid: Option<u32>,
    /// The nine bits of the mode.
    pub permissions: u32,
}

/// One object. Times are seconds since 1970; `None` for never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipc {
    /// Whose it is.
    pub owner: Owner,
    /// Last changed: its mode and owner, or a POSIX object's content.
    pub changed_unix: Option<i64>,
    /// What it is.
    pub kind: Kind,
}

/// A System V object's number, and the key that it is found by; 0 for a private one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    /// Number of the object.
    pub id: i32,
    /// Its key.
    pub key: u32,
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// System V shared memory.
    Shm(Id, Shm),
    /// System V semaphores.
    Sem(Id, Sem),
    /// A System V message queue.
    Msg(Id, Msg),
    /// POSIX shared memory.
    PosixShm {
        /// File name in /dev/shm; any bytes.
        name: Vec<u8>,
        /// As it was made.
        size_bytes: u64,
        /// Memory and swap in use.
        rss_bytes: u64,
    },
    /// A POSIX message queue.
    PosixMq {
        /// Name without the slash; any bytes.
        name: Vec<u8>,
        /// Bytes of the messages that wait.
        bytes: u64,
    },
}

/// Of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shm {
    /// As it was made.
    pub size_bytes: u64,
    /// How often it is attached.
    pub attached: u64,
    /// The process that made it.
    pub creator_pid: u32,
    /// The last process that attached or detached it; 0 for none.
    pub last_pid: u32,
    /// Whether it goes away with its last user.
    pub removed: bool,
    /// Whether it is kept out of swap.
    pub locked: bool,
    /// Memory in use; 0 on kernels before 2.6.32.
    pub rss_bytes: u64,
    /// Swap in use.
    pub swap_bytes: u64,
    /// Last attached.
    pub attached_unix: Option<i64>,
    /// Last detached.
    pub detached_unix: Option<i64>,
}

/// Of a set of semaphores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sem {
    /// How many.
    pub semaphores: u64,
    /// Last used.
    pub used_unix: Option<i64>,
}

/// Of a message queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Msg {
    /// Bytes of the messages that wait.
    pub bytes: u64,
    /// Messages that wait.
    pub messages: u64,
    /// The last process that sent; 0 for none.
    pub send_pid: u32,
    /// The last process that received; 0 for none.
    pub receive_pid: u32,
    /// Last sent.
    pub sent_unix: Option<i64>,
    /// Last received.
    pub received_unix: Option<i64>,
}

/// Where things lie.
#[derive(Debug, Clone, Copy)]
pub struct IpcRoots<'a> {
    /// Where procfs is mounted.
    pub proc: &'a Path,
    /// The folder of POSIX shared memory, `/dev/shm`.
    pub shm: &'a Path,
    /// The folder of POSIX message queues, `/dev/mqueue`.
    pub mqueue: &'a Path,
}

/// Lists every object; a kernel without a kind has none of it.
pub fn ipc(roots: IpcRoots<'_>) -> Result<Vec<Ipc>, Error> {
    let mut users = Users::of_host(roots.proc);
    let mut all = sysv::list(roots.proc)?;
    all.extend(posix::shared_memory(roots.shm)?);
    all.extend(posix::queues(roots.mqueue)?);
    for object in &mut all {
        object.owner.user = users.name(object.owner.uid);
    }
    Ok(all)
}
