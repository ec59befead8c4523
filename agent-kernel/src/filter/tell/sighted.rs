//! Waiting for first packets, away from the filter and its thread.

use crate::Error;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells when [`Filter::tell`](super::super::Filter::tell) has something to tell.
#[derive(Debug)]
pub struct Sighted(AsyncFd<OwnedFd>);

impl Sighted {
    /// From [`Filter::ring_fd`](super::super::Filter::ring_fd), within a tokio runtime.
    #[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
    pub fn new(ring: OwnedFd) -> Result<Self, Error> {
        // SAFETY: it owns the descriptor, keeps it open, and always names the same one.
        let fd = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        fd.map(Self).map_err(|error| Error::io("ring of first packets", error.into()))
    }

    /// Waits for the next first packet. Cancel safe.
    pub async fn readable(&mut self) -> Result<(), Error> {
        match self.0.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => return Err(Error::io("ring of first packets", error)),
        }
        Ok(())
    }
}
