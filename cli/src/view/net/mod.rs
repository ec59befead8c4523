//! What netlink tells of a host: one file a noun.

mod addr;
mod connection;
mod link;
mod neigh;
mod route;
mod rule;
mod socket;
mod stats;

pub(crate) use connection::ConnectionView;
pub(crate) use rule::RuleView;
pub(crate) use socket::SocketView;
pub(crate) use stats::LinkStatsView;

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

/// An address with its port, if it has one: `10.0.0.5:22`, `[::1]:22`.
pub(super) fn end(address: &str, port: Option<u32>) -> String {
    match port {
        None => address.to_owned(),
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
    }
}
