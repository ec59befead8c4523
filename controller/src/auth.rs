//! Who may use the API: users of our CA that the store knows; and for whom agents are asked.

use crate::store::Records;
use kctl_rpc::{Identity, Peer, ROLE_METADATA, Role};
use std::{net::IpAddr, sync::Arc};
use tonic::{Request, Status, metadata::MetadataValue};

/// The user behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Name of the user.
    pub(crate) user: String,
    /// Where the request comes from.
    pub(crate) address: Option<IpAddr>,
}

impl Caller {
    /// The source of entries that this user makes.
    pub(crate) fn source(&self) -> String {
        format!("user:{}", self.user)
    }

    /// Of a request that [`authorize`] let through.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let peer = request.extensions().get::<Arc<Peer>>();
        match peer.map(|peer| (&peer.identity, peer.address)) {
            Some((Some(Identity::User(user)), address)) => Ok(Self {
                user: user.clone(),
                address: address.map(|address| address.ip().to_canonical()),
            }),
            _ => Err(Status::unauthenticated("no user certificate")),
        }
    }
}

/// A request to an agent for a person of this role.
pub(crate) fn asked<Q>(request: Q, role: Role) -> Request<Q> {
    let mut request = Request::new(request);
    request.metadata_mut().insert(ROLE_METADATA, MetadataValue::from_static(role.name()));
    request
}

/// Lets the users of the API in, call by call: a connection outlives the handshake that looked at its
/// certificate.
pub(crate) fn authorize(records: &Records, peer: &Peer) -> Result<(), Status> {
    let role = match &peer.identity {
        Some(Identity::User(user)) if !records.users.contains_key(user) => {
            return Err(Status::unauthenticated(format!(
                "user {user:?}: unknown to this controller"
            )));
        }
        Some(Identity::User(user)) => {
            let certificate = peer.certificate_sha256;
            if certificate.is_some_and(|certificate| records.revoked.contains(&certificate)) {
                return Err(Status::unauthenticated(format!("user {user:?}: certificate revoked")));
            }
            return Ok(());
        }
        Some(Identity::Host(name)) => format!("host {name:?}"),
        Some(Identity::Controller(name)) => format!("controller {name:?}"),
        None => return Err(Status::unauthenticated("no user certificate")),
    };
    Err(Status::permission_denied(format!(
        "certificate names {role}; the API wants a user certificate"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn call(identity: Option<Identity>, revoked: bool) -> Result<String, Code> {
        let certificate = [7; 32];
        let mut records = Records {
            users: [("admin".to_owned(), "admin".to_owned())].into(),
            ..Records::default()
        };
        if revoked {
            records.revoked.insert(certificate);
        }
        let peer = Peer {
            identity,
            certificate_sha256: Some(certificate),
            address: Some(([127, 0, 0, 1], 1).into()),
            unix: None,
        };
        authorize(&records, &peer).map_err(|status| status.code())?;
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::new(peer));
        Caller::of(&request).map(|caller| caller.source()).map_err(|status| status.code())
    }

    #[test]
    fn only_known_users_get_in() {
        let user = |name: &str| Some(Identity::User(name.to_owned()));
        assert_eq!(call(user("admin"), false).as_deref(), Ok("user:admin"));
        assert_eq!(call(user("admin"), true), Err(Code::Unauthenticated));
        assert_eq!(call(user("eve"), false), Err(Code::Unauthenticated));
        assert_eq!(call(None, false), Err(Code::Unauthenticated));
        let host = Some(Identity::Host("web-1".to_owned()));
        assert_eq!(call(host, false), Err(Code::PermissionDenied));
    }
}
