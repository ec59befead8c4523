//! The way of everything that hosts answer in parts, reads and changes: it asks one agent or the fleet,
//! puts each host's parts together, prints a row a host, and settles the exit code. It knows no noun.

mod answers;

use super::block::fleet_only;
use crate::{
    args::{Global, HostSelection},
    connect::{Connection, Lost, READ_TIMEOUT, Target},
    exit::{Exit, usage},
    output::{Format, note},
    time::milliseconds,
    view::read::{HostRow, Record},
};
use answers::Answers;
use anyhow::bail;
use clap::Args;
use kctl_proto::{Piece, Twin, agent::v1 as agent};
use kctl_rpc::Channel;
use std::time::Duration;
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
    Ok(answers.into_rows())
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
