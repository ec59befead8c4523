//! Who may call what: the controller over the uplink, people of this host over its socket.

use kctl_rpc::{Identity, Peer};
use tonic::Status;

/// Calls that only the controller makes; people of the host make every other.
const CONTROLLER_ONLY: [&str; 3] = [
    "/kctl.agent.v1.BlocklistService/ApplyBlocklist",
    "/kctl.agent.v1.HostService/Session",
    "/kctl.agent.v1.HostService/Detach",
];

/// Refuses a call that the peer may not make.
pub(crate) fn authorize(peer: &Peer, path: &str) -> Result<(), Status> {
    match (&peer.identity, peer.unix) {
        (Some(Identity::Controller(_)), _) => Ok(()),
        // The socket's mode lets in uid 0 and the group kctl.
        (None, Some(_)) if !CONTROLLER_ONLY.contains(&path) => Ok(()),
        (None, Some(_)) => {
            Err(Status::permission_denied(format!("{path}: only the controller may call it")))
        }
        (Some(identity), _) => Err(Status::permission_denied(format!(
            "certificate names {identity}; an agent obeys its controller alone"
        ))),
        (None, None) => Err(Status::unauthenticated("a client certificate is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_rpc::UnixPeer;

    fn peer(identity: Option<&str>, unix: bool) -> Peer {
        Peer {
            identity: identity.map(|uri| uri.parse().expect("valid")),
            certificate_sha256: None,
            address: None,
            unix: unix.then_some(UnixPeer { uid: 0, gid: 0, pid: None }),
        }
    }

    #[test]
    fn only_the_controller_may_converge_the_host() {
        for path in CONTROLLER_ONLY {
            assert!(authorize(&peer(Some("kctl://controller/c"), false), path).is_ok());
            assert!(authorize(&peer(None, true), path).is_err());
            assert!(authorize(&peer(Some("kctl://host/web-1"), false), path).is_err());
            assert!(authorize(&peer(Some("kctl://user/admin"), false), path).is_err());
            assert!(authorize(&peer(None, false), path).is_err());
        }
        let path = "/kctl.agent.v1.BlocklistService/Block";
        assert!(authorize(&peer(None, true), path).is_ok());
        assert!(authorize(&peer(Some("kctl://user/admin"), false), path).is_err());
    }
}
