//! Gateways of default routes.

use super::request;
use crate::Error;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The gateways of the default routes of every table and both families.
pub fn default_gateways() -> Result<BTreeSet<IpAddr>, Error> {
    let mut gateways = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        for answer in request::dump(&RouteNetlinkMessage::GetRoute(message))? {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
            {
                collect(&route.attributes, &mut gateways);
            }
        }
    }
    Ok(gateways)
}

fn collect(attributes: &[RouteAttribute], gateways: &mut BTreeSet<IpAddr>) {
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address))
            | RouteAttribute::Via(RouteVia::Inet(address)) => {
                gateways.insert((*address).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address)) => {
                gateways.insert((*address).into());
            }
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    collect(&hop.attributes, gateways);
                }
            }
            _ => {}
        }
    }
}
