//! A route as the kernel tells it, in numbers: small enough to keep very many, and compared without
//! looking at a name. It must not know words.

use super::{
    attribute::{address, attributes, header, u32},
    family::Family,
    route::prefix,
};
use ipnet::IpNet;
use nix::libc;
use std::hash::{Hash, Hasher};
use std::{io, net::IpAddr};

/// What a route is found by. Several ways can have one key: routes that were appended, or one for each
/// link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) dst: IpNet,
    pub(super) src: Option<IpNet>,
    pub(super) table: u32,
    pub(super) metric: Option<u32>,
    tos: u8,
}

/// Where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) gateway: Option<IpAddr>,
    /// 0 for none.
    pub(super) interface: u32,
    pub(super) flags: u32,
    pub(super) kind: u8,
    pub(super) protocol: u8,
    pub(super) scope: u8,
    /// What few routes have.
    pub(super) rest: Option<Box<Rest>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) prefsrc: Option<IpAddr>,
    pub(super) hops: Vec<Hop>,
    pub(super) nexthop_id: Option<u32>,
}

/// One of several ways out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hop {
    pub(super) gateway: Option<IpAddr>,
    pub(super) interface: u32,
    pub(super) weight: u16,
    pub(super) flags: u8,
}

/// Not in libc; linux/rtnetlink.h.
const RTA_NH_ID: u16 = 30;

impl Key {
    pub(super) fn family(&self) -> Family {
        match self.dst {
            IpNet::V4(_) => Family::Inet,
            IpNet::V6(_) => Family::Inet6,
        }
    }
}

impl Hash for Key {
    /// Source and type of service are left out: few keys differ in them alone.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.dst {
            IpNet::V4(net) => {
                let address = u64::from(net.addr().to_bits());
                state.write_u64(address << 8 | u64::from(net.prefix_len()));
            }
            IpNet::V6(net) => {
                state.write_u128(net.addr().to_bits());
                state.write_u8(net.prefix_len());
            }
        }
        state.write_u64(u64::from(self.table) << 32 | u64::from(self.metric.unwrap_or_default()));
    }
}

impl Way {
    /// The ways out of a multipath route.
    pub(super) fn hops(&self) -> &[Hop] {
        self.rest.as_ref().map_or(&[], |rest| &rest.hops)
    }

    /// The ways out, of one that has one too; none where a route leads nowhere.
    pub(super) fn outs(&self) -> Vec<Hop> {
        match self.hops() {
            [] if self.interface == 0 && self.gateway.is_none() => Vec::new(),
            [] => vec![Hop {
                gateway: self.gateway,
                interface: self.interface,
                weight: 1,
                // Those of a hop are the lowest bits.
                flags: self.flags.to_le_bytes()[0],
            }],
            hops => hops.to_vec(),
        }
    }

    /// The same with these ways out, as the kernel tells it: a single one is no multipath.
    pub(super) fn through(&self, outs: Vec<Hop>) -> Self {
        let mut way = self.clone();
        match outs.as_slice() {
            [only] => {
                (way.gateway, way.interface) = (only.gateway, only.interface);
                way.flags = way.flags & !0xff | u32::from(only.flags);
                way.rest_mut().hops = Vec::new();
            }
            _ => way.rest_mut().hops = outs,
        }
        way.rest = way.rest.filter(|rest| **rest != Rest::default());
        way
    }

    fn rest_mut(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }
}

/// `None` for what is no route of a table but the cache's.
pub(super) fn read(family: Family, payload: &[u8]) -> io::Result<Option<(Key, Way)>> {
    // `struct rtmsg`
    let (head, rest) = header(payload)?;
    let [_family, dst_len, src_len, tos, table, protocol, scope, kind, f0, f1, f2, f3]: [u8; 12] =
        *head;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    if flags & libc::RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let dst = prefix(family.unspecified(), dst_len)?;
    let mut key = Key { dst, src: None, table: table.into(), metric: None, tos };
    let mut way = Way { gateway: None, interface: 0, flags, kind, protocol, scope, rest: None };
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            libc::RTA_DST => key.dst = prefix(address(value)?, dst_len)?,
            libc::RTA_SRC => key.src = Some(prefix(address(value)?, src_len)?),
            libc::RTA_TABLE => key.table = u32(value)?,
            libc::RTA_PRIORITY => key.metric = Some(u32(value)?),
            libc::RTA_OIF => way.interface = u32(value)?,
            libc::RTA_PREFSRC => way.rest_mut().prefsrc = Some(address(value)?),
            libc::RTA_MULTIPATH => way.rest_mut().hops = hops(value)?,
            RTA_NH_ID => way.rest_mut().nexthop_id = Some(u32(value)?),
            _ => way.gateway = gateway(kind, value)?.or(way.gateway),
        }
    }
    Ok(Some((key, way)))
}

fn gateway(kind: u16, value: &[u8]) -> io::Result<Option<IpAddr>> {
    match kind {
        libc::RTA_GATEWAY => address(value).map(Some),
        // `struct rtvia`: a family, then an address of it.
        libc::RTA_VIA => {
            let (_family, value): (&[u8; 2], _) = header(value)?;
            address(value).map(Some)
        }
        _ => Ok(None),
    }
}

fn hops(mut value: &[u8]) -> io::Result<Vec<Hop>> {
    let mut hops = Vec::new();
    while !value.is_empty() {
        // `struct rtnexthop`
        let ([l0, l1, flags, hops_less_one, i0, i1, i2, i3], _) = header(value)?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let whole = value.get(..length).unwrap_or_default();
        let (_, rest): (&[u8; 8], _) = header(whole)?;
        let mut hop = Hop {
            gateway: None,
            interface: u32::from_ne_bytes([*i0, *i1, *i2, *i3]),
            weight: u16::from(*hops_less_one) + 1,
            flags: *flags,
        };
        for attribute in attributes(rest) {
            let (kind, value) = attribute?;
            hop.gateway = gateway(kind, value)?.or(hop.gateway);
        }
        hops.push(hop);
        value = value.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}
