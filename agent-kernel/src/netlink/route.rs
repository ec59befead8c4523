//! Routes of every table.

use super::{
    family::{Answers, Family},
    names::{Links, Words, bits, word},
    way::{self, Hop, Key, Way},
};
use crate::Error;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use nix::libc;
use std::{borrow::Cow, io, net::IpAddr};

/// Which routes.
#[derive(Debug, Clone, Default)]
pub struct RouteFilter {
    /// Only of this family.
    pub family: Option<Family>,
    /// Only of this table.
    pub table: Option<u32>,
    /// Only through this interface.
    pub interface: Option<String>,
}

/// One route (rtnetlink(7), RTM_NEWROUTE). Words are those of ip-route(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its family.
    pub family: Family,
    /// Where it leads.
    pub dst: IpNet,
    /// Only for packets from there.
    pub src: Option<IpNet>,
    /// `unicast`, `blackhole`.
    pub kind: Cow<'static, str>,
    /// Its table.
    pub table: u32,
    /// Who made it, `kernel`, `static`.
    pub protocol: Cow<'static, str>,
    /// `global`, `link`.
    pub scope: Cow<'static, str>,
    /// Lower is preferred.
    pub metric: Option<u32>,
    /// Preferred source address.
    pub prefsrc: Option<IpAddr>,
    /// Next hop, perhaps of the other family.
    pub gateway: Option<IpAddr>,
    /// Name of the interface.
    pub interface: Option<String>,
    /// `onlink`, `linkdown`.
    pub flags: Vec<&'static str>,
    /// Of a multipath route, which has neither gateway nor interface itself.
    pub nexthops: Vec<NextHop>,
    /// Id of the nexthop object that it uses.
    pub nexthop_id: Option<u32>,
}

/// One of several ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Next hop, perhaps of the other family.
    pub gateway: Option<IpAddr>,
    /// Name of the interface.
    pub interface: Option<String>,
    /// Its share, from 1 to 256.
    pub weight: u16,
    /// `onlink`, `linkdown`.
    pub flags: Vec<&'static str>,
}

const KINDS: Words = &[
    (1, "unicast"),
    (2, "local"),
    (3, "broadcast"),
    (4, "anycast"),
    (5, "multicast"),
    (6, "blackhole"),
    (7, "unreachable"),
    (8, "prohibit"),
    (9, "throw"),
    (10, "nat"),
    (11, "xresolve"),
];
/// iproute2's etc/iproute2/rt_protos.
pub(super) const PROTOCOLS: Words = &[
    (0, "unspec"),
    (1, "redirect"),
    (2, "kernel"),
    (3, "boot"),
    (4, "static"),
    (8, "gated"),
    (9, "ra"),
    (10, "mrt"),
    (11, "zebra"),
    (12, "bird"),
    (13, "dnrouted"),
    (14, "xorp"),
    (15, "ntk"),
    (16, "dhcp"),
    (18, "keepalived"),
    (42, "babel"),
    (186, "bgp"),
    (187, "isis"),
    (188, "ospf"),
    (189, "rip"),
    (192, "eigrp"),
];
pub(super) const SCOPES: Words =
    &[(0, "global"), (200, "site"), (253, "link"), (254, "host"), (255, "nowhere")];
/// RTNH_F_ and RTM_F_ share one space.
const FLAGS: Words = &[
    (1, "dead"),
    (1 << 2, "onlink"),
    (1 << 1, "pervasive"),
    (1 << 3, "offload"),
    (1 << 6, "trap"),
    (libc::RTM_F_NOTIFY, "notify"),
    (1 << 4, "linkdown"),
    (1 << 5, "unresolved"),
    (1 << 14, "rt_offload"),
    (1 << 15, "rt_trap"),
    (1 << 29, "rt_offload_failed"),
];

/// Every route that the filter leaves, read as they are taken. NotFound: no such interface.
pub fn routes(
    filter: RouteFilter,
) -> Result<impl Iterator<Item = Result<Route, Error>> + Send, Error> {
    let links = Links::read()?;
    let through = filter.interface.as_deref().map(|name| links.index(name)).transpose()?;
    let answers =
        Answers::dump(filter.family, |family| dump_request(family, filter.table, through))?;
    Ok(answers.objects(move |family, payload| {
        let route = read(family, payload, &links)?;
        Ok(route.filter(|route| {
            filter.table.is_none_or(|table| table == route.table)
                && filter.interface.as_deref().is_none_or(|name| route.goes_through(name))
        }))
    }))
}

impl Route {
    /// The same in words.
    pub(super) fn of(key: &Key, way: &Way, links: &Links) -> Self {
        let name = |index: u32| (index != 0).then(|| links.name(index));
        let hop = |hop: &Hop| NextHop {
            gateway: hop.gateway,
            interface: name(hop.interface),
            weight: hop.weight,
            flags: bits(FLAGS, hop.flags.into()),
        };
        let rest = way.rest.as_deref();
        Self {
            family: key.family(),
            dst: key.dst,
            src: key.src,
            kind: word(KINDS, way.kind.into()),
            table: key.table,
            protocol: word(PROTOCOLS, way.protocol.into()),
            scope: word(SCOPES, way.scope.into()),
            metric: key.metric,
            prefsrc: rest.and_then(|rest| rest.prefsrc),
            gateway: way.gateway,
            interface: name(way.interface),
            flags: bits(FLAGS, way.flags),
            nexthops: way.hops().iter().map(hop).collect(),
            nexthop_id: rest.and_then(|rest| rest.nexthop_id),
        }
    }

    fn goes_through(&self, name: &str) -> bool {
        let hops = self.nexthops.iter().map(|hop| &hop.interface);
        hops.chain([&self.interface]).any(|interface| interface.as_deref() == Some(name))
    }
}

pub(super) fn dump_request(
    family: Family,
    table: Option<u32>,
    through: Option<u32>,
) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family.into();
    if let Some(table) = table {
        // The header's field is too small for most tables; the attribute counts.
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes.push(RouteAttribute::Table(table));
    }
    message.attributes.extend(through.map(RouteAttribute::Oif));
    RouteNetlinkMessage::GetRoute(message)
}

/// `None` for what is no route of a table but the cache's.
fn read(family: Family, payload: &[u8], links: &Links) -> io::Result<Option<Route>> {
    Ok(way::read(family, payload)?.map(|(key, way)| Route::of(&key, &way, links)))
}

pub(super) fn prefix(address: IpAddr, length: u8) -> io::Result<IpNet> {
    IpNet::new(address, length).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
