//! Addresses.

use super::{family_name, some};
use kctl_proto::agent::v1 as pb;
use schemars::JsonSchema;
use serde::Serialize;

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Addr")]
pub struct AddrView {
    /// "inet" or "inet6".
    pub family: &'static str,
    /// Of the link.
    pub interface: String,
    /// The address.
    pub address: String,
    /// Length of its prefix, bits.
    pub prefix_len: u32,
    /// "global", "site", "link", "host", "nowhere".
    pub scope: String,
    /// The other end of a point-to-point link.
    pub peer: Option<String>,
    /// Of IPv4.
    pub broadcast: Option<String>,
    /// Of IPv4.
    pub label: Option<String>,
    /// As in ip-address(8).
    pub flags: Vec<String>,
    /// Null is forever, here and below.
    pub valid_seconds: Option<u32>,
    /// How long it is preferred still.
    pub preferred_seconds: Option<u32>,
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
