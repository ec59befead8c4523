//! `kctl.controller.v1.UserService`.

use super::Api;
use crate::{
    audit::Audited,
    auth::Caller,
    pki::Signed,
    status::Error,
    store::{Model, Records, UserRecord, Write},
};
use kctl_blocklist::{Selector, now_unix_ms};
use kctl_proto::controller::v1::{self as api, user_service_server::UserService};
use kctl_rpc::{Identity, Role};
use std::time::Duration;
use tonic::{Request, Response, Status};

/// A certificate that lives shorter is a mistake.
const SHORTEST_MS: u64 = 1_000;
/// The CA lives no longer.
const LONGEST_MS: u64 = 3_650 * 86_400_000;

#[tonic::async_trait]
impl UserService for Api {
    async fn create_user(
        &self,
        request: Request<api::CreateUserRequest>,
    ) -> Result<Response<api::CreateUserResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let audited = Audited::of_user(&caller, describe(&request), request.scope.clone());
        let checked = self.new_user(&caller, &request);
        let (user, certificate, signed) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error.into());
            }
        };
        let told = user.clone();
        let not_after = signed.not_after_unix_ms;
        let create = move |model: &Model| {
            if model.records.users.contains_key(&user.name) {
                return Err(exists(&user.name));
            }
            let identity = Identity::User(user.name.clone());
            Ok((vec![Write::User(user), Write::issued(&identity, &signed)], ()))
        };
        audited.write(&self.store, create).await?;
        Ok(Response::new(api::CreateUserResponse {
            user: Some(to_proto(&told, not_after)),
            certificate,
            ca: self.ca.trust().bundle(),
            controller: self.ca.identity().to_string(),
        }))
    }

    async fn list_users(
        &self,
        _request: Request<api::ListUsersRequest>,
    ) -> Result<Response<api::ListUsersResponse>, Status> {
        let records = self.store.records();
        let records = records.borrow();
        let users = records.users.values();
        let users = users.map(|user| to_proto(user, ends(&records, &user.name))).collect();
        Ok(Response::new(api::ListUsersResponse { users }))
    }

    async fn revoke_user(
        &self,
        request: Request<api::RevokeUserRequest>,
    ) -> Result<Response<api::RevokeUserResponse>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let audited = Audited::of_user(&caller, format!("user revoke {name}"), String::new());
        audited.write(&self.store, move |model| Ok((revoke(model, &name)?, ()))).await?;
        Ok(Response::new(api::RevokeUserResponse {}))
    }

    async fn renew_user(
        &self,
        request: Request<api::RenewUserRequest>,
    ) -> Result<Response<api::RenewUserResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let name = match request.name.as_str() {
            "" => caller.user.clone(),
            name => name.to_owned(),
        };
        let audited = Audited::of_user(&caller, format!("user renew {name}"), String::new());
        let identity = Identity::User(name.clone());
        let signed = renewable(&self.store.records().borrow(), &caller, &name, &request)
            .and_then(|life| self.ca.sign(&identity, &request.csr, life.unwrap_or(self.ca.life)));
        let (certificate, signed) = match signed {
            Ok(signed) => signed,
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error.into());
            }
        };
        let not_after = signed.not_after_unix_ms;
        let renew = move |model: &Model| {
            // Decided again when it counts: the user may be revoked meanwhile.
            let limited = renewable(&model.records, &caller, &name, &request)?.is_some();
            let known = model.records.users.get(&name).cloned().ok_or_else(|| unknown(&name))?;
            let user = UserRecord { limited, ..known };
            Ok((vec![Write::User(user.clone()), Write::issued(&identity, &signed)], user))
        };
        let user = audited.write(&self.store, renew).await?.value;
        Ok(Response::new(api::RenewUserResponse {
            user: Some(to_proto(&user, not_after)),
            certificate,
            ca: self.ca.trust().bundle(),
            controller: self.ca.identity().to_string(),
        }))
    }
}

impl Api {
    fn new_user(
        &self,
        caller: &Caller,
        request: &api::CreateUserRequest,
    ) -> Result<(UserRecord, String, Signed), Error> {
        let api::CreateUserRequest { name, role, scope, ttl_ms, csr } = request;
        if !kctl_rpc::valid_name(name) {
            return Err(Error::Invalid(format!(
                "user {name:?}: must be 1 to 253 of a-z, 0-9, \"-\", \".\""
            )));
        }
        let role = match role.as_str() {
            "" => Role::Viewer,
            role => Role::named(role).ok_or_else(|| {
                Error::Invalid(format!("role {role:?}: must be viewer, operator or admin"))
            })?,
        };
        let scope: Option<Selector> = match scope.as_str() {
            "" => None,
            scope => {
                Some(scope.parse().map_err(|error| Error::Invalid(format!("scope: {error}")))?)
            }
        };
        let life = life(*ttl_ms)?;
        if self.store.records().borrow().users.contains_key(name) {
            return Err(exists(name));
        }
        let identity = Identity::User(name.clone());
        let (certificate, signed) = self.ca.sign(&identity, csr, life.unwrap_or(self.ca.life))?;
        let user = UserRecord {
            name: name.clone(),
            role,
            scope,
            limited: life.is_some(),
            created_by: caller.source(),
            created_unix_ms: now_unix_ms(),
        };
        Ok((user, certificate, signed))
    }
}

/// How long a renewed certificate lives, if somebody says so. Refused: another user's, or one's own
/// whose end an admin set.
fn renewable(
    records: &Records,
    caller: &Caller,
    name: &str,
    request: &api::RenewUserRequest,
) -> Result<Option<Duration>, Error> {
    let known = records.users.get(name).ok_or_else(|| unknown(name))?;
    let admin = caller.role == Role::Admin && caller.scope.is_all();
    if !admin && name != caller.user {
        return Err(Error::Denied(format!("user {name:?}: only an admin renews another user")));
    }
    if !admin && (known.limited || request.ttl_ms != 0) {
        return Err(Error::Denied(format!(
            "user {name:?}: an admin says when it ends; ask one for \"kctl user renew {name}\""
        )));
    }
    life(request.ttl_ms)
}

/// A life that a request asks for.
fn life(ttl_ms: u64) -> Result<Option<Duration>, Error> {
    match ttl_ms {
        0 => Ok(None),
        SHORTEST_MS..=LONGEST_MS => Ok(Some(Duration::from_millis(ttl_ms))),
        _ => Err(Error::Invalid(format!("ttl {ttl_ms} ms: must be from 1s to 3650d"))),
    }
}

/// The writes that cut a user off and free its name.
fn revoke(model: &Model, name: &str) -> Result<Vec<Write>, Error> {
    let records = &model.records;
    let user = records.users.get(name).ok_or_else(|| unknown(name))?;
    let rules = |user: &UserRecord| user.role == Role::Admin && user.scope.is_none();
    if rules(user) && !records.users.values().any(|other| other.name != name && rules(other)) {
        return Err(Error::Precondition(format!(
            "user {name:?}: the last admin of the whole fleet; make another one first"
        )));
    }
    let mut writes = records.revocation(&Identity::User(name.to_owned()));
    writes.push(Write::ForgetUser(name.to_owned()));
    Ok(writes)
}

/// When the last certificate of a user ends; 0 when there is none.
fn ends(records: &Records, name: &str) -> i64 {
    let ends = records.certificates(&Identity::User(name.to_owned()));
    ends.iter().map(|it| records.issued[it].not_after_unix_ms).max().unwrap_or_default()
}

fn exists(name: &str) -> Error {
    Error::Exists(format!(
        "user {name:?}: exists; renew it with `kctl user renew {name}`, or revoke it first"
    ))
}

fn unknown(name: &str) -> Error {
    Error::NotFound(format!("user {name:?}: no such user; see `kctl user list`"))
}

fn describe(request: &api::CreateUserRequest) -> String {
    let role = if request.role.is_empty() { "viewer" } else { &request.role };
    let scope = match request.scope.as_str() {
        "" => String::new(),
        scope => format!(" on {scope}"),
    };
    let ttl = match request.ttl_ms {
        0 => String::new(),
        ttl => format!(" for {ttl} ms"),
    };
    format!("user create {} as {role}{scope}{ttl}", request.name)
}

fn to_proto(user: &UserRecord, expires_unix_ms: i64) -> api::User {
    api::User {
        name: user.name.clone(),
        role: user.role.name().to_owned(),
        scope: user.scope.as_ref().map(ToString::to_string).unwrap_or_default(),
        created_unix_ms: user.created_unix_ms,
        created_by: user.created_by.clone(),
        expires_unix_ms,
        limited: user.limited,
    }
}
