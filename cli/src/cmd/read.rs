//! The way of everything that hosts answer in parts, reads and changes: it asks one agent or the fleet,
//! puts each host's parts together, prints a row a host, and settles the exit code. It knows no noun.

use super::block::fleet_only;
use crate::{
    args::{Global, HostSelection},
    connect::{Connection, Lost, READ_TIMEOUT, Target},
    exit::{Exit, usage},
    output::{self, Format, note},
    time::milliseconds,
    view::{
        ErrorView,
        read::{HostRow, Record, table, without},
    },
};
use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kctl_proto::{Piece, Twin, agent::v1 as agent};
use kctl_rpc::Channel;
use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, stderr},
    time::Duration,
};
use tonic::{Response, Status, Streaming};

/// Arguments of every read.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// Exit with 3 when a host did not answer
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    selection: HostSelection,
}

impl ReadArgs {
    /// For a command that is a read or a change.
    pub(super) fn new(strict: bool, selection: HostSelection) -> Self {
        Self { strict, selection }
    }

    pub(super) fn strict(&self) -> bool {
        self.strict
    }

    pub(super) fn selection(&self, target: &Target) -> anyhow::Result<Option<agent::Selection>> {
        self.selection.for_read(target)
    }

    /// Whether it is about one host, by name.
    pub(super) fn names_one_host(&self) -> bool {
        self.selection.names_one_host()
    }
}

/// Arguments of every change that hosts make at once or not at all.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    selection: HostSelection,
    /// No error when no host matches -l or --all-hosts
    #[arg(long)]
    allow_empty: bool,
}

impl ChangeArgs {
    /// For a command that turns out to be a read.
    pub(super) fn into_selection(self) -> anyhow::Result<HostSelection> {
        match self.allow_empty {
            true => Err(usage("--allow-empty is about a change, and this is a read")),
            false => Ok(self.selection),
        }
    }
}

/// What is asked for: one call of an agent, and its twin of the controller.
pub(crate) trait Ask {
    /// A part of one host's answer.
    type Part;
    /// The same from the controller.
    type Twin: Twin<Part = Self::Part>;

    /// Asks one agent.
    async fn of_agent(&self, channel: Channel) -> Result<Response<Streaming<Self::Part>>, Status>;

    /// Asks the fleet.
    async fn of_fleet(
        &self,
        channel: Channel,
        selection: Option<agent::Selection>,
        timeout_ms: u64,
    ) -> Result<Response<Streaming<Self::Twin>>, Status>;
}

/// What is asked for, and shown as a row a host.
pub(crate) trait Read: Ask {
    /// What the parts consist of.
    type Record: Record;

    /// What a part consists of.
    fn records(&self, part: Self::Part) -> Vec<Self::Record>;
}

/// Calls of the agent's service and their twins of the controller's: the module of their client and the
/// client; then request, response and the call.
macro_rules! asks {
    ($clients:ident $client:ident $($request:ident $response:ident $call:ident),* $(,)?) => {$(
        impl $crate::cmd::read::Ask for kctl_proto::agent::v1::$request {
            type Part = kctl_proto::agent::v1::$response;
            type Twin = kctl_proto::controller::v1::$response;

            async fn of_agent(
                &self,
                channel: kctl_rpc::Channel,
            ) -> Result<tonic::Response<tonic::Streaming<Self::Part>>, tonic::Status> {
                kctl_proto::agent::v1::$clients::$client::new(channel)
                    .max_decoding_message_size(kctl_rpc::MAX_MESSAGE_BYTES)
                    .$call(self.clone())
                    .await
            }

            async fn of_fleet(
                &self,
                channel: kctl_rpc::Channel,
                selection: Option<kctl_proto::agent::v1::Selection>,
                timeout_ms: u64,
            ) -> Result<tonic::Response<tonic::Streaming<Self::Twin>>, tonic::Status> {
                let request = Some(self.clone());
                let request =
                    kctl_proto::controller::v1::$request { selection, timeout_ms, request };
                kctl_proto::controller::v1::$clients::$client::new(channel)
                    .max_decoding_message_size(kctl_rpc::MAX_MESSAGE_BYTES)
                    .$call(request)
                    .await
            }
        }
    )*};
}
pub(crate) use asks;

/// The same for those whose answers are lists: request, response, the list in it, the call, and what is
/// shown.
macro_rules! reads {
    ($clients:ident $client:ident
        $($request:ident $response:ident $list:ident $call:ident $view:ident),* $(,)?
    ) => {
        $crate::cmd::read::asks! { $clients $client $($request $response $call),* }
        $(
            impl $crate::cmd::read::Read for kctl_proto::agent::v1::$request {
                type Record = $view;

                fn records(&self, part: Self::Part) -> Vec<Self::Record> {
                    part.$list.into_iter().map($view::from).collect()
                }
            }
        )*
    };
}
pub(crate) use reads;

/// Asks, prints, and answers with the exit code.
pub(crate) async fn run<R: Read>(
    global: &Global,
    args: &ReadArgs,
    read: &R,
) -> anyhow::Result<Exit> {
    watch(global, args, read, Duration::ZERO).await
}

/// The same for a read that a host answers only after it has watched for an interval.
pub(crate) async fn watch<R: Read>(
    global: &Global,
    args: &ReadArgs,
    read: &R,
    interval: Duration,
) -> anyhow::Result<Exit> {
    let target = Target::of(global)?;
    let selection = args.selection.for_read(&target)?;
    let answers = Answers::new(global.format()?);
    let answers = ask(global, &target, selection, read, interval, answers).await?;
    let exit = Exit::of_read(answers.hosts, answers.failed, args.strict);
    answers.print()?;
    Ok(exit)
}

/// The same for what changes something on hosts.
pub(crate) async fn change<R: Read>(
    global: &Global,
    args: &ChangeArgs,
    read: &R,
) -> anyhow::Result<Exit> {
    let target = Target::of(global)?;
    fleet_only(&target, args.allow_empty)?;
    let selection = args.selection.for_change(&target)?;
    change_on(global, &target, selection, args.allow_empty, read).await
}

/// The same on hosts that are settled already.
pub(crate) async fn change_on<R: Read>(
    global: &Global,
    target: &Target,
    selection: Option<agent::Selection>,
    allow_empty: bool,
    read: &R,
) -> anyhow::Result<Exit> {
    let answers = Answers::new(global.format()?);
    let answers = match ask(global, target, selection, read, Duration::ZERO, answers).await {
        Err(why) if why.is::<Lost>() => {
            note(&format!("error: {why:#}; hosts may have done it: look before you repeat it"));
            return Ok(Exit::Partial);
        }
        answers => answers?,
    };
    if answers.hosts == 0 && !allow_empty {
        bail!("no known host matches the selection; nothing was changed");
    }
    let exit = Exit::of_change(answers.hosts, answers.failed, answers.uncertain);
    answers.print()?;
    Ok(exit)
}

/// What hosts say, for a command that works with it and prints nothing.
pub(crate) async fn rows<R: Read>(
    global: &Global,
    target: &Target,
    selection: Option<agent::Selection>,
    read: &R,
) -> anyhow::Result<Vec<HostRow<R::Record>>> {
    let answers = Answers::new(Format::Json);
    let answers = ask(global, target, selection, read, Duration::ZERO, answers).await?;
    answers.bar.finish_and_clear();
    Ok(answers.rows)
}

async fn ask<R: Read>(
    global: &Global,
    target: &Target,
    selection: Option<agent::Selection>,
    read: &R,
    interval: Duration,
    mut answers: Answers<R::Record>,
) -> anyhow::Result<Answers<R::Record>> {
    let told = pieces(global, target, selection, read, interval, |host, piece| match piece {
        Piece::Part(part) => {
            answers.part(host, read.records(part));
            Ok(())
        }
        Piece::Error(error) => answers.failed(host, error),
        Piece::End => answers.end(host),
    });
    told.await?;
    answers.cut_short()?;
    Ok(answers)
}

/// Asks, and hands on what each host says as it comes.
pub(super) async fn pieces<A: Ask>(
    global: &Global,
    target: &Target,
    selection: Option<agent::Selection>,
    ask: &A,
    interval: Duration,
    hear: impl FnMut(String, Piece<A::Part>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let connection = target.connect(global).await?;
    let wait = connection.wait(READ_TIMEOUT) + interval;
    pieces_over(&connection, target, selection, ask, wait, hear).await
}

/// The same over a connection that is there, with so much time for each host.
pub(super) async fn pieces_over<A: Ask>(
    connection: &Connection,
    target: &Target,
    selection: Option<agent::Selection>,
    ask: &A,
    wait: Duration,
    mut hear: impl FnMut(String, Piece<A::Part>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let channel = connection.channel.clone();
    match target {
        Target::Controller(_) => {
            let call = ask.of_fleet(channel, selection, milliseconds(wait));
            let mut stream = connection.call(wait, call).await?;
            while let Some(message) = connection.next(wait, &mut stream).await? {
                let (host, piece) = message.into_piece();
                hear(host, piece.unwrap_or_else(|| Piece::Error(agent::Error::default())))?;
            }
        }
        Target::Agent(_) => {
            let host = super::hosts::local_status(connection).await?.name;
            let mut stream = connection.call(wait, ask.of_agent(channel)).await?;
            while let Some(part) = connection.next(wait, &mut stream).await? {
                hear(host.clone(), Piece::Part(part))?;
            }
            hear(host, Piece::End)?;
        }
    }
    Ok(())
}

/// What the hosts have told so far.
struct Answers<T> {
    format: Format,
    bar: ProgressBar,
    begun: BTreeMap<String, Vec<T>>,
    rows: Vec<HostRow<T>>,
    hosts: usize,
    failed: usize,
    /// Of those that failed: who may have done what was asked.
    uncertain: usize,
}

impl<T: Record> Answers<T> {
    fn new(format: Format) -> Self {
        let bar = if stderr().is_terminal() { waiting() } else { ProgressBar::hidden() };
        let (begun, rows) = (BTreeMap::new(), Vec::new());
        Self { format, bar, begun, rows, hosts: 0, failed: 0, uncertain: 0 }
    }

    fn part(&mut self, host: String, records: Vec<T>) {
        self.begun.entry(host).or_default().extend(records);
    }

    fn end(&mut self, host: String) -> anyhow::Result<()> {
        let records = self.begun.remove(&host).unwrap_or_default();
        self.row(HostRow { host, result: Ok(records) })
    }

    fn failed(&mut self, host: String, error: agent::Error) -> anyhow::Result<()> {
        // Half a list would pass for the whole.
        self.begun.remove(&host);
        self.failed += 1;
        let uncertain =
            matches!(error.code.as_str(), "DEADLINE_EXCEEDED" | "UNKNOWN" | "DATA_LOSS");
        self.uncertain += usize::from(uncertain);
        self.row(HostRow { host, result: Err(ErrorView::from(error)) })
    }

    /// Nothing comes any more.
    fn cut_short(&mut self) -> anyhow::Result<()> {
        while let Some((host, _)) = self.begun.pop_first() {
            let message = format!("host {host:?}: the answer was cut short");
            self.failed(host, agent::Error { code: "DATA_LOSS".to_owned(), message })?;
        }
        Ok(())
    }

    fn row(&mut self, row: HostRow<T>) -> anyhow::Result<()> {
        self.hosts += 1;
        self.bar.set_message(format!("{} answered", output::count(self.hosts, "host")));
        if self.format == Format::Jsonl {
            // Printed as it comes, and not kept.
            return self.bar.suspend(|| output::line(&row));
        }
        self.rows.push(row);
        Ok(())
    }

    fn print(mut self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        self.rows.sort_by(|a, b| a.host.cmp(&b.host));
        let wide = self.format == Format::Wide;
        let shown = |row: &HostRow<T>| row.result.as_ref().map_or(true, |list| !list.is_empty());
        match self.format {
            // Printed as they came.
            Format::Jsonl => return Ok(()),
            Format::Table | Format::Wide if !self.rows.is_empty() => {
                if self.rows.iter().any(shown) {
                    output::print(&table(&self.rows, wide).to_string())?;
                }
                if let Some(remark) = without(&self.rows) {
                    note(&remark);
                }
            }
            format => output::rows(format, "hosts", &self.rows, || table(&self.rows, wide))?,
        }
        Ok(())
    }
}

/// A progress line on standard error.
fn waiting() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    let bar = ProgressBar::new_spinner()
        .with_style(style.expect("a template of ours is valid"))
        .with_message("waiting for hosts");
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;

    #[derive(Debug, Serialize)]
    struct Number(u32);

    impl Record for Number {
        const NOUN: &'static str = "numbers";
        const COLUMNS: &'static [&'static str] = &["NUMBER"];
        const WIDE_COLUMNS: &'static [&'static str] = &["TWICE"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_string(), (2 * self.0).to_string()]
        }
    }

    fn told() -> Answers<Number> {
        let mut answers = Answers::new(Format::Json);
        for (host, numbers) in [("b", vec![1, 2]), ("a", vec![3]), ("b", vec![4]), ("c", vec![5])] {
            answers.part(host.to_owned(), numbers.into_iter().map(Number).collect());
        }
        let message = "gone".to_owned();
        let error = agent::Error { code: "UNAVAILABLE".to_owned(), message };
        answers.end("b".to_owned()).expect("no output yet");
        answers.failed("a".to_owned(), error).expect("no output yet");
        answers.cut_short().expect("no output yet");
        answers.rows.sort_by(|a, b| a.host.cmp(&b.host));
        answers
    }

    #[test]
    fn parts_of_a_host_come_together_and_a_broken_list_is_an_error() {
        let answers = told();
        let message = "host \"c\": the answer was cut short";
        let expected = serde_json::json!([
            {"host": "a", "error": {"code": "UNAVAILABLE", "message": "gone"}},
            {"host": "b", "numbers": [1, 2, 4]},
            {"host": "c", "error": {"code": "DATA_LOSS", "message": message}},
        ]);
        assert_eq!(serde_json::to_value(&answers.rows).expect("json"), expected);
        assert_eq!((answers.hosts, answers.failed), (3, 2));
    }

    #[test]
    fn a_table_names_the_host_in_every_line_and_has_errors_last() {
        let mut rows = told().rows;
        let lines = |rows: &[HostRow<Number>], wide| table(rows, wide).to_string();
        assert!(
            lines(&rows, false).starts_with("HOST  NUMBER  ERROR\na             gone\nb     1\n")
        );
        assert_eq!(without(&rows), None);
        rows.push(HostRow { host: "d".to_owned(), result: Ok(Vec::new()) });
        assert_eq!(without(&rows).as_deref(), Some("no numbers on d"));
        let many = |at: usize| HostRow::<Number> { host: format!("h{at}"), result: Ok(Vec::new()) };
        let many: Vec<_> = (0..12).map(many).collect();
        let remark = without(&many).expect("a remark");
        assert!(remark.starts_with("no numbers on h0, h1") && remark.ends_with("h9 and 2 more"));
        rows.pop();
        let failed: Vec<_> = rows.extract_if(.., |row| row.result.is_err()).collect();
        assert!(lines(&failed, true).starts_with("HOST  ERROR\na     gone\n"));
        assert_eq!(
            lines(&rows, true),
            "HOST  NUMBER  TWICE\nb     1       2\nb     2       4\nb     4       8\n"
        );
    }
}
