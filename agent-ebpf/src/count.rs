//! Counters. Per-CPU ones need no atomics, because an XDP program is not interrupted by itself.

use crate::maps;
use agent_records::Tally;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;
use core::arch::asm;

/// Length of the whole frame, with the fragments of a multi-buffer frame.
#[inline(always)]
pub fn frame_bytes(ctx: &XdpContext) -> u64 {
    // SAFETY: the kernel's own context, passed through.
    unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) }
}

/// The same for an IP packet that says where it ends. A call costs as much as everything else that is
/// done for a packet that nobody is interested in, so only what may have fragments is asked for.
#[inline(always)]
pub fn packet_bytes(ctx: &XdpContext, end: usize) -> u64 {
    let linear = ctx.data_end() - ctx.data();
    if linear < end || linear > MAX_WHOLE { frame_bytes(ctx) } else { linear as u64 }
}

/// A frame whose linear part is no longer, and holds all of its packet, has no fragments: drivers fill
/// the first buffer, or put the headers alone there.
const MAX_WHOLE: usize = 1408;

/// Counts a verdict.
#[inline(always)]
pub fn verdict(index: u32, bytes: u64) {
    if let Some(tally) = maps::VERDICTS.get_ptr_mut(index) {
        add_own(tally, bytes);
    }
}

/// Counts an IP protocol.
#[inline(always)]
pub fn protocol(number: u8, bytes: u64) {
    if let Some(tally) = maps::PROTOCOLS.get_ptr_mut(u32::from(number)) {
        add_own(tally, bytes);
    }
}

/// Counts a hit of a rule.
#[inline(always)]
pub fn hit(slot: u32, bytes: u64) {
    if let Some(tally) = maps::HITS.get_ptr_mut(slot) {
        add_shared(tally, bytes);
    }
}

/// Counts a passed connection attempt.
#[inline(always)]
pub fn connection(port: u16) {
    if let Some(count) = maps::CONNECTIONS.get_ptr_mut(u32::from(port)) {
        // SAFETY: a checked pointer into a map's value.
        unsafe { atomic_add(count, 1) };
    }
}

#[inline(always)]
fn add_own(tally: *mut Tally, bytes: u64) {
    // SAFETY: a checked pointer into this CPU's own value.
    unsafe {
        (*tally).packets += 1;
        (*tally).bytes += bytes;
    }
}

/// Bytes first: whoever reads the packets before the bytes has the bytes of all those packets.
#[inline(always)]
pub fn add_shared(tally: *mut Tally, bytes: u64) {
    // SAFETY: a checked pointer into a map's value.
    unsafe {
        atomic_add(&raw mut (*tally).bytes, bytes);
        atomic_add(&raw mut (*tally).packets, 1);
    }
}

/// Counts a sighting that had no room.
#[inline(always)]
pub fn unsighted() {
    if let Some(count) = maps::UNSIGHTED.get_ptr_mut(0) {
        // SAFETY: a checked pointer into a map's value.
        unsafe { atomic_add(count, 1) };
    }
}

/// Counts an alarm that had no room.
#[inline(always)]
pub fn unalarmed() {
    if let Some(count) = maps::UNALARMED.get_ptr_mut(0) {
        // SAFETY: a checked pointer into a map's value.
        unsafe { atomic_add(count, 1) };
    }
}

/// `core` has no atomics for this target; the instruction has been there since the first eBPF.
///
/// # Safety
///
/// `target` points to an aligned value that is valid for writes.
#[inline(always)]
pub unsafe fn atomic_add(target: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) target, in(reg) value) };
}
