//! Addresses.

use super::{cell, family_name};
use crate::view::{read::Record, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AddrView {
    family: &'static str,
    interface: String,
    address: String,
    prefix_len: u32,
    scope: String,
    peer: Option<String>,
    broadcast: Option<String>,
    label: Option<String>,
    flags: Vec<String>,
    /// `None` is forever, here and below.
    valid_seconds: Option<u32>,
    preferred_seconds: Option<u32>,
}

impl From<pb::Addr> for AddrView {
    fn from(addr: pb::Addr) -> Self {
        Self {
            family: family_name(addr.family()),
            interface: addr.interface,
            address: addr.address,
            prefix_len: addr.prefix_len,
            scope: addr.scope,
            peer: some(addr.peer),
            broadcast: some(addr.broadcast),
            label: some(addr.label),
            flags: addr.flags,
            valid_seconds: addr.valid_seconds,
            preferred_seconds: addr.preferred_seconds,
        }
    }
}

impl Record for AddrView {
    const NOUN: &'static str = "addrs";
    const COLUMNS: &'static [&'static str] = &["INTERFACE", "ADDRESS", "SCOPE", "PEER", "FLAGS"];
    const WIDE_COLUMNS: &'static [&'static str] = &["BROADCAST", "LABEL", "VALID S", "PREFERRED S"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.interface.clone(),
            format!("{}/{}", self.address, self.prefix_len),
            self.scope.clone(),
            cell(self.peer.as_ref()),
            self.flags.join(","),
            cell(self.broadcast.as_ref()),
            cell(self.label.as_ref()),
            cell(self.valid_seconds),
            cell(self.preferred_seconds),
        ]
    }
}
