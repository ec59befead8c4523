//! Connections that the kernel tracks (linux/netfilter/nfnetlink_conntrack.h).

use super::{
    attribute::{address, attributes, be16, be32, be64, header, u8},
    family::Family,
    names::{Words, bits, word},
    request::{self, Question},
};
use crate::{Error, ErrorKind};
use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;
use std::{borrow::Cow, io, net::IpAddr};

/// Which connections.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFilter {
    /// Only of this family.
    pub family: Option<Family>,
    /// Only of this protocol of IP.
    pub protocol: Option<u8>,
    /// Only those that began there.
    pub src: Option<IpNet>,
    /// Only those that were meant to go there.
    pub dst: Option<IpNet>,
    /// Only with this port at either end, also after address translation.
    pub port: Option<u16>,
}

/// One tracked connection. Words are those of conntrack(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its family.
    pub family: Family,
    /// `tcp`, `udp`, `icmp`, or the number as text.
    pub protocol: Cow<'static, str>,
    /// `ESTABLISHED`, `TIME_WAIT`; of TCP and SCTP.
    pub state: Option<Cow<'static, str>>,
    /// As it began.
    pub original: Flow,
    /// What answers it look like.
    pub reply: Flow,
    /// How long it is remembered when nothing comes any more, seconds; none for one in hardware.
    pub timeout_seconds: Option<u32>,
    /// Its mark.
    pub mark: u32,
    /// Its zone.
    pub zone: u16,
    /// `SEEN_REPLY`, `ASSURED`.
    pub status: Vec<&'static str>,
    /// Its id.
    pub id: u32,
}

/// One direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where its packets come from.
    pub src: IpAddr,
    /// Where its packets go.
    pub dst: IpAddr,
    /// Of protocols with ports.
    pub src_port: Option<u16>,
    /// Of protocols with ports.
    pub dst_port: Option<u16>,
    /// Type of an ICMP query.
    pub icmp_type: Option<u8>,
    /// Code of an ICMP query.
    pub icmp_code: Option<u8>,
    /// Id of an ICMP query.
    pub icmp_id: Option<u16>,
    /// Where the host counts them.
    pub packets: Option<u64>,
    /// Where the host counts them.
    pub bytes: Option<u64>,
}

impl Flow {
    fn new(family: Family) -> Self {
        let unknown = family.unspecified();
        Self {
            src: unknown,
            dst: unknown,
            src_port: None,
            dst_port: None,
            icmp_type: None,
            icmp_code: None,
            icmp_id: None,
            packets: None,
            bytes: None,
        }
    }

    fn has_port(&self, port: u16) -> bool {
        self.src_port == Some(port) || self.dst_port == Some(port)
    }
}

const OBJECT: &str = "tracked connections";
/// Of subsystem 1, connection tracking, the message 1, IPCTNL_MSG_CT_GET.
const CT_GET: u16 = 0x0101;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
const PROTOCOLS: Words = &[
    (1, "icmp"),
    (2, "igmp"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "icmpv6"),
    (132, "sctp"),
    (136, "udplite"),
];
const TCP_STATES: Words = &[
    (0, "NONE"),
    (1, "SYN_SENT"),
    (2, "SYN_RECV"),
    (3, "ESTABLISHED"),
    (4, "FIN_WAIT"),
    (5, "CLOSE_WAIT"),
    (6, "LAST_ACK"),
    (7, "TIME_WAIT"),
    (8, "CLOSE"),
    (9, "SYN_SENT2"),
];
const SCTP_STATES: Words = &[
    (0, "NONE"),
    (1, "CLOSED"),
    (2, "COOKIE_WAIT"),
    (3, "COOKIE_ECHOED"),
    (4, "ESTABLISHED"),
    (5, "SHUTDOWN_SENT"),
    (6, "SHUTDOWN_RECD"),
    (7, "SHUTDOWN_ACK_SENT"),
    (8, "HEARTBEAT_SENT"),
];
/// linux/netfilter/nf_conntrack_common.h, `enum ip_conntrack_status`.
const STATUS: Words = &[
    (0x1, "EXPECTED"),
    (0x2, "SEEN_REPLY"),
    (0x4, "ASSURED"),
    (0x8, "CONFIRMED"),
    (0x10, "SRC_NAT"),
    (0x20, "DST_NAT"),
    (0x40, "SEQ_ADJUST"),
    (0x80, "SRC_NAT_DONE"),
    (0x100, "DST_NAT_DONE"),
    (0x200, "DYING"),
    (0x400, "FIXED_TIMEOUT"),
    (0x800, "TEMPLATE"),
    (0x1000, "NAT_CLASH"),
    (0x2000, "HELPER"),
    (0x4000, "OFFLOAD"),
    (0x8000, "HW_OFFLOAD"),
];

/// The number of a protocol of IP, from its word or its number. Invalid: neither.
pub fn ip_protocol(text: &str) -> Result<u8, Error> {
    let known = PROTOCOLS.iter().find(|(_, word)| word.eq_ignore_ascii_case(text));
    let number = known.and_then(|(number, _)| u8::try_from(*number).ok());
    number.or_else(|| text.parse().ok()).ok_or_else(|| {
        let words: Vec<_> = PROTOCOLS.iter().map(|(_, word)| *word).collect();
        let why = format!("must be a number to 255 or one of {}", words.join(", "));
        Error::new(ErrorKind::Invalid, crate::error::named("protocol", text), why)
    })
}

/// Every tracked connection of the calling thread's network namespace that the filter leaves, read as
/// they are taken. Unsupported: this kernel does not tell them.
pub fn connections(
    filter: ConnectionFilter,
) -> Result<impl Iterator<Item = Result<Connection, Error>> + Send, Error> {
    let keep = |payload: &[u8]| Ok(read(payload)?.is_some_and(|it| filter.keeps(&it)));
    let keep = filter.leaves_to_us().then_some(&keep as request::Keep);
    let answer = request::dump_kept(&question(filter.family), keep).map_err(known)?;
    Ok(answer.objects(|payload| Ok(read(payload)?.map(|(_, connection)| connection))))
}

/// `struct nfgenmsg`: the kernel itself leaves a family, and tells both for none.
fn question(family: Option<Family>) -> Question {
    let family = match family {
        None => libc::AF_UNSPEC,
        Some(Family::Inet) => libc::AF_INET,
        Some(Family::Inet6) => libc::AF_INET6,
    };
    let family = u8::try_from(family).expect("families are small numbers");
    Question { protocol: NETLINK_NETFILTER, kind: CT_GET, body: vec![family, 0, 0, 0] }
}

/// A kernel without connection tracking has no such netlink protocol, or finds the request invalid.
fn known(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported | ErrorKind::Invalid | ErrorKind::NotFound => {
            let why = "this kernel does not tell them: it has no nf_conntrack_netlink";
            let remedy = "load that module, or use a kernel with CONFIG_NF_CT_NETLINK";
            Error::new(ErrorKind::Unsupported, OBJECT, why).with_remedy(remedy)
        }
        ErrorKind::NoPermission => error.with_remedy("run as root, or give CAP_NET_ADMIN"),
        _ => error,
    }
}

impl ConnectionFilter {
    /// Whether it asks for more than the kernel itself filters.
    fn leaves_to_us(&self) -> bool {
        let Self { family: _, protocol, src, dst, port } = self;
        protocol.is_some() || src.is_some() || dst.is_some() || port.is_some()
    }

    fn keeps(&self, (protocol, connection): &(u8, Connection)) -> bool {
        let Flow { src, dst, .. } = &connection.original;
        let flows = [&connection.original, &connection.reply];
        self.protocol.is_none_or(|only| only == *protocol)
            && self.src.is_none_or(|prefix| prefix.contains(src))
            && self.dst.is_none_or(|prefix| prefix.contains(dst))
            && self.port.is_none_or(|port| flows.iter().any(|flow| flow.has_port(port)))
    }
}

/// The connection with its protocol's number.
fn read(payload: &[u8]) -> io::Result<Option<(u8, Connection)>> {
    let (nfgenmsg, rest): (&[u8; 4], _) = header(payload)?;
    let family = match i32::from(nfgenmsg[0]) {
        libc::AF_INET => Family::Inet,
        libc::AF_INET6 => Family::Inet6,
        // Bridges track neither.
        _ => return Ok(None),
    };
    let mut protocol = 0;
    let mut connection = Connection {
        family,
        protocol: Cow::Borrowed(""),
        state: None,
        original: Flow::new(family),
        reply: Flow::new(family),
        timeout_seconds: None,
        mark: 0,
        zone: 0,
        status: Vec::new(),
        id: 0,
    };
    for attribute in attributes(rest) {
        match attribute? {
            (CTA_TUPLE_ORIG, value) => protocol = tuple(value, &mut connection.original)?,
            (CTA_TUPLE_REPLY, value) => drop(tuple(value, &mut connection.reply)?),
            (CTA_STATUS, value) => connection.status = bits(STATUS, be32(value)?),
            (CTA_PROTOINFO, value) => connection.state = state(value)?,
            (CTA_TIMEOUT, value) => connection.timeout_seconds = Some(be32(value)?),
            (CTA_MARK, value) => connection.mark = be32(value)?,
            (CTA_COUNTERS_ORIG, value) => counters(value, &mut connection.original)?,
            (CTA_COUNTERS_REPLY, value) => counters(value, &mut connection.reply)?,
            (CTA_ID, value) => connection.id = be32(value)?,
            (CTA_ZONE, value) => connection.zone = be16(value)?,
            _ => {}
        }
    }
    connection.protocol = word(PROTOCOLS, protocol.into());
    Ok(Some((protocol, connection)))
}

/// Both ends of one direction; the number of the protocol.
fn tuple(value: &[u8], flow: &mut Flow) -> io::Result<u8> {
    const CTA_TUPLE_IP: u16 = 1;
    const CTA_TUPLE_PROTO: u16 = 2;
    let mut protocol = 0;
    for attribute in attributes(value) {
        match attribute? {
            (CTA_TUPLE_IP, value) => {
                for attribute in attributes(value) {
                    match attribute? {
                        // Of IPv4, of IPv6.
                        (1 | 3, value) => flow.src = address(value)?,
                        (2 | 4, value) => flow.dst = address(value)?,
                        _ => {}
                    }
                }
            }
            (CTA_TUPLE_PROTO, value) => {
                for attribute in attributes(value) {
                    match attribute? {
                        (1, value) => protocol = u8(value)?,
                        (2, value) => flow.src_port = Some(be16(value)?),
                        (3, value) => flow.dst_port = Some(be16(value)?),
                        // Of ICMP, of ICMPv6.
                        (4 | 7, value) => flow.icmp_id = Some(be16(value)?),
                        (5 | 8, value) => flow.icmp_type = Some(u8(value)?),
                        (6 | 9, value) => flow.icmp_code = Some(u8(value)?),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(protocol)
}

fn state(value: &[u8]) -> io::Result<Option<Cow<'static, str>>> {
    for attribute in attributes(value) {
        let (kind, value) = attribute?;
        let words = match kind {
            CTA_PROTOINFO_TCP => TCP_STATES,
            CTA_PROTOINFO_SCTP => SCTP_STATES,
            _ => continue,
        };
        for attribute in attributes(value) {
            if let (1, value) = attribute? {
                return Ok(Some(word(words, u8(value)?.into())));
            }
        }
    }
    Ok(None)
}

fn counters(value: &[u8], flow: &mut Flow) -> io::Result<()> {
    for attribute in attributes(value) {
        match attribute? {
            (1, value) => flow.packets = Some(be64(value)?),
            (2, value) => flow.bytes = Some(be64(value)?),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_track_says_what_is_missing() {
        for number in [libc::EPROTONOSUPPORT, libc::EINVAL, libc::EOPNOTSUPP] {
            let error = known(Error::io("netlink", io::Error::from_raw_os_error(number)));
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let text = "tracked connections: this kernel does not tell them: \
                it has no nf_conntrack_netlink";
            assert_eq!(error.to_string(), text);
            assert!(error.remedy().is_some_and(|it| it.contains("CONFIG_NF_CT_NETLINK")));
        }
        let denied = known(Error::io("netlink", io::Error::from_raw_os_error(libc::EPERM)));
        assert_eq!(denied.kind(), ErrorKind::NoPermission);
    }

    #[test]
    fn protocols_have_words_and_numbers() {
        assert_eq!(ip_protocol("tcp").expect("known"), 6);
        assert_eq!(ip_protocol("ICMPv6").expect("known"), 58);
        assert_eq!(ip_protocol("89").expect("a number"), 89);
        for text in ["", "256", "-1", "tpc"] {
            let error = ip_protocol(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn what_the_kernel_cut_short_is_no_connection() {
        assert!(read(&[2, 0, 0]).is_err());
        assert!(read(&[2, 0, 0, 0, 9, 0, 1, 0]).is_err());
        assert!(read(&[7, 0, 0, 0]).expect("whole").is_none());
        let (protocol, connection) = read(&[10, 0, 0, 0]).expect("whole").expect("one");
        assert_eq!((protocol, connection.family), (0, Family::Inet6));
    }
}
