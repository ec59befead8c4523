//! `kctl.controller.v1.JoinService`: the one call without a client certificate.

use crate::{
    audit::Audited,
    authority::Ca,
    pki::Signed,
    status::Error,
    store::{HostRecord, Model, Store, TokenRecord, Write},
    token::Shown,
};
use governor::{Quota, RateLimiter, clock::DefaultClock, state::keyed::DefaultKeyedStateStore};
use kctl_blocklist::now_unix_ms;
use kctl_proto::controller::v1::{JoinRequest, JoinResponse, join_service_server::JoinService};
use kctl_rpc::{Identity, Peer, valid_name};
use std::{net::IpAddr, num::NonZeroU32, sync::Arc};
use tonic::{Request, Response, Status};

/// Joins a source address may try at once, and then each second: a rack behind one NAT gets in, and a
/// guesser of 256-bit secrets nowhere.
const TRIES: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
/// Addresses that are remembered; beyond these the ones that have been quiet are forgotten.
const ADDRESSES: usize = 10_000;

/// Signs certificates of hosts that show a token.
pub(crate) struct Join {
    store: Store,
    ca: Ca,
    tries: RateLimiter<IpAddr, DefaultKeyedStateStore<IpAddr>, DefaultClock>,
}

impl Join {
    pub(crate) fn new(store: Store, ca: Ca) -> Self {
        let tries = RateLimiter::keyed(Quota::per_second(TRIES));
        Self { store, ca, tries }
    }

    fn limit(&self, address: Option<IpAddr>) -> Result<(), Error> {
        if self.tries.len() >= ADDRESSES {
            self.tries.retain_recent();
        }
        let busy = || Error::Exhausted("join: too many tries; wait a second".to_owned());
        match address {
            Some(_) if self.tries.len() >= ADDRESSES => Err(busy()),
            Some(address) => self.tries.check_key(&address).map_err(|_| busy()),
            None => Ok(()),
        }
    }

    async fn admit(&self, request: JoinRequest, from: String) -> Result<JoinResponse, Error> {
        let name = request.name.to_ascii_lowercase();
        if !valid_name(&name) {
            return Err(Error::Invalid(format!(
                "name {name:?}: must be 1 to 253 of a-z, 0-9, \"-\", \".\"; use --name"
            )));
        }
        let shown = Shown::parse(&request.token)?;
        let audited = Audited::of_join(&name, from, &shown.id);
        // Before the work of signing, and again when it counts.
        let early = self.store.records().borrow().tokens.get(&shown.id).cloned();
        if let Err(refused) = shown.check(early.as_ref(), &name, now_unix_ms()) {
            let error = Error::from(refused);
            audited.refused(&self.store, &error).await;
            return Err(error);
        }
        let identity = Identity::Host(name.clone());
        let (certificate, signed) = self.ca.sign(&identity, &request.csr, self.ca.life)?;
        let admitted = {
            let name = name.clone();
            move |model: &Model| admit(model, &shown, &name, &signed).map(|writes| (writes, ()))
        };
        audited.write(&self.store, admitted).await?;
        Ok(JoinResponse {
            certificate,
            ca: self.ca.trust().bundle(),
            controller: self.ca.identity().to_string(),
        })
    }
}

#[tonic::async_trait]
impl JoinService for Join {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>();
        let address = peer.and_then(|peer| peer.address).map(|address| address.ip().to_canonical());
        self.limit(address)?;
        let from = address.map(|address| address.to_string()).unwrap_or_default();
        Ok(Response::new(self.admit(request.into_inner(), from).await?))
    }
}

/// The writes that let a host in.
fn admit(model: &Model, shown: &Shown, name: &str, signed: &Signed) -> Result<Vec<Write>, Error> {
    let now = now_unix_ms();
    let token = shown.check(model.records.tokens.get(&shown.id), name, now)?;
    let known = model.records.hosts.get(name);
    if known.is_some() && token.host != name {
        return Err(Error::Exists(format!(
            "host {name:?}: a host of that name has joined; take another --name, or make a token for \
             it with `kctl token create --host {name}`"
        )));
    }
    let identity = Identity::Host(name.to_owned());
    let mut writes = model.records.revocation(&identity);
    writes.push(Write::issued(&identity, signed));
    writes
        .push(Write::Token(TokenRecord { uses: token.uses.map(|uses| uses - 1), ..token.clone() }));
    writes.push(Write::Host(HostRecord {
        name: name.to_owned(),
        joined_unix_ms: now,
        since_unix_ms: now,
        session: None,
        certificates: [signed.sha256].into(),
        status: known.and_then(|host| host.status.clone()),
    }));
    Ok(writes)
}
