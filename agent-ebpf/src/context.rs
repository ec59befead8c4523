//! A packet as a hook hands it over, so that reading, judging and telling are written once. It must not
//! know what is in the packet.

use agent_records::Tally;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::{TcContext, XdpContext};
use core::ptr::{addr_of, read_volatile};

/// A field of a `__sk_buff`. The verifier knows these loads one by one, so they must not be merged.
macro_rules! field {
    ($ctx:expr, $name:ident) => {
        // SAFETY: the kernel's own context, which has all of these.
        unsafe { read_volatile(addr_of!((*$ctx.skb.skb).$name)) }
    };
}

/// What a hook knows of a packet.
pub trait Context {
    /// Where the part that can be read begins.
    fn data(&self) -> usize;
    /// Where it ends.
    fn data_end(&self) -> usize;
    /// Index of the interface that it came in at.
    fn interface(&self) -> u32;
    /// How much it counts, whatever it is.
    fn size(&self) -> Tally;
    /// The same for an IP packet that says where it ends in the frame, and whose transport's payload
    /// begins at `payload`, or 0 where that is not known.
    fn packet_size(&self, end: usize, payload: usize) -> Tally;
}

impl Context for XdpContext {
    #[inline(always)]
    fn data(&self) -> usize {
        XdpContext::data(self)
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        XdpContext::data_end(self)
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.ingress_ifindex() as u32
    }

    /// With the fragments of a multi-buffer frame.
    #[inline(always)]
    fn size(&self) -> Tally {
        // SAFETY: the kernel's own context, passed through.
        Tally { packets: 1, bytes: unsafe { bpf_xdp_get_buff_len(self.as_ptr().cast()) } }
    }

    /// A call costs as much as everything else that is done for a packet that nobody is interested in,
    /// so only what may have fragments is asked for.
    #[inline(always)]
    fn packet_size(&self, end: usize, _payload: usize) -> Tally {
        let linear = self.data_end() - self.data();
        if linear < end || linear > MAX_WHOLE {
            self.size()
        } else {
            Tally { packets: 1, bytes: linear as u64 }
        }
    }
}

/// A frame whose linear part is no longer, and holds all of its packet, has no fragments: drivers fill
/// the first buffer, or put the headers alone there.
const MAX_WHOLE: usize = 1408;

/// The EtherType of a packet without an Ethernet header, as the interface knows it.
#[inline(always)]
pub fn ethertype(ctx: &TcContext) -> u16 {
    u16::from_be(field!(ctx, protocol) as u16)
}

impl Context for TcContext {
    #[inline(always)]
    fn data(&self) -> usize {
        TcContext::data(self)
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        TcContext::data_end(self)
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        field!(self, ifindex)
    }

    #[inline(always)]
    fn size(&self) -> Tally {
        self.packet_size(0, 0)
    }

    /// As it was on the wire: each packet that was merged into this one (GRO) had the headers, and the
    /// VLAN tag that was taken out was in the frame.
    #[inline(always)]
    fn packet_size(&self, _end: usize, payload: usize) -> Tally {
        let packets = u64::from(field!(self, gso_segs)).max(1);
        let tag = if field!(self, vlan_present) == 0 { 0 } else { VLAN_TAG };
        let merged = (payload as u64 + tag) * (packets - 1);
        Tally { packets, bytes: u64::from(field!(self, len)) + tag + merged }
    }
}

/// Makes the headers readable, where a driver left them in pages. What is farther away than that is
/// cut off to whoever reads, as it is behind the linear part of an XDP frame.
#[inline(always)]
pub fn pull(ctx: &TcContext) {
    let linear = TcContext::data_end(ctx) - TcContext::data(ctx);
    let len = field!(ctx, len);
    if linear < HEADERS as usize && linear < len as usize {
        // Without memory nothing changes, and the packet is judged by what is there.
        let _ = ctx.pull_data(len.min(HEADERS));
    }
}

const VLAN_TAG: u64 = 4;
/// Ethernet, two tags, IPv6 with some extension headers, and TCP; and what drivers copy at least.
const HEADERS: u32 = 128;
