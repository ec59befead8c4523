//! Who may call what: the controller over the uplink, people of this host over its socket.

use agent_kernel::file::Holds;
use http::HeaderMap;
use kctl_events::Filter;
use kctl_rpc::{Access, Identity, Peer, ROLE_METADATA, Role};
use std::sync::Arc;
use tonic::{Request, Status};

/// Refuses a call that the peer may not make, and tells the role of the person behind it: as the
/// controller says, or on the socket admin for uid 0 and operator for the others, whom its mode lets in
/// as the group kctl. The least where nobody says.
pub(crate) fn authorize(peer: &Peer, path: &str, headers: &HeaderMap) -> Result<Role, Status> {
    let role = match (&peer.identity, peer.unix) {
        (Some(Identity::Controller(_)), _) => {
            let said = headers.get(ROLE_METADATA).and_then(|name| name.to_str().ok());
            said.and_then(Role::named).unwrap_or(Role::Viewer)
        }
        (None, Some(peer)) if peer.uid == 0 => Role::Admin,
        (None, Some(_)) => Role::Operator,
        (Some(identity), _) => {
            return Err(Status::permission_denied(format!(
                "certificate names {identity}; an agent obeys its controller alone"
            )));
        }
        (None, None) => return Err(Status::unauthenticated("a client certificate is needed")),
    };
    let access = Access::of(path)?;
    if access == Access::Controller && peer.identity.is_some() {
        return Ok(role);
    }
    let permitted = access.permit(path, role);
    if let (Err(refused), Some(peer), true) = (&permitted, peer.unix, access.is_change()) {
        audit(Some(&format!("local:{}", peer.uid)), path, Some(refused));
    }
    permitted.map(|()| role)
}

/// The role of the person behind a call, as [`authorize`] found it.
pub(crate) fn role<T>(request: &Request<T>) -> Role {
    request.extensions().get::<Role>().copied().unwrap_or(Role::Viewer)
}

/// Whether the caller may see the arguments of processes: they hold passwords now and then.
pub(crate) fn shows_arguments<T>(request: &Request<T>) -> bool {
    role(request).shows_arguments()
}

/// Refuses a filter of events that would tell what the caller may not see.
pub(crate) fn filter(role: Role, filter: &Filter) -> Result<(), Status> {
    match filter.asks_for_arguments() && !role.shows_arguments() {
        true => Err(role.refuses_arguments("filter: it asks for argv")),
        false => Ok(()),
    }
}

/// Refuses a file to those who may not see what it holds. `what` is the object, for the error.
pub(crate) fn read(role: Role, holds: Holds, what: &str) -> Result<(), Status> {
    match holds {
        Holds::Secrets if role < Role::Admin => Err(Status::permission_denied(format!(
            "{what}: it holds secrets and wants the role admin; yours is {}",
            role.name()
        ))),
        Holds::Arguments if !role.shows_arguments() => Err(role.refuses_arguments(what)),
        Holds::Nothing | Holds::Arguments | Holds::Secrets => Ok(()),
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
    use http::HeaderValue;
    use kctl_rpc::UnixPeer;
    use tonic::Code;

    fn peer(identity: Option<&str>, unix: bool) -> Peer {
        Peer {
            identity: identity.map(|uri| uri.parse().expect("valid")),
            certificate_sha256: None,
            address: None,
            unix: unix.then_some(UnixPeer { uid: 0, gid: 0, pid: None }),
        }
    }

    fn called(peer: &Peer, path: &str, said: Option<&'static str>) -> Result<Role, Code> {
        let mut headers = HeaderMap::new();
        headers
            .extend(said.map(|role| (ROLE_METADATA.parse().ok(), HeaderValue::from_static(role))));
        authorize(peer, path, &headers).map_err(|status| status.code())
    }

    #[test]
    fn only_the_controller_may_converge_the_host() {
        let controller = peer(Some("kctl://controller/c"), false);
        let root = peer(None, true);
        for path in Access::paths().filter(|path| path.starts_with("/kctl.agent.v1.")) {
            for identity in ["kctl://host/web-1", "kctl://user/admin"] {
                let refused = called(&peer(Some(identity), false), &path, Some("admin"));
                assert_eq!(refused, Err(Code::PermissionDenied), "{path}");
            }
            assert_eq!(called(&peer(None, false), &path, None), Err(Code::Unauthenticated));
            let of_controller = Access::of(&path).expect("in the table") == Access::Controller;
            assert_eq!(called(&root, &path, None).is_ok(), !of_controller, "{path}");
            assert!(called(&controller, &path, Some("admin")).is_ok(), "{path}");
            if of_controller {
                assert!(called(&controller, &path, None).is_ok(), "{path}");
            }
        }
        for path in ["/kctl.controller.v1.JoinService/Join", "/kctl.agent.v1.HostService/Explode"] {
            assert_eq!(called(&controller, path, Some("admin")), Err(Code::Unimplemented));
        }
    }

    #[test]
    fn people_do_what_their_role_may() {
        let controller = peer(Some("kctl://controller/c"), false);
        let local =
            |uid: u32| Peer { unix: Some(UnixPeer { uid, gid: 0, pid: None }), ..peer(None, true) };
        for path in Access::paths().filter(|path| path.starts_with("/kctl.agent.v1.")) {
            let Access::People { least, .. } = Access::of(&path).expect("in the table") else {
                continue;
            };
            let may = |role: Role| match role >= least {
                true => Ok(role),
                false => Err(Code::PermissionDenied),
            };
            // Nobody makes himself an admin.
            assert_eq!(called(&local(1000), &path, Some("admin")), may(Role::Operator), "{path}");
            assert_eq!(called(&local(0), &path, None), may(Role::Admin), "{path}");
            for (said, role) in [
                (Some("admin"), Role::Admin),
                (Some("operator"), Role::Operator),
                (Some("viewer"), Role::Viewer),
                (Some("king"), Role::Viewer),
                (None, Role::Viewer),
            ] {
                assert_eq!(called(&controller, &path, said), may(role), "{path} {said:?}");
            }
        }
    }

    #[test]
    fn secrets_are_for_admins_and_arguments_for_operators() {
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            let shown = |holds| read(role, holds, "file").is_ok();
            assert!(shown(Holds::Nothing));
            assert_eq!(shown(Holds::Arguments), role != Role::Viewer);
            assert_eq!(shown(Holds::Secrets), role == Role::Admin);
        }
    }
}
