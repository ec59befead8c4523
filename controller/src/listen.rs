//! The one port: accepts connections, shakes hands, and hands each on by its ALPN.
//!
//! It knows TLS and addresses, and nothing of what is spoken afterwards.

use crate::{
    auth::Gate,
    authority::Ca,
    session::{Agent, Sessions},
    store::Records,
};
use http::HeaderMap;
use kctl_rpc::{
    ALPN_AGENT, ALPN_API, ALPN_JOIN, Access, Credentials, Identity, Peer, Strangers, configure_tcp,
    join_server_config, serve_until, server_config,
};
use rustls::{CertificateError, ServerConfig, server::Acceptor};
use rustls_pki_types::CertificateDer;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, service::Routes};

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time for a join.
const JOIN: Duration = Duration::from_secs(15);

/// Connections that have not shown a certificate.
const STRANGERS: usize = 1_024;

/// Where connections go.
#[derive(Clone)]
pub(crate) struct Listener {
    ca: Ca,
    doors: Arc<watch::Sender<Doors>>,
    records: watch::Receiver<Records>,
    services: Services,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

/// What a handshake goes by; made anew when certificates change. Open connections go on.
#[derive(Clone)]
struct Doors {
    agent: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
    api: Arc<ServerConfig>,
}

impl Doors {
    fn new(
        credentials: &Credentials,
        records: &watch::Receiver<Records>,
    ) -> Result<Self, rustls::Error> {
        let check = |hosts_only: bool| {
            let records = records.clone();
            move |certificate: &CertificateDer<'_>, identity: &Identity| {
                if hosts_only && !matches!(identity, Identity::Host(_)) {
                    return Err(CertificateError::ApplicationVerificationFailure);
                }
                let revoked = records.borrow().revoked.contains(&kctl_rpc::ca_sha256(certificate));
                if revoked { Err(CertificateError::Revoked) } else { Ok(()) }
            }
        };
        Ok(Self {
            agent: server_config(credentials, ALPN_AGENT, check(true))?,
            join: join_server_config(credentials)?,
            api: server_config(credentials, ALPN_API, check(false))?,
        })
    }
}

/// What is served to whom.
#[derive(Clone)]
pub(crate) struct Services {
    /// To hosts that have no certificate yet.
    pub(crate) join: Routes,
    /// To users, as far as the gate lets them in.
    pub(crate) api: Routes,
    pub(crate) gate: Gate,
    /// To the controller, by agents.
    pub(crate) sessions: Sessions,
}

impl Listener {
    pub(crate) fn new(
        ca: Ca,
        records: watch::Receiver<Records>,
        services: Services,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, rustls::Error> {
        let doors = Arc::new(watch::Sender::new(Doors::new(&ca.trust().server, &records)?));
        Ok(Self { ca, doors, records, services, tracker, cancel })
    }

    /// Follows changes of certificates.
    pub(crate) async fn reload(self) {
        let mut trust = self.ca.watch();
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                changed = trust.changed() => if changed.is_err() { return },
            }
            let credentials = Arc::clone(&trust.borrow_and_update().server);
            match Doors::new(&credentials, &self.records) {
                Ok(doors) => drop(self.doors.send_replace(doors)),
                Err(error) => tracing::error!(%error, "listener: the old certificate stays"),
            }
        }
    }

    /// Accepts until cancelled.
    pub(crate) async fn run(self, listener: TcpListener) {
        let strangers = Strangers::new(STRANGERS);
        loop {
            let accepted = tokio::select! {
                () = self.cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: without a pause this would spin.
                    tracing::warn!(%error, "listener: accept failed");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (this, stranger) = (self.clone(), strangers.admit());
            self.tracker.spawn(async move {
                let shaken = tokio::select! {
                    shaken = timeout(HANDSHAKE, Box::pin(this.shake_hands(stream, peer))) => shaken,
                    () = stranger.end.cancelled() => {
                        tracing::debug!(%peer, "listener: made room for another connection");
                        return;
                    }
                };
                match shaken {
                    Ok(Ok(accepted)) if accepted.kind == Kind::Join => {
                        // Whoever has shown no certificate goes on counting as a stranger.
                        tokio::select! {
                            () = stranger.end.cancelled() => {}
                            () = this.hand_on(accepted) => {}
                        }
                    }
                    Ok(Ok(accepted)) => {
                        drop(stranger);
                        this.hand_on(accepted).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "listener: refused"),
                    Err(_) => tracing::debug!(%peer, "listener: no handshake in time"),
                }
            });
        }
    }

    async fn shake_hands(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<Accepted> {
        configure_tcp(&stream)?;
        let local = stream.local_addr()?;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let offered: Vec<Vec<u8>> = hello
            .client_hello()
            .alpn()
            .map(|protocols| protocols.map(<[u8]>::to_vec).collect())
            .unwrap_or_default();
        let offers = |protocol: &[u8]| offered.iter().any(|offered| offered == protocol);
        let doors = self.doors.borrow().clone();
        let (kind, config) = if offers(ALPN_AGENT) {
            (Kind::Agent, doors.agent)
        } else if offers(ALPN_JOIN) {
            (Kind::Join, doors.join)
        } else if offers(ALPN_API) {
            (Kind::Api, doors.api)
        } else {
            return Err(io::Error::other("offers no protocol that is spoken here"));
        };
        let stream = Box::new(hello.into_stream(config).await?);
        let certificates = stream.get_ref().1.peer_certificates();
        let peer = Arc::new(Peer::of_tls(certificates, peer));
        Ok(Accepted { kind, stream, peer, local })
    }

    /// What serves a connection is boxed: each of them would else take the memory of the largest kind, and
    /// that of a handshake, for as long as it lasts.
    async fn hand_on(self, accepted: Accepted) {
        let Accepted { kind, stream, peer, local } = accepted;
        let stop = self.cancel.cancelled();
        let served = match kind {
            Kind::Join => {
                let anybody = |_: &Peer, path: &str, _: &HeaderMap| match Access::of(path)? {
                    Access::Join => Ok(()),
                    _ => Err(Status::permission_denied("a host that joins may only join")),
                };
                let served = serve_until(stream, peer, self.services.join, anybody, stop);
                timeout(JOIN, Box::pin(served)).await.unwrap_or(Ok(()))
            }
            Kind::Api => {
                let gate = self.services.gate.clone();
                let name = peer.identity.as_ref().map(Identity::to_string).unwrap_or_default();
                let Some(_place) = gate.usage.connection(&name) else {
                    tracing::warn!(identity = name, "listener: has too many connections");
                    return;
                };
                let admit = move |peer: &Peer, path: &str, _: &HeaderMap| gate.admit(peer, path);
                let served = serve_until(stream, Arc::clone(&peer), self.services.api, admit, stop);
                tokio::select! {
                    served = Box::pin(served) => served,
                    // Whatever streams are open end with the connection.
                    () = self.services.gate.cut_off(&peer) => Ok(()),
                }
            }
            Kind::Agent => {
                let trust = self.ca.trust();
                let chain = stream.get_ref().1.peer_certificates();
                let certificate = chain.and_then(|it| it.first()).map(|it| trust.known(it));
                if let (Some(Identity::Host(name)), Some(certificate), Some(address)) =
                    (&peer.identity, certificate, peer.address)
                {
                    let agent = Agent { name: name.clone(), certificate, peer: address, local };
                    Box::pin(self.services.sessions.run(stream, agent)).await;
                }
                Ok(())
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "listener: connection ended");
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Agent,
    Join,
    Api,
}

struct Accepted {
    kind: Kind,
    /// Boxed: it is large, and moves through many futures.
    stream: Box<TlsStream<TcpStream>>,
    peer: Arc<Peer>,
    local: SocketAddr,
}
