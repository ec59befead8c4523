//! What is asked for, from requests. Empty means any on the wire.

use crate::status::kernel;
use agent_kernel::netlink::{
    ConnectionFilter, Family, SocketFilter, SocketProtocol, SocketStates, ip_protocol,
};
use ipnet::IpNet;
use kctl_proto::agent::v1::{self as pb, list_sockets_request::Protocol};
use tonic::Status;

pub(super) fn family(family: pb::Family) -> Option<Family> {
    match family {
        pb::Family::Unspecified => None,
        pb::Family::Inet => Some(Family::Inet),
        pb::Family::Inet6 => Some(Family::Inet6),
    }
}

pub(super) fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn sockets(request: &pb::ListSocketsRequest) -> Result<SocketFilter, Status> {
    let states = match (request.listening, request.states.as_slice()) {
        (true, []) => SocketStates::Listening,
        (true, _) => return Err(Status::invalid_argument("states: not together with listening")),
        (false, words) => SocketStates::named(words).map_err(kernel)?,
    };
    let known = |protocol| match protocol {
        Protocol::Unspecified => None,
        Protocol::Tcp => Some(SocketProtocol::Tcp),
        Protocol::Udp => Some(SocketProtocol::Udp),
        Protocol::Unix => Some(SocketProtocol::Unix),
    };
    Ok(SocketFilter {
        protocols: request.protocols().filter_map(known).collect(),
        family: family(request.family()),
        states,
        port: port(request.port)?,
        processes: request.processes,
        tcp_info: request.tcp_info,
    })
}

pub(super) fn connections(
    request: &pb::ListConnectionsRequest,
) -> Result<ConnectionFilter, Status> {
    let protocol = some(request.protocol.clone());
    Ok(ConnectionFilter {
        family: family(request.family()),
        protocol: protocol.map(|it| ip_protocol(&it)).transpose().map_err(kernel)?,
        src: prefix("src", &request.src)?,
        dst: prefix("dst", &request.dst)?,
        port: port(request.port)?,
    })
}

fn port(port: u32) -> Result<Option<u16>, Status> {
    match u16::try_from(port) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(Status::invalid_argument(format!("port {port}: must be at most 65535"))),
    }
}

fn prefix(field: &str, text: &str) -> Result<Option<IpNet>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = || text.parse().map(|address: std::net::IpAddr| address.into());
    let parsed = text.parse().or_else(|_| address());
    parsed.map(Some).map_err(|_| {
        Status::invalid_argument(format!("{field} \"{text}\": must be an address or a prefix"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        let refused = |request: pb::ListSocketsRequest| sockets(&request).expect_err("refused");
        let states = vec!["OPEN".to_owned()];
        let status = refused(pb::ListSocketsRequest { states, ..Default::default() });
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("state \"OPEN\": must be one of"), "{status}");
        let status = refused(pb::ListSocketsRequest { port: 65_536, ..Default::default() });
        assert_eq!(status.message(), "port 65536: must be at most 65535");
        let states = vec!["ESTAB".to_owned()];
        let both = pb::ListSocketsRequest { states, listening: true, ..Default::default() };
        assert_eq!(refused(both).code(), Code::InvalidArgument);
        let request =
            pb::ListConnectionsRequest { src: "10.0.0.0/33".to_owned(), ..Default::default() };
        let status = connections(&request).expect_err("refused");
        assert_eq!(status.message(), "src \"10.0.0.0/33\": must be an address or a prefix");
        let request =
            pb::ListConnectionsRequest { protocol: "tpc".to_owned(), ..Default::default() };
        let status = connections(&request).expect_err("refused");
        assert!(status.message().starts_with("protocol \"tpc\": must be"), "{status}");
    }

    #[test]
    fn an_address_is_a_prefix_of_its_own() {
        let request =
            pb::ListConnectionsRequest { dst: "fd09::1".to_owned(), ..Default::default() };
        let filter = connections(&request).expect("a filter");
        assert_eq!(filter.dst, Some("fd09::1/128".parse().expect("a prefix")));
        assert_eq!((filter.src, filter.protocol, filter.port), (None, None, None));
    }
}
