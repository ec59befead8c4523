//! Routing netlink: which interfaces, addresses and gateways the host has, and when that changes.
//! Everything is about the network namespace of the calling thread. It must not know the filter.

use crate::{Error, ErrorKind};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The address itself with its prefix length, host bits kept.
    pub net: IpNet,
    /// Whether its scope is global (rtnetlink(7), RT_SCOPE_UNIVERSE).
    pub global: bool,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// What it is, `veth`, `bridge`; none for plain hardware and loopback.
    pub kind: Option<String>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is a loopback.
    pub loopback: bool,
    /// Whether it is a port of a bridge.
    pub bridge_port: bool,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Id of the XDP program on it, ours or another's.
    pub xdp_program: Option<u32>,
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// An interface came, went or changed.
    Link,
    /// An address came or went.
    Addr,
    /// A route came or went.
    Route,
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "netlink", "not built in")
}

/// Every interface with its addresses.
pub async fn interfaces() -> Result<Vec<Interface>, Error> {
    Err(unsupported())
}

/// The gateways of the default routes of every table and both families.
pub async fn default_gateways() -> Result<BTreeSet<IpAddr>, Error> {
    Err(unsupported())
}

/// A subscription to changes.
#[derive(Debug)]
pub struct Watch(());

impl Watch {
    /// Subscribes; what changes from now on is told.
    pub fn open() -> Result<Self, Error> {
        Err(unsupported())
    }

    /// The next changes, all that wait at once. Where the kernel lost some, every kind is told.
    ///
    /// Cancel safe. An error is final.
    pub async fn next(&mut self) -> Result<BTreeSet<Change>, Error> {
        Err(unsupported())
    }
}
