//! One host's connection from its first status to its end: who it is, that it is recorded, and which
//! connection counts when there are two. What goes over it meanwhile is `follow`'s.

use crate::{
    alerts::FleetAlerts,
    authority::Ca,
    follow::{Follower, Link, pong},
    pki::Signed,
    registry::{Progress, Registry, Session},
    renewal::Renewal,
    severable::Severable,
    status::Error,
    store::{Fingerprint, HostRecord, Store, Write},
};
use kctl_blocklist::now_unix_ms;
use kctl_proto::agent::v1::{
    self as pb, host_service_client::HostServiceClient, session_response::Message,
};
use kctl_rpc::Identity;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// A host tells its status as soon as it is connected.
const FIRST_STATUS: Duration = Duration::from_secs(5);

/// What sessions need.
#[derive(Clone)]
pub(crate) struct Sessions {
    store: Store,
    registry: Registry,
    ca: Ca,
    alerts: FleetAlerts,
    numbers: Arc<AtomicU64>,
    shutdown: CancellationToken,
}

/// Who is at the other end of a connection.
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) certificate: Signed,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("connection: {0}")]
    Connection(#[from] hyper::Error),
    #[error("connection lost: {0}")]
    Lost(Status),
    #[error("the host closed it")]
    Closed,
    #[error("the host told no status within {} s", FIRST_STATUS.as_secs())]
    Silent,
    #[error("{0}")]
    Refused(#[from] Error),
    #[error("its certificate was revoked")]
    Revoked,
    #[error("superseded, or the controller stops")]
    Cancelled,
}

impl Sessions {
    pub(crate) fn new(
        store: Store,
        registry: Registry,
        ca: Ca,
        alerts: FleetAlerts,
        shutdown: CancellationToken,
    ) -> Self {
        Self { store, registry, ca, alerts, numbers: Arc::default(), shutdown }
    }

    /// Serves one connection until it ends.
    pub(crate) async fn run<S>(self, stream: S, agent: Agent)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (host, peer) = (agent.name.clone(), agent.peer);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let sever = CancellationToken::new();
        let stream = Severable::new(stream, sever.clone());
        let certificate = agent.certificate.sha256;
        let mut records = self.store.records();
        let ended = tokio::select! {
            Err(ended) = self.serve(stream, agent, number) => ended,
            _ = records.wait_for(|records| records.revoked.contains(&certificate)) => {
                // Calls that run would go on otherwise.
                sever.cancel();
                Ended::Revoked
            }
        };
        tracing::info!(%host, %peer, session = number, reason = %ended, "host: disconnected");
        let disconnected = self.store.write({
            let host = host.clone();
            let last = self.registry.last_status(&host, number);
            move |model| Ok((disconnect(model.records.hosts.get(&host), number, last), ()))
        });
        if let Err(error) = disconnected.await {
            tracing::warn!(%host, %error, "host: its disconnection is not recorded");
        }
        self.registry.remove(&host, number);
    }

    async fn serve<S>(
        &self,
        stream: S,
        agent: Agent,
        number: u64,
    ) -> Result<std::convert::Infallible, Ended>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let channel = Box::pin(kctl_rpc::channel_over(stream)).await?;
        let (requests, outbound) = mpsc::channel(8);
        let open = async {
            let mut client = HostServiceClient::new(channel.clone());
            let mut inbound = client
                .session(ReceiverStream::new(outbound))
                .await
                .map_err(Ended::Lost)?
                .into_inner();
            let first = first_status(&mut inbound, &requests).await?;
            Ok((inbound, first))
        };
        let (inbound, mut status) =
            timeout(FIRST_STATUS, Box::pin(open)).await.unwrap_or(Err(Ended::Silent))?;
        // The certificate says who a host is; what it says of itself can't change that.
        status.name.clone_from(&agent.name);
        let status = Arc::new(status);
        self.connected(&agent, number, Arc::clone(&status)).await?;

        let (progress, progress_receiver) = watch::channel(Progress {
            revision: None,
            at: std::time::Instant::now(),
            error: None,
            warnings: Vec::new(),
        });
        let (adopt_sender, adopt) = mpsc::channel(4);
        let cancel = self.shutdown.child_token();
        let session = Arc::new(Session {
            number,
            channel: channel.clone(),
            peer: agent.peer,
            local: agent.local,
            progress: progress_receiver,
            adopt: adopt_sender,
            cancel: cancel.clone(),
        });
        if let Some(old) = self.registry.insert(&agent.name, session, Arc::clone(&status)) {
            tracing::warn!(host = %agent.name, old = %old.peer, new = %agent.peer,
                "host: a newer connection supersedes the older one");
            old.cancel.cancel();
        }
        tracing::info!(host = %agent.name, peer = %agent.peer, session = number, "host: connected");
        // A host that is gone by now hears nothing any more.
        let _ = requests.send(self.alerts.told()).await;
        let (ca, store) = (self.ca.clone(), self.store.clone());
        let renewal = Renewal::new(agent.name, agent.certificate, ca, store, requests.clone());
        let link = Link { inbound, requests, adopt, renewal, cancel };
        Follower::new(&self.store, &self.registry, number, channel, status, progress)
            .run(link)
            .await
    }

    /// Records the connection. A host that the store does not know, but whose certificate our CA
    /// signed, becomes known again: the store was lost, and the host must not be.
    async fn connected(
        &self,
        agent: &Agent,
        number: u64,
        status: Arc<pb::HostStatus>,
    ) -> Result<(), Error> {
        let (name, certificate) = (agent.name.clone(), agent.certificate.sha256);
        let issued = Write::issued(&Identity::Host(name.clone()), &agent.certificate);
        let record = move |model: &crate::store::Model| {
            if model.records.revoked.contains(&certificate) {
                return Err(Error::Precondition(format!("host {name:?}: certificate revoked")));
            }
            let now = now_unix_ms();
            let known = model.records.hosts.get(&name).cloned();
            let mut host = known.unwrap_or_else(|| {
                tracing::warn!(host = %name, "host: not in the store, but its certificate is ours; \
                    it is known again");
                HostRecord {
                    name,
                    joined_unix_ms: now,
                    since_unix_ms: now,
                    session: None,
                    certificates: BTreeSet::new(),
                    status: None,
                }
            });
            let issued_to = &model.records.issued;
            let over =
                |it: &Fingerprint| issued_to.get(it).is_some_and(|it| it.not_after_unix_ms < now);
            host.certificates.retain(|it| !over(it));
            host.certificates.insert(certificate);
            (host.session, host.since_unix_ms, host.status) = (Some(number), now, Some(status));
            let mut writes = vec![Write::Host(host)];
            if !model.records.issued.contains_key(&certificate) {
                writes.push(issued);
            }
            Ok((writes, ()))
        };
        self.store.write(record).await.map(drop)
    }
}

fn disconnect(
    known: Option<&HostRecord>,
    number: u64,
    last: Option<Arc<pb::HostStatus>>,
) -> Vec<Write> {
    let own = known.filter(|host| host.session == Some(number)).cloned();
    own.map(|host| {
        let status = last.or_else(|| host.status.clone());
        Write::Host(HostRecord { session: None, since_unix_ms: now_unix_ms(), status, ..host })
    })
    .into_iter()
    .collect()
}

async fn first_status(
    inbound: &mut Streaming<pb::SessionResponse>,
    requests: &mpsc::Sender<pb::SessionRequest>,
) -> Result<pb::HostStatus, Ended> {
    loop {
        let response = inbound.message().await.map_err(Ended::Lost)?.ok_or(Ended::Closed)?;
        match response.message {
            Some(Message::Status(status)) => return Ok(status),
            Some(Message::Ping(number)) => pong(requests, number),
            Some(Message::Csr(_)) | None => {}
        }
    }
}
