//! A stream that remembers why it broke. gRPC tells its caller only that the connection is closed; the
//! reason (a TLS alert, a timeout of TCP) is what an operator needs. It knows no protocol.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Why a stream broke, once it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cause(Arc<OnceLock<String>>);

impl Cause {
    /// The first error of the stream.
    pub(crate) fn told(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn note(&self, error: &io::Error) {
        // The first error is the cause, later ones follow from it.
        let _ = self.0.set(error.to_string());
    }
}

/// A stream whose first error goes to a [`Cause`].
pub(crate) struct Witness<S> {
    stream: S,
    cause: Cause,
    /// The error of a write, while the peer's last word is waited for.
    failed: Option<io::Error>,
}

impl<S> Witness<S> {
    /// Watches a stream.
    pub(crate) fn new(stream: S) -> (Self, Cause) {
        let cause = Cause::default();
        (Self { stream, cause: cause.clone(), failed: None }, cause)
    }
}

impl<S: AsyncRead + Unpin> Witness<S> {
    /// A peer that refuses us says so and hangs up; then a write can fail before its word is read. A
    /// socket whose writes fail is always readable, so the word, an error or the end comes at once.
    fn last_word<T>(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Result<T>> {
        let mut byte = [0];
        match Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Pending => {
                self.failed = Some(error);
                return Poll::Pending;
            }
            Poll::Ready(Err(word)) => self.cause.note(&word),
            Poll::Ready(Ok(())) => self.cause.note(&error),
        }
        Poll::Ready(Err(error))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Witness<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        Poll::Ready(result.inspect_err(|error| self.cause.note(error)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Witness<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return self.last_word(cx, error);
        }
        match ready!(Pin::new(&mut self.stream).poll_write(cx, buf)) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(error) => self.last_word(cx, error),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return self.last_word(cx, error);
        }
        match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => self.last_word(cx, error),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn the_first_error_is_the_cause() {
        let broken = broken_stream();
        let (mut stream, cause) = Witness::new(broken);
        assert_eq!(cause.told(), None);
        stream.write_all(b"x").await.expect_err("broken");
        assert_eq!(cause.told(), Some("refused by the peer"));
        stream.read_u8().await.expect_err("broken");
        assert_eq!(cause.told(), Some("refused by the peer"));
    }

    /// Writes fail with a broken pipe while the peer's last word waits to be read.
    fn broken_stream() -> impl AsyncRead + AsyncWrite + Unpin {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::Error::other("refused by the peer")))
            }
        }
        impl AsyncWrite for Broken {
            fn poll_write(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &[u8],
            ) -> Poll<io::Result<usize>> {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        Broken
    }
}
