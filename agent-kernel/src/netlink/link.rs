//! Links with their counters and XDP programs.

use super::{
    attribute::{address, attributes, header, link_address, text, u8, u32},
    names::{Links, Words, bits, word},
    request,
};
use crate::Error;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use nix::libc;
use std::{borrow::Cow, io};

/// One link (rtnetlink(7), RTM_NEWLINK). Words are those of ip-link(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// What it is, `veth`, `bridge`; none for plain hardware and loopback.
    pub kind: Option<String>,
    /// RFC 2863: `UP`, `DOWN`, `LOWERLAYERDOWN`, `UNKNOWN`.
    pub state: Cow<'static, str>,
    /// `UP`, `LOWER_UP`, `NO-CARRIER`.
    pub flags: Vec<&'static str>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Its link-layer address; an address of a tunnel that has none.
    pub mac: Option<String>,
    /// Name of the bridge, bond or VRF that it is a port of.
    pub master: Option<String>,
    /// Name of the link below it or of its peer, when that is in the same network namespace.
    pub link: Option<String>,
    /// Of a VLAN.
    pub vlan_id: Option<u16>,
    /// Programs on it.
    pub xdp: Vec<XdpProgram>,
    /// What it counted; `None` in an event.
    pub statistics: Option<Statistics>,
}

/// An XDP program on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpProgram {
    /// `xdp-native`, `xdp-generic`, `xdp-offload`.
    pub mode: &'static str,
    /// Its id.
    pub id: u32,
}

/// Counters of a link since it was made (linux/if_link.h, `struct rtnl_link_stats64`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received that were bad.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets received that there was no room for.
    pub rx_dropped: u64,
    /// Packets that there was no room for to send.
    pub tx_dropped: u64,
    /// Multicast packets received.
    pub multicast: u64,
    /// Collisions while sending.
    pub collisions: u64,
    /// Times that the carrier was lost or found; `None` where the kernel does not tell.
    pub carrier_changes: Option<u64>,
}

// Not in libc; linux/if_link.h.
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_VLAN_ID: u16 = 1;
const XDP_ATTACHED_SKB: u8 = 2;
const XDP_ATTACHED_HW: u8 = 3;
const XDP_ATTACHED_MULTI: u8 = 4;
const UP: u32 = 1;
const RUNNING: u32 = 0x40;
const STATES: Words = &[
    (0, "UNKNOWN"),
    (1, "NOTPRESENT"),
    (2, "DOWN"),
    (3, "LOWERLAYERDOWN"),
    (4, "TESTING"),
    (5, "DORMANT"),
    (6, "UP"),
];
/// linux/if.h. RUNNING is told by its absence, NO-CARRIER.
const FLAGS: Words = &[
    (0x8, "LOOPBACK"),
    (0x2, "BROADCAST"),
    (0x10, "POINTOPOINT"),
    (0x1000, "MULTICAST"),
    (0x80, "NOARP"),
    (0x200, "ALLMULTI"),
    (0x100, "PROMISC"),
    (0x400, "MASTER"),
    (0x800, "SLAVE"),
    (0x4, "DEBUG"),
    (0x8000, "DYNAMIC"),
    (0x4000, "AUTOMEDIA"),
    (0x2000, "PORTSEL"),
    (0x20, "NOTRAILERS"),
    (UP, "UP"),
    (0x1_0000, "LOWER_UP"),
    (0x2_0000, "DORMANT"),
    (0x4_0000, "ECHO"),
];
/// Types of links whose own address is an IP address (linux/if_arp.h).
const IP_TUNNELS: [u16; 5] = [768, 769, 776, 778, 823];

/// Every link, or the one of this name, read as they are taken. NotFound: no such link.
pub fn links(
    name: Option<String>,
) -> Result<impl Iterator<Item = Result<Link, Error>> + Send, Error> {
    let mut message = LinkMessage::default();
    let (answer, names) = match name {
        None => {
            let answer = request::raw_dump(&RouteNetlinkMessage::GetLink(message))?;
            let names = Links::of(&answer)?;
            (answer, names)
        }
        Some(name) => {
            let names = Links::read()?;
            message.header.index = names.index(&name)?;
            let answer = request::raw_one(&RouteNetlinkMessage::GetLink(message));
            (answer.map_err(|error| Error::io(request::OBJECT, error))?, names)
        }
    };
    Ok(answer.objects(move |payload| read(payload, &names).map(Some)))
}

/// What a message about a link tells of it, without counters; `None` for one that is not about the link
/// itself: a bridge tells of its ports, and a radio of its networks, in messages of the same type.
pub(super) fn told(payload: &[u8], names: &Links) -> io::Result<Option<Link>> {
    if payload.first().copied().map(i32::from) != Some(libc::AF_UNSPEC) {
        return Ok(None);
    }
    let (link, of_radio) = read_all(payload, names)?;
    Ok((!of_radio).then_some(Link { statistics: None, ..link }))
}

fn read(payload: &[u8], names: &Links) -> io::Result<Link> {
    read_all(payload, names).map(|(link, _)| link)
}

/// A link, and whether the message is about a radio's networks.
fn read_all(payload: &[u8], names: &Links) -> io::Result<(Link, bool)> {
    // `struct ifinfomsg`
    let (head, rest) = header(payload)?;
    let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..]: [u8; 16] = *head;
    let hardware = u16::from_ne_bytes([t0, t1]);
    let mut link = Link {
        name: String::new(),
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        kind: None,
        state: word(STATES, 0),
        flags: flag_words(u32::from_ne_bytes([f0, f1, f2, f3])),
        mtu: 0,
        mac: None,
        master: None,
        link: None,
        vlan_id: None,
        xdp: Vec::new(),
        statistics: None,
    };
    let (mut elsewhere, mut of_radio, mut carrier_changes) = (false, false, None);
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_OPERSTATE => link.state = word(STATES, u8(value)?.into()),
            libc::IFLA_MTU => link.mtu = u32(value)?,
            libc::IFLA_ADDRESS => link.mac = Some(own_address(hardware, value)?),
            libc::IFLA_MASTER => link.master = Some(names.name(u32(value)?)),
            libc::IFLA_LINK => {
                link.link = Some(u32(value)?).filter(|it| *it != 0).map(|it| names.name(it))
            }
            // Then the index is another namespace's.
            libc::IFLA_LINK_NETNSID => elsewhere = true,
            libc::IFLA_WIRELESS => of_radio = true,
            libc::IFLA_LINKINFO => read_info(value, &mut link)?,
            libc::IFLA_XDP => link.xdp = xdp(value)?,
            libc::IFLA_CARRIER_CHANGES => carrier_changes = Some(u64::from(u32(value)?)),
            libc::IFLA_STATS64 => link.statistics = Some(statistics(value)?),
            _ => {}
        }
    }
    if let Some(statistics) = &mut link.statistics {
        statistics.carrier_changes = carrier_changes;
    }
    if elsewhere {
        link.link = None;
    }
    Ok((link, of_radio))
}

/// IFLA_LINKINFO: what kind of link, and what only that kind has.
fn read_info(value: &[u8], link: &mut Link) -> io::Result<()> {
    let mut data: &[u8] = &[];
    for attribute in attributes(value) {
        match attribute? {
            (libc::IFLA_INFO_KIND, value) => link.kind = Some(text(value)),
            (libc::IFLA_INFO_DATA, value) => data = value,
            _ => {}
        }
    }
    if link.kind.as_deref() == Some("vlan") {
        for attribute in attributes(data) {
            if let (IFLA_VLAN_ID, value) = attribute? {
                let (id, _) = header(value)?;
                link.vlan_id = Some(u16::from_ne_bytes(*id));
            }
        }
    }
    Ok(())
}

fn flag_words(flags: u32) -> Vec<&'static str> {
    let no_carrier = flags & UP != 0 && flags & RUNNING == 0;
    no_carrier.then_some("NO-CARRIER").into_iter().chain(bits(FLAGS, flags)).collect()
}

fn own_address(hardware: u16, value: &[u8]) -> io::Result<String> {
    if IP_TUNNELS.contains(&hardware) {
        return Ok(address(value)?.to_string());
    }
    Ok(link_address(value))
}

/// IFLA_XDP: one program with its mode, or one for each mode.
fn xdp(value: &[u8]) -> io::Result<Vec<XdpProgram>> {
    let (native, generic, offload) = ("xdp-native", "xdp-generic", "xdp-offload");
    let mut attached = 0;
    let mut only = None;
    let mut programs = Vec::new();
    for attribute in attributes(value) {
        let (kind, value) = attribute?;
        let mode = match kind {
            IFLA_XDP_ATTACHED => {
                attached = u8(value)?;
                continue;
            }
            IFLA_XDP_PROG_ID => {
                only = Some(u32(value)?);
                continue;
            }
            IFLA_XDP_DRV_PROG_ID => native,
            IFLA_XDP_SKB_PROG_ID => generic,
            IFLA_XDP_HW_PROG_ID => offload,
            _ => continue,
        };
        programs.push(XdpProgram { mode, id: u32(value)? });
    }
    if let (Some(id), true) = (only, attached != XDP_ATTACHED_MULTI) {
        let mode = match attached {
            XDP_ATTACHED_SKB => generic,
            XDP_ATTACHED_HW => offload,
            _ => native,
        };
        programs = vec![XdpProgram { mode, id }];
    }
    Ok(programs)
}

fn statistics(value: &[u8]) -> io::Result<Statistics> {
    // The beginning of `struct rtnl_link_stats64`; later kernels have more at its end.
    let (counters, _): (&[u8; 80], _) = header(value)?;
    let (counters, _) = counters.as_chunks::<8>();
    let counter = |at: usize| counters.get(at).map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    Ok(Statistics {
        rx_packets: counter(0),
        tx_packets: counter(1),
        rx_bytes: counter(2),
        tx_bytes: counter(3),
        rx_errors: counter(4),
        tx_errors: counter(5),
        rx_dropped: counter(6),
        tx_dropped: counter(7),
        multicast: counter(8),
        collisions: counter(9),
        carrier_changes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Not every kernel has VLANs, as that of the tests.
    #[test]
    fn a_vlan_has_its_id() {
        let id = attribute(IFLA_VLAN_ID, &42u16.to_ne_bytes());
        let info =
            [attribute(libc::IFLA_INFO_KIND, b"vlan\0"), attribute(libc::IFLA_INFO_DATA, &id)];
        let payload = [vec![0; 16], attribute(libc::IFLA_LINKINFO, &info.concat())].concat();
        let link = read(&payload, &Links::default()).expect("a link");
        assert_eq!((link.kind.as_deref(), link.vlan_id), (Some("vlan"), Some(42)));
    }

    #[test]
    fn each_mode_can_have_a_program() {
        let id = |kind, id: u32| attribute(kind, &id.to_ne_bytes());
        let attached = |mode| attribute(IFLA_XDP_ATTACHED, &[mode]);
        let one =
            [attached(XDP_ATTACHED_SKB), id(IFLA_XDP_PROG_ID, 5), id(IFLA_XDP_SKB_PROG_ID, 5)];
        let program = |mode, id| XdpProgram { mode, id };
        assert_eq!(xdp(&one.concat()).expect("xdp"), [program("xdp-generic", 5)]);
        let both = [
            attached(XDP_ATTACHED_MULTI),
            id(IFLA_XDP_DRV_PROG_ID, 6),
            id(IFLA_XDP_SKB_PROG_ID, 7),
        ];
        let expected = [program("xdp-native", 6), program("xdp-generic", 7)];
        assert_eq!(xdp(&both.concat()).expect("xdp"), expected);
        assert_eq!(xdp(&attached(0)).expect("xdp"), []);
    }
}
