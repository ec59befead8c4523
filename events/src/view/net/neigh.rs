//! Neighbours.

use super::{family_name, some};
use kctl_proto::agent::v1 as pb;
use schemars::JsonSchema;
use serde::Serialize;

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Neigh")]
pub struct NeighView {
    /// "inet" or "inet6".
    pub family: &'static str,
    /// Of the link.
    pub interface: String,
    /// Its address.
    pub address: String,
    /// Its link-layer address.
    pub mac: Option<String>,
    /// "REACHABLE", "STALE", "FAILED".
    pub state: String,
    /// "router", "extern_learn".
    pub flags: Vec<String>,
}

impl From<pb::Neighbour> for NeighView {
    fn from(neighbour: pb::Neighbour) -> Self {
        Self {
            family: family_name(neighbour.family()),
            interface: neighbour.interface,
            address: neighbour.address,
            mac: some(neighbour.mac),
            state: neighbour.state,
            flags: neighbour.flags,
        }
    }
}
