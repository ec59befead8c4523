//! The one connection to the controller: dialed from here, served from here.

use crate::enforcer::Enforcer;
use crate::identity::Proof;
use crate::service::Lifeline;
use anyhow::Context as _;
use kctl_rpc::{ALPN_AGENT, DialError, Peer, Validity, client_config, dial, serve_over};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

const DIAL_LIMIT: Duration = Duration::from_secs(3);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one: the next wait is short again.
const GOOD: Duration = Duration::from_secs(1);
/// How long the controller has for an answer when the network changed.
const PING_LIMIT: Duration = Duration::from_millis(500);
/// What runs over a connection that another one replaces gets this long to end.
const DRAIN: Duration = Duration::from_secs(10);
/// Changes of the network are heeded this often.
const NUDGE_EVERY: Duration = Duration::from_secs(1);

/// Keeps the connection for as long as the process lives. Only a broken configuration ends it.
///
/// With a new certificate it connects anew before the old connection goes, so that there is always one.
pub(crate) async fn run(
    controller: &str,
    mut proof: watch::Receiver<Proof>,
    enforcer: Enforcer,
    lifeline: Lifeline,
    routes: Routes,
    nudges: watch::Receiver<u64>,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let current = proof.borrow_and_update().clone();
    let mut uplink = Uplink {
        controller,
        config: config_of(&current)?,
        proof,
        enforcer,
        nudges: Nudges::new(nudges),
        lifeline,
        routes,
        tasks: tasks.clone(),
    };
    let (mut wait, mut last_error) = (FIRST_WAIT, String::new());
    let mut next: Option<Box<TlsStream<TcpStream>>> = None;
    loop {
        let connected = match next.take() {
            Some(stream) => Ok(*stream),
            None => uplink.connect().await,
        };
        let ended = match connected {
            Err(error) => uplink.explained(error),
            Ok(stream) => {
                let since = Instant::now();
                let ended = uplink.serve(stream).await;
                if since.elapsed() >= GOOD {
                    (wait, last_error) = (FIRST_WAIT, String::new());
                }
                match ended {
                    Ended::Replaced(stream) => {
                        next = Some(stream);
                        continue;
                    }
                    Ended::Lost(error) => uplink.explained(error),
                }
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

fn config_of(proof: &Proof) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    client_config(&proof.credentials, &proof.controller, ALPN_AGENT)
        .context("identity: certificate and key do not fit together")
}

/// What became of a connection.
enum Ended {
    Lost(anyhow::Error),
    /// By one with a newer certificate.
    Replaced(Box<TlsStream<TcpStream>>),
}

struct Uplink<'a> {
    controller: &'a str,
    config: Arc<rustls::ClientConfig>,
    proof: watch::Receiver<Proof>,
    enforcer: Enforcer,
    nudges: Nudges,
    lifeline: Lifeline,
    routes: Routes,
    tasks: TaskTracker,
}

impl Uplink<'_> {
    /// Resolves, opens the guard for what was found, and dials; from the start again when the network
    /// changes meanwhile.
    async fn connect(&mut self) -> anyhow::Result<TlsStream<TcpStream>> {
        loop {
            self.take_proof();
            tokio::select! {
                connected = dial_guarded(self.controller, &self.config, &self.enforcer) => {
                    return connected;
                }
                () = self.nudges.next() => {}
            }
        }
    }

    /// Takes the certificate that counts now.
    fn take_proof(&mut self) {
        let config = config_of(&self.proof.borrow_and_update());
        match config {
            Ok(config) => self.config = config,
            Err(error) => tracing::error!("the new certificate is not used: {error:#}"),
        }
    }

    /// An error of the connection; where the certificate is the reason, with what to do about it.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let proof = self.proof.borrow();
        let validity = proof.credentials.chain.first().and_then(Validity::of);
        let now = SystemTime::now();
        match validity {
            Some(validity) if validity.not_after < now => error.context(
                "this host's certificate is over, by its clock; if the clock is right, restart the agent \
                 with a token of \"kctl token create --host NAME\"",
            ),
            Some(validity) if validity.not_before > now => {
                error.context("this host's certificate does not count yet; set the clock right")
            }
            _ if error.downcast_ref::<DialError>().is_some_and(DialError::is_of_time) => error.context(
                "the controller's certificate is over or does not count yet, by this host's clock; set the \
                 clock right that is wrong, this one or that of the controller",
            ),
            _ => error,
        }
    }

    /// Serves until the connection ends, and says why it did.
    async fn serve(&mut self, stream: TlsStream<TcpStream>) -> Ended {
        let address = match stream.get_ref().0.peer_addr() {
            Ok(address) => address,
            Err(error) => return Ended::Lost(error.into()),
        };
        let peer = Peer::of_tls(stream.get_ref().1.peer_certificates(), address);
        tracing::info!(controller = self.controller, %address, "connected");
        let routes = self.routes.clone();
        let mut served =
            Box::pin(serve_over(stream, Arc::new(peer), routes, crate::access::authorize));
        loop {
            tokio::select! {
                ended = &mut served => return lost(ended),
                () = self.nudges.next() => {}
                changed = self.proof.changed() => {
                    if changed.is_err() {
                        return lost(served.await);
                    }
                    self.take_proof();
                    let dialed = dial_guarded(self.controller, &self.config, &self.enforcer);
                    tokio::select! {
                        ended = &mut served => return lost(ended),
                        dialed = dialed => match dialed {
                            Ok(stream) => {
                                // Calls that run may end; the controller closes it then.
                                self.tasks.spawn(tokio::time::timeout(DRAIN, served));
                                return Ended::Replaced(Box::new(stream));
                            }
                            Err(error) => tracing::warn!(
                                "no second connection with the new certificate: {error:#}"
                            ),
                        },
                    }
                    continue;
                }
            }
            // The network changed: is anybody still there?
            tokio::select! {
                ended = &mut served => return lost(ended),
                alive = self.lifeline.is_alive(PING_LIMIT) => if !alive {
                    return Ended::Lost(anyhow::anyhow!(
                        "the network changed and the controller did not answer within 500 ms"
                    ));
                },
            }
        }
    }
}

fn lost(ended: Result<(), impl std::error::Error + Send + Sync + 'static>) -> Ended {
    Ended::Lost(match ended {
        Ok(()) => anyhow::anyhow!("the controller closed the connection"),
        Err(error) => anyhow::Error::from(error).context("the connection broke"),
    })
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
