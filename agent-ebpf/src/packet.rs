//! Reading a frame: Ethernet, VLAN tags, IP, and as much of the transport as the rules ask for.
//!
//! It is lenient: lengths and checksums that the stack verifies are not looked at, and whatever has
//! a readable source address is judged. It must not know the rules.

use crate::context::Context;
use crate::family::{Family, V4, V6};
use agent_records::{TCP, UDP};
use core::arch::asm;
use core::ptr::read_unaligned;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const MAX_VLAN_TAGS: usize = 2;
const MAX_EXTENSION_HEADERS: usize = 8;
const ICMPV6: u8 = 58;
const TCP_SYN: u16 = 0x02;
const TCP_ACK: u16 = 0x10;
/// In the place of flags that can't be read.
const NO_FLAGS: u16 = 0x100;

/// A frame.
pub enum Frame {
    /// IPv4.
    V4(Packet<V4>),
    /// IPv6.
    V6(Packet<V6>),
    /// Not IP.
    Other,
    /// No source address can be read.
    Malformed,
}

/// An IP packet.
pub struct Packet<F: Family> {
    /// Source address.
    pub source: F::Address,
    /// Where its header begins in the frame.
    pub start: usize,
    /// Where it says that it ends in the frame.
    pub end: usize,
    /// What it carries.
    pub transport: Transport,
}

/// How much of the transport is known.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP or UDP with its ports.
    Ports,
    /// TCP or UDP whose ports are elsewhere (a later fragment) or cut off.
    Opaque,
    /// The chain of IPv6 extension headers is too long or cut off, or goes on in another fragment.
    Unknown,
    /// Another protocol.
    Other,
    /// The same: IPv6 neighbour or router discovery from this very link (RFC 4861).
    Neighbour,
}

/// What an IP packet carries.
pub struct Transport {
    /// How much is known.
    pub kind: Kind,
    /// IP protocol number; of an unknown one the last that could be read.
    pub protocol: u8,
    /// Source port and below it destination port, where there are ports; else 0.
    pub ports: u32,
    /// The flags byte of a TCP header; [`NO_FLAGS`] where there is none, or none to read.
    flags: u16,
    /// Where the payload of TCP or UDP begins in the frame, where there are ports; else 0.
    pub payload: usize,
}

impl Transport {
    #[inline(always)]
    fn bare(kind: Kind, protocol: u8) -> Self {
        Self { kind, protocol, ports: 0, flags: NO_FLAGS, payload: 0 }
    }

    #[inline(always)]
    fn fragment(protocol: u8) -> Self {
        if protocol == TCP || protocol == UDP {
            Self::bare(Kind::Opaque, protocol)
        } else {
            Self::bare(Kind::Other, protocol)
        }
    }

    #[inline(always)]
    fn read(ctx: &impl Context, offset: usize, protocol: u8) -> Self {
        // Nearly all packets are TCP with all that is asked for.
        let (ports, header, flags) = if protocol == TCP
            && let Some(start) = within(ctx, offset, 14)
        {
            // SAFETY: within the frame, as was just checked.
            let (ports, more) = unsafe { (load32::<0>(start), load16::<12>(start)) };
            (ports, usize::from(more as u8 >> 4) * 4, more >> 8)
        } else if protocol == TCP || protocol == UDP {
            let Some(start) = within(ctx, offset, 4) else {
                return Self::bare(Kind::Opaque, protocol);
            };
            // SAFETY: as above.
            (unsafe { load32::<0>(start) }, if protocol == UDP { 8 } else { 0 }, NO_FLAGS)
        } else {
            return Self::bare(Kind::Other, protocol);
        };
        let (kind, ports, payload) = (Kind::Ports, u32::from_be(ports), offset + header);
        Self { kind, protocol, ports, flags, payload }
    }

    /// Source port, where there are ports.
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// Destination port, where there are ports.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        self.ports as u16
    }

    /// A TCP connection attempt: SYN without ACK.
    #[inline(always)]
    pub fn syn(&self) -> bool {
        self.flags & (TCP_SYN | TCP_ACK | NO_FLAGS) == TCP_SYN
    }

    /// The flags byte of a TCP header.
    #[inline(always)]
    pub fn flags(&self) -> Option<u8> {
        if self.flags == NO_FLAGS { None } else { Some(self.flags as u8) }
    }
}

/// Reads a frame.
#[inline(always)]
pub fn parse(ctx: &impl Context) -> Frame {
    let Some(start) = within(ctx, 0, 14) else { return Frame::Malformed };
    // SAFETY: within the frame, as was just checked.
    let mut ethertype = u16::from_be(unsafe { load16::<12>(start) });
    let mut offset = 14;
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
            break;
        }
        let Some(inner) = read_u16(ctx, offset + 2) else { return Frame::Malformed };
        ethertype = inner;
        offset += 4;
    }
    parse_network(ctx, ethertype, offset)
}

/// Reads a packet of a protocol that begins there in the frame.
#[inline(always)]
pub fn parse_network(ctx: &impl Context, ethertype: u16, offset: usize) -> Frame {
    match ethertype {
        ETHERTYPE_IPV4 => parse_v4(ctx, offset).map_or(Frame::Malformed, Frame::V4),
        ETHERTYPE_IPV6 => parse_v6(ctx, offset).map_or(Frame::Malformed, Frame::V6),
        _ => Frame::Other,
    }
}

/// RFC 791, 3.1
#[inline(always)]
fn parse_v4(ctx: &impl Context, offset: usize) -> Option<Packet<V4>> {
    let header = within(ctx, offset, 20)?;
    // SAFETY: within the header, here and below.
    let first = unsafe { load16::<0>(header) };
    let header_len = usize::from(first as u8 & 0x0f) * 4;
    if first as u8 >> 4 != 4 || header_len < 20 {
        return None;
    }
    // The last byte of the options.
    read::<u8>(ctx, offset + header_len - 1)?;
    // SAFETY: as above.
    let (fragment, protocol, source) =
        unsafe { (load16::<6>(header), load16::<8>(header) >> 8, load32::<12>(header)) };
    let (source, protocol) = (u32::from_be(source), protocol as u8);
    let transport = if u16::from_be(fragment) & 0x1fff == 0 {
        Transport::read(ctx, offset + header_len, protocol)
    } else {
        Transport::fragment(protocol)
    };
    // SAFETY: as above.
    let end = offset + usize::from(u16::from_be(unsafe { load16::<2>(header) }));
    Some(Packet { source, start: offset, end, transport })
}

/// RFC 8200, 3
#[inline(always)]
fn parse_v6(ctx: &impl Context, offset: usize) -> Option<Packet<V6>> {
    let header = within(ctx, offset, 40)?;
    // SAFETY: within the header.
    let (start, high, low) =
        unsafe { (load64::<0>(header), load64::<8>(header), load64::<16>(header)) };
    let start = start.to_ne_bytes();
    if start[0] >> 4 != 6 {
        return None;
    }
    let source = (u64::from_be(high), u64::from_be(low));
    let transport = walk(ctx, offset + 40, start[6], start[7]);
    // A jumbogram says 0 (RFC 2675), and is not looked at any closer.
    let payload = u16::from_be_bytes([start[4], start[5]]);
    let end = if payload == 0 { usize::MAX } else { offset + 40 + usize::from(payload) };
    Some(Packet { source, start: offset, end, transport })
}

/// Follows the extension headers (RFC 8200, 4; RFC 7045) to the transport.
#[inline(always)]
fn walk(ctx: &impl Context, start: usize, first: u8, hop_limit: u8) -> Transport {
    if first == TCP || first == UDP {
        return Transport::read(ctx, start, first);
    }
    let (mut offset, mut next) = (start, first);
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(next) {
            break;
        }
        offset = bounded(offset);
        let Some(header) = read::<[u8; 2]>(ctx, offset) else {
            return Transport::bare(Kind::Unknown, next);
        };
        let units = usize::from(header[1]);
        offset += match next {
            FRAGMENT => {
                let Some(place) = read_u16(ctx, offset + 2) else {
                    return Transport::bare(Kind::Unknown, next);
                };
                if place >> 3 != 0 {
                    return if is_extension(header[0]) {
                        Transport::bare(Kind::Unknown, header[0])
                    } else {
                        Transport::fragment(header[0])
                    };
                }
                8
            }
            AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        next = header[0];
    }
    if is_extension(next) {
        return Transport::bare(Kind::Unknown, next);
    }
    offset = bounded(offset);
    let mut transport = Transport::read(ctx, offset, next);
    if next == ICMPV6 && hop_limit == 255 && matches!(read::<u8>(ctx, offset), Some(133..=136)) {
        transport.kind = Kind::Neighbour;
    }
    transport
}

const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6.
#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | FRAGMENT | AUTHENTICATION | 60 | 135 | 139 | 140)
}

#[inline(always)]
fn read_u16(ctx: &impl Context, offset: usize) -> Option<u16> {
    let start = within(ctx, offset, 2)?;
    // SAFETY: within the frame, as was just checked.
    Some(u16::from_be(unsafe { load16::<0>(start) }))
}

/// As it stands there.
#[inline(always)]
pub fn read32(ctx: &impl Context, offset: usize) -> Option<u32> {
    let start = within(ctx, offset, 4)?;
    // SAFETY: within the frame, as was just checked.
    Some(unsafe { load32::<0>(start) })
}

/// As it stands there.
#[inline(always)]
pub fn read64(ctx: &impl Context, offset: usize) -> Option<u64> {
    let start = within(ctx, offset, 8)?;
    // SAFETY: within the frame, as was just checked.
    Some(unsafe { load64::<0>(start) })
}

/// The place of some bytes of the frame, if it has them.
#[inline(always)]
fn within(ctx: &impl Context, offset: usize, bytes: usize) -> Option<usize> {
    let start = ctx.data() + offset;
    if start + bytes > ctx.data_end() { None } else { Some(start) }
}

/// Loads that the compiler would make of single bytes, because it knows no alignment, and with the place in
/// the instruction.
macro_rules! load {
    ($name:ident, $type:ty, $instruction:literal) => {
        /// # Safety
        ///
        /// The bytes are within the frame.
        #[inline(always)]
        unsafe fn $name<const OFFSET: usize>(start: usize) -> $type {
            let value: u64;
            // SAFETY: the caller's promise; the verifier checks it again.
            unsafe {
                asm!(
                    $instruction,
                    out(reg) value,
                    in(reg) start,
                    const OFFSET,
                    options(pure, readonly, nostack, preserves_flags)
                );
            }
            value as $type
        }
    };
}

load!(load16, u16, "{0} = *(u16 *)({1} + {2})");
load!(load32, u32, "{0} = *(u32 *)({1} + {2})");
load!(load64, u64, "{0} = *(u64 *)({1} + {2})");

/// Reads from the linear part of the frame; drivers put far more than headers there.
#[inline(always)]
fn read<T: Copy>(ctx: &impl Context, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the packet, as was just checked; the verifier checks it again.
    Some(unsafe { read_unaligned(start as *const T) })
}

/// Tells the verifier an upper bound, and forgets what led here: it would otherwise follow every
/// combination of extension headers. No chain of eight reaches the bound: 8 * 2048 bytes and a start.
#[inline(always)]
fn bounded(offset: usize) -> usize {
    let mut bounded = offset;
    // SAFETY: arithmetic on a register.
    unsafe { asm!("{0} &= 0x7fff", inout(reg) bounded) };
    bounded
}
