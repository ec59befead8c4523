//! How every gRPC server of ours speaks on one connection.

use crate::{Peer, metrics::Call};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Status, service::Routes};
use tower::Service as _;

/// With the timeout below, a dead peer is noticed after five seconds.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Calls that run at once on one connection; more wait.
pub(crate) const MAX_STREAMS: u32 = 256;

/// What the headers of a call may take.
const MAX_HEADERS_BYTES: u32 = 16 << 10;

/// The largest message that our services take: more than a million prefixes.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Serves gRPC over one connected stream until it ends. Dropping the future closes the connection,
/// with whatever runs on it.
///
/// `authorize` sees every call first: who calls, the path `/PACKAGE.SERVICE/METHOD`, and the headers.
/// Handlers find the peer as `Arc<Peer>` in a request's extensions, and beside it what `authorize`
/// answered, which lives until the answer has been sent to its end.
pub async fn serve_over<S, A, P>(
    stream: S,
    peer: Arc<Peer>,
    routes: Routes,
    authorize: A,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(&Peer, &str, &HeaderMap) -> Result<P, Status> + Clone + Send + 'static,
    P: Clone + Send + Sync + Unpin + 'static,
{
    serve_until(stream, peer, routes, authorize, std::future::pending()).await
}

/// As [`serve_over`]; once `stop` is ready, calls that run may end and no others are taken.
pub async fn serve_until<S, A, P>(
    stream: S,
    peer: Arc<Peer>,
    routes: Routes,
    authorize: A,
    stop: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(&Peer, &str, &HeaderMap) -> Result<P, Status> + Clone + Send + 'static,
    P: Clone + Send + Sync + Unpin + 'static,
{
    let service = hyper::service::service_fn(move |mut request: http::Request<_>| {
        let pass = authorize(&peer, request.uri().path(), request.headers());
        request.extensions_mut().insert(Arc::clone(&peer));
        let mut routes = routes.clone();
        let mut call = Call::begin(request.uri().path());
        async move {
            tracing::debug!(path = request.uri().path(), refused = pass.is_err(), "call");
            match pass {
                Err(status) => {
                    let answer: http::Response<tonic::body::Body> = status.into_http();
                    call.ended(answer.headers());
                    Ok::<_, Infallible>(answer)
                }
                Ok(pass) => {
                    request.extensions_mut().insert(pass.clone());
                    let answer = routes.call(request).await?;
                    // An error without a message is in the headers, everything else behind the body.
                    call.ended(answer.headers());
                    Ok(answer
                        .map(|body| tonic::body::Body::new(Passed { body, call, _pass: pass })))
                }
            }
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// An answer, and what must live as long as it.
struct Passed<P> {
    body: tonic::body::Body,
    call: Call,
    _pass: P,
}

impl<P: Unpin> Body for Passed<P> {
    type Data = <tonic::body::Body as Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.ended(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
