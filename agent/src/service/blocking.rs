//! Asking the kernel where waiting for it is allowed. It must not know what is asked.

use crate::status::kernel;
use agent_kernel::Error;
use tonic::Status;

/// Runs `work` on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panicked| Status::internal(panicked.to_string()))?.map_err(kernel)
}
