//! What becomes of a connection, as its socket's callbacks tell.
//!
//! They run under the socket's lock, so nothing here runs twice at a time for one socket. Each socket
//! asks for the callback on a change of its state when it is connected, so those that are older than
//! the program are not told of.

use crate::call;
use crate::kernel::{Address, layout, read, setting};
use crate::maps::{self, CALLS, CONNECTIONS, PENDING};
use crate::owner;
use agent_records::mapped;
use agent_records::tcp::{Connection, Record, kind, known};
use agent_records::trace::Process;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_skc_to_tcp_sock,
};
use aya_ebpf::programs::SockOpsContext;
use core::arch::asm;
use core::ffi::c_void;
use core::mem::offset_of;

const AF_INET6: u32 = 10;
/// The connection went away without an error of its own, which is what connect(2) answers then.
const ECONNABORTED: u16 = 103;
/// Of `sock.sk_flags`: the other end's FIN was taken in.
const SOCK_DONE: u64 = 1 << 1;

/// States of a socket, linux/tcp.h of the kernel.
mod state {
    pub const SYN_SENT: u32 = 2;
    pub const SYN_RECV: u32 = 3;
    pub const FIN_WAIT1: u32 = 4;
    pub const FIN_WAIT2: u32 = 5;
    pub const TIME_WAIT: u32 = 6;
    pub const CLOSE: u32 = 7;
    pub const LAST_ACK: u32 = 9;
    pub const LISTEN: u32 = 10;
    pub const CLOSING: u32 = 11;
}

/// Loads from the context. The kernel allows that at a place that is written into the instruction, and
/// the compiler would choose between two places first and load then.
macro_rules! load {
    ($context:expr, $size:literal, $place:expr) => {{
        let value: u64;
        // SAFETY: a field of the kernel's own context.
        unsafe {
            asm!(
                concat!("{value} = *(", $size, " *)({context} + {place})"),
                value = out(reg) value,
                context = in(reg) $context.ops,
                place = const $place,
            )
        };
        value
    }};
}

/// A field of four bytes, or one of an array of those.
macro_rules! word {
    ($context:expr, $field:ident) => {
        word!($context, $field, 0)
    };
    ($context:expr, $field:ident, $index:literal) => {
        load!($context, "u32", offset_of!(bpf_sock_ops, $field) + 4 * $index) as u32
    };
}

/// A field of eight bytes.
macro_rules! long {
    ($context:expr, $field:ident) => {
        load!($context, "u64", offset_of!(bpf_sock_ops, $field))
    };
}

#[inline(always)]
pub fn called(context: &SockOpsContext) {
    match word!(context, op) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => begins(context),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => made(context, false),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => made(context, true),
        // Its arguments are the states before and after.
        BPF_SOCK_OPS_STATE_CB if word!(context, __bindgen_anon_1, 1) == state::CLOSE => {
            closed(context, word!(context, __bindgen_anon_1, 0));
        }
        _ => {}
    }
}

/// In the task that connects.
#[inline(never)]
fn begins(context: &SockOpsContext) {
    ask_for_state(context);
    if let Some(call) = CALLS.get_ptr_mut(call::key()) {
        // SAFETY: a checked pointer into a map's value, which only this thread uses.
        unsafe { (*call).untold = 0 };
    }
    let mut connection = Connection { known: u64::from(known::MAKER), ..Connection::default() };
    owner::put(&mut connection.owner);
    remember(cookie(context), &connection);
}

#[inline(never)]
fn made(context: &SockOpsContext, passive: bool) {
    let cookie = cookie(context);
    let mut record = record(context, kind::CONNECT);
    if let Some(connection) = CONNECTIONS.get_ptr_mut(cookie) {
        // It begun here, also when both ends connect to each other at once and this one is passive.
        // SAFETY: a checked pointer into a map's value; before accept(2) only callbacks use it.
        unsafe {
            (*connection).since_ns = record.boot_ns;
            record.owner = (*connection).owner;
            record.known = (*connection).known as u8;
        }
        return maps::tell(&record);
    }
    // Before this program did, or by the other end.
    ask_for_state(context);
    record.known = known::MAKER;
    if passive {
        record.kind = kind::ACCEPT;
        record.known |= known::ACCEPTED;
    }
    let connection = Connection {
        owner: Process::default(),
        since_ns: record.boot_ns,
        known: u64::from(record.known),
    };
    remember(cookie, &connection);
    let waits = passive && setting!(sees_accept) != 0 && maps::wants(kind::ACCEPT);
    if waits && PENDING.insert(cookie, record, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    maps::tell(&record);
}

#[inline(never)]
fn closed(context: &SockOpsContext, before: u32) {
    if before == state::CLOSE || before == state::LISTEN {
        return;
    }
    let cookie = cookie(context);
    let connection = maps::connection(cookie);
    let _ = CONNECTIONS.remove(cookie);
    let mut record = record(context, kind::CLOSE);
    if let Some(connection) = connection {
        record.owner = connection.owner;
        record.known = connection.known as u8;
    }
    // Both ends may connect to each other at once.
    let never_made = connection.is_some_and(|connection| connection.since_ns == 0);
    if before == state::SYN_SENT || before == state::SYN_RECV && never_made {
        return failed(context, &mut record);
    }
    let Some(connection) = connection else {
        received(context, &mut record);
        return maps::tell(&record);
    };
    if connection.known as u8 & known::ACCEPTED != 0 {
        never_accepted(cookie, record.boot_ns);
    }
    if connection.since_ns != 0 {
        record.duration_ns = record.boot_ns - connection.since_ns;
        record.known |= known::DURATION;
    }
    sent(context, before, &mut record);
    received(context, &mut record);
    maps::tell(&record);
}

/// No connection came of it.
#[inline(always)]
fn failed(context: &SockOpsContext, record: &mut Record) {
    let Some(sock) = sock(context) else { return };
    let Some(error) = read::<u32>(sock, layout!(sock_err)) else { return };
    if error == 0 {
        // connect(2) gives it up itself and answers why, or somebody closes the socket meanwhile.
        if let Some(call) = CALLS.get_ptr_mut(call::key()) {
            // SAFETY: a checked pointer into a map's value, which only this thread uses.
            let call = unsafe { &mut *call };
            if call.sock == sock as u64 {
                call.untold = 1;
                return;
            }
        }
    }
    record.kind = kind::CONNECT;
    record.known |= known::MAKER;
    record.error = if error == 0 { ECONNABORTED } else { error as u16 };
    maps::tell(record);
}

/// Tells that a connection was made to here which no process has taken before it ended. With a stack of
/// its own, which is small.
#[inline(never)]
fn never_accepted(cookie: u64, now: u64) {
    let Some(pending) = PENDING.get_ptr(cookie) else { return };
    // SAFETY: a checked pointer into a map's value; good only if we are the one who removes it.
    let mut record = unsafe { *pending };
    if PENDING.remove(cookie).is_ok() {
        record.boot_ns = now;
        maps::tell(&record);
    }
}

/// The SYN of the end that connects and a FIN count as a byte each.
#[inline(always)]
fn sent(context: &SockOpsContext, before: u32, record: &mut Record) {
    let Some(sock) = sock(context) else { return };
    let Some(write_seq) = read::<u32>(sock, layout!(tcp_write_seq)) else { return };
    let syn = record.known & known::ACCEPTED == 0;
    let fin_is_sent = matches!(
        before,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::TIME_WAIT | state::LAST_ACK | state::CLOSING
    );
    let fin = fin_is_sent && write_seq == word!(context, snd_una);
    let sequence = long!(context, bytes_acked);
    record.sent_bytes = sequence.saturating_sub(u64::from(syn) + u64::from(fin));
    record.known |= known::SENT;
}

/// A FIN counts as a byte.
#[inline(always)]
fn received(context: &SockOpsContext, record: &mut Record) {
    let Some(sock) = sock(context) else { return };
    let Some(flags) = read::<u64>(sock, layout!(sock_flags)) else { return };
    let fin = flags & SOCK_DONE != 0;
    record.received_bytes = long!(context, bytes_received).saturating_sub(u64::from(fin));
    record.known |= known::RECEIVED;
}

#[inline(always)]
fn remember(cookie: u64, connection: &Connection) {
    if CONNECTIONS.insert(cookie, connection, 0).is_err() {
        maps::count_untracked();
    }
}

/// Beside whatever others asked for.
#[inline(always)]
fn ask_for_state(context: &SockOpsContext) {
    let flags = word!(context, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // It can't fail for a socket that gets this callback.
    let _ = context.set_cb_flags(flags as i32);
}

#[inline(always)]
fn cookie(context: &SockOpsContext) -> u64 {
    // SAFETY: the kernel's own context, passed through.
    unsafe { bpf_get_socket_cookie(context.as_ptr()) }
}

#[inline(always)]
fn sock(context: &SockOpsContext) -> Option<Address> {
    // The field `sk`.
    let sock = long!(context, __bindgen_anon_2) as *mut c_void;
    if sock.is_null() {
        return None;
    }
    // SAFETY: the kernel's own pointer, passed through.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sock) };
    (!tcp.is_null()).then_some(tcp.cast_const().cast())
}

/// With the addresses of the socket.
#[inline(always)]
fn record(context: &SockOpsContext, kind: u8) -> Record {
    let (local, remote) = if word!(context, family) == AF_INET6 {
        let local = [
            word!(context, local_ip6, 0),
            word!(context, local_ip6, 1),
            word!(context, local_ip6, 2),
            word!(context, local_ip6, 3),
        ];
        let remote = [
            word!(context, remote_ip6, 0),
            word!(context, remote_ip6, 1),
            word!(context, remote_ip6, 2),
            word!(context, remote_ip6, 3),
        ];
        (bytes(local), bytes(remote))
    } else {
        let (local, remote) = (word!(context, local_ip4), word!(context, remote_ip4));
        (mapped(local.to_ne_bytes()), mapped(remote.to_ne_bytes()))
    };
    Record {
        // SAFETY: takes nothing.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        local,
        remote,
        local_port: word!(context, local_port) as u16,
        // In network byte order, in the upper half.
        remote_port: u32::from_be(word!(context, remote_port)) as u16,
        kind,
        ..Record::default()
    }
}

/// Of words in network byte order.
#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: as long, and any bytes are valid for both.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) }
}
