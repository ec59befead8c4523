//! How the selected hosts are asked, for what they know or for a change: each gets the same call, and
//! what it says is passed on. It knows nothing of what is asked.

use super::{Answers, Api, READ_WAIT, read_selection, wait};
use crate::{
    audit::{Audit, Audited, list},
    auth::{Caller, asked},
    fanout::forward,
    registry::HostView,
    status::Error,
};
use futures_util::{Stream, StreamExt as _};
use kctl_blocklist::Selection;
use kctl_proto::{Piece, Twin, agent::v1 as pb};
use kctl_rpc::Channel;
use std::collections::BTreeSet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Answers that wait for a slow reader.
const WAITING: usize = 16;

impl Api {
    /// The selected hosts' answers to a read; absent selection means all.
    pub(super) async fn read<Q, T, F>(
        &self,
        caller: Caller,
        selection: Option<pb::Selection>,
        timeout_ms: u64,
        request: Q,
        call: impl Fn(Channel, Request<Q>) -> F + 'static,
    ) -> Result<Response<Answers<T>>, Status>
    where
        Q: Clone + 'static,
        T: Twin<Part: Send> + Send + 'static,
        F: Future<Output = Result<Response<Streaming<T::Part>>, Status>> + Send + 'static,
    {
        let hosts = caller.scope.read(&self.registry, &read_selection(selection)?)?;
        let role = caller.role;
        let call = move |channel| call(channel, asked(request.clone(), role));
        let parts = forward(hosts, wait(timeout_ms, READ_WAIT), call);
        Ok(Response::new(parts.map(Ok).boxed()))
    }

    /// The selected hosts' answers to a change. It is in the audit log before any host hears of it,
    /// and it goes on to its end when the caller leaves.
    pub(super) async fn change<Q, T, F>(
        &self,
        caller: Caller,
        selection: Option<pb::Selection>,
        timeout_ms: u64,
        request: Q,
        call: impl Fn(Channel, Request<Q>) -> F + Send + 'static,
    ) -> Result<Response<Answers<T>>, Status>
    where
        Q: Audit + Clone + Send + 'static,
        T: Twin<Part: Send> + Send + 'static,
        F: Future<Output = Result<Response<Streaming<T::Part>>, Status>> + Send + 'static,
    {
        let chosen = self.chosen::<Q>(&caller, selection);
        let names = |hosts: &Vec<HostView>| list(&names(hosts));
        let hosts = chosen.as_ref().map(names).unwrap_or_default();
        let audited = Audited::of_user(&caller, request.what(), hosts);
        let hosts = match chosen {
            Ok(hosts) => hosts,
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error.into());
            }
        };
        audited.begun(&self.store).await?;
        let called = hosts.iter().filter(|host| host.session.is_some());
        let called: BTreeSet<_> = called.map(|host| host.name.clone()).collect();
        let role = caller.role;
        let call = move |channel| call(channel, asked(request.clone(), role));
        let parts = forward::<T, F>(hosts, wait(timeout_ms, READ_WAIT), call);
        let (sender, receiver) = mpsc::channel(WAITING);
        let store = self.store.clone();
        self.tasks.spawn(async move {
            let outcome = tell(parts, &called, &sender).await;
            audited.ended(&store, outcome).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    /// The hosts of a change, which must say whom it is about.
    fn chosen<Q: Audit>(
        &self,
        caller: &Caller,
        selection: Option<pb::Selection>,
    ) -> Result<Vec<HostView>, Error> {
        let selection = selection
            .ok_or_else(|| Error::Invalid("selection: none given; say which hosts".to_owned()))?;
        let selection =
            Selection::try_from(selection).map_err(|error| Error::Invalid(error.to_string()))?;
        let hosts = caller.scope.change(&self.registry, &selection)?;
        match hosts.len() {
            1 => Ok(hosts),
            count if Q::ONE_HOST => {
                Err(Error::Invalid(format!("selection: {count} hosts; name exactly one host")))
            }
            _ => Ok(hosts),
        }
    }
}

/// Passes on what hosts say to a change, to its end; what came of it, for the audit log. A caller that
/// left hears nothing more.
async fn tell<T: Twin>(
    parts: impl Stream<Item = T>,
    called: &BTreeSet<String>,
    caller: &mpsc::Sender<Result<T, Status>>,
) -> String {
    let mut parts = std::pin::pin!(parts);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    while let Some(message) = parts.next().await {
        let (host, piece) = message.into_piece();
        let Some(piece) = piece else { continue };
        let piece = match piece {
            Piece::Error(error) if called.contains(&host) => Piece::Error(uncertain(error)),
            other => other,
        };
        match &piece {
            Piece::Part(_) => {}
            Piece::End => done.push(host.clone()),
            Piece::Error(error) => failed.push(format!("{host}: {}", error.message)),
        }
        // It has left; the hosts go on.
        let _ = caller.send(Ok(T::new(host, piece))).await;
    }
    match (done.is_empty(), failed.is_empty()) {
        (_, true) => "ok".to_owned(),
        (true, false) => list(&failed),
        (false, false) => format!("ok on {}; {}", list(&done), list(&failed)),
    }
}

/// A host that was asked and did not say whether it did so.
fn uncertain(error: pb::Error) -> pb::Error {
    let code = match error.code.as_str() {
        "UNAVAILABLE" => "UNKNOWN".to_owned(),
        "DEADLINE_EXCEEDED" => error.code,
        _ => return error,
    };
    let message =
        format!("{}; it may be done all the same: look before you repeat it", error.message);
    pb::Error { code, message }
}

fn names(hosts: &[HostView]) -> Vec<&str> {
    hosts.iter().map(|host| host.name.as_str()).collect()
}
