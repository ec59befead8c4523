//! TCP and UDP sockets (linux/inet_diag.h).

use super::{
    Found, LISTEN, Queue, STATES, Socket, SocketFilter, SocketProtocol, TcpInfo, absent, asked,
};
use crate::{
    Error,
    netlink::{
        attribute::{attributes, header},
        family::Family,
        names::{Links, word},
    },
};
use nix::libc;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// `struct inet_diag_msg`
const MESSAGE_BYTES: usize = 72;
/// `struct inet_diag_sockid`, of which a dump request says nothing.
const ID_BYTES: usize = 48;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;

/// The sockets of one protocol, of both families or one.
pub(super) fn dump(
    protocol: SocketProtocol,
    filter: &SocketFilter,
    links: &Arc<Links>,
) -> Result<Vec<Found>, Error> {
    let mut found: Vec<Found> = Vec::new();
    for family in filter.family.map_or(vec![Family::Inet, Family::Inet6], |only| vec![only]) {
        let Some(answer) = asked(request(protocol, family, filter))? else {
            // A kernel without IPv6 has no IPv6 sockets.
            if family == Family::Inet6 && !found.is_empty() {
                continue;
            }
            return Err(absent(protocol));
        };
        let links = Arc::clone(links);
        found.push(Box::new(answer.objects(move |payload| read(payload, protocol, &links))));
    }
    Ok(found)
}

fn domain(family: Family) -> u8 {
    u8::try_from(match family {
        Family::Inet => libc::AF_INET,
        Family::Inet6 => libc::AF_INET6,
    })
    .expect("families are small numbers")
}

/// `struct inet_diag_req_v2` and a program that leaves a port.
fn request(protocol: SocketProtocol, family: Family, filter: &SocketFilter) -> Vec<u8> {
    let number =
        if protocol == SocketProtocol::Udp { libc::IPPROTO_UDP } else { libc::IPPROTO_TCP };
    let number = u8::try_from(number).expect("protocols of IP are small numbers");
    let wanted = filter.tcp_info && protocol == SocketProtocol::Tcp;
    let extensions = if wanted { 1 << (INET_DIAG_INFO - 1) } else { 0 };
    let mut body = vec![domain(family), number, extensions, 0];
    body.extend(filter.states.bits(protocol).to_ne_bytes());
    body.extend([0; ID_BYTES]);
    if let Some(port) = filter.port {
        let program = either_port(port);
        let length = u16::try_from(4 + program.len()).expect("a short program");
        body.extend([length.to_ne_bytes(), INET_DIAG_REQ_BYTECODE.to_ne_bytes()].as_flattened());
        body.extend(program);
    }
    body
}

/// A program of `struct inet_diag_bc_op`: accepts a socket with this port at either end. Comparisons
/// take a second operation, which holds the port. Every kernel has these four; equality came later.
fn either_port(port: u16) -> Vec<u8> {
    const JUMP: u8 = 1;
    const SOURCE_GE: u8 = 2;
    const SOURCE_LE: u8 = 3;
    const DESTINATION_GE: u8 = 4;
    const DESTINATION_LE: u8 = 5;
    let operation = |code: u8, yes: u8, no: u16| {
        let [n0, n1] = no.to_ne_bytes();
        [code, yes, n0, n1]
    };
    [
        operation(SOURCE_GE, 8, 20),
        operation(0, 0, port),
        operation(SOURCE_LE, 8, 12),
        operation(0, 0, port),
        // Its own port: to the end, which accepts.
        operation(JUMP, 4, 20),
        // Beyond the end, which refuses.
        operation(DESTINATION_GE, 8, 20),
        operation(0, 0, port),
        operation(DESTINATION_LE, 8, 12),
        operation(0, 0, port),
    ]
    .concat()
}

fn read(payload: &[u8], protocol: SocketProtocol, links: &Links) -> io::Result<Option<Socket>> {
    let (message, rest): (&[u8; MESSAGE_BYTES], _) = header(payload)?;
    let family = match i32::from(message[0]) {
        libc::AF_INET => Family::Inet,
        libc::AF_INET6 => Family::Inet6,
        _ => return Ok(None),
    };
    let number = |at: usize| {
        let bytes = message.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    };
    let state = u32::from(message[1]);
    let end = |port: usize, address: usize| end(family, &message[port..], &message[address..]);
    let (peer, interface) = (end(6, 24), number(40));
    let (uid, inode) = (number(64), number(68));
    let mut socket = Socket {
        protocol,
        family: Some(family),
        kind: if protocol == SocketProtocol::Udp { "dgram" } else { "stream" }.into(),
        state: word(STATES, state),
        local: Some(end(4, 8)),
        peer: Some(peer).filter(|it| it.port() != 0 || !it.ip().is_unspecified()),
        interface: (interface != 0).then(|| links.name(interface)),
        path: None,
        peer_inode: None,
        queue: Queue::new(state, number(56), number(60)),
        uid: (uid != 0 || inode != 0).then_some(uid),
        user: None,
        inode: (inode != 0).then_some(inode),
        cookie: u64::from(number(44)) | u64::from(number(48)) << 32,
        tcp: None,
        holders: Default::default(),
    };
    for attribute in attributes(rest) {
        // A listener has measured nothing.
        if let (INET_DIAG_INFO, value) = attribute?
            && state != LISTEN
        {
            socket.tcp = info(value);
        }
    }
    Ok(Some(socket))
}

/// One end: both are in network byte order, and as long as an IPv6 address.
fn end(family: Family, port: &[u8], address: &[u8]) -> SocketAddr {
    let port = port.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    let address = match family {
        Family::Inet => address
            .first_chunk()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |it: &[u8; 4]| (*it).into()),
        Family::Inet6 => address
            .first_chunk()
            .map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |it: &[u8; 16]| (*it).into()),
    };
    SocketAddr::new(address, port)
}

/// Of `struct tcp_info`; none of a kernel older than what it tells.
fn info(value: &[u8]) -> Option<TcpInfo> {
    let number = |at: usize| Some(u32::from_ne_bytes(*value.get(at..)?.first_chunk()?));
    Some(TcpInfo {
        rtt_us: number(68)?,
        rtt_var_us: number(72)?,
        congestion_window: number(80)?,
        retransmits: number(100)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_cut_short_is_no_socket() {
        let read = |bytes: &[u8]| read(bytes, SocketProtocol::Tcp, &Links::default());
        let mut message = [0; MESSAGE_BYTES];
        message[0] = domain(Family::Inet);
        assert!(read(&message[..71]).is_err());
        let socket = read(&message).expect("whole").expect("a socket");
        assert_eq!((socket.uid, socket.inode, socket.peer), (None, None, None));
        // Another family is not read as if it were this one.
        message[0] = 1;
        assert!(read(&message).expect("whole").is_none());
        assert_eq!(info(&[0; 103]), None);
        assert!(info(&[0; 104]).is_some());
    }
}
