//! `kctl.controller.v1.AuthorityService`.

use super::Api;
use crate::{
    audit::{Audited, list},
    auth::Caller,
    pki::der_of,
    status::Error,
    store::{Fingerprint, Model, Records, Write},
};
use kctl_blocklist::now_unix_ms;
use kctl_proto::controller::v1::{self as api, authority_service_server::AuthorityService};
use kctl_rpc::{Identity, Validity};
use rustls_pki_types::CertificateDer;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl AuthorityService for Api {
    async fn get_authority(
        &self,
        _request: Request<api::GetAuthorityRequest>,
    ) -> Result<Response<api::GetAuthorityResponse>, Status> {
        let trust = self.ca.trust();
        let (current, old) = self.authorities()?;
        let Behind { hosts, users } = self.behind();
        let server = trust.server.chain.first().map(certificate);
        Ok(Response::new(api::GetAuthorityResponse { current, old, server, hosts, users }))
    }

    async fn rotate_authority(
        &self,
        request: Request<api::RotateAuthorityRequest>,
    ) -> Result<Response<api::RotateAuthorityResponse>, Status> {
        let caller = Caller::of(&request)?;
        let audited = Audited::of_user(&caller, "ca rotate".to_owned(), "all".to_owned());
        audited.begun(&self.store).await?;
        let rotated = self.ca.rotate().await;
        audited.settled(&self.store, &rotated).await;
        rotated?;
        let (current, old) = self.authorities()?;
        Ok(Response::new(api::RotateAuthorityResponse { current, old }))
    }

    async fn finish_rotation(
        &self,
        request: Request<api::FinishRotationRequest>,
    ) -> Result<Response<api::FinishRotationResponse>, Status> {
        let caller = Caller::of(&request)?;
        let force = request.into_inner().force;
        let what = if force { "ca finish forced" } else { "ca finish" };
        let audited = Audited::of_user(&caller, what.to_owned(), "all".to_owned());
        audited.begun(&self.store).await?;
        let behind = self.behind();
        let finished = match behind.refusal() {
            Some(why) if !force && self.ca.trust().is_changing() => Err(Error::Precondition(why)),
            _ => self.finish().await,
        };
        audited.settled(&self.store, &finished).await;
        finished?;
        let Behind { hosts, users } = behind;
        Ok(Response::new(api::FinishRotationResponse { hosts, users }))
    }
}

/// Whose certificates are of the old CA alone.
#[derive(Default)]
struct Behind {
    hosts: Vec<String>,
    users: Vec<String>,
}

impl Behind {
    /// Why the old CA can't go; `None` when it can.
    fn refusal(&self) -> Option<String> {
        let Self { hosts, users } = self;
        let part = |what: &str, names: &[String]| match names.is_empty() {
            true => None,
            false => Some(format!("{what} {}", list(names))),
        };
        let parts: Vec<_> =
            [part("hosts", hosts), part("users", users)].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| {
            format!(
                "CA: {} would be locked out, having no certificate of the new one; hosts get theirs when \
                 they connect, users run `kctl user renew`; or leave them behind with --force",
                parts.join(" and ")
            )
        })
    }
}

impl Api {
    fn authorities(&self) -> Result<(Option<api::Certificate>, Option<api::Certificate>), Error> {
        let trust = self.ca.trust();
        let read = |pem: &str| {
            der_of(pem)
                .map(|der| certificate(&der))
                .map_err(|error| Error::Store(error.to_string()))
        };
        let old = trust.is_changing().then(|| read(trust.proving.pem())).transpose()?;
        Ok((Some(read(trust.signing.pem())?), old))
    }

    /// Drops the old CA. Its certificates are revoked, which ends the connections made with them: their
    /// owners come back with those of the new one.
    async fn finish(&self) -> Result<(), Error> {
        self.ca.finish().await?;
        let new = self.ca.trust().signing.sha256();
        let revoke = move |model: &Model| Ok((of_another(&model.records, new), ()));
        self.store.write(revoke).await.map(drop)
    }

    fn behind(&self) -> Behind {
        let trust = self.ca.trust();
        if !trust.is_changing() {
            return Behind::default();
        }
        let new = trust.signing.sha256();
        let records = self.store.records();
        let records = records.borrow();
        let of_new = |certificate: &Fingerprint| {
            records.issued.get(certificate).is_some_and(|issued| issued.issuer == new)
        };
        // A host has a certificate when it has come with it: an answer may be lost.
        let behind = records.hosts.values().filter(|it| !it.certificates.iter().any(of_new));
        let hosts = behind.map(|host| host.name.clone()).collect();
        let now = now_unix_ms();
        // A user without any certificate that counts has nothing to lose.
        let behind = |name: &&String| {
            let all = records.certificates(&Identity::User((*name).clone()));
            let alive = |it: &Fingerprint| records.issued[it].not_after_unix_ms > now;
            all.iter().any(alive) && !all.iter().any(of_new)
        };
        let users = records.users.keys().filter(behind).cloned().collect();
        Behind { hosts, users }
    }
}

/// Revokes what another CA signed.
fn of_another(records: &Records, ca: Fingerprint) -> Vec<Write> {
    let hosts = records.hosts.keys().map(|name| Identity::Host(name.clone()));
    let users = records.users.keys().map(|name| Identity::User(name.clone()));
    let mut writes = Vec::new();
    for identity in hosts.chain(users) {
        let all = records.certificates(&identity).into_iter();
        let other =
            all.filter(|sha256| records.issued.get(sha256).is_none_or(|it| it.issuer != ca));
        for sha256 in other {
            writes.push(Write::Revoke(sha256, identity.to_string()));
            writes.push(Write::ForgetIssued(sha256));
        }
    }
    writes
}

fn certificate(der: &CertificateDer<'_>) -> api::Certificate {
    let unix_ms = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        i64::try_from(since).unwrap_or(i64::MAX)
    };
    let validity = Validity::of(der);
    api::Certificate {
        sha256: kctl_rpc::ca_sha256(der).to_vec(),
        not_before_unix_ms: validity.map_or(0, |it| unix_ms(it.not_before)),
        not_after_unix_ms: validity.map_or(0, |it| unix_ms(it.not_after)),
    }
}
