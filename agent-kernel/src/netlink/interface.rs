//! Interfaces with their addresses and XDP programs.

use super::request;
use crate::Error;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    XdpAttached,
};
use std::collections::BTreeMap;
use std::io;

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
    /// Whether its packets have an Ethernet header.
    pub ethernet: bool,
}

/// The XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Xdp {
    pub(crate) program: u32,
    /// In the stack, not in the driver.
    pub(crate) generic: bool,
}

/// What matters of an interface to a program that is to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hooks {
    /// The XDP program that is on it.
    pub(crate) xdp: Option<Xdp>,
    /// Whether its packets have an Ethernet header.
    pub(crate) ethernet: bool,
}

/// Every interface with its addresses, by index.
pub fn interfaces() -> Result<Vec<Interface>, Error> {
    let links = request::dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let addresses = request::dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(join(links, addresses))
}

/// The hooks of an interface; no such device is an error.
pub(crate) fn hooks_of(index: u32) -> io::Result<Hooks> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let answers = request::one(&RouteNetlinkMessage::GetLink(message))?;
    let link = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    let link = link.ok_or(io::ErrorKind::NotFound)?;
    Ok(Hooks { xdp: xdp(&link.attributes), ethernet: ethernet(link) })
}

fn join(links: Vec<RouteNetlinkMessage>, addresses: Vec<RouteNetlinkMessage>) -> Vec<Interface> {
    let mut interfaces = BTreeMap::new();
    for message in links {
        if let RouteNetlinkMessage::NewLink(link) = message {
            interfaces.insert(link.header.index, interface(&link));
        }
    }
    for message in addresses {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(interface) = interfaces.get_mut(&message.header.index)
        {
            interface.addresses.extend(address(&message));
        }
    }
    interfaces.into_values().collect()
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        name: String::new(),
        index: link.header.index,
        kind: None,
        up: link.header.flags.contains(LinkFlags::Up),
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        bridge_port: false,
        addresses: Vec::new(),
        xdp_program: xdp(&link.attributes).map(|xdp| xdp.program),
        ethernet: ethernet(link),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => interface.kind = Some(kind.to_string()),
                        LinkInfo::PortKind(InfoPortKind::Bridge) => interface.bridge_port = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    interface
}

fn ethernet(link: &LinkMessage) -> bool {
    [LinkLayerType::Ether, LinkLayerType::Loopback].contains(&link.header.link_layer_type)
}

fn xdp(attributes: &[LinkAttribute]) -> Option<Xdp> {
    let of_xdp = attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(of_xdp) => Some(of_xdp),
        _ => None,
    })?;
    let generic = of_xdp.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
    of_xdp.iter().find_map(|attribute| match attribute {
        // With several programs attached the kernel tells each mode's on its own; one will do.
        LinkXdp::ProgId(program) | LinkXdp::DrvProgId(program) | LinkXdp::SkbProgId(program) => {
            Some(Xdp { program: *program, generic })
        }
        _ => None,
    })
}

fn address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL our own.
    let own = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        })
        .or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })?;
    let net = IpNet::new(own, message.header.prefix_len).ok()?;
    Some(Address { net, global: message.header.scope == AddressScope::Universe })
}
