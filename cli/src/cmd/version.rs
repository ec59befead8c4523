//! `version`: of kctl, and of the controller or agent that it speaks to.

use crate::{
    args::Global,
    config::Config,
    connect::{READ_TIMEOUT, Target},
    exit::Exit,
    output::{self, note, plain, warn},
};
use clap::Args;
use kctl_proto::controller::v1::{
    GetVersionRequest, controller_service_client::ControllerServiceClient,
};
use kctl_rpc::{VERSION, version_skew};
use serde::Serialize;

/// Arguments of `version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Only kctl's own; asks nobody
    #[arg(long)]
    client: bool,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: Client,
    /// `None` when there is none or it can't be reached.
    server: Option<Server>,
}

#[derive(Debug, Serialize)]
struct Client {
    version: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Server {
    Controller { version: String, identity: String, store_id: String, revision: u64 },
    Agent { version: String, host: String, kernel: String },
}

/// Runs `version`.
pub(crate) async fn run(global: &Global, args: &VersionArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let client = Client { version: VERSION };
    let server = if args.client || nowhere(global)? {
        None
    } else {
        // Half an answer is one: kctl's own version is often all that is asked for.
        server(global).await.map_err(|error| note(&format!("warning: {error:#}"))).ok()
    };
    let skew = server.as_ref().and_then(|server| match server {
        Server::Controller { version, .. } => {
            version_skew(("kctl", VERSION), ("kctl-controller", version))
        }
        Server::Agent { version, .. } => version_skew(("kctl", VERSION), ("kctl-agent", version)),
    });
    warn(skew.as_slice());
    let versions = Versions { client, server };
    output::object(format, &versions, || {
        let client = format!("kctl {}\n", versions.client.version);
        let server = match &versions.server {
            None => String::new(),
            Some(Server::Controller { version, identity, store_id, revision }) => {
                format!("controller {version} ({identity}, store {store_id} revision {revision})")
            }
            Some(Server::Agent { version, host, kernel }) => {
                format!("agent {version} ({host}, kernel {kernel})")
            }
        };
        if server.is_empty() { client } else { format!("{client}{}\n", plain(&server)) }
    })?;
    Ok(Exit::Done)
}

/// Whether no controller is configured and no agent named: nothing to warn of.
fn nowhere(global: &Global) -> anyhow::Result<bool> {
    let named = global.agent.is_some() || crate::args::env("KCTL_AGENT").is_some();
    Ok(!named && Config::read(&Config::path()?)?.is_none())
}

async fn server(global: &Global) -> anyhow::Result<Server> {
    let target = Target::of(global)?;
    let connection = target.connect(global).await?;
    if let Target::Agent(_) = target {
        let status = super::hosts::local_status(&connection).await?;
        let (version, host) = (status.agent_version, status.name);
        return Ok(Server::Agent { version, host, kernel: status.kernel });
    }
    let mut client = ControllerServiceClient::new(connection.channel.clone());
    let call = client.get_version(GetVersionRequest {});
    let response = connection.call(connection.wait(READ_TIMEOUT), call).await?;
    Ok(Server::Controller {
        version: response.version,
        identity: response.identity,
        store_id: response.store_id,
        revision: response.revision,
    })
}
