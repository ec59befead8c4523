//! The way of a change (block, unblock, protect) to the controller or one agent, and of its answer to
//! the operator.

mod agent;
mod controller;
mod reader;

use super::feed::Import;
use crate::{
    args::Global,
    connect::{Lost, Target},
    exit::Exit,
    output::{self, Format, count, note},
    view::change::{
        APPLIED, Change, FeedView, ForecastRow, HostResultRow, Recorded, exit, forecast_exit,
        foreseen, table,
    },
};
use agent::by_agent;
use controller::by_controller;
use kctl_proto::controller::v1::{BlockRequest, UnblockRequest};
use reader::Reader;

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

/// A connection that broke before the answer leaves open whether the change was recorded.
fn uncertain(error: anyhow::Error) -> anyhow::Error {
    if error.is::<Lost>() {
        return error.context("the change may be recorded or not, see \"kctl blocklist\"");
    }
    error
}
