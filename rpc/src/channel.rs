//! gRPC channels over streams that are already connected.

use crate::connection::configure_tcp;
use crate::server::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_STREAMS};
use http::{
    Uri,
    uri::{Authority, Scheme},
};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::body::Body;
use tower::Service;

/// What one stream may send before its reader takes it, bytes.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// What all streams of a connection together may: more than as many as a server runs can hold up, so
/// that readers who stand still, of events say, never stop another call. Memory is only taken by what is
/// really sent and not taken: 128 MiB a connection at the worst, with every stream standing still.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * (MAX_STREAMS + 1);

/// Why a server could not be reached. Each says what to look at next.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Its name has no address.
    #[error("{server}: can't be resolved: {source}")]
    Resolve {
        /// HOST:PORT as given.
        server: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address took the connection.
    #[error("{server}: can't connect: {source}")]
    Connect {
        /// HOST:PORT as given.
        server: String,
        /// What the last address answered.
        source: io::Error,
    },
    /// Connected, but the handshake failed: not a kctl controller, or one of us refuses the other.
    #[error("{server}: TLS handshake failed: {source}")]
    Handshake {
        /// HOST:PORT as given.
        server: String,
        /// What rustls said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{server}: no answer within {} ms", limit.as_millis())]
    Timeout {
        /// HOST:PORT as given.
        server: String,
        /// The time that was given.
        limit: Duration,
    },
}

impl DialError {
    /// Whether the other end's certificate is over or has not begun, by the clock of this machine.
    pub fn is_of_time(&self) -> bool {
        let text = self.to_string();
        // The words of rustls about what the other end shows; an alert is about what we show.
        ["certificate expired", "certificate not valid yet"]
            .iter()
            .any(|why| text.contains(&format!("peer certificate: {why}")))
    }
}

/// Connects to `server` (`HOST:PORT`, tried address by address) and shakes hands, all within `limit`.
pub async fn dial(
    server: &str,
    config: Arc<ClientConfig>,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, DialError> {
    let attempt = async {
        let tcp = connect(server, limit).await?;
        // The verifier looks at the kctl:// identity; rustls wants some name all the same.
        let name = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
        TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|source| DialError::Handshake { server: server.to_owned(), source })
    };
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(DialError::Timeout { server: server.to_owned(), limit }))
}

async fn connect(server: &str, limit: Duration) -> Result<TcpStream, DialError> {
    let resolve = |source| DialError::Resolve { server: server.to_owned(), source };
    let addresses: Vec<_> = lookup_host(server).await.map_err(resolve)?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    // One silent address must not eat the time of the others.
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    for address in addresses {
        let attempt = timeout(share, TcpStream::connect(address)).await;
        match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                configure_tcp(&stream).map_err(resolve)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(DialError::Connect { server: server.to_owned(), source: last })
}

/// Calls over one connected stream, for the generated clients. It never dials again: when the stream ends,
/// every call fails. The connection ends with the last clone.
#[derive(Clone, Debug)]
pub struct Channel {
    requests: SendRequest<Body>,
}

/// Speaks HTTP/2 over a connected stream.
pub async fn channel_over<S>(stream: S) -> Result<Channel, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (requests, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    // Why a connection ended is what its calls end with.
    tokio::spawn(connection);
    Ok(Channel { requests })
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // HTTP/2 wants a scheme and an authority; the other end is known already.
        let mut uri = mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::from_static("kctl"));
        if let Ok(uri) = Uri::from_parts(uri) {
            *request.uri_mut() = uri;
        }
        Box::pin(self.requests.send_request(request))
    }
}
