//! What the kernel tells over netlink: links with their rates, addresses, routes, neighbours and rules,
//! and when they change; sockets; tracked connections.
//! Everything is about the network namespace of the calling thread, which waits for the kernel: a dump
//! takes microseconds, a large one its milliseconds. It must not know the filter.

mod address;
mod attribute;
mod changes;
mod conntrack;
mod family;
mod gateway;
mod interface;
mod link;
mod names;
mod neighbour;
mod rate;
mod request;
mod route;
mod rule;
mod socket;
mod subscription;
mod uevent;
mod watch;
mod way;

pub use address::{Addr, AddrFilter, addrs};
pub use changes::{Changes, NetChange, NetEvent};
pub use conntrack::{Connection, ConnectionFilter, Flow, connections, ip_protocol};
pub use family::Family;
pub use gateway::default_gateways;
pub use interface::{Address, Interface, interfaces};
pub(crate) use interface::{Hooks, Xdp, hooks_of};
pub use link::{Link, Statistics, XdpProgram, links};
pub use neighbour::{Neighbour, NeighbourFilter, neighbours};
pub use rate::{Rates, rates};
pub use route::{NextHop, Route, RouteFilter, routes};
pub use rule::{Rule, rules};
pub(crate) use socket::state_word;
pub use socket::{Queue, Socket, SocketFilter, SocketProtocol, SocketStates, TcpInfo, sockets};
pub use uevent::{DeviceEvent, Uevent, Uevents};
pub use watch::{Change, Watch};
