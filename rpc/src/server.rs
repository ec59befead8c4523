//! How every gRPC server of ours is built.

use std::time::Duration;
use tonic::transport::Server;

/// With the timeout below, a dead peer is noticed after five seconds.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest message that our services take: more than a million prefixes.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// A server with keepalive, a bound on streams, and a span around every call.
pub fn server_builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(256)
        .trace_fn(|request| tracing::debug_span!("rpc", path = request.uri().path()))
}
