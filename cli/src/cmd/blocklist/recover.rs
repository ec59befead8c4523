//! `blocklist recover`: an empty store is filled with what hosts still enforce.

use crate::{
    args::{Global, host_name},
    cmd::{completion::Names, wants_controller},
    connect::{READ_TIMEOUT, Target},
    exit::{Exit, usage},
    output::{self, count, note},
    time::milliseconds,
    view::change::{self, HostResultRow},
};
use clap::Args;
use kctl_proto::controller::v1::{
    RecoverBlocklistRequest, blocklist_service_client::BlocklistServiceClient,
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use serde::Serialize;

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// Connected hosts whose entries are taken, all of the same store
    #[arg(long, value_name = "NAME[,NAME…]", required = true, value_delimiter = ',')]
    #[arg(value_parser = host_name, add = Names::Hosts.candidates())]
    from_host: Vec<String>,
}

/// What `recover` took.
#[derive(Debug, Serialize)]
struct Recovered {
    store_id: String,
    revision: u64,
    entries: u64,
    warnings: Vec<String>,
    hosts: Vec<HostResultRow>,
}

/// Runs `blocklist recover`.
pub(super) async fn recover(global: &Global, args: RecoverArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    wants_controller(&target, "blocklist recover")?;
    if args.from_host.is_empty() {
        return Err(usage("blocklist recover: name at least one host"));
    }
    let connection = target.connect(global).await?;
    let wait = connection.wait(READ_TIMEOUT);
    let request =
        RecoverBlocklistRequest { from_hosts: args.from_host, timeout_ms: milliseconds(wait) };
    let mut client = BlocklistServiceClient::new(connection.channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let response = connection.call(wait, client.recover_blocklist(request)).await?;
    let recovered = Recovered {
        store_id: response.store_id,
        revision: response.revision,
        entries: response.entries,
        warnings: response.warnings,
        hosts: response.hosts.into_iter().map(HostResultRow::from).collect(),
    };
    output::object(format, &recovered, || change::table(&recovered.hosts).to_string())?;
    output::warn(&recovered.warnings);
    if format.for_people() {
        let entries = count(usize::try_from(recovered.entries).unwrap_or(usize::MAX), "entry");
        let (store, revision) = (&recovered.store_id, recovered.revision);
        note(&format!("recovered {entries} of store {store} (revision {revision})"));
    }
    Ok(change::exit(&recovered.hosts))
}
