//! `kctl.controller.v1.TokenService`.

use super::Api;
use crate::{
    audit::Audited,
    auth::Caller,
    status::Error,
    store::{Model, TokenRecord, Write},
    token,
};
use kctl_blocklist::now_unix_ms;
use kctl_proto::controller::v1::{self as api, token_service_server::TokenService};
use tonic::{Request, Response, Status};

const DEFAULT_TTL_MS: u64 = 3_600_000;
/// Tokens that no longer work are kept so long, to tell their users why.
const KEPT_MS: i64 = 30 * 24 * 3_600_000;

#[tonic::async_trait]
impl TokenService for Api {
    async fn create_token(
        &self,
        request: Request<api::CreateTokenRequest>,
    ) -> Result<Response<api::CreateTokenResponse>, Status> {
        let caller = Caller::of(&request)?;
        let api::CreateTokenRequest { ttl_ms, uses, host } = request.into_inner();
        let host = host.to_ascii_lowercase();
        if !host.is_empty() && !kctl_rpc::valid_name(&host) {
            let message = format!("host {host:?}: must be 1 to 253 of a-z, 0-9, \"-\", \".\"");
            return Err(Error::Invalid(message).into());
        }
        if uses == Some(0) {
            return Err(Error::Invalid("uses: must be at least 1".to_owned()).into());
        }
        let ttl_ms = if ttl_ms == 0 { DEFAULT_TTL_MS } else { ttl_ms };
        let now = now_unix_ms();
        let (text, made) = token::make(&self.ca.trust().proving.sha256());
        let record = TokenRecord {
            id: made.id.clone(),
            secret_sha256: made.secret_sha256(),
            expires_unix_ms: now.saturating_add(i64::try_from(ttl_ms).unwrap_or(i64::MAX)),
            uses,
            host,
            revoked: false,
            created_by: caller.source(),
            created_unix_ms: now,
        };
        let what = format!("token create {}", record.id);
        let audited = Audited::of_user(&caller, what, record.host.clone());
        let info = to_proto(&record);
        audited.write(&self.store, move |model| Ok((create(model, record, now), ()))).await?;
        Ok(Response::new(api::CreateTokenResponse { token: text, info: Some(info) }))
    }

    async fn list_tokens(
        &self,
        _request: Request<api::ListTokensRequest>,
    ) -> Result<Response<api::ListTokensResponse>, Status> {
        let now = now_unix_ms();
        let records = self.store.records();
        let records = records.borrow();
        let works = |token: &&TokenRecord| {
            !token.revoked && token.uses != Some(0) && token.expires_unix_ms > now
        };
        let tokens = records.tokens.values().filter(works).map(to_proto).collect();
        Ok(Response::new(api::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<api::RevokeTokenRequest>,
    ) -> Result<Response<api::RevokeTokenResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = request.into_inner().id;
        let audited = Audited::of_user(&caller, format!("token revoke {id}"), String::new());
        audited
            .write(&self.store, move |model| match model.records.tokens.get(&id) {
                Some(token) if !token.revoked => {
                    let token = TokenRecord { revoked: true, ..token.clone() };
                    Ok((vec![Write::Token(token)], ()))
                }
                _ => Err(Error::NotFound(format!("token {id:?}: no such token"))),
            })
            .await?;
        Ok(Response::new(api::RevokeTokenResponse {}))
    }
}

/// Adds a token and drops those that ended long ago.
fn create(model: &Model, record: TokenRecord, now_unix_ms: i64) -> Vec<Write> {
    let old = model.records.tokens.values();
    old.filter(|token| token.expires_unix_ms.saturating_add(KEPT_MS) < now_unix_ms)
        .map(|token| Write::ForgetToken(token.id.clone()))
        .chain([Write::Token(record)])
        .collect()
}

fn to_proto(token: &TokenRecord) -> api::Token {
    api::Token {
        id: token.id.clone(),
        expires_unix_ms: token.expires_unix_ms,
        uses: token.uses,
        host: token.host.clone(),
        created_by: token.created_by.clone(),
        created_unix_ms: token.created_unix_ms,
    }
}
