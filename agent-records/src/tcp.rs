//! What the programs that watch TCP connections tell, and where the kernel keeps what they read.

use crate::trace::{Process, layout};

/// Connections whose maker is remembered, at most; what is known of a further one is less.
pub const MAX_CONNECTIONS: u32 = 131_072;
/// Connections that wait for accept(2), at most; a further one is told at once.
pub const MAX_PENDING: u32 = 16_384;
/// Calls of connect(2) at one time, at most; a further one that fails at once is not told.
pub const MAX_CALLS: u32 = 8_192;

/// Kinds of [`Record`].
pub mod kind {
    /// A connection was made from here, or could not be.
    pub const CONNECT: u8 = 1;
    /// A connection was made to here.
    pub const ACCEPT: u8 = 2;
    /// A connection ended.
    pub const CLOSE: u8 = 3;
}

/// What of a [`Record`] or [`Connection`] is known; the rest is zero and means nothing.
pub mod known {
    /// Which end made it.
    pub const MAKER: u8 = 1;
    /// The other end made it. Only with [`MAKER`].
    pub const ACCEPTED: u8 = 1 << 1;
    /// How many bytes were sent and acknowledged.
    pub const SENT: u8 = 1 << 2;
    /// How many bytes were received.
    pub const RECEIVED: u8 = 1 << 3;
    /// How long it was.
    pub const DURATION: u8 = 1 << 4;
}

/// One event.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// When, nanoseconds of CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// Payload that the other end acknowledged.
    pub sent_bytes: u64,
    /// Payload that came in order.
    pub received_bytes: u64,
    /// Since the connection was made.
    pub duration_ns: u64,
    /// The process that made or accepted it; pid 0 when that is not known.
    pub owner: Process,
    /// Network byte order, IPv4 mapped into IPv6; zero where none was chosen yet.
    pub local: [u8; 16],
    /// Likewise, of the other end.
    pub remote: [u8; 16],
    /// Host byte order; 0 where none was chosen yet.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// Why a connection was not made, an error number; 0 when it was.
    pub error: u16,
    /// One of [`kind`].
    pub kind: u8,
    /// Bits of [`known`].
    pub known: u8,
}

/// What is remembered of a connection, by the cookie of its socket.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// The process that made or accepted it; pid 0 when that is not known.
    pub owner: Process,
    /// When it was made, nanoseconds of CLOCK_BOOTTIME; 0 while it is not.
    pub since_ns: u64,
    /// Bits of [`known`].
    pub known: u64,
}

layout! {
    task_flags: "task_struct" "flags",
    task_tgid: "task_struct" "tgid",
    task_real_parent: "task_struct" "real_parent",
    task_group_leader: "task_struct" "group_leader",
    task_comm: "task_struct" "comm",
    task_cred: "task_struct" "cred",
    task_cgroups: "task_struct" "cgroups",
    task_files: "task_struct" "files",
    task_thread_info: "task_struct" "thread_info",
    thread_info_status: "thread_info" "status",
    cred_uid: "cred" "uid",
    css_set_dfl_cgrp: "css_set" "dfl_cgrp",
    cgroup_kn: "cgroup" "kn",
    kernfs_id: "kernfs_node" "id",
    files_fdt: "files_struct" "fdt",
    fdtable_max_fds: "fdtable" "max_fds",
    fdtable_fd: "fdtable" "fd",
    file_private_data: "file" "private_data",
    socket_state: "socket" "state",
    socket_sk: "socket" "sk",
    sock_cookie: "sock_common" "skc_cookie",
    sock_flags: "sock_common" "skc_flags",
    sock_protocol: "sock" "sk_protocol",
    sock_err: "sock" "sk_err",
    tcp_write_seq: "tcp_sock" "write_seq",
    regs_call: "pt_regs" "orig_ax",
    regs_first: "pt_regs" "di",
    regs_second: "pt_regs" "si",
}

/// What user space tells the programs of what is wanted.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Id of the cgroup that failed calls are narrowed to; 0 for none.
    pub scope: u64,
    /// How deep it is below the root.
    pub scope_level: u32,
    /// Kinds that are told, a bit each: 1 << [`kind`].
    pub kinds: u32,
    /// Whether the end of accept(2) is seen.
    pub sees_accept: u32,
    /// Number of connect(2).
    pub connect: u32,
    /// Of accept(2).
    pub accept: u32,
    /// Of accept4(2).
    pub accept4: u32,
}

impl Settings {
    /// Of who wants nothing.
    pub const EMPTY: Self = Self {
        scope: 0,
        scope_level: 0,
        kinds: 0,
        sees_accept: 0,
        connect: u32::MAX,
        accept: u32::MAX,
        accept4: u32::MAX,
    };
}

#[cfg(feature = "user")]
mod user {
    #![expect(unsafe_code, reason = "aya moves records in and out of the kernel as bytes")]

    use super::{Connection, Record, Settings};

    // SAFETY: repr(C), integers only, and no padding: 4 * 8 + 40 + 2 * 16 + 3 * 2 + 2 bytes.
    unsafe impl aya::Pod for Record {}
    // SAFETY: repr(C), integers only, and no padding: 40 + 8 + 8 bytes.
    unsafe impl aya::Pod for Connection {}
    // SAFETY: repr(C), integers only, and no padding: 8 + 6 * 4 bytes.
    unsafe impl aya::Pod for Settings {}
}
