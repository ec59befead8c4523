//! Routes.

use super::{family_name, some};
use kctl_proto::agent::v1 as pb;
use schemars::JsonSchema;
use serde::Serialize;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Route")]
pub struct RouteView {
    /// "inet" or "inet6".
    pub family: &'static str,
    /// Destination prefix.
    pub dst: String,
    /// "unicast", "local", "blackhole".
    #[serde(rename = "type")]
    pub kind: String,
    /// 254 is main, 255 local, 253 default.
    pub table: u32,
    /// Who made it: "kernel", "static", "ra".
    pub protocol: String,
    /// "global", "link", "host".
    pub scope: String,
    /// Lower wins.
    pub metric: Option<u32>,
    /// Next hop.
    pub gateway: Option<String>,
    /// Where it leads out.
    pub interface: Option<String>,
    /// Preferred source address.
    pub prefsrc: Option<String>,
    /// Source prefix that it is only for.
    pub src: Option<String>,
    /// "onlink", "linkdown", "dead".
    pub flags: Vec<String>,
    /// Of a multipath route.
    pub nexthops: Vec<NextHopView>,
    /// The nexthop object that it uses.
    pub nexthop_id: Option<u32>,
}

/// One way of a multipath route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "NextHop")]
pub struct NextHopView {
    /// Next hop.
    pub gateway: Option<String>,
    /// Where it leads out.
    pub interface: Option<String>,
    /// From 1 to 256.
    pub weight: u32,
    /// As of a route.
    pub flags: Vec<String>,
}

impl From<pb::Route> for RouteView {
    fn from(route: pb::Route) -> Self {
        Self {
            family: family_name(route.family()),
            dst: route.dst,
            kind: route.r#type,
            table: route.table,
            protocol: route.protocol,
            scope: route.scope,
            metric: route.metric,
            gateway: some(route.gateway),
            interface: some(route.interface),
            prefsrc: some(route.prefsrc),
            src: some(route.src),
            flags: route.flags,
            nexthops: route.nexthops.into_iter().map(NextHopView::from).collect(),
            nexthop_id: (route.nexthop_id != 0).then_some(route.nexthop_id),
        }
    }
}

impl From<pb::route::NextHop> for NextHopView {
    fn from(hop: pb::route::NextHop) -> Self {
        Self {
            gateway: some(hop.gateway),
            interface: some(hop.interface),
            weight: hop.weight,
            flags: hop.flags,
        }
    }
}
