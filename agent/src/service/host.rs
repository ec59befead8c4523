//! `HostService`: who this host is, and the life line to the controller.

use crate::{enforcer::Enforcer, status::to_status};
use futures_util::{Stream, StreamExt as _};
use kctl_proto::agent::v1::session_response::Message;
use kctl_proto::agent::v1::{self as pb, host_service_server::HostService};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

/// Pings that the agent sends to its controller, and their answers.
#[derive(Debug, Clone)]
pub(crate) struct Lifeline {
    ping: watch::Sender<u64>,
    pong: watch::Sender<u64>,
}

impl Lifeline {
    pub(crate) fn new() -> Self {
        Self { ping: watch::Sender::new(0), pong: watch::Sender::new(0) }
    }

    /// Whether there is a controller to answer.
    pub(crate) fn is_connected(&self) -> bool {
        self.ping.receiver_count() > 0
    }

    /// Whether the controller answers within `limit`.
    pub(crate) async fn is_alive(&self, limit: Duration) -> bool {
        let mut number = 0;
        self.ping.send_modify(|ping| {
            *ping += 1;
            number = *ping;
        });
        let mut pong = self.pong.subscribe();
        let answer = pong.wait_for(|pong| *pong >= number);
        matches!(tokio::time::timeout(limit, answer).await, Ok(Ok(_)))
    }
}

/// Answers for this host.
#[derive(Debug)]
pub(super) struct Host {
    enforcer: Enforcer,
    lifeline: Lifeline,
}

impl Host {
    pub(super) fn new(enforcer: Enforcer, lifeline: Lifeline) -> Self {
        Self { enforcer, lifeline }
    }
}

#[tonic::async_trait]
impl HostService for Host {
    async fn get_status(
        &self,
        _request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        let status = self.enforcer.status().borrow().clone();
        Ok(Response::new(pb::GetStatusResponse { status: Some(status) }))
    }

    type SessionStream =
        Pin<Box<dyn Stream<Item = Result<pb::SessionResponse, Status>> + Send + 'static>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let statuses = WatchStream::new(self.enforcer.status()).map(Message::Status);
        let pings = WatchStream::from_changes(self.lifeline.ping.subscribe()).map(Message::Ping);
        let pong = self.lifeline.pong.clone();
        // Answers are read as part of the stream, so both end together.
        let answers = request.into_inner().filter_map(move |answer| {
            let ended = answer.map(|answer| pong.send_replace(answer.pong)).err();
            std::future::ready(ended.map(Err))
        });
        let messages = futures_util::stream::select(statuses, pings)
            .map(|message| Ok(pb::SessionResponse { message: Some(message) }));
        Ok(Response::new(Box::pin(futures_util::stream::select(messages, answers))))
    }

    async fn detach(
        &self,
        _request: Request<pb::DetachRequest>,
    ) -> Result<Response<pb::DetachResponse>, Status> {
        let detached = self.enforcer.run(crate::enforcer::Enforcement::detach).await;
        let removed = detached.and_then(|removed| removed).map_err(to_status)?;
        Ok(Response::new(pb::DetachResponse { removed }))
    }
}
