//! `token`: tokens that hosts join with.

use super::{ask, completion::Names, revoked, wants_controller};
use crate::{
    args::{Global, host_name},
    connect::Target,
    exit::Exit,
    output::{self, Table, note},
    time::{milliseconds, parse_duration, relative, rfc3339},
    view::{cell, some},
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use kctl_blocklist::now_unix_ms;
use kctl_proto::controller::v1::{
    CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Token,
    token_service_client::TokenServiceClient,
};
use serde::Serialize;
use std::time::Duration;

/// Arguments of `token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is shown this once
    Create(CreateArgs),
    /// Tokens that still work, without their secrets
    List,
    /// Make a token useless
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// How long it works
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h")]
    ttl: Duration,
    /// How many hosts may join with it; without it any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
    /// Only this host may join with it, also when the name is taken
    #[arg(long, value_name = "NAME", value_parser = host_name, add = Names::Hosts.candidates())]
    host: Option<String>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The token's id, from "token list"
    #[arg(add = Names::Tokens.candidates())]
    id: String,
}

/// Runs `token`.
pub(crate) async fn run(global: &Global, args: TokenArgs) -> anyhow::Result<Exit> {
    let target = Target::of(global)?;
    wants_controller(&target, "token")?;
    match args.command {
        TokenCommand::Create(args) => create(global, &target, args).await,
        TokenCommand::List => list(global, &target).await,
        TokenCommand::Revoke(args) => revoke(global, &target, args).await,
    }
}

/// A new token with its secret.
#[derive(Debug, Serialize)]
struct NewToken {
    token: String,
    expires: Option<String>,
    uses: Option<u32>,
    id: String,
    host: Option<String>,
}

async fn create(global: &Global, target: &Target, args: CreateArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let request = CreateTokenRequest {
        ttl_ms: milliseconds(args.ttl),
        uses: args.uses,
        host: args.host.unwrap_or_default(),
    };
    let call = async |channel| TokenServiceClient::new(channel).create_token(request).await;
    let response = ask(global, target, call).await?;
    let info = response.info.context("the controller did not describe the token")?;
    let expires = relative(info.expires_unix_ms, now_unix_ms());
    let token = NewToken {
        token: response.token,
        expires: rfc3339(info.expires_unix_ms),
        uses: info.uses,
        id: info.id,
        host: some(info.host),
    };
    output::object(format, &token, || format!("{}\n", token.token))?;
    if format.for_people() {
        let uses = token.uses.map_or("any number of hosts".to_owned(), |uses| {
            output::count(usize::try_from(uses).unwrap_or(usize::MAX), "use")
        });
        note(&format!(
            "token {} ends {expires}, {uses}; on the host: kctl-agent --controller {} --token-file FILE",
            token.id,
            target.server().unwrap_or("HOST:7443")
        ));
    }
    Ok(Exit::Done)
}

/// One row of `token list`.
#[derive(Debug, Serialize)]
struct TokenRow {
    id: String,
    expires: Option<String>,
    /// Uses left.
    uses: Option<u32>,
    host: Option<String>,
    created: Option<String>,
    created_by: Option<String>,
    #[serde(skip)]
    expires_unix_ms: i64,
}

impl From<Token> for TokenRow {
    fn from(token: Token) -> Self {
        Self {
            id: token.id,
            expires: rfc3339(token.expires_unix_ms),
            uses: token.uses,
            host: some(token.host),
            created: rfc3339(token.created_unix_ms),
            created_by: some(token.created_by),
            expires_unix_ms: token.expires_unix_ms,
        }
    }
}

async fn list(global: &Global, target: &Target) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let request = ListTokensRequest {};
    let call = async |channel| TokenServiceClient::new(channel).list_tokens(request).await;
    let tokens = ask(global, target, call).await?.tokens;
    let rows: Vec<_> = tokens.into_iter().map(TokenRow::from).collect();
    output::rows(format, "tokens", &rows, || {
        let now = now_unix_ms();
        let mut table = Table::new(&["ID", "EXPIRES", "USES LEFT", "HOST", "CREATED BY"]);
        for row in &rows {
            table.row([
                row.id.clone(),
                relative(row.expires_unix_ms, now),
                row.uses.map_or("any".to_owned(), |uses| uses.to_string()),
                row.host.clone().unwrap_or("any".to_owned()),
                cell(row.created_by.as_ref()),
            ]);
        }
        table
    })?;
    Ok(Exit::Done)
}

async fn revoke(global: &Global, target: &Target, args: RevokeArgs) -> anyhow::Result<Exit> {
    let request = RevokeTokenRequest { id: args.id.clone() };
    let call = async |channel| TokenServiceClient::new(channel).revoke_token(request).await;
    ask(global, target, call).await?;
    revoked(global, "token", "id", &args.id)
}
