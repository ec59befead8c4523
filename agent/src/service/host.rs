//! `HostService`: who this host is, and the life line to the controller.

use crate::{enforcer::Enforcer, status::to_status};
use futures_util::{Stream, StreamExt as _};
use kctl_proto::agent::v1::session_response::Message;
use kctl_proto::agent::v1::{self as pb, host_service_server::HostService};
use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

/// What the agent asks of its controller over the session, and the answers: pings, and certificates.
#[derive(Debug, Clone)]
pub(crate) struct Lifeline {
    ping: watch::Sender<u64>,
    pong: watch::Sender<u64>,
    csr: watch::Sender<Vec<u8>>,
    renewed: watch::Sender<Option<pb::Renewed>>,
    /// Counts how often the controller wanted a new certificate to be asked for.
    renew: watch::Sender<u64>,
    /// What the controller says of alerts for the fleet.
    alerts: watch::Sender<HashMap<String, String>>,
}

impl Lifeline {
    pub(crate) fn new() -> Self {
        Self {
            ping: watch::Sender::new(0),
            pong: watch::Sender::new(0),
            csr: watch::Sender::default(),
            renewed: watch::Sender::default(),
            renew: watch::Sender::new(0),
            alerts: watch::Sender::default(),
        }
    }

    /// What the controller says of alerts for the fleet, by key; nothing before it was there.
    pub(crate) fn fleet_alerts(&self) -> watch::Receiver<HashMap<String, String>> {
        self.alerts.subscribe()
    }

    /// Changes when the controller wants a new certificate to be asked for.
    pub(crate) fn asked_to_renew(&self) -> watch::Receiver<u64> {
        self.renew.subscribe()
    }

    /// Asks for a certificate; `None` without an answer within `limit`.
    pub(crate) async fn renew(&self, csr: Vec<u8>, limit: Duration) -> Option<pb::Renewed> {
        self.renewed.send_replace(None);
        let mut renewed = self.renewed.subscribe();
        self.csr.send_replace(csr);
        let answer = tokio::time::timeout(limit, renewed.wait_for(Option::is_some)).await;
        answer.ok()?.ok()?.clone()
    }

    /// Takes what the controller says.
    fn take(&self, request: pb::SessionRequest) {
        let pb::SessionRequest { pong, renewed, renew, alerts } = request;
        if pong > 0 {
            self.pong.send_replace(pong);
        }
        if renewed.is_some() {
            self.renewed.send_replace(renewed);
        }
        if renew {
            self.renew.send_modify(|count| *count += 1);
        }
        if let Some(alerts) = alerts {
            self.alerts.send_replace(alerts.settings);
        }
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
        let csrs = WatchStream::from_changes(self.lifeline.csr.subscribe()).map(Message::Csr);
        let lifeline = self.lifeline.clone();
        // Answers are read as part of the stream, so both end together.
        let answers = request.into_inner().filter_map(move |answer| {
            let ended = answer.map(|answer| lifeline.take(answer)).err();
            std::future::ready(ended.map(Err))
        });
        let asked = futures_util::stream::select(pings, csrs);
        let messages = futures_util::stream::select(statuses, asked)
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
