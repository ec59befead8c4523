//! Asks many hosts at once, each with the same deadline; a host's failure is an answer like any other.

use crate::{registry::HostView, status::error_data};
use futures_util::{
    Stream, StreamExt as _,
    stream::{self, FuturesUnordered},
};
use kctl_proto::{
    Piece, Twin,
    agent::v1 as pb,
    controller::v1::{HostResult, host_result},
};
use kctl_rpc::Channel;
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::time::{timeout, timeout_at};
use tonic::{Code, Response, Status, Streaming};

/// What one host said, or why it said nothing.
pub(crate) struct Answered<T> {
    pub(crate) host: String,
    pub(crate) result: Result<T, pb::Error>,
}

/// Calls every host, and yields answers as they come.
pub(crate) fn ask<T, F>(
    hosts: Vec<HostView>,
    limit: Duration,
    call: impl Fn(Channel) -> F,
) -> impl Stream<Item = Answered<T>>
where
    F: Future<Output = Result<T, Status>>,
{
    let hosts = hosts.into_iter().map(|host| (host, ())).collect();
    ask_each(hosts, limit, move |channel, ()| call(channel))
}

/// The same, with something for each host to be asked about.
pub(crate) fn ask_each<A, T, F>(
    hosts: Vec<(HostView, A)>,
    limit: Duration,
    call: impl Fn(Channel, A) -> F,
) -> impl Stream<Item = Answered<T>>
where
    F: Future<Output = Result<T, Status>>,
{
    let asked: FuturesUnordered<_> = hosts
        .into_iter()
        .map(|(host, about)| {
            let called = host.session.as_ref().map(|session| call(session.channel.clone(), about));
            async move {
                let result = match called {
                    None => Err(error_data(Code::Unavailable, host.not_connected())),
                    Some(call) => match timeout(limit, call).await {
                        Ok(result) => result.map_err(|status| host.error(&status)),
                        Err(_) => Err(no_answer(&host.name, limit)),
                    },
                };
                Answered { host: host.name, result }
            }
        })
        .collect();
    asked
}

/// Calls every host, and passes on the parts of its answer as they come, then its end or its error.
///
/// Each host may be silent for `limit` before and between parts. Nothing is stored on the way: a
/// reader that is slow slows the hosts down through the windows of their streams.
pub(crate) fn forward<T, F>(
    hosts: Vec<HostView>,
    limit: Duration,
    call: impl Fn(Channel) -> F,
) -> impl Stream<Item = T>
where
    T: Twin,
    F: Future<Output = Result<Response<Streaming<T::Part>>, Status>>,
{
    let told = hosts.into_iter().map(|host| {
        let next = match &host.session {
            None => Next::Failed(error_data(Code::Unavailable, host.not_connected())),
            Some(session) => Next::Call(Box::pin(call(session.channel.clone()))),
        };
        Box::pin(stream::unfold((host, next), move |(host, next)| async move {
            let (piece, next) = next.piece(&host, limit).await?;
            Some((T::new(host.name.clone(), piece), (host, next)))
        }))
    });
    stream::select_all(told)
}

/// What is next from one host.
enum Next<F, P> {
    Call(F),
    Parts(Streaming<P>),
    Failed(pb::Error),
    Nothing,
}

impl<F, P> Next<F, P>
where
    F: Future<Output = Result<Response<Streaming<P>>, Status>> + Unpin,
{
    async fn piece(self, host: &HostView, limit: Duration) -> Option<(Piece<P>, Self)> {
        let said = async {
            let mut parts = match self {
                Self::Call(call) => {
                    call.await.map_err(|status| Some(host.error(&status)))?.into_inner()
                }
                Self::Parts(parts) => parts,
                Self::Failed(error) => return Err(Some(error)),
                Self::Nothing => return Err(None),
            };
            let part = parts.message().await.map_err(|status| Some(host.error(&status)))?;
            Ok((part, parts))
        };
        match timeout(limit, said).await {
            Ok(Ok((Some(part), parts))) => Some((Piece::Part(part), Self::Parts(parts))),
            Ok(Ok((None, _))) => Some((Piece::End, Self::Nothing)),
            Ok(Err(Some(error))) => Some((Piece::Error(error), Self::Nothing)),
            Ok(Err(None)) => None,
            Err(_) => Some((Piece::Error(no_answer(&host.name, limit)), Self::Nothing)),
        }
    }
}

/// Waits until every host has answered about a revision, and yields answers as they come.
pub(crate) fn settled(
    hosts: Vec<HostView>,
    revision: u64,
    started: Instant,
    limit: Duration,
) -> impl Stream<Item = HostResult> {
    let waiting: FuturesUnordered<_> =
        hosts.into_iter().map(|host| wait(host, revision, started, limit)).collect();
    waiting
}

async fn wait(host: HostView, revision: u64, started: Instant, limit: Duration) -> HostResult {
    use host_result::Status as Outcome;
    let result = |status: Outcome, at: Instant, error: Option<pb::Error>| HostResult {
        host: host.name.clone(),
        status: status.into(),
        elapsed_ms: at.saturating_duration_since(started).as_secs_f64() * 1e3,
        error,
        warnings: Vec::new(),
    };
    let Some(session) = &host.session else {
        let error = error_data(Code::Unavailable, host.not_connected());
        return result(Outcome::Pending, started, Some(error));
    };
    let mut progress = session.progress.clone();
    let there = progress.wait_for(|progress| progress.revision >= Some(revision));
    match timeout_at((started + limit).into(), there).await {
        Ok(Ok(progress)) => match &progress.error {
            None => HostResult {
                warnings: progress.warnings.clone(),
                ..result(Outcome::Applied, progress.at, None)
            },
            Some(error) => result(Outcome::Failed, progress.at, Some(error.clone())),
        },
        Ok(Err(_)) => {
            let message = format!("host {:?}: connection lost before it answered", host.name);
            let error = error_data(Code::Unavailable, message);
            result(Outcome::Pending, Instant::now(), Some(error))
        }
        Err(_) => result(Outcome::Pending, Instant::now(), Some(no_answer(&host.name, limit))),
    }
}

fn no_answer(host: &str, limit: Duration) -> pb::Error {
    let message = format!("host {host:?}: no answer within {} ms", limit.as_millis());
    error_data(Code::DeadlineExceeded, message)
}

/// All answers, by host.
pub(crate) async fn collected<T>(answers: impl Stream<Item = Answered<T>>) -> Vec<Answered<T>> {
    let mut answers: Vec<_> = answers.collect().await;
    answers.sort_by(|a, b| a.host.cmp(&b.host));
    answers
}
