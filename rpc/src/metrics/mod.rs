//! What Prometheus and probes are told: the text of the metrics, and the small HTTP server that tells it.
//!
//! Each scrape puts a [`Page`] together from what there is at that moment, so that nothing has to be kept
//! up to date in between. What only the calls themselves know is counted as they end.

mod calls;
mod http;
mod listen;
mod page;
mod process;

pub(crate) use calls::Call;
pub use http::{Check, Door, Observed, serve};
pub use listen::{InvalidListen, MetricsConfig, MetricsListen, TokenError};
pub use page::{Page, Values};
