//! A server of three paths. Nobody can make it hold much: one request a connection, few connections, and
//! an end to each of them.

use super::{
    Page,
    listen::{MetricsConfig, MetricsListen, Token},
};
use crate::{Credentials, Identity, Peer, Strangers, configure_tcp, metrics_config};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{CertificateError, ServerConfig};
use rustls_pki_types::CertificateDer;
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at once; one more ends the oldest.
const CONNECTIONS: usize = 64;
/// Time for a handshake, and then again for the head of the request.
const BEGIN_WITHIN: Duration = Duration::from_secs(5);
/// Time for all of it.
const END_WITHIN: Duration = Duration::from_secs(20);
/// What a head may take, bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Answer = Response<Full<Bytes>>;
/// Says no to a certificate of our CA.
pub type Check =
    Arc<dyn Fn(&CertificateDer<'_>, &Identity) -> Result<(), CertificateError> + Send + Sync>;

/// A daemon that can be observed.
pub trait Observed: Send + Sync + 'static {
    /// Its metrics now.
    fn page(&self) -> impl Future<Output = Page> + Send;
    /// Whether a restart would not help; else what hangs.
    fn healthy(&self) -> impl Future<Output = Result<(), String>> + Send;
    /// Whether it does its work, with what there is to add; else why not.
    fn ready(&self) -> impl Future<Output = Result<String, String>> + Send;
}

/// What a server on an address of the network shows itself with, and whom it lets read metrics.
pub struct Door {
    /// `None` as long as there are none: connections are closed.
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// Of those who show a certificate.
    pub check: Check,
}

/// Serves until cancelled. A port that can't be had is logged, and nothing is served.
pub async fn serve(
    config: MetricsConfig,
    door: Door,
    observed: impl Observed,
    cancel: CancellationToken,
) {
    let MetricsListen::At(address) = config.listen else { return };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                %address, %error,
                "metrics: not served; choose another address with --metrics-listen, or off"
            );
            return;
        }
    };
    let clear = address.ip().to_canonical().is_loopback();
    tracing::info!(%address, tls = !clear, "metrics: listening");
    let server = Arc::new(Server { token_file: config.token_file, clear, observed });
    let (tasks, strangers) = (TaskTracker::new(), Strangers::new(CONNECTIONS));
    let mut shown = Shown { door, config: None };
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: without a pause this would spin.
                tracing::warn!(%error, "metrics: accept failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (server, stranger) = (Arc::clone(&server), strangers.admit());
        let (tls, cancel) = ((!clear).then(|| shown.config()), cancel.clone());
        tasks.spawn(async move {
            let served = timeout(END_WITHIN, server.connection(stream, peer, tls));
            tokio::select! {
                () = cancel.cancelled() => {}
                () = stranger.end.cancelled() => {}
                served = served => match served {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "metrics: refused"),
                    Err(_) => tracing::debug!(%peer, "metrics: not done in time"),
                },
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// The TLS configuration, made anew when the credentials change.
struct Shown {
    door: Door,
    config: Option<Arc<ServerConfig>>,
}

impl Shown {
    fn config(&mut self) -> Option<Arc<ServerConfig>> {
        if self.config.is_none() || self.door.credentials.has_changed().unwrap_or(false) {
            let credentials = self.door.credentials.borrow_and_update().clone();
            let check = Arc::clone(&self.door.check);
            let made = credentials.map(|it| metrics_config(&it, move |der, id| check(der, id)));
            match made.transpose() {
                Ok(config) => self.config = config,
                Err(error) => tracing::error!(%error, "metrics: no TLS with these certificates"),
            }
        }
        self.config.clone()
    }
}

struct Server<O> {
    token_file: Option<std::path::PathBuf>,
    /// On loopback.
    clear: bool,
    observed: O,
}

impl<O: Observed> Server<O> {
    /// One request and its answer.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<Option<Arc<ServerConfig>>>,
    ) -> io::Result<()> {
        configure_tcp(&stream)?;
        match tls {
            None => self.speak(stream, false).await,
            Some(None) => Err(io::Error::other("this host has no certificate yet")),
            Some(Some(config)) => {
                let shaken = timeout(BEGIN_WITHIN, TlsAcceptor::from(config).accept(stream));
                let stream = shaken.await??;
                let certificates = stream.get_ref().1.peer_certificates();
                let known = Peer::of_tls(certificates, peer).identity.is_some();
                self.speak(stream, known).await
            }
        }
    }

    /// `known`: with a certificate that was let in.
    async fn speak(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        known: bool,
    ) -> io::Result<()> {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let this = Arc::clone(&self);
            async move { Ok::<_, Infallible>(this.answer(&request, known).await) }
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(BEGIN_WITHIN)
            .max_buf_size(MAX_HEAD_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(io::Error::other)
    }

    async fn answer(&self, request: &Request<Incoming>, known: bool) -> Answer {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n");
        }
        if request.method() != Method::GET {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return answer;
        }
        match path {
            "/metrics" if !self.lets_in(request, known) => {
                let why = "wants a client certificate of this CA, or a bearer token\n";
                let mut answer = text(StatusCode::UNAUTHORIZED, why);
                let bearer = HeaderValue::from_static("Bearer");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
                answer
            }
            "/metrics" => match self.observed.page().await.into_text() {
                Ok(page) => {
                    let mut answer = Response::new(Full::from(page));
                    let kind = HeaderValue::from_static(OPENMETRICS);
                    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
                    answer
                }
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/healthz" => told(self.observed.healthy().await.map(|()| String::new())),
            _ => told(self.observed.ready().await),
        }
    }

    /// Who may read metrics: everybody on loopback unless there is a token, else who shows one or a
    /// certificate.
    fn lets_in(&self, request: &Request<Incoming>, known: bool) -> bool {
        let Some(path) = &self.token_file else { return self.clear || known };
        let shown = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let opens = |shown| match Token::read(path) {
            Ok(token) => token.opens(shown),
            Err(error) => {
                tracing::warn!(%error, "metrics: nobody's token counts");
                false
            }
        };
        known || shown.is_some_and(opens)
    }
}

fn told(result: Result<String, String>) -> Answer {
    match result {
        Ok(note) if note.is_empty() => text(StatusCode::OK, "ok\n"),
        Ok(note) => text(StatusCode::OK, format!("ok: {note}\n")),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
