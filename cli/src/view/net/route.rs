//! Routes.

use super::{cell, family_name, table_name};
use crate::view::{read::Record, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RouteView {
    family: &'static str,
    dst: String,
    #[serde(rename = "type")]
    kind: String,
    table: u32,
    protocol: String,
    scope: String,
    metric: Option<u32>,
    gateway: Option<String>,
    interface: Option<String>,
    prefsrc: Option<String>,
    src: Option<String>,
    flags: Vec<String>,
    nexthops: Vec<NextHopView>,
    nexthop_id: Option<u32>,
}

/// One way of a multipath route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct NextHopView {
    gateway: Option<String>,
    interface: Option<String>,
    weight: u32,
    flags: Vec<String>,
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

impl Record for RouteView {
    const NOUN: &'static str = "routes";
    const COLUMNS: &'static [&'static str] =
        &["DESTINATION", "TYPE", "GATEWAY", "INTERFACE", "METRIC", "PROTOCOL", "TABLE"];
    const WIDE_COLUMNS: &'static [&'static str] = &["SCOPE", "PREFSRC", "SRC", "FLAGS"];

    fn cells(&self) -> Vec<String> {
        let hops = |of: fn(&NextHopView) -> &Option<String>, own: &Option<String>| {
            let hops = self.nexthops.iter().map(|hop| of(hop).as_deref().unwrap_or("-"));
            own.as_deref().into_iter().chain(hops).collect::<Vec<_>>().join(",")
        };
        let default = self.dst == "0.0.0.0/0" || self.dst == "::/0";
        vec![
            if default { "default".to_owned() } else { self.dst.clone() },
            self.kind.clone(),
            hops(|hop| &hop.gateway, &self.gateway),
            hops(|hop| &hop.interface, &self.interface),
            cell(self.metric),
            self.protocol.clone(),
            table_name(self.table),
            self.scope.clone(),
            cell(self.prefsrc.as_ref()),
            cell(self.src.as_ref()),
            self.flags.join(","),
        ]
    }
}
