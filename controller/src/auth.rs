//! Who may use the API: users of our CA that the store knows, each as far as role and scope reach; and
//! for whom agents are asked.

use crate::{
    audit::Audited,
    limits::{Limits, Place, Usage},
    scope::Scope,
    store::{Records, Store},
};
use kctl_blocklist::now_unix_ms;
use kctl_rpc::{Access, Identity, Peer, ROLE_METADATA, Role};
use std::{net::IpAddr, time::Duration};
use tokio_util::task::TaskTracker;
use tonic::{Request, Status, metadata::MetadataValue};

/// The longest time without a look at whether a certificate is over.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The user behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Name of the user.
    pub(crate) user: String,
    /// Where the request comes from.
    pub(crate) address: Option<IpAddr>,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
}

impl Caller {
    /// The source of entries that this user makes.
    pub(crate) fn source(&self) -> String {
        format!("user:{}", self.user)
    }

    /// Of a request that the gate let through.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let pass = request.extensions().get::<Pass>();
        pass.map(|pass| pass.caller.clone())
            .ok_or_else(|| Status::unauthenticated("no user certificate"))
    }
}

/// A request to an agent for a person of this role.
pub(crate) fn asked<Q>(request: Q, role: Role) -> Request<Q> {
    let mut request = Request::new(request);
    request.metadata_mut().insert(ROLE_METADATA, MetadataValue::from_static(role.name()));
    request
}

/// What a call that was let in holds until its answer has been sent.
#[derive(Clone)]
pub(crate) struct Pass {
    caller: Caller,
    _place: Place,
}

/// The gate of the API.
#[derive(Clone)]
pub(crate) struct Gate {
    store: Store,
    tasks: TaskTracker,
    pub(crate) usage: Usage,
}

impl Gate {
    pub(crate) fn new(store: Store, tasks: TaskTracker, limits: Limits) -> Self {
        Self { store, tasks, usage: Usage::new(limits) }
    }

    /// Lets the users of the API in, call by call: a connection outlives the handshake that looked at
    /// its certificate. A change that is refused is in the audit log.
    pub(crate) fn admit(&self, peer: &Peer, path: &str) -> Result<Pass, Status> {
        let access = Access::of(path)?;
        let place = match &peer.identity {
            // Before anything is looked up or logged for it.
            Some(identity) => self.usage.call(&identity.to_string())?,
            None => return Err(Status::unauthenticated("no user certificate")),
        };
        let admitted = authorize(&self.store.records().borrow(), peer, path, access);
        if let Err(refused) = &admitted
            && access.is_change()
        {
            let (store, why) = (self.store.clone(), refused.message().to_owned());
            let audited = Audited::of_call(peer, path);
            self.tasks.spawn(async move { audited.ended(&store, why).await });
        }
        admitted.map(|caller| Pass { caller, _place: place })
    }

    /// Ends when a peer that might use the API may do so no longer: its user or its certificate was
    /// revoked, or the certificate is over. Who never might is told so, call by call.
    pub(crate) async fn cut_off(&self, peer: &Peer) {
        let mut records = self.store.records();
        let certificate = peer.certificate_sha256.unwrap_or_default();
        // The store is gone when the controller stops, and so is everything else.
        let _ = records.wait_for(|records| identified(records, peer).is_ok()).await;
        loop {
            let issued = records.borrow().issued.get(&certificate).cloned();
            let left = issued.map_or(0, |it| it.not_after_unix_ms - now_unix_ms());
            let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else { return };
            // Looked at again and again, since clocks jump.
            let wait = Duration::from_millis(left).min(LONGEST_WAIT);
            tokio::select! {
                _ = records.wait_for(|records| identified(records, peer).is_err()) => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

fn authorize(records: &Records, peer: &Peer, path: &str, access: Access) -> Result<Caller, Status> {
    let caller = identified(records, peer)?;
    access.permit(path, caller.role)?;
    if let Access::People { fleet: true, .. } = access
        && !caller.scope.is_all()
    {
        let method = path.rsplit('/').next().unwrap_or(path);
        let scope = caller.scope.selection();
        return Err(Status::permission_denied(format!(
            "{method}: it is about the whole fleet, and your scope is {scope}: ask an admin without one"
        )));
    }
    Ok(caller)
}

/// The user that a certificate names, as the store has it.
pub(crate) fn identified(records: &Records, peer: &Peer) -> Result<Caller, Status> {
    let user = match &peer.identity {
        Some(Identity::User(user)) => user,
        Some(other) => {
            return Err(Status::permission_denied(format!(
                "certificate names {} {:?}; the API wants a user certificate",
                match other {
                    Identity::Host(_) => "host",
                    _ => "controller",
                },
                other.name()
            )));
        }
        None => return Err(Status::unauthenticated("no user certificate")),
    };
    let Some(known) = records.users.get(user) else {
        return Err(Status::unauthenticated(format!(
            "user {user:?}: unknown to this controller; ask an admin for \"kctl user create {user}\""
        )));
    };
    let certificate = peer.certificate_sha256.unwrap_or_default();
    let uri = Identity::User(user.clone()).to_string();
    if records.revoked.contains(&certificate) {
        return Err(Status::unauthenticated(format!("user {user:?}: certificate revoked")));
    }
    if records.issued.get(&certificate).is_none_or(|issued| issued.identity != uri) {
        return Err(Status::unauthenticated(format!(
            "user {user:?}: this controller knows nothing of the certificate; ask an admin for \
             \"kctl user renew {user}\""
        )));
    }
    Ok(Caller {
        user: user.clone(),
        address: peer.address.map(|address| address.ip().to_canonical()),
        role: known.role,
        scope: Scope::new(known.scope.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{IssuedRecord, UserRecord};
    use tonic::Code;

    const KNOWN: [u8; 32] = [7; 32];

    fn records(role: Role, scope: Option<&str>) -> Records {
        let admin = UserRecord {
            name: "ann".to_owned(),
            role,
            scope: scope.map(|text| text.parse().expect("valid")),
            limited: false,
            created_by: String::new(),
            created_unix_ms: 0,
        };
        let issued = IssuedRecord {
            identity: "kctl://user/ann".to_owned(),
            issuer: [0; 32],
            not_after_unix_ms: 0,
        };
        Records {
            users: [("ann".to_owned(), admin)].into(),
            issued: [(KNOWN, issued)].into(),
            ..Records::default()
        }
    }

    fn peer(identity: &str, certificate: [u8; 32]) -> Peer {
        Peer {
            identity: Some(identity.parse().expect("valid")),
            certificate_sha256: Some(certificate),
            address: Some(([127, 0, 0, 1], 1).into()),
            unix: None,
        }
    }

    #[test]
    fn only_known_users_with_a_known_certificate_get_in() {
        let mut records = records(Role::Admin, None);
        let call = |records: &Records, peer: &Peer| {
            let known = identified(records, peer);
            known.map(|caller| caller.source()).map_err(|status| status.code())
        };
        let ann = peer("kctl://user/ann", KNOWN);
        assert_eq!(call(&records, &ann).as_deref(), Ok("user:ann"));
        for (identity, certificate, code) in [
            ("kctl://user/eve", KNOWN, Code::Unauthenticated),
            ("kctl://user/ann", [8; 32], Code::Unauthenticated),
            ("kctl://host/ann", KNOWN, Code::PermissionDenied),
            ("kctl://controller/ann", KNOWN, Code::PermissionDenied),
        ] {
            assert_eq!(call(&records, &peer(identity, certificate)), Err(code), "{identity}");
        }
        let nobody = Peer { identity: None, ..ann.clone() };
        assert_eq!(call(&records, &nobody), Err(Code::Unauthenticated));
        records.revoked.insert(KNOWN);
        assert_eq!(call(&records, &ann), Err(Code::Unauthenticated));
    }

    #[test]
    fn every_call_is_for_those_whom_the_table_names() {
        let ann = peer("kctl://user/ann", KNOWN);
        for path in Access::paths() {
            let access = Access::of(&path).expect("in the table");
            for role in [Role::Viewer, Role::Operator, Role::Admin] {
                for scope in [None, Some("role=web")] {
                    let called = authorize(&records(role, scope), &ann, &path, access);
                    let expected = match access {
                        Access::People { least, fleet, .. } => {
                            role >= least && (scope.is_none() || !fleet)
                        }
                        Access::Join | Access::Controller => false,
                    };
                    assert_eq!(called.is_ok(), expected, "{path} {role:?} {scope:?}");
                }
            }
        }
    }
}
