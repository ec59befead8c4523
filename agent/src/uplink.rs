//! The one connection to the controller: dialed from here, served from here.

use crate::enforcer::Enforcer;
use crate::identity::Proof;
use crate::service::Lifeline;
use anyhow::Context as _;
use kctl_rpc::{ALPN_AGENT, Peer, client_config, dial, serve_over};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_rustls::client::TlsStream;
use tonic::service::Routes;

const DIAL_LIMIT: Duration = Duration::from_secs(3);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one: the next wait is short again.
const GOOD: Duration = Duration::from_secs(1);
/// How long the controller has for an answer when the network changed.
const PING_LIMIT: Duration = Duration::from_millis(500);
/// Changes of the network are heeded this often.
const NUDGE_EVERY: Duration = Duration::from_secs(1);

/// Keeps the connection for as long as the process lives. Only a broken configuration ends it.
pub(crate) async fn run(
    controller: &str,
    proof: Proof,
    enforcer: Enforcer,
    lifeline: Lifeline,
    routes: Routes,
    nudges: watch::Receiver<u64>,
) -> anyhow::Result<()> {
    let config = client_config(&proof.credentials, &proof.controller, ALPN_AGENT)
        .context("identity: certificate and key do not fit together")?;
    let mut uplink = Uplink { controller, config, enforcer, nudges: Nudges::new(nudges) };
    let (mut wait, mut last_error) = (FIRST_WAIT, String::new());
    loop {
        let ended = match uplink.connect().await {
            Err(error) => error,
            Ok(stream) => {
                let since = Instant::now();
                let ended = uplink.serve(stream, &lifeline, routes.clone()).await;
                if since.elapsed() >= GOOD {
                    (wait, last_error) = (FIRST_WAIT, String::new());
                }
                ended
            }
        };
        let error = format!("{ended:#}");
        if error == last_error {
            tracing::debug!(controller, error, "not connected");
        } else {
            tracing::warn!(controller, error, "not connected; trying again");
            last_error = error;
        }
        tokio::select! {
            () = sleep(wait.mul_f64(rand::random_range(0.5..1.0))) => {}
            () = uplink.nudges.next() => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

struct Uplink<'a> {
    controller: &'a str,
    config: Arc<rustls::ClientConfig>,
    enforcer: Enforcer,
    nudges: Nudges,
}

impl Uplink<'_> {
    /// Resolves, opens the guard for what was found, and dials; from the start again when the network
    /// changes meanwhile.
    async fn connect(&mut self) -> anyhow::Result<TlsStream<TcpStream>> {
        loop {
            tokio::select! {
                connected = dial_guarded(self.controller, &self.config, &self.enforcer) => {
                    return connected;
                }
                () = self.nudges.next() => {}
            }
        }
    }

    /// Serves until the connection ends, and says why it did.
    async fn serve(
        &mut self,
        stream: TlsStream<TcpStream>,
        lifeline: &Lifeline,
        routes: Routes,
    ) -> anyhow::Error {
        let address = match stream.get_ref().0.peer_addr() {
            Ok(address) => address,
            Err(error) => return error.into(),
        };
        let peer = Peer::of_tls(stream.get_ref().1.peer_certificates(), address);
        tracing::info!(controller = self.controller, %address, "connected");
        let served = serve_over(stream, Arc::new(peer), routes, crate::access::authorize);
        tokio::pin!(served);
        loop {
            tokio::select! {
                ended = &mut served => return match ended {
                    Ok(()) => anyhow::anyhow!("the controller closed the connection"),
                    Err(error) => anyhow::Error::from(error).context("the connection broke"),
                },
                () = self.nudges.next() => {}
            }
            // The network changed: is anybody still there?
            tokio::select! {
                ended = &mut served => return match ended {
                    Ok(()) => anyhow::anyhow!("the controller closed the connection"),
                    Err(error) => anyhow::Error::from(error).context("the connection broke"),
                },
                alive = lifeline.is_alive(PING_LIMIT) => if !alive {
                    return anyhow::anyhow!(
                        "the network changed and the controller did not answer within 500 ms"
                    );
                },
            }
        }
    }
}

async fn dial_guarded(
    controller: &str,
    config: &Arc<rustls::ClientConfig>,
    enforcer: &Enforcer,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let resolved = tokio::time::timeout(DIAL_LIMIT, tokio::net::lookup_host(controller));
    let addresses: BTreeSet<_> = resolved
        .await
        .context("resolving took too long")?
        .with_context(|| format!("{controller}: can't be resolved"))?
        .collect();
    let uplinks = addresses.clone();
    enforcer.run(move |it| it.set_uplinks(uplinks)).await?;
    let mut last = anyhow::anyhow!("{controller}: has no address");
    for address in addresses {
        match dial(&address.to_string(), Arc::clone(config), DIAL_LIMIT).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Changes of the network, at most one a second.
struct Nudges {
    changes: watch::Receiver<u64>,
    not_before: tokio::time::Instant,
}

impl Nudges {
    fn new(changes: watch::Receiver<u64>) -> Self {
        Self { changes, not_before: tokio::time::Instant::now() }
    }

    /// Cancel safe: what was not heeded stays waiting.
    async fn next(&mut self) {
        sleep_until(self.not_before).await;
        if self.changes.changed().await.is_err() {
            // The watcher ended with the process.
            std::future::pending::<()>().await;
        }
        self.not_before = tokio::time::Instant::now() + NUDGE_EVERY;
    }
}
