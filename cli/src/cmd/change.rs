//! The way of a change (block, unblock, protect) to the controller or one agent, and of its answer to
//! the operator.

use super::feed::Import;
use crate::{
    args::Global,
    connect::{CHANGE_TIMEOUT, Connection, Lost, Target},
    exit::{Exit, usage},
    output::{self, Format, count, note},
    view::{
        change::{
            APPLIED, Change, ChangeLine, FAILED, FeedView, ForecastLine, ForecastRow,
            HostResultRow, Recorded, exit, forecast_exit, foreseen, microseconds, table,
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
        BlockRequest, ChangeResponse, UnblockRequest,
        blocklist_service_client::BlocklistServiceClient, change_response::Message,
    },
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use std::{
    io::{IsTerminal as _, stderr},
    time::{Duration, Instant},
};
use tonic::Streaming;

/// How long hosts are waited for after an import, where nobody said otherwise.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// A change, as the controller takes it; an agent has no use for the selection.
pub(crate) enum Request {
    Block(BlockRequest),
    Unblock {
        request: UnblockRequest,
        /// Suspend the controller's entries, on one agent.
        force: bool,
    },
    /// Only by a controller.
    Import(Import),
}

impl Request {
    fn prefixes(&self) -> usize {
        match self {
            Self::Import(import) => import.lines.len(),
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
    forecast: Vec<ForecastRow>,
    /// Why some hosts' results never came.
    lost: Option<anyhow::Error>,
}

impl Answer {
    fn print(mut self, format: Format, verb: &Verb) -> anyhow::Result<Exit> {
        self.hosts.sort_by(|a, b| a.host.cmp(&b.host));
        match format {
            // Each line went out when its host answered.
            Format::Jsonl => {}
            Format::Table | Format::Wide if self.hosts.is_empty() && self.forecast.is_empty() => {}
            _ => {
                let Self { recorded, hosts, forecast, .. } = &self;
                let change = Change { recorded, hosts, forecast };
                output::object(format, &change, || match forecast.as_slice() {
                    [] => table(hosts).to_string(),
                    forecast => foreseen(forecast),
                })?;
            }
        }
        output::warn(&self.recorded.warnings);
        for host in &self.hosts {
            let warnings = host.warnings.iter();
            output::warn(
                &warnings.map(|it| format!("host {:?}: {it}", host.host)).collect::<Vec<_>>(),
            );
        }
        for entry in self.recorded.still_blocked_by.iter().flatten() {
            note(&format!("warning: still covered: {}", entry.phrase()));
        }
        if format.for_people() {
            note(&self.summary(verb));
        }
        match self.lost {
            None if self.recorded.dry_run => Ok(forecast_exit(&self.forecast)),
            None => Ok(exit(&self.hosts)),
            Some(why) => {
                note(&format!("error: recorded, but the hosts' answers were lost: {why:#}"));
                Ok(Exit::Partial)
            }
        }
    }

    fn summary(&self, verb: &Verb) -> String {
        let prefixes = match &self.recorded.feed {
            None => count(self.recorded.prefixes.len(), "prefix"),
            Some(FeedView { name, entries, added, removed }) => {
                let entries = count(usize::try_from(*entries).unwrap_or(usize::MAX), "entry");
                format!("feed {name} of {entries} ({added} added, {removed} removed)")
            }
        };
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
        output::line(&ChangeLine { revision, prefixes, feed: recorded.feed.as_ref(), host })
    }

    fn forecast(&self, recorded: &Recorded, forecast: &ForecastRow) -> anyhow::Result<()> {
        let revision = recorded.revision;
        if self.jsonl { output::line(&ForecastLine { revision, forecast }) } else { Ok(()) }
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
    let import = match &request {
        Request::Import(import) => Some(import.clone()),
        _ => None,
    };
    let default = if import.is_some() { IMPORT_TIMEOUT } else { CHANGE_TIMEOUT };
    let hosts_wait = connection.wait(default);
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
        Request::Import(import) => {
            let messages = tokio_stream::iter(import.messages(timeout_ms));
            (import.header.dry_run, connection.call(wait, client.import_feed(messages)).await)
        }
    };
    let mut stream = call.map_err(uncertain)?;
    let first = connection.next(wait, &mut stream).await.map_err(uncertain)?;
    let accepted = match (first.and_then(|first| first.message), &import) {
        (Some(Message::Accepted(accepted)), _) => accepted,
        (Some(Message::Refused(refused)), Some(import)) => return Err(import.refused(&refused)),
        _ => anyhow::bail!("the controller did not say what it recorded; see \"kctl blocklist\""),
    };
    let now = now_unix_ms();
    let covering = accepted.still_blocked_by.into_iter();
    let recorded = Recorded {
        revision: Some(accepted.revision),
        prefixes: accepted.prefixes,
        feed: import.as_ref().map(|import| import.became(accepted.feed)),
        warnings: accepted.warnings,
        still_blocked_by: unblock
            .then(|| covering.map(|entry| EntryRow::of_entry(entry, now)).collect()),
        dry_run,
    };
    reader.recorded(accepted.hosts);
    let told = usize::try_from(accepted.hosts).unwrap_or(0);
    read_hosts(connection, wait, &mut stream, recorded, told, &reader).await
}

/// Reads one answer a host.
async fn read_hosts(
    connection: &Connection,
    wait: Duration,
    stream: &mut Streaming<ChangeResponse>,
    recorded: Recorded,
    all: usize,
    reader: &Reader,
) -> anyhow::Result<Answer> {
    let (mut hosts, mut forecast) = (Vec::new(), Vec::new());
    let lost = loop {
        match connection.next(wait, stream).await {
            Ok(Some(ChangeResponse { message: Some(Message::Host(host)) })) => {
                let host = HostResultRow::from(host);
                reader.host(&recorded, &host)?;
                hosts.push(host);
            }
            Ok(Some(ChangeResponse { message: Some(Message::Forecast(told)) })) => {
                let told = ForecastRow::from(told);
                reader.forecast(&recorded, &told)?;
                forecast.push(told);
            }
            Ok(Some(_)) => {}
            Ok(None) if hosts.len() + forecast.len() < all => {
                let told = hosts.len() + forecast.len();
                break Some(anyhow::anyhow!("{told} of {all} hosts were told of"));
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    Ok(Answer { recorded, hosts, forecast, lost })
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
    let (recorded, not_enforced, peers) = match request {
        Request::Block(request) => {
            let dry_run = request.dry_run;
            let local = local_block(request);
            let response = connection.call(wait, client.block(local)).await.map_err(uncertain)?;
            let (prefixes, warnings) = (response.prefixes, response.warnings);
            (
                Recorded {
                    revision: None,
                    prefixes,
                    feed: None,
                    warnings,
                    still_blocked_by: None,
                    dry_run,
                },
                response.not_enforced,
                response.peers,
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
                feed: None,
                warnings: response.warnings,
                still_blocked_by: Some(
                    covering.map(|entry| EntryRow::of_entry(entry, now)).collect(),
                ),
                dry_run: false,
            };
            (recorded, None, None)
        }
        Request::Import(_) => return Err(usage("blocklist import wants a controller")),
    };
    let elapsed_ms = Some(microseconds(begun.elapsed().as_secs_f64() * 1_000.0));
    let status = if not_enforced.is_some() { FAILED } else { APPLIED };
    let forecast = peers.map(|peers| ForecastRow::of_agent(host.clone(), &recorded, peers));
    let error = not_enforced.map(Into::into);
    let row = HostResultRow { host, status, elapsed_ms, error, warnings: Vec::new() };
    reader.host(&recorded, &row).context("answer")?;
    if let Some(forecast) = &forecast {
        reader.forecast(&recorded, forecast).context("answer")?;
    }
    let forecast = forecast.into_iter().collect();
    Ok(Answer { recorded, hosts: vec![row], forecast, lost: None })
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
        port_last: request.port_last,
        interface: request.interface,
    }
}

fn local_unblock(request: UnblockRequest, force: bool) -> agent::UnblockRequest {
    agent::UnblockRequest {
        prefixes: request.prefixes,
        port: request.port,
        protocol: request.protocol,
        action: request.action,
        force,
        port_last: request.port_last,
        interface: request.interface,
    }
}
