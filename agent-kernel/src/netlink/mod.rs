//! Routing netlink: the host's interfaces, addresses, routes and gateways, and when they change.
//! Everything is about the network namespace of the calling thread. It must not know the filter.

mod attribute;
mod gateway;
mod interface;
mod names;
mod request;
mod route;
mod watch;

pub use gateway::default_gateways;
pub use interface::{Address, Interface, interfaces};
pub(crate) use interface::{Xdp, xdp_on};
pub use route::{NextHop, Route, RouteFilter, routes};
pub use watch::{Change, Watch};

use crate::Error;
use netlink_packet_route::AddressFamily;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

impl Family {
    const BOTH: &[Self] = &[Self::Inet, Self::Inet6];

    /// The families of a filter: both where it names none.
    fn of_filter(family: Option<Self>) -> Vec<Self> {
        Self::BOTH.iter().copied().filter(|it| family.is_none_or(|only| only == *it)).collect()
    }

    fn number(self) -> u8 {
        AddressFamily::from(self).into()
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::Inet => Ipv4Addr::UNSPECIFIED.into(),
            Self::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Inet => Self::Inet,
            Family::Inet6 => Self::Inet6,
        }
    }
}

/// The kernel answers a dump at once, but a large one takes its milliseconds of system calls.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::wrapped(request::OBJECT, error)),
    }
}
