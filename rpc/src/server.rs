//! How every gRPC server of ours speaks on one connection.

use crate::Peer;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Status, service::Routes};
use tower::Service as _;

/// With the timeout below, a dead peer is noticed after five seconds.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Calls that run at once on one connection; more wait.
pub(crate) const MAX_STREAMS: u32 = 256;

/// The largest message that our services take: more than a million prefixes.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Serves gRPC over one connected stream until it ends. Dropping the future closes the connection,
/// with whatever runs on it.
///
/// `authorize` sees every call first: who calls, and the path `/PACKAGE.SERVICE/METHOD`. Handlers
/// find the caller as `Arc<Peer>` in a request's extensions.
pub async fn serve_over<S, A>(
    stream: S,
    peer: Arc<Peer>,
    routes: Routes,
    authorize: A,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(&Peer, &str) -> Result<(), Status> + Clone + Send + 'static,
{
    serve_until(stream, peer, routes, authorize, std::future::pending()).await
}

/// As [`serve_over`]; once `stop` is ready, calls that run may end and no others are taken.
pub async fn serve_until<S, A>(
    stream: S,
    peer: Arc<Peer>,
    routes: Routes,
    authorize: A,
    stop: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(&Peer, &str) -> Result<(), Status> + Clone + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: http::Request<_>| {
        let refused = authorize(&peer, request.uri().path()).err();
        request.extensions_mut().insert(Arc::clone(&peer));
        let mut routes = routes.clone();
        async move {
            tracing::debug!(path = request.uri().path(), refused = refused.is_some(), "call");
            match refused {
                Some(status) => Ok::<_, Infallible>(status.into_http()),
                None => routes.call(request).await,
            }
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}
