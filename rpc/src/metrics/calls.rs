//! How long calls took and how they ended.

use crate::{Access, code_name};
use http::{HeaderMap, HeaderValue};
use prometheus_client::{
    metrics::{family::Family, histogram::Histogram},
    registry::Registry,
};
use std::{sync::LazyLock, time::Instant};
use tonic::Code;

/// From what a local answer takes to what nobody waits for, seconds.
const BUCKETS: [f64; 12] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

type Labels = [(&'static str, String); 2];
type Calls = Family<Labels, Histogram, fn() -> Histogram>;

/// Of this process: it has one, whatever it serves over.
static CALLS: LazyLock<Calls> =
    LazyLock::new(|| Family::new_with_constructor(|| Histogram::new(BUCKETS)));

/// Shows them.
pub(super) fn register(registry: &mut Registry) {
    registry.register(
        "kctl_rpc_duration_seconds",
        "Time from a call to the end of its answer, a stream's last message included",
        CALLS.clone(),
    );
}

/// A call that runs. It is counted once, when its answer has ended or nobody wants it any more.
#[derive(Debug)]
pub(crate) struct Call {
    method: String,
    begun: Instant,
    /// `None` until the answer says.
    code: Option<Code>,
}

impl Call {
    /// Begins now. Paths that are none of our methods share one label, so that nobody can make more.
    pub(crate) fn begin(path: &str) -> Self {
        let known = Access::of(path).is_ok();
        let method = if known { path.trim_start_matches('/') } else { "unknown" };
        Self { method: method.to_owned(), begun: Instant::now(), code: None }
    }

    /// Notes the status in headers or trailers, if there is one.
    pub(crate) fn ended(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status").map(HeaderValue::as_bytes) {
            self.code = Some(Code::from_bytes(status));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = code_name(self.code.unwrap_or(Code::Cancelled)).to_owned();
        let labels = [("method", std::mem::take(&mut self.method)), ("code", code)];
        CALLS.get_or_create(&labels).observe(self.begun.elapsed().as_secs_f64());
    }
}
