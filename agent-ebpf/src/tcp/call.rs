//! The calls of processes: connect(2) that fails before there is anything to tell of the socket, and
//! accept(2) as the place where the process is known that takes a connection.

use crate::follow::follow;
use crate::kernel::{Address, layout, read, setting};
use crate::maps::{self, CALLS, CONNECTIONS, Call, PENDING};
use crate::owner;
use agent_records::mapped;
use agent_records::tcp::{Record, kind, known};
use aya_ebpf::bindings::BPF_EXIST;
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_task, bpf_ktime_get_boot_ns,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
/// `TS_COMPAT`, asm/thread_info.h: the call came by the 32-bit table, where numbers mean other calls.
const COMPAT: u32 = 2;
/// Of `socket.state`: neither connected nor about to be.
const SS_UNCONNECTED: u32 = 1;

/// At the begin of every call: so what is not wanted ends after a few instructions, here and below.
#[inline(always)]
pub fn begins(regs: Address, number: u64) {
    if number == u64::from(setting!(connect)) && !is_compat() {
        let (first, second) = (read(regs, layout!(regs_first)), read(regs, layout!(regs_second)));
        if let (Some(descriptor), Some(address)) = (first, second) {
            connect_begins(descriptor, address);
        }
    }
}

/// At the end of every call.
#[inline(always)]
pub fn ends(regs: Address, result: i64) {
    let Some(number) = read::<u64>(regs, layout!(regs_call)) else { return };
    let is = |call: u32| number == u64::from(call);
    if is(setting!(connect)) && !is_compat() {
        connect_ends(result);
    } else if (is(setting!(accept)) || is(setting!(accept4))) && !is_compat() {
        accept_ends(result);
    }
}

/// The running thread. The helper for its number is not there for `sock_ops` on all kernels.
#[inline(always)]
pub fn key() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_get_current_task() }
}

/// Remembers where a TCP socket that is not connected yet is to be connected to.
#[inline(always)]
pub fn connect_begins(descriptor: u64, address: u64) {
    let _ = note(descriptor as u32, address as Address);
}

#[inline(always)]
fn note(descriptor: u32, address: Address) -> Option<()> {
    if !in_scope() {
        return None;
    }
    let socket = socket(descriptor)?;
    let sock = follow(socket, layout!(socket_sk))?;
    if read::<u16>(sock, layout!(sock_protocol))? != IPPROTO_TCP
        || read::<u32>(socket, layout!(socket_state))? != SS_UNCONNECTED
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
fn target(address: Address) -> Option<([u8; 16], u16)> {
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
pub fn connect_ends(result: i64) {
    let Some(call) = CALLS.get_ptr(key()) else { return };
    // SAFETY: a checked pointer into a map's value, which only this thread uses.
    let call = unsafe { *call };
    let _ = CALLS.remove(key());
    if call.untold == 0 || result >= 0 || !is_failure(-result) {
        return;
    }
    let mut record = Record {
        // SAFETY: takes nothing.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        remote: call.remote,
        remote_port: call.remote_port,
        error: -result as u16,
        kind: kind::CONNECT,
        known: known::MAKER,
        ..Record::default()
    };
    owner::put(&mut record.owner);
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
pub fn accept_ends(result: i64) {
    if result >= 0 {
        let _ = taken(result as u32);
    }
}

#[inline(always)]
fn taken(descriptor: u32) -> Option<()> {
    let sock = follow(socket(descriptor)?, layout!(socket_sk))?;
    let cookie = read::<u64>(sock, layout!(sock_cookie))?;
    remember(cookie);
    tell(cookie)
}

/// Whose it is, for its end.
#[inline(never)]
fn remember(cookie: u64) {
    if let Some(mut connection) = maps::connection(cookie) {
        owner::put(&mut connection.owner);
        // It fails where the connection has ended meanwhile.
        let _ = CONNECTIONS.insert(cookie, connection, u64::from(BPF_EXIST));
    }
}

#[inline(always)]
fn tell(cookie: u64) -> Option<()> {
    let pending = PENDING.get_ptr(cookie)?;
    // SAFETY: a checked pointer into a map's value; good only if we are the one who removes it.
    let mut record = unsafe { *pending };
    PENDING.remove(cookie).ok()?;
    owner::put(&mut record.owner);
    // SAFETY: takes nothing.
    record.boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    maps::tell(&record);
    Some(())
}

/// The running process's socket of that descriptor, if it is one.
#[inline(always)]
fn socket(descriptor: u32) -> Option<Address> {
    // SAFETY: takes nothing.
    let task = unsafe { bpf_get_current_task() } as Address;
    let table = follow(follow(task, layout!(task_files))?, layout!(files_fdt))?;
    if descriptor >= read::<u32>(table, layout!(fdtable_max_fds))? {
        return None;
    }
    let files = follow(table, layout!(fdtable_fd))?;
    let file = follow(files.wrapping_add(8 * descriptor as usize), 0)?;
    follow(file, layout!(file_private_data))
}

#[inline(always)]
fn in_scope() -> bool {
    let (scope, level) = (setting!(scope), setting!(scope_level));
    // SAFETY: takes a number.
    scope == 0 || unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) } == scope
}

#[inline(always)]
fn is_compat() -> bool {
    // SAFETY: takes nothing.
    let task = unsafe { bpf_get_current_task() } as Address;
    let info = task.wrapping_add(layout!(task_thread_info) as usize);
    read::<u32>(info, layout!(thread_info_status)).is_none_or(|status| status & COMPAT != 0)
}
