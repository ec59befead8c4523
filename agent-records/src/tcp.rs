//! What the programs that watch TCP connections tell, and where the kernel keeps what they read.

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
    /// The process.
    pub const OWNER: u8 = 1;
    /// Which end made it.
    pub const MAKER: u8 = 1 << 1;
    /// The other end made it. Only with [`MAKER`].
    pub const ACCEPTED: u8 = 1 << 2;
    /// How many bytes were sent and acknowledged.
    pub const SENT: u8 = 1 << 3;
    /// How many bytes were received.
    pub const RECEIVED: u8 = 1 << 4;
    /// How long it was.
    pub const DURATION: u8 = 1 << 5;
}

/// The process that made or accepted a connection.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// Id of its cgroup in the unified hierarchy.
    pub cgroup_id: u64,
    /// Its name, ended by a zero.
    pub comm: [u8; 16],
    /// Process id in the kernel's first namespace.
    pub pid: u32,
    /// Of its parent.
    pub ppid: u32,
    /// Real user.
    pub uid: u32,
    /// Always 0.
    pub zero: u32,
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
    /// The process.
    pub owner: Owner,
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
    /// The process.
    pub owner: Owner,
    /// When it was made, nanoseconds of CLOCK_BOOTTIME; 0 while it is not.
    pub since_ns: u64,
    /// Bits of [`known`].
    pub known: u64,
}

/// What the programs read of the kernel's own structs: a struct and a member of it. User space finds
/// their places and sets them before the programs are loaded.
pub const MEMBERS: [(&str, &str); member::COUNT] = [
    ("task_struct", "flags"),
    ("task_struct", "tgid"),
    ("task_struct", "real_parent"),
    ("task_struct", "group_leader"),
    ("task_struct", "comm"),
    ("task_struct", "cred"),
    ("task_struct", "cgroups"),
    ("cred", "uid"),
    ("css_set", "dfl_cgrp"),
    ("cgroup", "kn"),
    ("kernfs_node", "id"),
    ("task_struct", "files"),
    ("files_struct", "fdt"),
    ("fdtable", "max_fds"),
    ("fdtable", "fd"),
    ("file", "private_data"),
    ("socket", "state"),
    ("socket", "sk"),
    ("sock_common", "skc_cookie"),
    ("sock", "sk_protocol"),
    ("sock", "sk_err"),
    ("sock_common", "skc_flags"),
    ("tcp_sock", "write_seq"),
];

/// Indexes into [`MEMBERS`].
pub mod member {
    /// `PF_*`, 4 bytes.
    pub const TASK_FLAGS: usize = 0;
    /// 4 bytes.
    pub const TASK_TGID: usize = 1;
    /// A task.
    pub const TASK_REAL_PARENT: usize = 2;
    /// A task.
    pub const TASK_GROUP_LEADER: usize = 3;
    /// 16 bytes.
    pub const TASK_COMM: usize = 4;
    /// A cred.
    pub const TASK_CRED: usize = 5;
    /// A css_set.
    pub const TASK_CGROUPS: usize = 6;
    /// 4 bytes.
    pub const CRED_UID: usize = 7;
    /// A cgroup.
    pub const CSS_SET_DFL_CGRP: usize = 8;
    /// A kernfs_node.
    pub const CGROUP_KN: usize = 9;
    /// 8 bytes.
    pub const KERNFS_NODE_ID: usize = 10;
    /// A files_struct.
    pub const TASK_FILES: usize = 11;
    /// An fdtable.
    pub const FILES_STRUCT_FDT: usize = 12;
    /// 4 bytes.
    pub const FDTABLE_MAX_FDS: usize = 13;
    /// An array of files.
    pub const FDTABLE_FD: usize = 14;
    /// Of a socket's file, a socket.
    pub const FILE_PRIVATE_DATA: usize = 15;
    /// 4 bytes.
    pub const SOCKET_STATE: usize = 16;
    /// A sock.
    pub const SOCKET_SK: usize = 17;
    /// 8 bytes.
    pub const SOCK_COOKIE: usize = 18;
    /// 2 bytes.
    pub const SOCK_PROTOCOL: usize = 19;
    /// 4 bytes.
    pub const SOCK_ERR: usize = 20;
    /// 8 bytes.
    pub const SOCK_FLAGS: usize = 21;
    /// 4 bytes.
    pub const TCP_SOCK_WRITE_SEQ: usize = 22;
    /// How many there are.
    pub const COUNT: usize = 23;
    /// Everything that tells the process.
    pub const OWNER: core::ops::RangeInclusive<usize> = TASK_FLAGS..=KERNFS_NODE_ID;
    /// Everything that tells the socket of a descriptor.
    pub const DESCRIPTOR: core::ops::RangeInclusive<usize> = TASK_FILES..=SOCK_PROTOCOL;
    /// A place that this kernel has not.
    pub const NOWHERE: u32 = u32::MAX;
}

#[cfg(feature = "user")]
mod user {
    #![expect(unsafe_code, reason = "aya moves records in and out of the kernel as bytes")]

    use super::{Connection, Record};

    // SAFETY: repr(C), integers only, and no padding: 4 * 8 + 40 + 2 * 16 + 3 * 2 + 2 bytes.
    unsafe impl aya::Pod for Record {}
    // SAFETY: repr(C), integers only, and no padding: 40 + 8 + 8 bytes.
    unsafe impl aya::Pod for Connection {}
}
