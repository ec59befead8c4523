//! The way of a change (block, unblock, protect) to the controller or one agent, and of its answer to
//! the operator.

use crate::{
    args::Global,
    connect::{CHANGE_TIMEOUT, Connection, Lost, Target},
    exit::Exit,
    output::{self, Format, count, note},
    view::{
        change::{
            APPLIED, Change, ChangeLine, FAILED, HostResultRow, Recorded, exit, microseconds, table,
        },
        entry::EntryRow,
    },
};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget};
use kctl_blocklist::now_unix_ms;
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{
        BlockRequest, ChangeResponse, HostResult, UnblockRequest,
        blocklist_service_client::BlocklistServiceClient, change_response::Message,
    },
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use std::{
    io::{IsTerminal as _, stderr},
    time::{Duration, Instant},
};
use tonic::Streaming;

/// A change, as the controller takes it; an agent has no use for the selection.
pub(crate) enum Request {
    Block(BlockRequest),
    Unblock {
        request: UnblockRequest,
        /// Suspend the controller's entries, on one agent.
        force: bool,
    },
}

impl Request {
    fn prefixes(&self) -> usize {
        match self {
            Self::Block(request) => request.prefixes.len(),
            Self::Unblock { request, .. } => request.prefixes.len(),
        }
    }
}

/// `block`, `blocked`: for the summary.
pub(crate) struct Verb {
    pub(crate) now: &'static str,
    pub(crate) past: &'static str,
}

/// Sends the change, prints the answer.
pub(crate) async fn run(
    global: &Global,
    target: &Target,
    request: Request,
    verb: &Verb,
) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let connection = target.connect(global).await?;
    let reader = Reader::new(format, request.prefixes());
    let answer = match target {
        Target::Controller(_) => by_controller(&connection, request, reader).await?,
        Target::Agent(_) => by_agent(&connection, request, reader).await?,
    };
    answer.print(format, verb)
}

/// What is known of a change.
struct Answer {
    recorded: Recorded,
    hosts: Vec<HostResultRow>,
    /// Why some hosts' results never came.
    lost: Option<anyhow::Error>,
}

impl Answer {
    fn print(mut self, format: Format, verb: &Verb) -> anyhow::Result<Exit> {
        self.hosts.sort_by(|a, b| a.host.cmp(&b.host));
        match format {
            // Each line went out when its host answered.
            Format::Jsonl => {}
            Format::Table | Format::Wide if self.hosts.is_empty() => {}
            _ => {
                let change = Change { recorded: &self.recorded, hosts: &self.hosts };
                output::object(format, &change, || table(&self.hosts).to_string())?;
            }
        }
        output::warn(&self.recorded.warnings);
        for entry in self.recorded.still_blocked_by.iter().flatten() {
            note(&format!("warning: still covered: {}", entry.phrase()));
        }
        if format.for_people() {
            note(&self.summary(verb));
        }
        match self.lost {
            None => Ok(exit(&self.hosts)),
            Some(why) => {
                note(&format!("error: recorded, but the hosts' answers were lost: {why:#}"));
                Ok(Exit::Partial)
            }
        }
    }

    fn summary(&self, verb: &Verb) -> String {
        let prefixes = count(self.recorded.prefixes.len(), "prefix");
        let applied = self.hosts.iter().filter(|host| host.status == APPLIED).count();
        let hosts = count(self.hosts.len(), "host");
        let revision = self
            .recorded
            .revision
            .map_or_else(String::new, |number| format!(" (revision {number})"));
        if self.recorded.dry_run {
            return format!("dry run, nothing changed: would {} {prefixes}", verb.now);
        }
        if self.hosts.is_empty() && self.lost.is_none() {
            return format!("{} {prefixes}, for no known host yet{revision}", verb.past);
        }
        format!("{} {prefixes} on {applied} of {hosts}{revision}", verb.past)
    }
}

/// Who watches while hosts answer.
struct Reader {
    jsonl: bool,
    bar: ProgressBar,
}

impl Reader {
    fn new(format: Format, prefixes: usize) -> Self {
        // Drawing takes longer than one prefix to three hosts does.
        let watched = format.for_people() && stderr().is_terminal() && prefixes > 1_000;
        let bar = ProgressBar::with_draw_target(
            None,
            if watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if watched {
            bar.set_style(style("{spinner} {msg} {elapsed}"));
            bar.set_message(format!("sending {}", count(prefixes, "prefix")));
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { jsonl: format == Format::Jsonl, bar }
    }

    fn recorded(&mut self, hosts: u32) {
        if self.bar.is_hidden() && !self.jsonl && stderr().is_terminal() && hosts > 100 {
            self.bar = ProgressBar::new(hosts.into());
        }
        self.bar.set_length(hosts.into());
        self.bar.set_style(style("{bar:30} {pos}/{len} hosts {elapsed}"));
    }

    fn host(&self, recorded: &Recorded, host: &HostResultRow) -> anyhow::Result<()> {
        self.bar.inc(1);
        if !self.jsonl {
            return Ok(());
        }
        let (revision, prefixes) = (recorded.revision, recorded.prefixes.as_slice());
        output::line(&ChangeLine { revision, prefixes, host })
    }
}

fn style(template: &str) -> indicatif::ProgressStyle {
    indicatif::ProgressStyle::with_template(template).expect("a template of ours is valid")
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

async fn by_controller(
    connection: &Connection,
    request: Request,
    mut reader: Reader,
) -> anyhow::Result<Answer> {
    let hosts_wait = connection.wait(CHANGE_TIMEOUT);
    // A large set takes its time to be checked and stored.
    let size = u64::try_from(request.prefixes()).unwrap_or(u64::MAX);
    let wait = hosts_wait + Duration::from_millis(size);
    let timeout_ms = crate::time::milliseconds(hosts_wait);
    let mut client = BlocklistServiceClient::new(connection.channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let unblock = matches!(request, Request::Unblock { .. });
    let (dry_run, call) = match request {
        Request::Block(request) => {
            let request = BlockRequest { timeout_ms, ..request };
            (request.dry_run, connection.call(wait, client.block(request)).await)
        }
        Request::Unblock { request, .. } => {
            let request = UnblockRequest { timeout_ms, ..request };
            (false, connection.call(wait, client.unblock(request)).await)
        }
    };
    let mut stream = call.map_err(uncertain)?;
    let first = connection.next(wait, &mut stream).await.map_err(uncertain)?;
    let Some(ChangeResponse { message: Some(Message::Accepted(accepted)) }) = first else {
        anyhow::bail!("the controller did not say what it recorded; see \"kctl blocklist\"");
    };
    let now = now_unix_ms();
    let covering = accepted.still_blocked_by.into_iter();
    let recorded = Recorded {
        revision: Some(accepted.revision),
        prefixes: accepted.prefixes,
        warnings: accepted.warnings,
        still_blocked_by: unblock
            .then(|| covering.map(|entry| EntryRow::of_entry(entry, now)).collect()),
        dry_run,
    };
    reader.recorded(accepted.hosts);
    let mut hosts = Vec::new();
    let lost = loop {
        match next_host(connection, wait, &mut stream).await {
            Ok(Some(host)) => {
                let host = HostResultRow::from(host);
                reader.host(&recorded, &host)?;
                hosts.push(host);
            }
            Ok(None) if hosts.len() < usize::try_from(accepted.hosts).unwrap_or(0) => {
                let (all, told) = (accepted.hosts, hosts.len());
                break Some(anyhow::anyhow!("{told} of {all} hosts were told of"));
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    Ok(Answer { recorded, hosts, lost })
}

async fn next_host(
    connection: &Connection,
    wait: Duration,
    stream: &mut Streaming<ChangeResponse>,
) -> anyhow::Result<Option<HostResult>> {
    while let Some(response) = connection.next(wait, stream).await? {
        if let Some(Message::Host(host)) = response.message {
            return Ok(Some(host));
        }
    }
    Ok(None)
}

/// A connection that broke before the answer leaves open whether the change was recorded.
fn uncertain(error: anyhow::Error) -> anyhow::Error {
    if error.is::<Lost>() {
        return error.context("the change may be recorded or not, see \"kctl blocklist\"");
    }
    error
}

async fn by_agent(
    connection: &Connection,
    request: Request,
    reader: Reader,
) -> anyhow::Result<Answer> {
    let wait = connection.wait(CHANGE_TIMEOUT);
    let host = super::hosts::local_status(connection).await?.name;
    let mut client =
        agent::blocklist_service_client::BlocklistServiceClient::new(connection.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let begun = Instant::now();
    let (recorded, not_enforced) = match request {
        Request::Block(request) => {
            let dry_run = request.dry_run;
            let local = local_block(request);
            let response = connection.call(wait, client.block(local)).await.map_err(uncertain)?;
            let (prefixes, warnings) = (response.prefixes, response.warnings);
            (
                Recorded { revision: None, prefixes, warnings, still_blocked_by: None, dry_run },
                response.not_enforced,
            )
        }
        Request::Unblock { request, force } => {
            let local = local_unblock(request, force);
            let response = connection.call(wait, client.unblock(local)).await.map_err(uncertain)?;
            let now = now_unix_ms();
            let covering = response.still_blocked_by.into_iter();
            let recorded = Recorded {
                revision: None,
                prefixes: response.prefixes,
                warnings: response.warnings,
                still_blocked_by: Some(
                    covering.map(|entry| EntryRow::of_entry(entry, now)).collect(),
                ),
                dry_run: false,
            };
            (recorded, None)
        }
    };
    let elapsed_ms = Some(microseconds(begun.elapsed().as_secs_f64() * 1_000.0));
    let status = if not_enforced.is_some() { FAILED } else { APPLIED };
    let row = HostResultRow { host, status, elapsed_ms, error: not_enforced.map(Into::into) };
    reader.host(&recorded, &row).context("answer")?;
    Ok(Answer { recorded, hosts: vec![row], lost: None })
}

fn local_block(request: BlockRequest) -> agent::BlockRequest {
    agent::BlockRequest {
        prefixes: request.prefixes,
        port: request.port,
        protocol: request.protocol,
        action: request.action,
        ttl_ms: request.ttl_ms,
        reason: request.reason,
        force: request.force,
        dry_run: request.dry_run,
    }
}

fn local_unblock(request: UnblockRequest, force: bool) -> agent::UnblockRequest {
    agent::UnblockRequest {
        prefixes: request.prefixes,
        port: request.port,
        protocol: request.protocol,
        action: request.action,
        force,
    }
}
