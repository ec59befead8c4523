//! `user`: who may use the controller. Keys are made here and never leave, except into the configuration
//! that is written for a user.

use super::{ask, completion::Names, revoked, wants_controller};
use crate::{
    args::{Global, env},
    config::{Config, Context},
    connect::Target,
    exit::Exit,
    output::{self, Table, note},
    time::{milliseconds, parse_duration, relative, rfc3339},
    view::{cell, some},
};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use kctl_blocklist::{Selector, now_unix_ms};
use kctl_proto::controller::v1::{
    CreateUserRequest, ListUsersRequest, RenewUserRequest, RevokeUserRequest, User,
    user_service_client::UserServiceClient,
};
use serde::Serialize;
use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};
use std::{path::PathBuf, time::Duration};

/// Arguments of `user`.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Make a user; prints a whole configuration for kctl, with the user's key
    Create(CreateArgs),
    /// Every user
    List,
    /// A new certificate: for oneself, into the configuration; or for another user, as create does
    Renew(RenewArgs),
    /// Cut a user off
    Revoke(RevokeArgs),
}

/// What a user may do; each what those before it may.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Reads that show no secrets
    Viewer,
    /// And block, unblock, feeds, signal, arguments of processes
    Operator,
    /// And secrets, kernel settings, tokens, users, removal of hosts
    Admin,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The user's name
    #[arg(value_parser = user_name)]
    name: String,
    /// What the user may do
    #[arg(long, value_enum, default_value_t = Role::Viewer)]
    role: Role,
    /// Only hosts whose labels match: role=web,zone!=b
    #[arg(long, value_name = "KEY=VALUE[,…]")]
    scope: Option<Selector>,
    #[command(flatten)]
    certificate: CertificateArgs,
}

#[derive(Debug, Args)]
struct CertificateArgs {
    /// How long the certificate lives; the user can't renew it then. Without it as long as the
    /// controller says, a year by default
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Write the configuration to this new file, which only its owner can read, instead of printing it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RenewArgs {
    /// The user; without it oneself
    #[arg(value_parser = user_name, add = Names::Users.candidates())]
    name: Option<String>,
    #[command(flatten)]
    certificate: CertificateArgs,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The user's name
    #[arg(add = Names::Users.candidates())]
    name: String,
}

fn user_name(text: &str) -> Result<String, String> {
    match kctl_rpc::valid_name(text) {
        true => Ok(text.to_owned()),
        false => Err("not a user name: 1 to 253 of a-z, 0-9, \"-\" and \".\"".to_owned()),
    }
}

/// Runs `user`.
pub(crate) async fn run(global: &Global, args: UserArgs) -> anyhow::Result<Exit> {
    let target = Target::of(global)?;
    wants_controller(&target, "user")?;
    match args.command {
        UserCommand::Create(args) => create(global, &target, args).await,
        UserCommand::List => list(global, &target).await,
        UserCommand::Renew(args) => renew(global, &target, args).await,
        UserCommand::Revoke(args) => revoke(global, &target, args).await,
    }
}

/// One row of `user list`.
#[derive(Debug, Serialize)]
struct UserRow {
    name: String,
    role: String,
    scope: Option<String>,
    /// When the last certificate ends.
    expires: Option<String>,
    /// Whether the user may renew it.
    renewable: bool,
    created: Option<String>,
    created_by: Option<String>,
    #[serde(skip)]
    expires_unix_ms: i64,
}

impl From<User> for UserRow {
    fn from(user: User) -> Self {
        Self {
            name: user.name,
            role: user.role,
            scope: some(user.scope),
            expires: rfc3339(user.expires_unix_ms),
            renewable: !user.limited,
            created: rfc3339(user.created_unix_ms),
            created_by: some(user.created_by),
            expires_unix_ms: user.expires_unix_ms,
        }
    }
}

/// A user with a new certificate.
#[derive(Debug, Serialize)]
struct NewUser {
    #[serde(flatten)]
    user: UserRow,
    /// A whole configuration for kctl; absent when it is in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

async fn create(global: &Global, target: &Target, args: CreateArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let CertificateArgs { ttl, file } = args.certificate;
    let file = file.map(NewFile::make).transpose()?;
    let (key, csr) = kctl_rpc::new_key_and_csr()?;
    let role = args.role.to_possible_value().map(|role| role.get_name().to_owned());
    let request = CreateUserRequest {
        name: args.name.clone(),
        role: role.unwrap_or_default(),
        scope: args.scope.map(|scope| scope.to_string()).unwrap_or_default(),
        ttl_ms: ttl.map(milliseconds).unwrap_or_default(),
        csr,
    };
    let call = async |channel| UserServiceClient::new(channel).create_user(request).await;
    let made = ask(global, target, call).await?;
    let user = made.user.context("the controller did not describe the user")?;
    let server = target.server().unwrap_or_default().to_owned();
    let context = Context {
        server,
        controller: made.controller,
        ca: made.ca,
        certificate: made.certificate,
        key,
    };
    hand_over(format, user, context, file)
}

async fn renew(global: &Global, target: &Target, args: RenewArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let Target::Controller(own) = target else { bail!("user renew wants a controller") };
    let CertificateArgs { ttl, file } = args.certificate;
    let file = file.map(NewFile::make).transpose()?;
    let (key, csr) = kctl_rpc::new_key_and_csr()?;
    let request = RenewUserRequest {
        name: args.name.clone().unwrap_or_default(),
        ttl_ms: ttl.map(milliseconds).unwrap_or_default(),
        csr,
    };
    let call = async |channel| UserServiceClient::new(channel).renew_user(request).await;
    let made = ask(global, target, call).await?;
    let user = made.user.context("the controller did not describe the user")?;
    let server = own.server.clone();
    let context = Context {
        server,
        controller: made.controller,
        ca: made.ca,
        certificate: made.certificate,
        key,
    };
    if args.name.is_some() || file.is_some() {
        return hand_over(format, user, context, file);
    }
    let path = Config::path()?;
    let mut config = Config::read(&path)?.unwrap_or_default();
    let wanted = global.context.clone().or_else(|| env("KCTL_CONTEXT"));
    let (name, known) = config.context(wanted.as_deref())?;
    let (name, server) = (name.to_owned(), known.server.clone());
    config.contexts.insert(name.clone(), Context { server, ..context });
    config.write(&path)?;
    let user = UserRow::from(user);
    let ends = relative(user.expires_unix_ms, now_unix_ms());
    let renewed = NewUser { user, config: None, file: Some(path.clone()) };
    output::object(format, &renewed, || {
        format!("context {name:?} in {} renewed; it ends {ends}\n", path.display())
    })?;
    Ok(Exit::Done)
}

/// Prints or writes the configuration of a user.
fn hand_over(
    format: output::Format,
    user: User,
    context: Context,
    file: Option<NewFile>,
) -> anyhow::Result<Exit> {
    let name = context.controller.rsplit('/').next().unwrap_or_default().to_owned();
    let config = Config { current: Some(name.clone()), contexts: [(name, context)].into() };
    let text = config.text()?;
    let user = UserRow::from(user);
    let ends = relative(user.expires_unix_ms, now_unix_ms());
    let (label, role) = (user.name.clone(), user.role.clone());
    let on = user.scope.as_ref().map(|scope| format!(" on {scope}")).unwrap_or_default();
    let path = file.map(|file| file.fill(&text)).transpose()?;
    let config = path.is_none().then(|| text.clone());
    let new = NewUser { user, config, file: path.clone() };
    output::object(format, &new, || if path.is_none() { text } else { String::new() })?;
    if format.for_people() {
        let place = path.map(|path| format!(" in {}", path.display())).unwrap_or_default();
        note(&format!(
            "user {label}: {role}{on}, ends {ends}; the configuration{place} holds the key: hand it over \
             secretly, and \"kctl context import FILE\" takes it"
        ));
    }
    Ok(Exit::Done)
}

/// A file that was not there before, made before anything is asked of the controller.
struct NewFile {
    path: PathBuf,
    filled: bool,
}

impl NewFile {
    fn make(path: PathBuf) -> anyhow::Result<Self> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("{}: can't be made", path.display()))?;
        Ok(Self { path, filled: false })
    }

    fn fill(mut self, text: &str) -> anyhow::Result<PathBuf> {
        let write = |path: &Path| {
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write(&self.path).with_context(|| format!("{}: can't be written", self.path.display()))?;
        self.filled = true;
        Ok(self.path.clone())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.filled {
            // An empty file is of no use; that it stays would be no harm either.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn list(global: &Global, target: &Target) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let request = ListUsersRequest {};
    let call = async |channel| UserServiceClient::new(channel).list_users(request).await;
    let users = ask(global, target, call).await?.users;
    let rows: Vec<_> = users.into_iter().map(UserRow::from).collect();
    output::rows(format, "users", &rows, || {
        let now = now_unix_ms();
        let mut table = Table::new(&["NAME", "ROLE", "SCOPE", "EXPIRES", "CREATED BY"]);
        for row in &rows {
            table.row([
                row.name.clone(),
                row.role.clone(),
                row.scope.clone().unwrap_or("all hosts".to_owned()),
                relative(row.expires_unix_ms, now),
                cell(row.created_by.as_ref()),
            ]);
        }
        table
    })?;
    Ok(Exit::Done)
}

async fn revoke(global: &Global, target: &Target, args: RevokeArgs) -> anyhow::Result<Exit> {
    let request = RevokeUserRequest { name: args.name.clone() };
    let call = async |channel| UserServiceClient::new(channel).revoke_user(request).await;
    ask(global, target, call).await?;
    revoked(global, "user", "name", &args.name)
}
