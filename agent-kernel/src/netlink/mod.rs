//! Routing netlink: which interfaces, addresses and gateways the host has, and when that changes.
//! Everything is about the network namespace of the calling thread. It must not know the filter.

mod interface;
mod request;
mod route;
mod watch;

pub use interface::{Address, Interface, interfaces};
pub(crate) use interface::{Xdp, xdp_on};
pub use route::default_gateways;
pub use watch::{Change, Watch};

use crate::Error;

/// The kernel answers a dump at once, but a large one takes its milliseconds of system calls.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::wrapped(request::OBJECT, error)),
    }
}
