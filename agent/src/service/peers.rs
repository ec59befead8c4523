//! Which peers of this host's sockets a block would hit.

use super::blocking::blocking;
use crate::enforcer::Enforcer;
use crate::status::to_status;
use agent_kernel::netlink::{self, Socket, SocketFilter, SocketProtocol};
use ipnet::IpNet;
use kctl_blocklist::{Prefixes, Protocol, Service};
use kctl_proto::agent::v1 as pb;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use tonic::Status;

/// Peers that an answer lists.
const LISTED: usize = 20;

/// What might be blocked.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) prefixes: Prefixes,
    pub(super) service: Option<Service>,
}

/// A peer's address, the host's own port, and the process that holds the socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    process: String,
    pid: u32,
}

impl Key {
    fn service(&self) -> Service {
        Service::port(self.port, Some(self.protocol))
    }
}

impl Wanted {
    /// Looks at every socket that has a peer, but for peers that the never-block list has.
    pub(super) async fn peers(
        self,
        enforcer: &Enforcer,
        proc_root: PathBuf,
    ) -> Result<pb::Peers, Status> {
        let protocols = vec![SocketProtocol::Tcp, SocketProtocol::Udp];
        let filter = SocketFilter { protocols, processes: true, ..SocketFilter::default() };
        let found = blocking(move || {
            let mut found: BTreeMap<Key, u64> = BTreeMap::new();
            for socket in netlink::sockets(proc_root, filter)? {
                if let Some(key) = self.hit(&socket?) {
                    *found.entry(key).or_default() += 1;
                }
            }
            Ok(found)
        });
        let found = found.await?;
        let hit = enforcer.run(move |it| -> Vec<_> {
            found
                .into_iter()
                .filter(|(key, _)| !it.is_guarded(key.address, key.service()))
                .collect()
        });
        Ok(told(hit.await.map_err(to_status)?))
    }

    /// The peer of a socket whose packets would be hit.
    fn hit(&self, socket: &Socket) -> Option<Key> {
        let (local, peer) = (socket.local?, socket.peer?);
        let protocol = match socket.protocol {
            SocketProtocol::Tcp => Protocol::Tcp,
            SocketProtocol::Udp => Protocol::Udp,
            SocketProtocol::Unix => return None,
        };
        // IPv4 over a socket of both families comes as IPv4 packets.
        let address = peer.ip().to_canonical();
        let names = |service: Service| {
            service.contains(local.port()) && service.protocols().contains(&protocol)
        };
        let is_hit = self.service.is_none_or(names)
            && self.prefixes.overlapping(IpNet::from(address)).next().is_some();
        let holder = socket.holders.list.first();
        let process = holder.map(|it| String::from_utf8_lossy(&it.comm).into_owned());
        is_hit.then(|| Key {
            address,
            port: local.port(),
            protocol,
            process: process.unwrap_or_default(),
            pid: holder.map_or(0, |it| it.pid),
        })
    }
}

/// Those with the most sockets, and how many there are.
fn told(mut hit: Vec<(Key, u64)>) -> pb::Peers {
    hit.sort_by(|(a, many), (b, more)| (Reverse(many), a).cmp(&(Reverse(more), b)));
    let peer = |(key, sockets): &(Key, u64)| pb::peers::Peer {
        address: key.address.to_string(),
        sockets: *sockets,
        port: key.port.into(),
        protocol: match key.protocol {
            Protocol::Tcp => pb::Protocol::Tcp.into(),
            Protocol::Udp => pb::Protocol::Udp.into(),
        },
        process: key.process.clone(),
        pid: key.pid,
    };
    pb::Peers { peers: hit.iter().take(LISTED).map(peer).collect(), total: hit.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_the_most_sockets_are_listed_and_all_are_counted() {
        let key = |last: u8| Key {
            address: [10, 0, 0, last].into(),
            port: 22,
            protocol: Protocol::Tcp,
            process: "sshd".to_owned(),
            pid: 7,
        };
        let told = told((0..30).map(|last| (key(last), u64::from(last % 3))).collect());
        assert_eq!((told.peers.len(), told.total), (20, 30));
        let first = &told.peers[0];
        assert_eq!((first.address.as_str(), first.sockets), ("10.0.0.2", 2));
        assert!(told.peers.is_sorted_by_key(|peer| Reverse(peer.sockets)));
    }
}
