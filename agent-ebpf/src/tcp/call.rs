//! The calls of processes: connect(2) that fails before there is anything to tell of the socket, and
//! accept(2) as the place where the process is known that takes a connection.

use crate::kernel::{follow, read};
use crate::maps::{self, CALLS, CONNECTIONS, Call, PENDING};
use crate::owner;
use agent_records::mapped;
use agent_records::tcp::{Record, kind, known, member};
use aya_ebpf::bindings::BPF_EXIST;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_task, bpf_ktime_get_boot_ns,
};
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};
use aya_ebpf::programs::TracePointContext;
use core::ptr::{addr_of, read_volatile};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
/// Of `socket.state`: neither connected nor about to be.
const SS_UNCONNECTED: u32 = 1;
/// Where the arguments of a call, or its result, lie in a record of a tracepoint.
const FIRST: usize = 16;
const SECOND: usize = 24;

/// The cgroup that failed calls are told of, and how deep it lies; id 0 is every cgroup. User space sets
/// them.
#[unsafe(no_mangle)]
static SCOPE_ID: u64 = 0;
#[unsafe(no_mangle)]
static SCOPE_LEVEL: u64 = 0;

/// The running thread. The helper for its number is not there for `sock_ops` on all kernels.
#[inline(always)]
pub fn key() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_task() }
}

/// Remembers where a TCP socket that is not connected yet is to be connected to.
#[inline(always)]
pub fn connect_begins(context: &TracePointContext) {
    let _ = begun(context);
}

#[inline(always)]
fn begun(context: &TracePointContext) -> Option<()> {
    let descriptor = argument(context, FIRST)?;
    let address = argument(context, SECOND)? as *const u8;
    if !in_scope() {
        return None;
    }
    let socket = socket(descriptor)?;
    let sock = follow(socket, member::SOCKET_SK)?;
    if read::<u16>(sock, member::SOCK_PROTOCOL)? != IPPROTO_TCP
        || read::<u32>(socket, member::SOCKET_STATE)? != SS_UNCONNECTED
    {
        return None;
    }
    let (remote, remote_port) = target(address)?;
    let call = Call { sock: sock as u64, remote, remote_port, untold: 1, zero: 0 };
    if CALLS.insert(key(), call, 0).is_err() {
        maps::count_untracked();
    }
    Some(())
}

/// The address that connect(2) is given: `struct sockaddr_in` and `struct sockaddr_in6`.
#[inline(always)]
fn target(address: *const u8) -> Option<([u8; 16], u16)> {
    // SAFETY: the helper checks the address, here and below.
    let [low, high, port_high, port_low] =
        unsafe { bpf_probe_read_user(address.cast::<[u8; 4]>()) }.ok()?;
    let port = u16::from_be_bytes([port_high, port_low]);
    match u16::from_ne_bytes([low, high]) {
        AF_INET => {
            let bytes = unsafe { bpf_probe_read_user(address.wrapping_add(4).cast::<[u8; 4]>()) };
            Some((mapped(bytes.ok()?), port))
        }
        AF_INET6 => {
            let bytes = unsafe { bpf_probe_read_user(address.wrapping_add(8).cast::<[u8; 16]>()) };
            Some((bytes.ok()?, port))
        }
        _ => None,
    }
}

/// Tells a call that failed, if nobody else did.
#[inline(always)]
pub fn connect_ends(context: &TracePointContext) {
    let thread = key();
    let Some(call) = CALLS.get_ptr(thread) else { return };
    // SAFETY: a checked pointer into a map's value, which only this thread uses.
    let call = unsafe { *call };
    let _ = CALLS.remove(thread);
    let result = argument(context, FIRST).unwrap_or(0) as i64;
    if call.untold == 0 || result >= 0 || !is_failure(-result) {
        return;
    }
    let mut record = Record {
        // SAFETY: a helper without arguments.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        remote: call.remote,
        remote_port: call.remote_port,
        error: -result as u16,
        kind: kind::CONNECT,
        known: known::MAKER,
        ..Record::default()
    };
    if owner::current(&mut record.owner) {
        record.known |= known::OWNER;
    }
    maps::tell(&record);
}

/// Whether an error says that no connection can be made, and not that the call makes no sense or goes on.
#[inline(always)]
fn is_failure(error: i64) -> bool {
    const EINTR: i64 = 4;
    const EFAULT: i64 = 14;
    const EAFNOSUPPORT: i64 = 97;
    const EISCONN: i64 = 106;
    const EALREADY: i64 = 114;
    const EINPROGRESS: i64 = 115;
    // From there on the kernel's own, for calls that go on after a signal.
    const ERESTARTSYS: i64 = 512;
    !matches!(error, EINTR | EFAULT | EAFNOSUPPORT | EISCONN | EALREADY | EINPROGRESS)
        && error < ERESTARTSYS
}

/// Tells a connection that a process has taken.
#[inline(always)]
pub fn accept_ends(context: &TracePointContext) {
    let _ = accepted(context);
}

#[inline(always)]
fn accepted(context: &TracePointContext) -> Option<()> {
    let descriptor = argument(context, FIRST)?;
    if (descriptor as i64) < 0 {
        return None;
    }
    let sock = follow(socket(descriptor)?, member::SOCKET_SK)?;
    let cookie = read::<u64>(sock, member::SOCK_COOKIE)?;
    remember(cookie);
    tell(cookie)
}

/// Whose it is, for its end.
#[inline(never)]
fn remember(cookie: u64) {
    let Some(mut connection) = maps::connection(cookie) else { return };
    if owner::current(&mut connection.owner) {
        connection.known |= u64::from(known::OWNER);
        // It fails where the connection has ended meanwhile.
        let _ = CONNECTIONS.insert(cookie, connection, u64::from(BPF_EXIST));
    }
}

#[inline(always)]
fn tell(cookie: u64) -> Option<()> {
    let pending = PENDING.get_ptr(cookie)?;
    // SAFETY: a checked pointer into a map's value; good only if we are the one who removes it.
    let mut record = unsafe { *pending };
    if PENDING.remove(cookie).is_err() {
        return None;
    }
    if owner::current(&mut record.owner) {
        record.known |= known::OWNER;
    }
    // SAFETY: a helper without arguments.
    record.boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    maps::tell(&record);
    Some(())
}

#[inline(always)]
fn argument(context: &TracePointContext, place: usize) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { context.read_at::<u64>(place) }.ok()
}

/// The running process's socket of that descriptor, if it is one.
#[inline(always)]
fn socket(descriptor: u64) -> Option<*const u8> {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let table = follow(follow(task, member::TASK_FILES)?, member::FILES_STRUCT_FDT)?;
    let descriptor = u64::from(descriptor as u32);
    if descriptor >= u64::from(read::<u32>(table, member::FDTABLE_MAX_FDS)?) {
        return None;
    }
    let files = follow(table, member::FDTABLE_FD)?;
    // SAFETY: the helper checks the address.
    let file =
        unsafe { bpf_probe_read_kernel(files.wrapping_add(descriptor as usize * 8).cast::<u64>()) };
    let file = file.ok().filter(|file| *file != 0)? as *const u8;
    follow(file, member::FILE_PRIVATE_DATA)
}

#[inline(always)]
fn in_scope() -> bool {
    // SAFETY: statics of ours; volatile, because user space has set them since.
    let (id, level) =
        unsafe { (read_volatile(addr_of!(SCOPE_ID)), read_volatile(addr_of!(SCOPE_LEVEL))) };
    // SAFETY: a helper with a number.
    id == 0 || unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) } == id
}
