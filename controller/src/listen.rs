//! The one port: accepts connections, shakes hands, and hands each on by its ALPN.
//!
//! It knows TLS and addresses, and nothing of what is spoken afterwards.

use crate::{
    auth::authorize,
    session::{Agent, Sessions},
    store::Records,
};
use kctl_rpc::{
    ALPN_AGENT, ALPN_API, ALPN_JOIN, Credentials, Identity, Peer, configure_tcp,
    join_server_config, serve_until, server_config,
};
use rustls::{CertificateError, ServerConfig, server::Acceptor};
use rustls_pki_types::CertificateDer;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time for a join.
const JOIN: Duration = Duration::from_secs(15);
/// Handshakes and joins at once; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 256;

/// Where connections go.
#[derive(Clone)]
pub(crate) struct Listener {
    agent: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
    api: Arc<ServerConfig>,
    sessions: Sessions,
    services: Services,
    records: watch::Receiver<Records>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

/// What is served to whom.
#[derive(Clone)]
pub(crate) struct Services {
    /// To hosts that have no certificate yet.
    pub(crate) join: Routes,
    /// To users.
    pub(crate) api: Routes,
}

impl Listener {
    pub(crate) fn new(
        credentials: &Credentials,
        records: watch::Receiver<Records>,
        sessions: Sessions,
        services: Services,
        tracker: TaskTracker,
        cancel: CancellationToken,
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
            sessions,
            services,
            records,
            tracker,
            cancel,
        })
    }

    /// Accepts until cancelled.
    pub(crate) async fn run(self, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let permit = Arc::clone(&handshakes).acquire_owned().await;
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
            let this = self.clone();
            self.tracker.spawn(async move {
                let shaken = timeout(HANDSHAKE, this.shake_hands(stream, peer)).await;
                match shaken {
                    Ok(Ok(accepted)) => {
                        // Whoever has shown no certificate yet goes on counting against the bound.
                        let _permit = Some(permit).filter(|_| accepted.kind == Kind::Join);
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
        let (kind, config) = if offers(ALPN_AGENT) {
            (Kind::Agent, &self.agent)
        } else if offers(ALPN_JOIN) {
            (Kind::Join, &self.join)
        } else if offers(ALPN_API) {
            (Kind::Api, &self.api)
        } else {
            return Err(io::Error::other("offers no protocol that is spoken here"));
        };
        let stream = hello.into_stream(Arc::clone(config)).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let peer = Arc::new(Peer::of_tls(certificates, peer));
        Ok(Accepted { kind, stream, peer, local })
    }

    async fn hand_on(self, accepted: Accepted) {
        let Accepted { kind, stream, peer, local } = accepted;
        let stop = self.cancel.cancelled();
        let served = match kind {
            Kind::Join => {
                let served = serve_until(stream, peer, self.services.join, |_, _| Ok(()), stop);
                timeout(JOIN, served).await.unwrap_or(Ok(()))
            }
            Kind::Api => {
                let records = self.records.clone();
                let authorize = move |peer: &Peer, _: &str| authorize(&records.borrow(), peer);
                serve_until(stream, peer, self.services.api, authorize, stop).await
            }
            Kind::Agent => {
                if let (Some(Identity::Host(name)), Some(certificate), Some(address)) =
                    (&peer.identity, peer.certificate_sha256, peer.address)
                {
                    let agent = Agent { name: name.clone(), certificate, peer: address, local };
                    self.sessions.run(stream, agent).await;
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
    stream: TlsStream<TcpStream>,
    peer: Arc<Peer>,
    local: SocketAddr,
}
