//! Addresses of every link.

use super::{
    attribute::{address, attributes, header, text, u32},
    family::{Answers, Family},
    names::{Links, Words, bits, word},
    route::SCOPES,
};
use crate::Error;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use nix::libc;
use std::{borrow::Cow, io, net::IpAddr};

/// Which addresses.
#[derive(Debug, Clone, Default)]
pub struct AddrFilter {
    /// Only of this family.
    pub family: Option<Family>,
    /// Only of this interface.
    pub interface: Option<String>,
}

/// One address (rtnetlink(7), RTM_NEWADDR). Words are those of ip-address(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addr {
    /// Its family.
    pub family: Family,
    /// Name of the interface that has it.
    pub interface: String,
    /// The address itself.
    pub address: IpAddr,
    /// How many of its bits the link shares.
    pub prefix_len: u8,
    /// `global`, `link`, `host`.
    pub scope: Cow<'static, str>,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Broadcast address.
    pub broadcast: Option<IpAddr>,
    /// Label, of IPv4.
    pub label: Option<String>,
    /// `secondary`, `tentative`.
    pub flags: Vec<&'static str>,
    /// How long it is valid still; `None` is forever.
    pub valid_seconds: Option<u32>,
    /// How long it is preferred still; `None` is forever.
    pub preferred_seconds: Option<u32>,
}

/// Not in libc; linux/if_addr.h.
const IFA_FLAGS: u16 = 8;
const FOREVER: u32 = u32::MAX;
const PERMANENT: u32 = 0x80;
const SECONDARY: u32 = 0x01;
const FLAGS: Words = &[
    (0x02, "nodad"),
    (0x04, "optimistic"),
    (0x08, "dadfailed"),
    (0x10, "home"),
    (0x20, "deprecated"),
    (0x40, "tentative"),
    (0x100, "mngtmpaddr"),
    (0x200, "noprefixroute"),
    (0x400, "autojoin"),
    (0x800, "stable-privacy"),
];

/// Every address that the filter leaves, read as they are taken. NotFound: no such interface.
pub fn addrs(
    filter: AddrFilter,
) -> Result<impl Iterator<Item = Result<Addr, Error>> + Send, Error> {
    let links = Links::read()?;
    let index = filter.interface.map(|name| links.index(&name)).transpose()?;
    let answers = Answers::dump(filter.family, |family| dump_request(family, index))?;
    Ok(answers.objects(move |family, payload| read(family, payload, index, &links)))
}

pub(super) fn dump_request(family: Family, index: Option<u32>) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family.into();
    message.header.index = index.unwrap_or_default();
    RouteNetlinkMessage::GetAddress(message)
}

pub(super) fn read(
    family: Family,
    payload: &[u8],
    only: Option<u32>,
    links: &Links,
) -> io::Result<Option<Addr>> {
    // `struct ifaddrmsg`
    let (head, rest) = header(payload)?;
    let [_family, prefix_len, flags, scope, i0, i1, i2, i3]: [u8; 8] = *head;
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    if only.is_some_and(|only| only != index) {
        return Ok(None);
    }
    let mut addr = Addr {
        family,
        interface: links.name(index),
        address: family.unspecified(),
        prefix_len,
        scope: word(SCOPES, scope.into()),
        peer: None,
        broadcast: None,
        label: None,
        flags: Vec::new(),
        valid_seconds: None,
        preferred_seconds: None,
    };
    let mut flags = flags.into();
    let (mut own, mut shared) = (None, None);
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            libc::IFA_LOCAL => own = Some(address(value)?),
            libc::IFA_ADDRESS => shared = Some(address(value)?),
            libc::IFA_BROADCAST => addr.broadcast = Some(address(value)?),
            libc::IFA_LABEL => addr.label = Some(text(value)),
            libc::IFA_CACHEINFO => {
                // `struct ifa_cacheinfo`
                let (_, valid) = header::<4>(value)?;
                addr.preferred_seconds = Some(u32(value)?).filter(|it| *it != FOREVER);
                addr.valid_seconds = Some(u32(valid)?).filter(|it| *it != FOREVER);
            }
            // All of the header's and those that have no room there.
            IFA_FLAGS => flags = u32(value)?,
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL our own.
    addr.address = own.or(shared).unwrap_or(addr.address);
    addr.peer = own.and(shared).filter(|peer| *peer != addr.address);
    addr.flags = flag_words(family, flags);
    Ok(Some(addr))
}

fn flag_words(family: Family, flags: u32) -> Vec<&'static str> {
    let mut words = bits(FLAGS, flags);
    // One bit with two meanings, and one that is told by its absence.
    if flags & SECONDARY != 0 {
        words.push(if family == Family::Inet { "secondary" } else { "temporary" });
    }
    if flags & PERMANENT == 0 {
        words.push("dynamic");
    }
    words
}
