//! What routing netlink tells of a host: one file a noun.

mod addr;
mod link;
mod neigh;
mod route;
mod rule;

pub(crate) use addr::AddrView;
pub(crate) use link::LinkView;
pub(crate) use neigh::NeighView;
pub(crate) use route::RouteView;
pub(crate) use rule::RuleView;

use super::cell;
use kctl_proto::agent::v1 as pb;

/// As in ip(8).
fn family_name(family: pb::Family) -> &'static str {
    match family {
        pb::Family::Unspecified => "unknown",
        pb::Family::Inet => "inet",
        pb::Family::Inet6 => "inet6",
    }
}

/// The tables that every host has, by name.
fn table_name(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        number => number.to_string(),
    }
}
