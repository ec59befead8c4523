//! Neighbours.

use super::{cell, family_name};
use crate::view::{read::Record, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NeighView {
    family: &'static str,
    interface: String,
    address: String,
    mac: Option<String>,
    state: String,
    flags: Vec<String>,
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

impl Record for NeighView {
    const NOUN: &'static str = "neigh";
    const COLUMNS: &'static [&'static str] = &["ADDRESS", "INTERFACE", "MAC", "STATE", "FLAGS"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.interface.clone(),
            cell(self.mac.as_ref()),
            self.state.clone(),
            self.flags.join(","),
        ]
    }
}
