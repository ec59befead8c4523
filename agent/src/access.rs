//! Who may call what: the controller over the uplink, people of this host over its socket.

use kctl_rpc::{Identity, Peer, ROLE_METADATA, Role};
use std::sync::Arc;
use tonic::{Request, Status};

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

/// The role of the person behind a call that [`authorize`] let through: as the controller says, or on
/// the socket admin for uid 0 and operator for the others. The least where nobody says.
pub(crate) fn role<T>(request: &Request<T>) -> Role {
    match request.extensions().get::<Arc<Peer>>().and_then(|peer| peer.unix) {
        Some(peer) if peer.uid == 0 => Role::Admin,
        Some(_) => Role::Operator,
        None => {
            let said = request.metadata().get(ROLE_METADATA).and_then(|name| name.to_str().ok());
            said.and_then(Role::named).unwrap_or(Role::Viewer)
        }
    }
}

/// Refuses what shows secrets to all but admins. `what` is the object, for the error.
pub(crate) fn secret(role: Role, what: &str) -> Result<(), Status> {
    admin(role, &format!("{what}: it holds secrets"))
}

/// Refuses what sets the kernel to all but admins. `what` is the object, for the error.
pub(crate) fn setting(role: Role, what: &str) -> Result<(), Status> {
    admin(role, &format!("{what}: it sets the kernel"))
}

fn admin(role: Role, why: &str) -> Result<(), Status> {
    match role {
        Role::Admin => Ok(()),
        other => Err(Status::permission_denied(format!(
            "{why} and wants the role admin; yours is {}",
            other.name()
        ))),
    }
}

/// `local:UID` for a call over the socket.
pub(crate) fn local<T>(request: &Request<T>) -> Option<String> {
    let peer = request.extensions().get::<Arc<Peer>>()?.unix?;
    Some(format!("local:{}", peer.uid))
}

/// Logs a change that somebody made over the socket; those of a fleet are in the controller's log.
pub(crate) fn audit(local: Option<&str>, what: &str, refused: Option<&Status>) {
    if let Some(who) = local {
        let outcome = refused.map_or("ok", Status::message);
        tracing::info!(target: "audit", who, what, outcome);
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

    #[test]
    fn secrets_are_for_admins() {
        let called = |unix: Option<u32>, said: Option<&'static str>| {
            let mut peer = peer(None, false);
            peer.unix = unix.map(|uid| UnixPeer { uid, gid: 0, pid: None });
            let mut request = Request::new(());
            request.extensions_mut().insert(Arc::new(peer));
            if let Some(role) = said {
                let role = tonic::metadata::MetadataValue::from_static(role);
                request.metadata_mut().insert(ROLE_METADATA, role);
            }
            (role(&request), secret(role(&request), "file \"/proc/1/environ\"").is_ok())
        };
        assert_eq!(called(Some(0), None), (Role::Admin, true));
        // Nobody makes himself an admin.
        assert_eq!(called(Some(1000), Some("admin")), (Role::Operator, false));
        assert_eq!(called(None, Some("admin")), (Role::Admin, true));
        assert_eq!(called(None, Some("viewer")), (Role::Viewer, false));
        assert_eq!(called(None, Some("king")), (Role::Viewer, false));
        assert_eq!(called(None, None), (Role::Viewer, false));
    }
}
