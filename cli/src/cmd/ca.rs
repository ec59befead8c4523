//! `ca`: the certificate authority of the fleet, and its replacement.

use super::wants_controller;
use crate::{
    args::Global,
    connect::{Connection, READ_TIMEOUT, Target},
    exit::Exit,
    output::{self, note, warn},
    time::{relative, rfc3339},
};
use clap::{Args, Subcommand};
use kctl_blocklist::now_unix_ms;
use kctl_proto::controller::v1::{
    Certificate, FinishRotationRequest, GetAuthorityRequest, RotateAuthorityRequest,
    authority_service_client::AuthorityServiceClient,
};
use kctl_rpc::Channel;
use serde::Serialize;
use std::fmt::Write as _;

/// Arguments of `ca`.
#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Which CAs are trusted, until when, and who has no certificate of a new one yet
    Show,
    /// Make a new CA; the old one is trusted too until "ca finish"
    Rotate,
    /// Drop the old CA; refused while somebody would be locked out
    Finish(FinishArgs),
}

#[derive(Debug, Args)]
struct FinishArgs {
    /// Also when hosts or users are locked out by it
    #[arg(long)]
    force: bool,
}

/// Runs `ca`.
pub(crate) async fn run(global: &Global, args: CaArgs) -> anyhow::Result<Exit> {
    let target = Target::of(global)?;
    wants_controller(&target, "ca")?;
    let format = global.format()?;
    let connection = target.connect(global).await?;
    let wait = connection.wait(READ_TIMEOUT);
    match args.command {
        CaCommand::Show => {
            let call = async { client(&connection).get_authority(GetAuthorityRequest {}).await };
            let told = connection.call(wait, call).await?;
            let view = AuthorityView {
                current: told.current.map(CertificateView::from),
                old: told.old.map(CertificateView::from),
                server: told.server.map(CertificateView::from),
                hosts: told.hosts,
                users: told.users,
            };
            output::object(format, &view, || view.text())?;
        }
        CaCommand::Rotate => {
            let call =
                async { client(&connection).rotate_authority(RotateAuthorityRequest {}).await };
            let told = connection.call(wait, call).await?;
            let view = AuthorityView {
                current: told.current.map(CertificateView::from),
                old: told.old.map(CertificateView::from),
                ..AuthorityView::default()
            };
            output::object(format, &view, || view.text())?;
            if format.for_people() {
                note(
                    "hosts renew over their connections now; users run \"kctl user renew\"; then \
                     \"kctl ca show\" and \"kctl ca finish\"",
                );
            }
        }
        CaCommand::Finish(args) => {
            let request = FinishRotationRequest { force: args.force };
            let call = async { client(&connection).finish_rotation(request).await };
            let told = connection.call(wait, call).await?;
            let locked = |what: &str, names: &[String]| match names.is_empty() {
                true => Vec::new(),
                false => vec![format!("{what} {} are locked out", names.join(", "))],
            };
            warn(&locked("hosts", &told.hosts));
            warn(&locked("users", &told.users));
            let finished = Finished { hosts: told.hosts, users: told.users };
            output::object(format, &finished, || "the old CA is dropped\n".to_owned())?;
        }
    }
    Ok(Exit::Done)
}

fn client(connection: &Connection) -> AuthorityServiceClient<Channel> {
    AuthorityServiceClient::new(connection.channel.clone())
}

/// Who was locked out.
#[derive(Debug, Serialize)]
struct Finished {
    hosts: Vec<String>,
    users: Vec<String>,
}

/// A certificate.
#[derive(Debug, Serialize)]
struct CertificateView {
    sha256: String,
    not_before: Option<String>,
    not_after: Option<String>,
    #[serde(skip)]
    ends: i64,
}

impl From<Certificate> for CertificateView {
    fn from(certificate: Certificate) -> Self {
        Self {
            sha256: certificate.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: rfc3339(certificate.not_before_unix_ms),
            not_after: rfc3339(certificate.not_after_unix_ms),
            ends: certificate.not_after_unix_ms,
        }
    }
}

/// The CAs, and who is behind.
#[derive(Debug, Default, Serialize)]
struct AuthorityView {
    current: Option<CertificateView>,
    /// While it is being replaced.
    old: Option<CertificateView>,
    server: Option<CertificateView>,
    /// Without a certificate of the new one.
    hosts: Vec<String>,
    users: Vec<String>,
}

impl AuthorityView {
    fn text(&self) -> String {
        let mut text = String::new();
        let now = now_unix_ms();
        let parts = [("CA", &self.current), ("old CA", &self.old), ("controller", &self.server)];
        for (name, certificate) in parts {
            if let Some(certificate) = certificate {
                let (hash, ends) = (&certificate.sha256, relative(certificate.ends, now));
                let _ = writeln!(text, "{name}: {hash:.16}…, ends {ends}");
            }
        }
        for (what, names) in [("hosts", &self.hosts), ("users", &self.users)] {
            if !names.is_empty() {
                let _ = writeln!(
                    text,
                    "{what} without a certificate of the new CA: {}",
                    names.join(", ")
                );
            }
        }
        text
    }
}
